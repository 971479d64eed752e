"""Where in a row's JSON a value stands, for findings that lead to it by keys and indices."""

from __future__ import annotations

import json
from collections.abc import Iterator

STEPS = json.JSONDecoder(parse_constant=str, parse_int=str)  # only where values end matters, not what they are


def column_of(text: str, path: tuple[str | int, ...]) -> tuple[int, int]:
    """Line (from 0) and column (from 1) in `text`, which is JSON, of the value that `path` leads to.

    As far as the path leads: where a key is missing it is the place of the object that lacks it.
    """
    place = len(text) - len(text.lstrip())
    for step in path:
        found = _step(text, place, step)
        if found is None:
            break
        place = found
    return text.count("\n", 0, place), place - text.rfind("\n", 0, place)


def items_at(text: str, place: int, key: str) -> Iterator[int]:
    """Where each item of a list begins, which stands under a key of the object at `place`; all of it is JSON."""
    found = _step(text, place + len(text[place:]) - len(text[place:].lstrip()), key)
    if found is None or text[found] != "[":
        return
    space = json.decoder.WHITESPACE  # pyright: ignore[reportAttributeAccessIssue]  the library's own pattern
    place = space.match(text, found + 1).end()
    while text[place] != "]":
        yield place
        _, place = STEPS.raw_decode(text, place)
        place = space.match(text, place).end()
        if text[place] == ",":
            place = space.match(text, place + 1).end()


def _step(text: str, place: int, step: str | int) -> int | None:
    space = json.decoder.WHITESPACE  # pyright: ignore[reportAttributeAccessIssue]  the library's own pattern
    opening = text[place : place + 1]
    if opening not in ("{", "["):
        return None
    place, index = space.match(text, place + 1).end(), 0
    while place < len(text) and text[place] not in "}]":
        key: str | int = index
        if opening == "{":
            key, place = STEPS.raw_decode(text, place)
            place = space.match(text, text.index(":", place) + 1).end()
        if key == step:
            return place
        _, place = STEPS.raw_decode(text, place)
        place = space.match(text, place).end()
        if text[place : place + 1] == ",":
            place = space.match(text, place + 1).end()
        index += 1
    return None
