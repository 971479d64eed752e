"""Scores of several runs, each with its interval and, where the rows are the same, its difference to the first run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.core.files import read_lines
from tunesmith.evaluate.compare import verdict
from tunesmith.score.interval import Interval, difference_interval
from tunesmith.score.metrics import ALL_METRICS, Counts, Metric

OTHER_ROWS = "other rows"


@dataclass(frozen=True)
class Scored:
    """What a run's folder says of its scores.

    Attributes:
        name: the run's.
        report: report.json; empty where the run has none.
        rows: rows.jsonl, one line of counts for each test row; older runs have none.
    """

    name: str
    report: dict[str, Any]
    rows: Path


@dataclass(frozen=True)
class RunScore:
    """One metric of one run.

    Attributes:
        run: its name.
        score: None where the run has no such score.
        difference: to the first run, paired by row; None where that cannot be said.
        verdict: what the difference shows, as `compare.verdict` puts it; `other rows` where the two runs were not
            measured on the same ones; else empty.
    """

    run: str
    score: Interval | None
    difference: Interval | None
    verdict: str


@dataclass(frozen=True)
class MetricScores:
    """One metric of all runs. `higher_is_better` is None where there is no better, or the metric is not known here."""

    metric: str
    unit: str
    higher_is_better: bool | None
    runs: list[RunScore]


def compare_scores(runs: Sequence[Scored]) -> tuple[list[MetricScores], list[str]]:
    """Every metric that any of the runs has.

    Args:
        runs: differences are to the first.

    Returns:
        One entry a metric, and sentences that say why a verdict is missing.
    """
    known = {metric.name: metric for metric in ALL_METRICS}
    units = {score["metric"]: score["unit"] for run in runs for score in run.report.get("scores", ())}
    counts = {run.name: _read_counts(run) for run in runs}
    table: list[MetricScores] = []
    for name, unit in units.items():
        metric = known.get(name)
        found = [_score(run, runs[0], name, metric, counts) for run in runs]
        table.append(MetricScores(name, unit, metric.higher_is_better if metric else None, found))
    return table, [*_why_unpaired(runs, counts), *_why_no_verdict(table, counts)]


def _score(
    run: Scored, first: Scored, name: str, metric: Metric | None, counts: dict[str, dict[str, Counts]]
) -> RunScore:
    """One cell of the table."""
    given = [score["score"] for score in run.report.get("scores", ()) if score["metric"] == name]
    score = Interval(**given[0]) if given else None
    if score is None or run is first or not first.report:
        return RunScore(run.name, score, None, "")
    if run.report["data"] != first.report["data"]:
        return RunScore(run.name, score, None, OTHER_ROWS)
    mine, theirs = counts[run.name].get(name), counts[first.name].get(name)
    if metric is None or mine is None or theirs is None or mine.shape != theirs.shape:
        return RunScore(run.name, score, None, "")
    difference = difference_interval(metric, mine, theirs)
    return RunScore(run.name, score, difference, verdict(metric, difference))


def _read_counts(run: Scored) -> dict[str, Counts]:
    """Finite counts of each metric, shape (rows, C); nothing unless every row that the report speaks of is there."""
    lines = [line["counts"] for line in read_lines(run.rows)] if run.report else []
    if not lines or len(lines) != run.report["rows"]:
        return {}
    found = {
        metric: np.array([line[metric] for line in lines], dtype=np.float64)
        for metric, first in lines[0].items()
        if all(len(line.get(metric, ())) == len(first) for line in lines)
    }
    return {metric: counts for metric, counts in found.items() if np.isfinite(counts).all()}


def _why_unpaired(runs: Sequence[Scored], counts: dict[str, dict[str, Counts]]) -> Iterator[str]:
    """Runs that cannot be paired with the first, whatever the metric."""
    first, *others = runs
    if others and not first.report and any(run.report for run in others):
        yield f"{first.name} has no scores, so no differences are shown. Name a run with scores first."
        return
    scored = [run for run in runs if run.report]
    for run in scored:
        if run.report["data"] != first.report["data"]:
            yield f"{run.name} was measured on other rows than {first.name}, so their scores are not paired."
        elif not counts[run.name]:
            what = "does not hold every row" if run.rows.exists() else "is missing, as in runs of older versions"
            yield f"no verdict with {run.name}: {run.rows} {what}."


def _why_no_verdict(table: Sequence[MetricScores], counts: dict[str, dict[str, Counts]]) -> Iterator[str]:
    """Metrics that a run cannot be paired by, though its rows can."""
    known = {metric.name for metric in ALL_METRICS}
    for metric in table:
        first, *others = metric.runs
        if metric.metric not in known:
            yield f"no verdict on {metric.metric}: this version of tunesmith does not know it."
            continue
        for cell in others:
            unsaid = cell.score is not None and cell.difference is None and cell.verdict != OTHER_ROWS
            if unsaid and counts[cell.run] and counts[first.run]:
                yield f"no verdict on {metric.metric}: the counts of {cell.run} and {first.run} cannot be paired."
