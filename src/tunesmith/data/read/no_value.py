"""What stands in a file where a value should be: NaN, Infinity, a number that nobody can hold, a workbook's error.

Other programs write them all the same, most often where a value is missing. In a column that is read
they are a fault of the row; elsewhere they become null, and are counted.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from tunesmith.data.quality.ledger import RowFault

NUMBER_CHARACTERS = 20  # that are shown of a long number


@dataclass(frozen=True)
class NoValue:
    """It, as the file has it, and what a fault says of it."""

    text: str
    what: str = "which no JSON number is"
    code: str = "bad_number"
    advice: str = "Write a number, or leave the key out."

    def __str__(self) -> str:
        return self.text if len(self.text) <= NUMBER_CHARACTERS else f"{self.text[:NUMBER_CHARACTERS]}..."


def no_number(value: float) -> NoValue | None:
    """What a float of a table is where it is no number that JSON has."""
    if math.isfinite(value):
        return None
    return NoValue("NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity")


def only_values(row: dict[str, Any], unread: Container[str], notes: Counter[str]) -> dict[str, Any]:
    """The row with null for what is no value in the columns `unread`, which `notes` hears of.

    Raises:
        RowFault: some stands in another column.
    """
    mended: dict[str, Any] = {}
    for key, value in row.items():
        found = _find(value, (key,))
        if found is None:
            mended[key] = value
            continue
        place, one = found
        if key not in unread:
            where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)[1:]
            raise RowFault(one.code, f"{where!r} is {one}, {one.what}.", one.advice, place)
        mended[key] = _with_null(value)
        notes[f"null for what is no value in {key!r}, which is not read"] += 1
    return mended


def _find(value: Any, path: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], NoValue] | None:
    """The first that is in a value, and the way to it."""
    if isinstance(value, NoValue):
        return path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next((found for key, item in items if (found := _find(item, (*path, key))) is not None), None)


def _with_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_null(item) for item in value]
    return None if isinstance(value, NoValue) else value


def refuse_halves(value: Any, text: str) -> None:
    """Refuse a value with half a character in it, written in `text` as \\ud83d without its other half.

    Raises:
        RowFault: there is one.
    """
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
        except UnicodeEncodeError:
            found = "a text holds half a character (a lone surrogate such as \\ud83d)."
            raise RowFault("lone_surrogate", found, "Write the whole character, or take it out.") from None
