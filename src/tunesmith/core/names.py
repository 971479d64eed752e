"""Names for people: looked up, with what was probably meant when one is unknown; counted, one or many; made short."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from tunesmith.core.errors import ConfigError

Value = TypeVar("Value")


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """`did you mean 'x'?` for a near miss; if there is none, `otherwise`, or the list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else otherwise or f"known: {', '.join(names)}."


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


def shortest_ends(names: Sequence[str]) -> list[str]:
    """The shortest ends of paths or addresses that tell them apart: `runs/a` and `runs/b` are `a` and `b`."""
    named = [name.rpartition("#")[2] if "://" in name else name for name in names]  # of an address: its model
    parts = [[part for part in name.split("/") if part] or [name] for name in named]
    lengths = range(1, max(map(len, parts), default=0) + 1)
    ends = (["/".join(one[-length:]) for one in parts] for length in lengths)
    return next((some for some in ends if len(set(some)) == len(set(names))), list(names))


def shortened(names: Sequence[str], widest: int) -> list[str]:
    """Names of at most `widest` characters, cut in the middle; numbered where two would look alike."""

    def cut(name: str, width: int) -> str:
        tail = width // 2
        return name if len(name) <= width else f"{name[: width - tail - 1]}…{name[len(name) - tail :]}"

    found = [cut(name, widest) for name in names]
    if len(set(found)) == len(set(names)):
        return found
    return [f"{number} {cut(name, widest - len(f'{number} '))}" for number, name in enumerate(names, 1)]
