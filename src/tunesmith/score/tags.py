"""Tags that were said of words against those that are true: counts for each metric of stretches and of words.

Stretches are those of seqeval: one is right where its label and all its words are. The counts are sums over rows, so
that their intervals are those of all other metrics.

Axes: R rows, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.data.kinds.schemes import parted, stretches
from tunesmith.score import metrics
from tunesmith.score.metrics import Counts


def stretch_counts(true: Sequence[str], said: Sequence[str], scheme: str) -> tuple[int, int, int]:
    """Of one row, how many stretches are right, were said, and are there."""
    there, found = set(stretches(true, scheme)), set(stretches(said, scheme))
    return len(there & found), len(found), len(there)


def label_counts(
    true: Sequence[Sequence[str]], said: Sequence[Sequence[str]], scheme: str, labels: Sequence[str]
) -> np.ndarray:
    """Of each row and label, how many stretches are right, were said, and are there, (R, L, 3).

    Where tags mark no stretches, words take their place.
    """
    places = {label: place for place, label in enumerate(labels)}
    found = np.zeros((len(true), len(labels), 3))
    for row, (there, own) in enumerate(zip(true, said, strict=True)):
        true_ones, said_ones = (_parts(tags, scheme) for tags in (there, own))
        for which, some in enumerate((true_ones & said_ones, said_ones, true_ones)):
            for label, _, _ in some:
                found[row, places[label], which] += 1
    return found


def _parts(tags: Sequence[str], scheme: str) -> set[tuple[str, int, int]]:
    if scheme == "none":
        return {(parted(tag, scheme)[1], place, place + 1) for place, tag in enumerate(tags)}
    return {(one.label, one.begin, one.end) for one in stretches(tags, scheme)}


def tag_counts(
    true: Sequence[Sequence[str]], said: Sequence[Sequence[str]], scheme: str, labels: Sequence[str]
) -> dict[str, Counts]:
    """For each metric of tags, by name, one row of counts for each row.

    Args:
        true: the tags of each row's words.
        said: those that were said of them.
        scheme: how they are read.
        labels: what they name, without prefixes.
    """
    of_labels = label_counts(true, said, scheme, labels)
    words = [[sum(a == b for a, b in zip(*row, strict=True)), len(row[0])] for row in zip(true, said, strict=True)]
    found: dict[str, Counts] = {metrics.WORD_ACCURACY.name: np.array(words, dtype=np.float64)}
    flat = of_labels.reshape(len(true), -1)
    if scheme == "none":
        return {**found, metrics.MACRO_F1.name: flat}
    together = of_labels.sum(1)
    return {
        **{one.name: together for one in (metrics.ENTITY_F1, metrics.ENTITY_PRECISION, metrics.ENTITY_RECALL)},
        metrics.MACRO_ENTITY_F1.name: flat,
        **found,
    }
