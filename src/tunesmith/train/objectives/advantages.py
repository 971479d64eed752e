"""How much better than expected each answer, or each of its tokens, turned out to be: pure functions of rewards.

Rewards that could not be given are NaN: they count nowhere, and their answers are not learned from.

Axes: P prompts, G answers to each, S answers in all (P x G, those of a prompt side by side), T tokens of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST_SPREAD = 1e-4  # that rewards are divided by, so that noise among equal ones is not made large
ADAPTS = 0.1  # share by which the KL penalty follows its error, and the most error that it follows at a time
MOST_ERROR = 0.2


def spread(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """The standard deviation of a sample, NaN left out; 0 where there are fewer than two."""
    known = ~np.isnan(values)
    count = known.sum(axis, keepdims=axis is not None)
    filled = np.where(known, values, 0.0)
    mean = filled.sum(axis, keepdims=axis is not None) / np.maximum(count, 1)
    squares = (np.where(known, values - mean, 0.0) ** 2).sum(axis, keepdims=axis is not None)
    return np.sqrt(np.where(count > 1, squares / np.maximum(count - 1, 1), 0.0))


def group_advantages(reward_PG: np.ndarray, scale: str) -> np.ndarray:
    """GRPO's: a reward less the mean of its group, over a spread (Shao et al., 2024, arXiv 2402.03300, 4.1.2).

    Args:
        reward_PG: NaN where there is none.
        scale: by what it is divided: the spread of the `group`, of the whole `batch`, or `none` (Liu et al., 2025,
            arXiv 2503.20783).

    Returns:
        (P, G), NaN where there is no reward, or no other in the group to compare it with.
    """
    known_PG = ~np.isnan(reward_PG)
    count_P1 = known_PG.sum(1, keepdims=True)
    mean_P1 = np.where(known_PG, reward_PG, 0.0).sum(1, keepdims=True) / np.maximum(count_P1, 1)
    centred_PG = np.where(count_P1 > 1, reward_PG - mean_P1, np.nan)
    if scale == "none":
        return centred_PG
    return centred_PG / (spread(reward_PG, axis=1 if scale == "group" else None) + LEAST_SPREAD)


def leave_one_out(reward_PG: np.ndarray, normalize: bool) -> np.ndarray:
    """RLOO's: a reward less the mean of the others in its group (Ahmadian et al., 2024, arXiv 2402.14740).

    Args:
        reward_PG: NaN where there is none.
        normalize: whether the advantages of all are brought to mean 0 and spread 1.

    Returns:
        (P, G), NaN where there is no reward, or no other in the group.
    """
    known_PG = ~np.isnan(reward_PG)
    others_P1 = known_PG.sum(1, keepdims=True) - 1
    sum_P1 = np.where(known_PG, reward_PG, 0.0).sum(1, keepdims=True)
    baseline_PG = (sum_P1 - reward_PG) / np.maximum(others_P1, 1)
    advantage_PG = np.where(others_P1 > 0, reward_PG - baseline_PG, np.nan)
    if not normalize or np.isnan(advantage_PG).all():
        return advantage_PG
    return (advantage_PG - np.nanmean(advantage_PG)) / (spread(advantage_PG) + LEAST_SPREAD)


def equal_groups(reward_PG: np.ndarray) -> float:
    """The share of prompts, among those with two rewards and more, all of whose answers are worth the same."""
    compared_PG = reward_PG[(~np.isnan(reward_PG)).sum(1) > 1]
    return float((spread(compared_PG, axis=1) < 1e-8).mean()) if len(compared_PG) else 0.0


def generalised_advantages(reward_T: np.ndarray, value_T: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """GAE of one answer, (T,) (Schulman et al., 2016, arXiv 1506.02438, equation 16); after its end nothing is worth.

    Args:
        reward_T: of each token.
        value_T: what was expected before each token was drawn.
        gamma: what a reward is worth one token earlier.
        lam: how far beyond the next value is looked.
    """
    advantage_T = np.zeros_like(reward_T)
    next_value = after = 0.0
    for t in range(len(reward_T) - 1, -1, -1):
        surprise = reward_T[t] + gamma * next_value - value_T[t]
        advantage_T[t] = after = surprise + gamma * lam * after
        next_value = value_T[t]
    return advantage_T


def whitened(parts: Sequence[np.ndarray], keep_mean: bool = False) -> list[np.ndarray]:
    """The same vectors with spread 1 over all their numbers, and mean 0 unless it is kept."""
    whole = np.concatenate([np.zeros(0), *parts])
    if len(whole) < 2:
        return list(parts)
    mean, divisor = whole.mean(), np.sqrt(whole.var(ddof=1) + 1e-8)
    return [(part - mean) / divisor + (mean if keep_mean else 0.0) for part in parts]


def adapted(beta: float, kl: float, target: float) -> float:
    """The KL penalty of the next step (Ziegler et al., 2019, arXiv 1909.08593, 2.2)."""
    return beta * (1 + ADAPTS * float(np.clip(kl / target - 1, -MOST_ERROR, MOST_ERROR)))
