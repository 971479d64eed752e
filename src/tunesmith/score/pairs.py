"""Pairs of which people prefer one side: counts for each metric of what a model says of both.

Axes: R rows.
"""

from __future__ import annotations

import numpy as np

from tunesmith.score import metrics
from tunesmith.score.classes import calibration_counts
from tunesmith.score.metrics import Counts


def reward_counts(chosen_R: np.ndarray, rejected_R: np.ndarray) -> dict[str, Counts]:
    """For each metric of rewards, by name, one row of counts for each pair.

    A difference of rewards is a model's log odds that the chosen answer is preferred: how sure it is of what it says.
    """
    gap_R = chosen_R - rejected_R
    sure_R = 1 / (1 + np.exp(-np.abs(gap_R)))
    return {
        metrics.REWARD_ACCURACY.name: hits(gap_R),
        metrics.REWARD_MARGIN.name: _with_ones(gap_R),
        metrics.CALIBRATION.name: calibration_counts(sure_R, gap_R > 0),
    }


def likelihood_counts(chosen_R: np.ndarray, rejected_R: np.ndarray) -> dict[str, Counts]:
    """For each metric of log probabilities, by name, one row of counts for each pair."""
    gap_R = chosen_R - rejected_R
    return {metrics.CHOSEN_LIKELIER.name: hits(gap_R), metrics.LOGP_MARGIN.name: _with_ones(gap_R)}


def hits(gap_R: np.ndarray) -> Counts:
    """Which differences are above zero; of a tie half counts."""
    return _with_ones((gap_R > 0) + 0.5 * (gap_R == 0))


def _with_ones(values: np.ndarray) -> Counts:
    return np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], -1)
