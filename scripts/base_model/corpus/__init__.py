"""Synthetic everyday and hospitality English: an endless stream of documents."""
from __future__ import annotations

from collections.abc import Iterator
from random import Random

from .everyday import everyday
from .hospitality import hospitality
from .prose import prose

Document = str | list[dict[str, str]]


def documents(seed: int) -> Iterator[Document]:
    """Documents without end, always the same for the same seed."""
    rng = Random(seed)
    while True:
        roll = rng.random()
        yield hospitality(rng) if roll < 0.6 else everyday(rng) if roll < 0.8 else prose(rng)
