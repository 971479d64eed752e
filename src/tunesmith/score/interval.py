"""How sure a score is: percentile bootstrap over rows (Efron, 1979), paired for differences.

Rows are drawn with replacement; a difference draws the same rows for both models, so what the two
have in common cancels. A percentage that every row agrees on gets Wilson's interval (1927) instead,
with rows as tries, since resampling identical rows would claim certainty. Below ten rows there is too
little to resample: `evaluate` then says so instead of a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tunesmith.score.metrics import Counts, Metric

RESAMPLES = 1000
FEWEST_ROWS = 10
Z95 = 1.959964
VERDICTS = ("better", "worse", "changed", "no difference shown", "too few rows")  # as people read them first


def show(value: float) -> str:
    """A score with the digits that matter: 0.123, 1.23, 12.3, 123."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 or size < 5e-4 else 2 if size >= 1 else 3
    return f"{value:.{digits}f}"


@dataclass(frozen=True)
class Interval:
    """A score with its 95% interval."""

    value: float
    low: float
    high: float
    rows: int

    @property
    def excludes_zero(self) -> bool:
        """For a difference: whether it is shown at all."""
        return self.low > 0 or self.high < 0


def _resampled(counts: Counts, draws: np.ndarray) -> Counts:
    """Summed counts of each resample: shape (resamples, C)."""
    weights = np.stack([np.bincount(draw, minlength=len(counts)) for draw in draws])
    return weights.astype(np.float64) @ counts


def _draws(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, rows, size=(RESAMPLES, rows))


def score_interval(metric: Metric, counts: Counts, seed: int = 0) -> Interval:
    """The metric over all rows with its 95% interval.

    Args:
        metric: what to compute.
        counts: one row of counts for each row of data, shape (rows, C), at least one row.
        seed: of the resampling.
    """
    value = float(metric.of_sums(counts.sum(0)))
    if metric.unit.startswith("%") and value in (0.0, 100.0):
        low, high = _wilson(value / 100, len(counts))
    else:
        low, high = np.quantile(metric.of_sums(_resampled(counts, _draws(len(counts), seed))), [0.025, 0.975])
    return Interval(value, float(low), float(high), len(counts))


def difference_interval(metric: Metric, one: Counts, other: Counts, seed: int = 0) -> Interval:
    """`one` minus `other`, paired by row, with its 95% interval."""
    draws = _draws(len(one), seed)
    value = float(metric.of_sums(one.sum(0)) - metric.of_sums(other.sum(0)))
    spread = metric.of_sums(_resampled(one, draws)) - metric.of_sums(_resampled(other, draws))
    low, high = np.quantile(spread, [0.025, 0.975])
    return Interval(value, float(low), float(high), len(one))


def _wilson(share: float, tries: int) -> tuple[float, float]:
    square = Z95**2
    centre = (share + square / (2 * tries)) / (1 + square / tries)
    half = Z95 / (1 + square / tries) * np.sqrt(share * (1 - share) / tries + square / (4 * tries**2))
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)
