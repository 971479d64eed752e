"""Keys and values of what was read, kept for prompts that begin alike.

A system prompt, examples before a question, a conversation that goes on: what a new prompt has in common with one that
was read before is copied into its slot, and only the rest is read. Keys and values belong to the tokens up to there,
to the adapter that read them, and to the weights: when weights or adapters change, all are forgotten. Whose prompts may
be known to whom is the caller's to say: one who is answered sooner than others would learn what they have asked.

Axes: K key-value heads, P positions, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tunesmith.infer.engine.slots import SlotCache
from tunesmith.model.device import free_bytes

WORTH = 64  # positions that are worth a copy, or a pass of their own
KEPT_SHARE = 1 / 16  # of the free memory, that all may take
MOST_KEPT = 64

Ids = np.ndarray
Reader = tuple[int, str]  # adapter, -1 for none, and among whom prompts are shared


@dataclass(frozen=True, eq=False)
class Kept:
    """What one row had read.

    Attributes:
        ids: its tokens (P).
        reader: that read them.
        states: keys (K, P, D) and values of each layer.
    """

    ids: Ids
    reader: Reader
    states: Sequence[tuple[torch.Tensor, torch.Tensor]]

    @property
    def bytes(self) -> int:
        """In memory."""
        return sum(tensor.numel() * tensor.element_size() for pair in self.states for tensor in pair)


class Prefixes:
    """Those that are kept, the least recently used one first."""

    def __init__(self, device: str) -> None:
        """None is kept.

        Args:
            device: whose memory they take.
        """
        self._device = device
        self._kept: list[Kept] = []
        self._version = 0

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, version: int) -> Prefixes:
        """These, without those that other weights have made."""
        if version != self._version:
            self.forget()
            self._version = version
        return self

    def forget(self) -> None:
        """Free all."""
        self._kept.clear()

    def best(self, tokens: Sequence[int], reader: Reader) -> tuple[Kept | None, int]:
        """The one that has most in common with a prompt, and how many tokens; never all, for the last is to be read."""
        ids, best, most = as_ids(tokens[:-1]), None, WORTH - 1
        for kept in self._kept:
            if kept.reader == reader and (shared := in_common(kept.ids, ids)) > most:
                best, most = kept, shared
        if best is None:
            return None, 0
        self._kept.remove(best)
        self._kept.append(best)
        return best, most

    def keep(self, cache: SlotCache, slot: int, tokens: Sequence[int], reader: Reader) -> None:
        """Keep what a row has read, in place of those that it goes on from."""
        if len(tokens) < WORTH:
            return
        ids = as_ids(tokens)
        mine = [(kept, in_common(kept.ids, ids)) for kept in self._kept if kept.reader == reader]
        if any(shared == len(ids) for _, shared in mine):
            return
        for kept in [kept for kept, shared in mine if shared == len(kept.ids)]:
            self._kept.remove(kept)
        self._kept.append(Kept(ids, reader, cache.copy_of(slot, len(ids))))
        room = KEPT_SHARE * free_bytes(self._device)
        while self._kept and (len(self._kept) > MOST_KEPT or sum(kept.bytes for kept in self._kept) > room):
            del self._kept[0]


def as_ids(tokens: Sequence[int]) -> Ids:
    """Tokens as an array."""
    return np.asarray(tokens, dtype=np.int32)


def in_common(one: Ids, other: Ids) -> int:
    """How many tokens both begin with."""
    length = min(len(one), len(other))
    if not length or one[0] != other[0]:
        return 0
    differ = one[:length] != other[:length]
    first = int(differ.argmax())
    return first if differ[first] else length
