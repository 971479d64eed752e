"""Answers that were found in passages against those that are right, as SQuAD compares them.

Rajpurkar et al., 2016, arXiv 1606.05250, and 2018, arXiv 1806.03822: without case, punctuation and articles; of several
right answers the nearest counts; where there is none, only to say so is right.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tunesmith.score import metrics
from tunesmith.score.metrics import Counts

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def words_of(answer: str) -> list[str]:
    """The words that are compared."""
    return ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split()


def exact(right: Sequence[str], said: str) -> float:
    """1 where it is one of the right answers, else 0."""
    return float(any(words_of(said) == words_of(one) for one in _known(right)))


def overlap(right: Sequence[str], said: str) -> float:
    """The F1 over words with the nearest of the right answers."""
    return max(_f1(words_of(one), words_of(said)) for one in _known(right))


def _known(right: Sequence[str]) -> Sequence[str]:
    """The right answers of which words are left; the empty one where there is none."""
    return [one for one in right if words_of(one)] or [""]


def _f1(right: Sequence[str], said: Sequence[str]) -> float:
    if not right or not said:
        return float(right == said)
    shared = (Counter(right) & Counter(said)).total()
    return 2 * shared / (len(right) + len(said))


def answer_counts(right: Sequence[Sequence[str]], said: Sequence[str]) -> dict[str, Counts]:
    """For each metric of answers, by name, one row of counts for each row.

    Args:
        right: the right answers of each row; none where there is none.
        said: what was said; empty for no answer.
    """
    pairs = list(zip(right, said, strict=True))
    found = {
        metrics.ANSWER_EXACT.name: np.array([[exact(*pair), 1] for pair in pairs]),
        metrics.ANSWER_F1.name: np.array([[overlap(*pair), 1] for pair in pairs]),
    }
    if not all(right):
        told = [[float(bool(there) == bool(one)), 1] for there, one in pairs]
        found[metrics.ANSWERED.name] = np.array(told)
    return found
