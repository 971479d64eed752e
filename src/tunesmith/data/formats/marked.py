"""Stretches of a text's characters with labels, as people write them.

`spans` or `entities`: a list of {"start", "end", "label"} or of [start, end, label]; `slots`: by their names, each
{"span": [start, end]} or a list of such. In a table's cell either is JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.data.formats.values import Path, Values, holds_nothing, kind_of, shown
from tunesmith.data.quality.ledger import RowFault
from tunesmith.data.read.json import parse_json

MARKS = ("spans", "entities", "slots")  # keys
LABELS = ("label", "type", "entity", "entity_group")
ENDS = (("start", "end"), ("begin", "end"))
ADVICE = 'Write {"start": 0, "end": 4, "label": "NAME"}, the end behind the last character.'


@dataclass(frozen=True)
class Mark:
    """A stretch of characters with its label, and the way to it in the row."""

    label: str
    begin: int
    end: int
    path: Path


def marked_in(row: Values, text: str) -> list[Mark]:
    """What is marked in a row's text; nothing where the row has no such key, or an empty one.

    Raises:
        RowFault: it cannot be read, lies outside of the text, or is not what the row says that stands there.
    """
    key = next((key for key in MARKS if row.get(key) is not None), None)
    if key is None or holds_nothing(row[key]):
        return []
    value = row[key]
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except RowFault as fault:
            raise RowFault(fault.code, f"{key!r} is text and {fault.found}", ADVICE, (key,)) from None
    found = [_mark(label, one, path) for label, one, path in _each(value, key)]
    for mark, said in found:
        _refuse_wrong(mark, said, text)
    return [mark for mark, _ in found]


def _each(value: Any, key: str) -> Iterator[tuple[str | None, Any, Path]]:
    """Each stretch as it is written, with the name that it stands under, if it does, and the way to it."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            several = isinstance(one, list)
            for place, each in enumerate(one if several else [one]):
                yield str(name), each, (key, name, place) if several else (key, name)
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield None, one, (key, place)
    else:
        raise RowFault("bad_spans", f"{key!r} is {kind_of(value)}.", ADVICE, (key,))


def _mark(name: str | None, value: Any, path: Path) -> tuple[Mark, Any]:
    """A stretch, and the text that is said to stand there, if one is."""
    if isinstance(value, list) and len(value) == 3:
        value = dict(zip(("start", "end", "label"), value, strict=True))
    if not isinstance(value, Mapping):
        raise RowFault("bad_spans", f"a stretch is {kind_of(value)}.", ADVICE, path)
    label = name if name is not None else next((value[key] for key in LABELS if value.get(key) is not None), None)
    span = value.get("span")
    if isinstance(span, list) and len(span) == 2:
        begin, end = span
    else:
        begin, end = next(((value[a], value[b]) for a, b in ENDS if a in value and b in value), (None, None))
    numbers = all(isinstance(one, int) and not isinstance(one, bool) for one in (begin, end))
    if begin is None or label is None:
        raise RowFault("bad_spans", f"{shown(value)} lacks a start, an end or a label.", ADVICE, path)
    if not isinstance(label, str) or not label.strip() or not numbers:
        which = next((f"{one!r} is no whole number" for one in (begin, end) if type(one) is not int), None)
        raise RowFault("bad_spans", f"{shown(value)}: {which or f'{label!r} is no label'}.", ADVICE, path)
    return Mark(label.strip(), int(begin), int(end), path), value.get("text")  # pyright: ignore[reportArgumentType]


def _refuse_wrong(mark: Mark, said: Any, text: str) -> None:
    """Refuse a stretch that is none, or that does not hold what it is said to hold.

    Raises:
        RowFault: with what stands there, and where the right thing stands.
    """
    if not 0 <= mark.begin < mark.end <= len(text):
        found = f"{mark.label!r} is from {mark.begin} to {mark.end}, and the text has {len(text)} characters."
        raise RowFault("span_outside", found, "The first character is 0, and the end is behind the last.", mark.path)
    there = text[mark.begin : mark.end]
    if isinstance(said, str) and said != there:
        where = text.find(said)
        advice = f"It is from {where} to {where + len(said)}." if where >= 0 and said else "The text does not hold it."
        found = f"{mark.label!r} is said to be {said!r}, and from {mark.begin} to {mark.end} stands {there!r}."
        raise RowFault("wrong_span", found, advice, mark.path)
