"""A way to write a row: the keys that speak for it, and what makes a content of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tunesmith.data.formats.values import Values, Warn


def nothing_to_say(rows: Sequence[Values]) -> str:
    """Rows are read as anybody would expect."""
    return ""


@dataclass(frozen=True)
class Format:
    """A way to write a row.

    Attributes:
        name: what users call it.
        kind: the kind of row it makes.
        needs: sets of keys, one of which a row has wholly if it is of this format.
        convert: makes the content, or raises `RowFault`; tells `Warn` of what it passes over.
        uses: further keys that the format reads; all others travel along as labels.
        looks: where keys do not suffice, what else must hold of the row.
        lacks: keys that rows may lack, where somebody has named the format: they have none of it.
        named_only: whether it is taken only where somebody has named it.
        any_key: whether every other key belongs to the content too.
        on_request: whether the keys are another format's too, and this one is meant only where the objective reads its
            kind, or where it is named.
        remark: how these rows of a file are read, where that is to be said: a sentence.
    """

    name: str
    kind: str
    needs: tuple[frozenset[str], ...]
    convert: Callable[[Values, Warn], Any]
    uses: frozenset[str] = frozenset()
    looks: Callable[[Values], bool] | None = None
    any_key: bool = False
    named_only: bool = False
    lacks: frozenset[str] = frozenset()
    on_request: bool = False
    remark: Callable[[Sequence[Values]], str] = nothing_to_say

    @cached_property
    def keys(self) -> frozenset[str]:
        """All keys that the format reads by name."""
        return self.uses.union(*self.needs)

    def reads(self, key: str) -> bool:
        """Whether a key would be read."""
        return self.any_key or key in self.keys

    def fit(self, row: Values) -> int:
        """How many keys of the row speak for this format; 0 if it is not of it."""
        if self.named_only:
            return 0
        return self.has_keys(row) if self.looks is None or self.looks(row) else 0

    def has_keys(self, row: Values) -> int:
        """How many of the keys that the format needs the row has, if it has all of a set; else 0."""
        keys = {key for key, value in row.items() if value is not None}
        return max((len(need) for need in self.needs if need <= keys), default=0)

    def completed(self, row: Values) -> Values:
        """The row with nothing under the keys that it may lack."""
        return {**row, **{key: [] for key in self.lacks if row.get(key) is None}}

    def labels(self, row: Values) -> dict[str, Any]:
        """The keys that the format does not read."""
        return {} if self.any_key else {key: value for key, value in row.items() if key not in self.keys}


def sets(*needs: str) -> tuple[frozenset[str], ...]:
    """Sets of keys, each written as words."""
    return tuple(frozenset(need.split()) for need in needs)
