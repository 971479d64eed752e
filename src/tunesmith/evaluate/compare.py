"""A model beside another on the same rows: scores, intervals, and whether a difference is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.data.prepare import Prepared
from tunesmith.evaluate.suite import METRICS, Measured
from tunesmith.prompt.messages import plain
from tunesmith.score.interval import FEWEST_ROWS, Interval, difference_interval, score_interval
from tunesmith.score.metrics import Metric


@dataclass(frozen=True)
class Comparison:
    """One metric of both models. `other` and `difference` are None when there is no second model."""

    metric: str
    unit: str
    score: Interval
    other: Interval | None
    difference: Interval | None
    verdict: str


@dataclass(frozen=True)
class Sample:
    """A question with the reference answer and those of the models, for people to read."""

    messages: list[dict[str, str]]
    reference: str
    answer: str
    other: str | None


@dataclass(frozen=True)
class EvalReport:
    """What an evaluation found. `to_json` is what report.json holds.

    Attributes:
        model: name of the model that was measured.
        against: name of the one beside it, or None.
        data: id of the data set.
        rows: rows measured.
        scores: one entry a metric.
        samples: every row's answers, in file order.
    """

    model: str
    against: str | None
    data: str
    rows: int
    scores: list[Comparison]
    samples: list[Sample]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def compare(
    measured: Measured, other: Measured | None, names: tuple[str, str | None], data: str, rows: Sequence[Prepared]
) -> EvalReport:
    """Put what was measured into a report.

    Args:
        measured: the model in question.
        other: the model beside it, measured on the same rows, or None.
        names: of the two.
        data: id of the data set.
        rows: the rows.
    """
    samples = [
        Sample(plain(row.row.prompt), row.row.answer, answer, other.answers[i] if other else None)
        for i, (row, answer) in enumerate(zip(rows, measured.answers, strict=True))
    ]
    scores = [_compare_one(metric, measured, other) for metric in METRICS]
    return EvalReport(names[0], names[1], data, len(rows), scores, samples)


def _compare_one(metric: Metric, measured: Measured, other: Measured | None) -> Comparison:
    counts = measured.counts[metric.name]
    score = score_interval(metric, counts)
    if other is None:
        return Comparison(metric.name, metric.unit, score, None, None, "")
    other_counts = other.counts[metric.name]
    difference = difference_interval(metric, counts, other_counts)
    return Comparison(
        metric.name, metric.unit, score, score_interval(metric, other_counts), difference, verdict(metric, difference)
    )


def verdict(metric: Metric, difference: Interval) -> str:
    """`better`, `worse`, `no difference shown` when the interval holds zero, or `too few rows` to say."""
    if difference.rows < FEWEST_ROWS:
        return "too few rows"
    if not difference.excludes_zero:
        return "no difference shown"
    return "better" if (difference.value > 0) == metric.higher_is_better else "worse"
