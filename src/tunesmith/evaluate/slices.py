"""Parts of the rows that a score over all of them may hide: by the rows' own labels, their length, their file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunesmith.data.prepare import Prepared

MOST_VALUES = 200  # of a label: one with more names single rows, not kinds of rows
THIRDS = ("short", "middle", "long")


@dataclass(frozen=True)
class Part:
    """Some of the rows.

    Attributes:
        by: what they are parted by: a label of the rows, `length` or `file`.
        value: what these rows have in common.
        places: of the rows in the whole.
    """

    by: str
    value: str
    places: list[int]


def parts_of(rows: Sequence[Prepared]) -> list[Part]:
    """Every part worth a look: at least two values, none of them all rows. The largest parts come first."""
    found: list[Part] = []
    for by, values in _values(rows):
        places: dict[str, list[int]] = defaultdict(list)
        for place, value in enumerate(values):
            if value is not None:
                places[value].append(place)
        if 2 <= len(places) <= MOST_VALUES and len(places) < len(rows):
            parts = [Part(by, value, places[value]) for value in places]
            found += sorted(parts, key=lambda part: (-len(part.places), part.value))
    return found


def _values(rows: Sequence[Prepared]) -> Iterator[tuple[str, list[str | None]]]:
    """Names of ways to part the rows, with the value of each row."""
    labels = [row.row.labels for row in rows]
    for key in dict.fromkeys(key for one in labels for key in one):
        values = [one.get(key) for one in labels]
        if all(isinstance(value, str | int | bool | None) for value in values):
            yield key, [None if value is None else str(value) for value in values]
    if all(row.row.content.kind == "chat" for row in rows) and len(rows) >= len(THIRDS):
        lengths = np.array([len(row.row.answer) for row in rows])
        first, second = np.quantile(lengths, [1 / 3, 2 / 3])
        yield "length", [THIRDS[int(length > first) + int(length > second)] for length in lengths]
    yield "file", [Path(row.source.file).name for row in rows]
