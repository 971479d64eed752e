"""How well a model fills in stretches of held-out texts: the base and the tuned one, with the same ones taken out.

It is no perplexity of texts: of each text a part is given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core import events
from tunesmith.core.errors import ConfigError
from tunesmith.core.events import Report
from tunesmith.data.prepare import Prepared
from tunesmith.evaluate.suite import RowResults
from tunesmith.infer.predict.spans import SpanFiller, sentinels_of
from tunesmith.jobs.tasks.task import Measured, TaskEvaluation
from tunesmith.model.seq2seq import TargetScore, score_targets
from tunesmith.score.metrics import MASKED_ACCURACY, MASKED_PERPLEXITY
from tunesmith.train.config import PretrainConfig
from tunesmith.train.objective import Draw
from tunesmith.train.objectives.spans import taken_out

ROWS_BETWEEN_PULSES = 64
USUAL = PretrainConfig()  # whatever a model was trained with


def measure(filler: SpanFiller, name: str, rows: Sequence[Prepared], report: Report) -> Measured:
    """The loss of what was taken out of each row, and how many tokens were the first choice."""
    sentinels, scores = sentinels_of(filler.contract), list[TargetScore]()
    for start in range(0, len(rows), ROWS_BETWEEN_PULSES):
        some = rows[start : start + ROWS_BETWEEN_PULSES]
        scores += score_targets(filler.model, [taken_out(row, sentinels, USUAL, Draw()) for row in some])
        report(events.Pulse(f"evaluating {name}", len(scores), len(rows)))
    counts = {
        MASKED_PERPLEXITY.name: np.array([[one.loss, one.tokens] for one in scores]),
        MASKED_ACCURACY.name: np.array([[one.correct, one.tokens] for one in scores], dtype=np.float64),
    }
    return RowResults([""] * len(rows), counts), []


def refuse_other(one: SpanFiller, other: SpanFiller, names: tuple[str, str]) -> None:
    """Refuse to compare models that read text as other tokens.

    Raises:
        ConfigError: their tokenizers differ.
    """
    if one.contract.tokenizer.get_vocab() != other.contract.tokenizer.get_vocab():
        raise ConfigError(
            f"{names[0]} and {names[1]} have different tokenizers, so other tokens would be taken out. "
            "Evaluate each alone."
        )


EVALUATION = TaskEvaluation(
    reads=frozenset({"text"}), measure=measure, base=True, general=True, refuse_other=refuse_other
)
