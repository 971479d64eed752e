"""Span corruption: how T5 is pretrained on plain text (Raffel et al., 2020, arXiv 1910.10683, section 3.3.4).

Some stretches of a text are taken out, each replaced by a sentinel of its own; the target is what was taken out, each
stretch behind its sentinel. As in the authors' code a text begins with a stretch that stays and ends with one that is
taken out, so that the last one needs no closing sentinel. Texts are of token ids; nothing of a model is known here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate, pairwise

DENSITY = 0.15  # of tokens that are taken out
MEAN_LENGTH = 3.0  # of a stretch


def corrupted(
    ids: Sequence[int], sentinels: Sequence[int], end: int, chance: random.Random, density: float = DENSITY,
    mean_length: float = MEAN_LENGTH,
) -> tuple[list[int], list[int]]:  # fmt: skip
    """A text with stretches taken out, and these stretches: source and target, each closed by `end`.

    Args:
        ids: of the text, at least two, with nothing around it.
        sentinels: in the order of their use: T5's `<extra_id_0>`, `<extra_id_1>` and so on.
        end: the id that closes source and target.
        chance: where stretches lie depends on nothing else.
        density: share of tokens that are taken out; at least one is, and at least one stays.
        mean_length: of a stretch; longer where there are too few sentinels.

    Returns:
        The source and the target.
    """
    source: list[int] = []
    target: list[int] = []
    for (kept, taken), sentinel in zip(stretches(len(ids), density, mean_length, len(sentinels), chance), sentinels,
                                       strict=False):  # fmt: skip
        source += [*ids[kept.start : kept.stop], sentinel]
        target += [sentinel, *ids[taken.start : taken.stop]]
    return [*source, end], [*target, end]


def stretches(
    length: int, density: float, mean_length: float, most: int, chance: random.Random
) -> list[tuple[range, range]]:
    """Places that stay and places that are taken out, in turn, from the first to the last of a text.

    Args:
        length: tokens of the text, at least two.
        density: share of tokens that are taken out.
        mean_length: of what is taken out at once.
        most: stretches that may be taken out.
        chance: draws the lengths.
    """
    noise, count = counts(length, density, mean_length, most)
    taken, kept = parted(noise, count, chance), parted(length - noise, count, chance)
    borders = list(accumulate((size for pair in zip(kept, taken, strict=True) for size in pair), initial=0))
    places = [range(*pair) for pair in pairwise(borders)]
    return list(zip(places[::2], places[1::2], strict=True))


def counts(length: int, density: float, mean_length: float, most: int) -> tuple[int, int]:
    """How many tokens are taken out of a text of this length, and in how many stretches."""
    noise = min(max(round(length * density), 1), length - 1)
    return noise, min(max(round(noise / mean_length), 1), noise, length - noise, most)


def parted(total: int, parts: int, chance: random.Random) -> list[int]:
    """A number as a sum of so many, none of them 0, all ways equally likely."""
    borders = [0, *sorted(chance.sample(range(1, total), parts - 1)), total]
    return [end - start for start, end in pairwise(borders)]


def text_length(longest: int, density: float = DENSITY, mean_length: float = MEAN_LENGTH) -> int:
    """The longest text, in tokens, whose source has at most `longest` tokens when it is corrupted: 568 of 512.

    Args:
        longest: tokens of a source, its end token among them; at least 3.
        density: as `corrupted` takes it.
        mean_length: as `corrupted` takes it.
    """
    length = longest - 1
    while source_length(length + 1, density, mean_length) <= longest:
        length += 1
    return length


def source_length(length: int, density: float, mean_length: float) -> int:
    """Tokens of the source that a text of this length becomes."""
    noise, count = counts(length, density, mean_length, length)
    return length - noise + count + 1
