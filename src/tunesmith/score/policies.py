"""Answers of models that learned from rewards, beside those of the model that all of them began as.

One answer a question, drawn from each model's own distribution; whatever is compared is paired by question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.score.interval import Interval, difference_interval, score_interval
from tunesmith.score.manners import manner_of
from tunesmith.score.metrics import BLEU_SCORE, LENGTH, Counts, Metric, bleu_counts
from tunesmith.score.pairs import hits


def _mean(sums: Counts) -> Counts:
    """Counts are (value, 1)."""
    return sums[..., 0] / sums[..., 1]


def _percentage(sums: Counts) -> Counts:
    """The same counts, of values from 0 to 1."""
    return 100 * _mean(sums)


REWARD = Metric("reward", "of a reward model, mean", True, _mean)
WON = Metric("won", "% of answers with more points than the first model's, half of ties", True, _percentage)
DIVERGENCE = Metric("KL", "nats an answer, from the first model, mean", None, _mean)
POLITE = Metric("all points", "% of answers with all points of the rules", True, _percentage)


@dataclass(frozen=True)
class Answered:
    """What a model answered to all questions, in their order.

    Attributes:
        texts: the answers.
        rewards: of a reward model.
        divergences: log probability of each answer by the model itself above that by the first one, in nats.
    """

    texts: Sequence[str]
    rewards: Sequence[float]
    divergences: Sequence[float]


@dataclass(frozen=True)
class PolicyScores:
    """What is told of a model.

    Attributes:
        reward: mean.
        gain: of it, since the first model; None of that model itself, as below.
        won: share of the questions whose answer has more points than the first model's, in percent.
        divergence: from the first model, nats an answer.
        good: share of answers with all points, in percent.
        bleu: to the reference answers.
        bleu_share: of the first model's BLEU, in percent.
        length: characters.
    """

    reward: Interval
    gain: Interval | None
    won: Interval | None
    divergence: Interval | None
    good: Interval
    bleu: Interval
    bleu_share: float
    length: Interval


def policy_scores(one: Answered, first: Answered | None, references: Sequence[str]) -> PolicyScores:
    """What a model is worth, beside the one that it began as (None where it is that one)."""
    bleu = score_interval(BLEU_SCORE, bleu_counts(one.texts, references))
    points = [manner_of(text).points for text in one.texts]
    reward = _counts(one.rewards)
    own: dict[str, Any] = {
        "reward": score_interval(REWARD, reward),
        "good": score_interval(POLITE, _counts([mark == 4 for mark in points])),
        "bleu": bleu,
        "length": score_interval(LENGTH, _counts([len(text) for text in one.texts])),
    }
    if first is None:
        return PolicyScores(**own, gain=None, won=None, divergence=None, bleu_share=100.0)
    before = score_interval(BLEU_SCORE, bleu_counts(first.texts, references)).value
    others = [manner_of(text).points for text in first.texts]
    return PolicyScores(
        **own,
        gain=difference_interval(REWARD, reward, _counts(first.rewards)),
        won=score_interval(WON, hits(np.array(points) - np.array(others))),
        divergence=score_interval(DIVERGENCE, _counts(one.divergences)),
        bleu_share=100 * bleu.value / before if before else 0.0,
    )


def _counts(values: Sequence[float]) -> Counts:
    return np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], -1)
