"""Near duplicates: rows that share most of their words in order, found by MinHash (Broder, 1997)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tunesmith.data.kinds.row import Row
from tunesmith.data.kinds.table import kind_of
from tunesmith.data.quality.ledger import Source

WORDS = 5  # words in a shingle
PERMUTATIONS = 64
ALIKE_FROM = 0.8  # estimated Jaccard similarity of shingles from which two rows count as near duplicates
UNASKED_ROWS = 100_000  # looked at without being asked


class NearDuplicates:
    """Rows as they come, each told which earlier row it is nearly equal to.

    The first row of a group stands for it: a row joins the group of the first such row that it is alike.
    """

    def __init__(self) -> None:
        from datasketch import MinHashLSH

        self._index: Any = MinHashLSH(threshold=ALIKE_FROM, num_perm=PERMUTATIONS)
        self._founders: list[tuple[Any, int, Source]] = []  # signature, hash of what is asked, place

    def add(self, row: Row) -> tuple[int, Source] | None:
        """Take one more row.

        Returns:
            For a near duplicate, what the group's first row asks (its hash) and where it stands; None for a row
            that founds a group.
        """
        signature = _signature(row)
        if (found := self._founder(signature)) is not None:
            return found if _counts(row, found) else None
        self._index.insert(len(self._founders), signature)
        self._founders.append((signature, row.asked, row.source))
        return None

    def find(self, row: Row) -> tuple[int, Source] | None:
        """What `add` would return, without taking the row."""
        found = self._founder(_signature(row))
        return found if found is not None and _counts(row, found) else None

    def _founder(self, signature: Any) -> tuple[int, Source] | None:
        for number in sorted(self._index.query(signature)):
            founder, asked, source = self._founders[number]
            if signature.jaccard(founder) >= ALIKE_FROM:
                return asked, source
        return None


def _counts(row: Row, found: tuple[int, Source]) -> bool:
    """Whether a row that is alike an earlier one is one too many: not where many rows of its kind ask the same."""
    return found[0] != row.asked or not kind_of(row).share_asked


def _signature(row: Row) -> Any:
    from datasketch import MinHash

    signature: Any = MinHash(num_perm=PERMUTATIONS, seed=1)
    signature.update_batch(shingles(row.content.texts()))
    return signature


def shingles(texts: Iterable[str]) -> list[bytes]:
    """Runs of `WORDS` words of the lower-cased text; a shorter text is one shingle."""
    words = re.findall(r"\w+", " ".join(texts).lower())
    return [" ".join(words[i : i + WORDS]).encode() for i in range(max(1, len(words) - WORDS + 1))]
