"""The tasks that are evaluated by what models predict. A new one is a file of its own, and one line here."""

from __future__ import annotations

from tunesmith.jobs.tasks import answers, classes, masked, rewards, spans, tags, targets
from tunesmith.jobs.tasks.task import TaskEvaluation

EVALUATIONS: dict[str, TaskEvaluation] = {
    "classify": classes.EVALUATION, "token_classify": tags.EVALUATION, "extract": answers.EVALUATION,
    "masked": masked.EVALUATION, "seq2seq": targets.EVALUATION, "spans": spans.EVALUATION,
    "reward": rewards.EVALUATION,
}  # fmt: skip
