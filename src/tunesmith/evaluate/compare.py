"""A model beside another on the same rows: scores, intervals, and whether a difference is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.data.kinds.table import kind_of
from tunesmith.data.prepare import Prepared
from tunesmith.evaluate.slices import parts_of
from tunesmith.evaluate.suite import RowResults, Speed
from tunesmith.score.interval import FEWEST_ROWS, Interval, difference_interval, score_interval
from tunesmith.score.metrics import ALL_METRICS, Counts, Metric


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
class Slice:
    """The scores of a part of the rows.

    Attributes:
        by: what the rows are parted by.
        value: what these rows have in common.
        rows: how many they are.
        scores: one entry a metric.
    """

    by: str
    value: str
    rows: int
    scores: list[Comparison]


@dataclass(frozen=True)
class EvalReport:
    """What an evaluation found. `to_json` is what report.json holds.

    Attributes:
        model: name of the model that was measured.
        against: name of the one beside it, or None.
        data: id of the data set.
        rows: rows measured.
        scores: one entry a metric.
        slices: the same for parts of the rows.
        speed: how long each model's answers took, by name.
        samples: every row's answers, in file order.
    """

    model: str
    against: str | None
    data: str
    rows: int
    scores: list[Comparison]
    slices: list[Slice]
    speed: dict[str, Speed]
    samples: list[Sample]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def compare(
    results: RowResults, other: RowResults | None, names: tuple[str, str | None], data: str, rows: Sequence[Prepared]
) -> EvalReport:
    """Put what was found on each row into a report.

    Args:
        results: of the model in question.
        other: of the model beside it, on the same rows, or None.
        names: of the two.
        data: id of the data set.
        rows: the rows.
    """
    samples = [
        Sample(asked, reference, answer, other.answers[i] if other else None)
        for i, (row, answer) in enumerate(zip(rows, results.answers, strict=True))
        for asked, reference in kind_of(row.row).shown(row.row)
    ]
    whole = list(range(len(rows)))
    slices = [
        Slice(part.by, part.value, len(part.places), _compare_all(results, other, part.places))
        for part in parts_of(rows)
    ]
    pairs = ((names[0], results), (names[1], other))
    speed = {name: one.speed for name, one in pairs if name is not None and one is not None and one.speed is not None}
    return EvalReport(names[0], names[1], data, len(rows), _compare_all(results, other, whole), slices, speed, samples)


def rows_of(results: RowResults, rows: Sequence[Prepared]) -> list[dict[str, Any]]:
    """What a model did on each row, as plain values: so that it can be compared later with what others do."""
    return [
        {
            "source": str(row.source),
            "answer": results.answers[place],
            "counts": {name: counts[place].tolist() for name, counts in results.counts.items()},
        }
        for place, row in enumerate(rows)
    ]


def _compare_all(results: RowResults, other: RowResults | None, places: list[int]) -> list[Comparison]:
    """Every metric that was measured, of both models where there are two."""
    return [
        _compare_one(metric, results.counts[metric.name][places], other and other.counts.get(metric.name), places)
        for metric in ALL_METRICS
        if metric.name in results.counts
    ]


def _compare_one(metric: Metric, counts: Counts, all_others: Counts | None, places: list[int]) -> Comparison:
    score = score_interval(metric, counts)
    if all_others is None:
        return Comparison(metric.name, metric.unit, score, None, None, "")
    others = all_others[places]
    difference = difference_interval(metric, counts, others)
    return Comparison(
        metric.name, metric.unit, score, score_interval(metric, others), difference, verdict(metric, difference)
    )


def verdict(metric: Metric, difference: Interval) -> str:
    """`better`, `worse` (`changed` where there is no better), `no difference shown`, or `too few rows` to say."""
    if difference.rows < FEWEST_ROWS:
        return "too few rows"
    if not difference.excludes_zero:
        return "no difference shown"
    if metric.higher_is_better is None:
        return "changed"
    return "better" if (difference.value > 0) == metric.higher_is_better else "worse"
