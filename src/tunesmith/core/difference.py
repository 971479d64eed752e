"""What is another now than it was: names and values to decide on, which become sentences only for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True)
class Difference:
    """A value that is another now.

    Attributes:
        name: of the value, dotted where it lies in a section.
        before: what it was; None where there was none.
        now: what it is; None where there is none.
    """

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name} was {self.before!r} and is {self.now!r}"


def differences(before: Any, now: Any, name: str = "") -> Iterator[Difference]:
    """Each value in `before` and `now`, sections within sections, that is another in the two."""
    if isinstance(before, dict) and isinstance(now, dict):
        old, new = cast(dict[str, Any], before), cast(dict[str, Any], now)
        for key in {**old, **new}:
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield Difference(name, before, now)


def in_words(recorded: Iterable[Mapping[str, Any]]) -> list[str]:
    """Differences that were written down as plain values, as sentences."""
    return [str(Difference(**one)) for one in recorded]
