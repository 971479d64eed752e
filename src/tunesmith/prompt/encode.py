"""Text as token ids, where control tokens that content spells are hidden behind private characters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def encoded(backend: Any, text: str, hidden: Mapping[str, str]) -> tuple[list[int], list[int]]:
    """Ids of `text`, and where in it each token starts.

    Text that hides control tokens is encoded in segments, cut inside each of them, so that it comes
    back as plain text and never as the token.
    """
    if not hidden:
        encoding = backend.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]
    segments: list[list[tuple[str, int]]] = [[]]  # characters, each with its place in `text`
    for place, character in enumerate(text):
        token = hidden.get(character, character)
        segments[-1].append((token[0], place))
        if character in hidden:
            segments.append([(rest, place) for rest in token[1:]])
    ids: list[int] = []
    starts: list[int] = []
    for segment in filter(None, segments):
        characters = "".join(character for character, _ in segment)
        encoding = backend.encode(characters, add_special_tokens=False)
        ids += encoding.ids
        starts += [segment[start][1] for start, _ in encoding.offsets]
    return ids, starts
