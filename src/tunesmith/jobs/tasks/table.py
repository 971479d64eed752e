"""The tasks that are evaluated by what models predict. A new one is a file of its own, and one line here."""

from __future__ import annotations

from tunesmith.jobs.tasks import classes, masked, spans, targets
from tunesmith.jobs.tasks.task import TaskEvaluation

EVALUATIONS: dict[str, TaskEvaluation] = {
    "classify": classes.EVALUATION, "masked": masked.EVALUATION, "seq2seq": targets.EVALUATION,
    "spans": spans.EVALUATION,
}  # fmt: skip
