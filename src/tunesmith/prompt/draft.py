"""A row on its way to token ids: as text, before it is encoded, and rendered, as the model sees it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model sees it.

    Attributes:
        ids: token ids, length T, four bytes each: as lists of Python's numbers, rows waiting for their turn would
            fill the processor's caches.
        spans: begin and end of each stretch of `ids` that is trained on (as targets).
        first: the first token that has a prediction: the second one, but of what a decoder writes beside a source.
    """

    ids: array[int]
    spans: tuple[tuple[int, int], ...]
    first: int = 1

    @property
    def mask(self) -> list[bool]:
        """For each token, whether it is trained on, length T."""
        mask = [False] * len(self.ids)
        for begin, end in self.spans:
            mask[begin:end] = [True] * (end - begin)
        return mask

    @property
    def trained(self) -> int:
        """Number of tokens that count in the loss."""
        return sum(end - max(begin, self.first) for begin, end in self.spans if end > self.first)


@dataclass(frozen=True)
class Draft:
    """A conversation as text, before it is encoded.

    Attributes:
        text: what the template makes of it.
        turns: for each trained turn, where its characters begin and end in `text`, and whether later
            turns change what the template makes of its end.
        hidden: private characters in `text` and the control tokens that content spelled in their place.
        whole: plain text, framed by no template and trained on whole.
        parts: texts that are read and not written on, framed as the tokenizer itself frames one text or two.
        read: what makes its ids, given the contract, where their places matter: of words, of a passage in which an
            answer stands.
        role: of a text with parts, what it is where something is made of it: a source, which is read alone, or the
            target, all of which is learned.
    """

    text: str
    turns: tuple[tuple[int, int, bool], ...]
    hidden: Mapping[str, str]
    whole: bool = False
    parts: tuple[Draft, ...] = ()
    read: Callable[[Any], Rendered] | None = None
    role: Literal["", "source", "target"] = ""
