"""Measure a model on rows: how it predicts the given answers, and what it answers itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.core.events import Report
from tunesmith.data.prepare import Prepared
from tunesmith.infer.engine import Engine, Sampling
from tunesmith.prompt.contract import Contract
from tunesmith.score.metrics import BLEU_SCORE, PERPLEXITY, STOP_RATE, TOKEN_ACCURACY, Counts, Metric, bleu_counts

METRICS: tuple[Metric, ...] = (PERPLEXITY, BLEU_SCORE, TOKEN_ACCURACY, STOP_RATE)
CHUNK = 64  # rows between two signs of life


@dataclass(frozen=True)
class Measured:
    """What one model did on each row.

    Attributes:
        answers: its own answer to each row's prompt.
        counts: for each metric's name, one row of counts for each row of data.
    """

    answers: list[str]
    counts: Mapping[str, Counts]


def measure(
    engine: Engine, contract: Contract, rows: Sequence[Prepared], max_new_tokens: int, report: Report, label: str
) -> Measured:
    """Score and answer every row, greedily.

    Args:
        engine: the model.
        contract: how it is prompted.
        rows: prepared with the same contract; at least one.
        max_new_tokens: longest answer.
        report: hears a `pulse` from time to time.
        label: what the pulse calls this model.
    """
    scores, completions = [], []
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        scores += engine.score([(row.ids.tolist(), row.mask.tolist()) for row in chunk])
        prompts = [contract.prompt(row.row.prompt, row.row.tools) for row in chunk]
        completions += engine.generate(prompts, Sampling(max_new_tokens=max_new_tokens))
        report({"kind": "pulse", "doing": f"evaluating {label}", "done": len(completions), "of": len(rows)})
    answers = [contract.decode(completion.ids).strip() for completion in completions]
    return Measured(
        answers,
        {
            PERPLEXITY.name: np.array([[s.loss, s.tokens] for s in scores]),
            TOKEN_ACCURACY.name: np.array([[s.correct, s.tokens] for s in scores], dtype=np.float64),
            BLEU_SCORE.name: bleu_counts(answers, [row.row.answer for row in rows]),
            STOP_RATE.name: np.array([[c.stopped, 1] for c in completions], dtype=np.float64),
        },
    )
