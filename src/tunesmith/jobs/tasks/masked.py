"""How well a model fills in hidden words of held-out rows: the base and the tuned one, at the same masks.

What is hidden is drawn from each row alone, so that it is the same for every model with the same tokenizer. It is no
perplexity of texts: a model that reads both sides of a word gives texts no probability.

Axes: N hidden tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import from_numpy
from torch.nn.functional import cross_entropy

from tunesmith.core import events
from tunesmith.core.errors import ConfigError
from tunesmith.core.events import Report
from tunesmith.data.prepare import Prepared
from tunesmith.evaluate.suite import RowResults
from tunesmith.infer.predict.fill import Filler, logits_at
from tunesmith.jobs.tasks.task import Measured, TaskEvaluation
from tunesmith.prompt.whole_words import words_of
from tunesmith.score.metrics import MASKED_ACCURACY, MASKED_PERPLEXITY
from tunesmith.train.config import PretrainConfig
from tunesmith.train.objective import Draw
from tunesmith.train.objectives.masking import hide

ROWS_BETWEEN_PULSES = 64
USUAL = PretrainConfig()  # whatever share a model was trained with


def measure(filler: Filler, name: str, rows: Sequence[Prepared], report: Report) -> Measured:
    """The loss of the hidden tokens of each row, and how many were the first choice."""
    words, draw = words_of(filler.contract.tokenizer), Draw()
    found: list[list[float]] = []
    for start in range(0, len(rows), ROWS_BETWEEN_PULSES):
        some = rows[start : start + ROWS_BETWEEN_PULSES]
        hidden = [hide(row.ids, words, USUAL.masked, USUAL.whole_words, draw.of(row)) for row in some]
        logits = logits_at(filler.model, [one.ids for one in hidden], [one.places for one in hidden])
        for one, logits_NV in zip(hidden, logits, strict=True):
            target_N = from_numpy(one.targets.astype(np.int64))
            loss = cross_entropy(logits_NV, target_N, reduction="sum").item()
            found.append([loss, int((logits_NV.argmax(-1) == target_N).sum()), len(target_N)])
        report(events.Pulse(f"evaluating {name}", len(found), len(rows)))
    counts = np.array(found, dtype=np.float64)
    return RowResults(
        [""] * len(rows), {MASKED_PERPLEXITY.name: counts[:, [0, 2]], MASKED_ACCURACY.name: counts[:, [1, 2]]}
    ), []


def refuse_other(one: Filler, other: Filler, names: tuple[str, str]) -> None:
    """Refuse to compare models that read text as other tokens.

    Raises:
        ConfigError: their tokenizers differ.
    """
    if one.contract.tokenizer.get_vocab() != other.contract.tokenizer.get_vocab():
        raise ConfigError(
            f"{names[0]} and {names[1]} have different tokenizers, so other tokens would be hidden. Evaluate each "
            "alone."
        )


EVALUATION = TaskEvaluation(
    reads=frozenset({"text"}), measure=measure, base=True, general=True, refuse_other=refuse_other
)
