"""What a reward model says of held-out pairs, beside the longer answer of each.

A base has no trained head, so nothing of it is to be compared. What people prefer is often the longer answer, and what
a reward model has learned is often no more than that (Singhal et al., 2023, arXiv 2310.03716).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from tunesmith.core import events
from tunesmith.core.events import Report
from tunesmith.data.prepare import Prepared
from tunesmith.evaluate.class_pictures import reliability
from tunesmith.evaluate.report import Picture
from tunesmith.evaluate.suite import TIMED, RowResults, Speed
from tunesmith.infer.predict.rewards import RewardModel, reads_of
from tunesmith.jobs.tasks.task import Asked, Measured, TaskEvaluation
from tunesmith.score.metrics import REWARD_ACCURACY
from tunesmith.score.pairs import hits, reward_counts

LONGER = "the longer answer"
ROWS_BETWEEN_PULSES = 128


def measure(model: RewardModel, name: str, rows: Sequence[Prepared], report: Report) -> Measured:
    """The rewards of both sides of each pair, and a picture of how sure the model is."""
    found: list[np.ndarray] = []
    for start in range(0, len(rows), ROWS_BETWEEN_PULSES):
        found.append(model.rewards(reads_of(rows[start : start + ROWS_BETWEEN_PULSES])))
        report(events.Pulse(f"evaluating {name}", min(start + ROWS_BETWEEN_PULSES, len(rows)), len(rows)))
    chosen_R, rejected_R = np.concatenate(found).reshape(-1, 2).T
    gap_R = chosen_R - rejected_R
    answers = [f"{one:.3g} chosen, {other:.3g} rejected" for one, other in zip(chosen_R, rejected_R, strict=True)]
    picture = Picture(
        "How sure it is",
        "On the line, differences of rewards would say how often the answer that people prefer has the higher one.",
        reliability(1 / (1 + np.exp(-np.abs(gap_R))), gap_R > 0),
    )
    return RowResults(answers, reward_counts(chosen_R, rejected_R), _speed(model, rows[:TIMED])), [picture]


def _speed(model: RewardModel, rows: Sequence[Prepared]) -> Speed:
    """How long one answer's reward takes, alone."""
    seconds: list[float] = []
    for read in reads_of(rows)[::2]:
        started = time.perf_counter()
        model.rewards([read])
        seconds.append(time.perf_counter() - started)
    return Speed(len(seconds), statistics.median(seconds), max(seconds), None)


def longer(asked: Asked) -> tuple[str, RowResults]:
    """The longer answer of each pair, in tokens, whatever it says."""
    gap_R = np.array([row.trained - 2 * row.others[0].trained for row in asked.rows])
    answers = ["the chosen one" if gap > 0 else "the rejected one" if gap < 0 else "neither" for gap in gap_R]
    return LONGER, RowResults(answers, {REWARD_ACCURACY.name: hits(gap_R)})


EVALUATION = TaskEvaluation(reads=frozenset({"preference"}), measure=measure, always=longer)
