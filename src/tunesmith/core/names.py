"""Names in sentences: looked up, with what was probably meant when one is unknown; counted, one or many."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from tunesmith.core.errors import ConfigError

Value = TypeVar("Value")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for a near miss, else the list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}."


def look_up(table: Mapping[str, Value], name: str, what: str) -> Value:
    """The entry of `table` called `name`.

    Raises:
        ConfigError: there is none; the message suggests the nearest name.
    """
    if name not in table:
        raise ConfigError(f"unknown {what} {name!r}: {did_you_mean(name, table)}")
    return table[name]


def counted(number: int, noun: str) -> str:
    """`1 row`, `1200 rows`; of a longer noun (`row of hotel.jsonl`) the first word becomes plural."""
    first, space, rest = noun.partition(" ")
    return f"{number} {first}{'' if number == 1 else 's'}{space}{rest}"
