"""Which tokens of a row are hidden, and what is read in their place.

Of a share of the tokens, 80% are read as [MASK], 10% as a token drawn at random and 10% as they are (Devlin et al.,
2019, arXiv 1810.04805); all pieces of a word together, as in its authors' later models; drawn anew in each epoch (Liu
et al., 2019, arXiv 1907.11692).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np

from tunesmith.prompt.whole_words import Words

MASKED, REPLACED = 0.8, 0.1  # of the hidden tokens; the rest is read as it is


@dataclass(frozen=True)
class Hidden:
    """A row with some of its tokens hidden.

    Attributes:
        ids: as they are read.
        places: where the hidden ones stand, in order.
        targets: what they are.
    """

    ids: np.ndarray
    places: np.ndarray
    targets: np.ndarray


def hide(ids: np.ndarray, words: Words, share: float, whole_words: bool, chance: Random) -> Hidden:
    """A row with `share` of its tokens hidden, at least one; none where all of them are special.

    Args:
        ids: of the row.
        words: of its tokenizer, which has a mask token.
        share: of the tokens that are not special.
        whole_words: whether a word's pieces are hidden together.
        chance: of the row and the epoch alone.
    """
    assert words.mask is not None
    draw = np.random.default_rng(chance.getrandbits(64))
    groups = words.words_in(ids)
    if not whole_words:
        groups = [place for word in groups for place in np.split(word, len(word))]
    places = chosen(groups, max(1, round(share * sum(map(len, groups)))), draw)
    read, targets, fate = ids.copy(), ids[places], draw.random(len(places))
    read[places[fate < MASKED]] = words.mask
    replaced = places[(fate >= MASKED) & (fate < MASKED + REPLACED)]
    read[replaced] = draw.choice(words.ordinary, len(replaced))
    return Hidden(read, places, targets)


def chosen(groups: list[np.ndarray], count: int, draw: np.random.Generator) -> np.ndarray:
    """The places of some of the groups, about `count` of them; a group that is too large for what is left is passed.

    Where every group is too large, the smallest one.
    """
    if not groups:
        return np.zeros(0, dtype=np.int64)
    found: list[np.ndarray] = []
    left = count
    for number in draw.permutation(len(groups)):
        if len(groups[number]) <= left:
            found.append(groups[number])
            left -= len(groups[number])
        if not left:
            break
    return np.sort(np.concatenate(found or [min(groups, key=len)]))
