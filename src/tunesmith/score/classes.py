"""What was said of rows against what is true of them: counts for each metric of classes and of numbers.

The metrics are scikit-learn's, as sums over rows, so that their intervals are those of all other metrics. Spearman's
ranks are those among all rows: a resample keeps them.

Axes: R rows, C classes.
"""

from __future__ import annotations

import numpy as np

from tunesmith.score import metrics
from tunesmith.score.metrics import Counts

BINS = 15  # of probabilities, for the calibration error


def class_counts(true_RC: np.ndarray, said_RC: np.ndarray, several: bool) -> dict[str, Counts]:
    """For each metric of classes, by name, one row of counts for each row.

    Args:
        true_RC: which classes each row has.
        said_RC: which were said.
        several: whether a row may have any number of them: of a single one, micro F1 is the accuracy.
    """
    true, said = true_RC.astype(np.float64), said_RC.astype(np.float64)
    of_classes = np.stack([true * said, said, true], -1)
    flat = of_classes.reshape(len(true), -1)
    found = {
        metrics.ACCURACY.name: _with_ones((true == said).all(-1)),
        metrics.MACRO_F1.name: flat,
        metrics.MICRO_F1.name: of_classes.sum(1),
        metrics.MACRO_PRECISION.name: flat,
        metrics.MACRO_RECALL.name: flat,
    }
    if not several:
        del found[metrics.MICRO_F1.name]
    return found


def calibration_counts(probability_R: np.ndarray, right_R: np.ndarray) -> Counts:
    """How sure a model was of what it said, and whether it was right: (R, 3 bins)."""
    places = np.minimum((probability_R * BINS).astype(int), BINS - 1)
    found = np.zeros((len(probability_R), BINS, 3))
    found[np.arange(len(places)), places] = np.stack([probability_R, right_R, np.ones(len(places))], -1)
    return found.reshape(len(places), -1)


def number_counts(true_R: np.ndarray, said_R: np.ndarray) -> dict[str, Counts]:
    """For each metric of numbers, by name, one row of counts for each row."""
    off = said_R - true_R
    return {
        metrics.SQUARED_ERROR.name: _with_ones(off**2),
        metrics.ABSOLUTE_ERROR.name: _with_ones(np.abs(off)),
        metrics.PEARSON.name: _products(true_R, said_R),
        metrics.SPEARMAN.name: _products(ranks(true_R), ranks(said_R)),
    }


def ranks(values_R: np.ndarray) -> np.ndarray:
    """The rank of each value; of equal ones the mean of theirs."""
    order, places, counts = np.unique(values_R, return_inverse=True, return_counts=True)
    assert len(order) == len(counts)
    ends = counts.cumsum()
    return ((ends - counts + 1 + ends) / 2)[places]


def _products(x_R: np.ndarray, y_R: np.ndarray) -> Counts:
    # From the means, or squares of large numbers would lose the digits that matter.
    x, y = x_R - x_R.mean(), y_R - y_R.mean()
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], -1)


def _with_ones(values: np.ndarray) -> Counts:
    return np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], -1)
