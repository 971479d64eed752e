"""The running batch: rows join with their prompts, take one token a step together, and leave.

Decoding rows have slots 0 to n - 1, the newcomers whose prompts are being read the slots behind them. A prompt is read
in pieces, between steps, so that a long one holds nobody up for long.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tunesmith.core.errors import ModelError
from tunesmith.infer.network import Network
from tunesmith.infer.sample import pick
from tunesmith.infer.slots import PIECE, SlotCache
from tunesmith.infer.ticket import Ticket
from tunesmith.model.device import free_bytes

SHARE = 0.5  # of the free memory, that keys and values may take
BUSY = 512  # most tokens of prompts that are read between two steps of others


@dataclass
class Newcomers:
    """Rows whose prompts are read together.

    Attributes:
        rows: in the order of their slots.
        tokens: ids (B, T), or embeddings (B, T, width), padded at the end.
        start: how many of T have been read.
        logits: of the last token of each prompt that has been read to its end, by row.
    """

    rows: list[Ticket]
    tokens: torch.Tensor
    start: int
    logits: dict[int, torch.Tensor]


class SlotBatch:
    """Rows in the slots of one network.

    Attributes:
        network: decodes; may be replaced between steps by one that computes the same.
        rows: those that decode, in the order of their slots.
        new: those whose prompts are being read.
        seconds: spent in steps so far.
    """

    def __init__(self, network: Network, most_rows: int, most_tokens: int) -> None:
        """Start with none.

        Args:
            network: decodes.
            most_rows: at once.
            most_tokens: of prompts, padding included, that are read in one pass.
        """
        self.network = network
        self.cache = SlotCache()
        self.rows: list[Ticket] = []
        self.new: Newcomers | None = None
        self.seconds = 0.0
        self._most_rows, self._most_tokens = most_rows, most_tokens

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.rows and self.new is None

    def admit(self, waiting: deque[Ticket]) -> None:
        """Take as many from the left of `waiting` as there is room for, unless others are being read."""
        if self.new is not None and all(ticket.cancelled for ticket in self.new.rows):
            for ticket in self.new.rows:
                ticket.end()
            self.new = None
        if self.new is not None:
            return
        chosen: list[Ticket] = []
        longest, needed = 0, max((ticket.prompted + ticket.limit for ticket in self.rows), default=0)
        while waiting and len(self.rows) + len(chosen) < self._most_rows:
            ticket = waiting[0]
            longest, needed = max(longest, ticket.prompted), max(needed, ticket.prompted + ticket.limit)
            count = len(chosen) + 1
            if chosen and longest * count > self._most_tokens:
                break
            if not self._has_room(len(self.rows) + count, needed, SHARE):
                if self.rows or chosen:
                    break
                self.cache.forget()  # many short rows may have left it wide, and this one needs it long
                if not self._has_room(1, needed, 1.0):
                    waiting.popleft().end(error=too_long(needed))
                    longest = needed = 0
                    continue
            chosen.append(waiting.popleft())
        if chosen:
            self.new = Newcomers(chosen, torch.empty(0), 0, {})  # where an error finds them
            self.cache.ensure(len(self.rows) + len(chosen), max(ticket.prompted for ticket in chosen) + PIECE)
            self.new.tokens = self._prompts(chosen)

    def _has_room(self, rows: int, positions: int, share: float) -> bool:
        """Whether this share of the free memory holds so many slots of so many positions."""
        slots, positions = self.cache.grown(rows, positions)
        more = slots * positions - (self.cache.slots * self.cache.positions if self.cache.keys else 0)
        return more <= 0 or more * self.network.bytes_per_position <= share * free_bytes(self.network.device.type)

    def _prompts(self, rows: Sequence[Ticket]) -> torch.Tensor:
        """Prompts padded at the end: ids, or embeddings where a row has a soft prompt."""
        longest = max(ticket.prompted for ticket in rows)
        device = self.network.device
        ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
        for row, ticket in enumerate(rows):
            ids_BT[row, ticket.prompted - len(ticket.prompt) : ticket.prompted] = torch.tensor(ticket.prompt)
        ids_BT = ids_BT.to(device)
        if all(ticket.embeddings is None for ticket in rows):
            return ids_BT
        embedded_BTC = self.network.embed(ids_BT)
        for row, ticket in enumerate(rows):
            if ticket.embeddings is not None:
                embedded_BTC[row, : len(ticket.embeddings)] = ticket.embeddings.to(embedded_BTC)
        return embedded_BTC

    def step(self) -> list[tuple[Ticket, int]]:
        """Read a piece of the newcomers' prompts, and one token of every other row; return each row's next token."""
        begun = time.perf_counter()
        new = self.new
        came = self._decode() if self.rows else []
        if new is not None:
            came += self._read(new)
        self.seconds += time.perf_counter() - begun
        return came

    def _decode(self) -> list[tuple[Ticket, int]]:
        rows = self.rows
        self.cache.ensure(len(rows), max(ticket.length for ticket in rows) + 1)
        logits_BV = self.network.decode(
            self.cache,
            [ticket.last for ticket in rows],
            [ticket.length for ticket in rows],
            [ticket.adapter for ticket in rows],
        )
        for ticket in rows:
            ticket.length += 1
        return choose(rows, logits_BV)

    def _read(self, new: Newcomers) -> list[tuple[Ticket, int]]:
        """The next piece of their prompts; when it was the last, they join the others."""
        length = new.tokens.shape[1]
        most = (BUSY if self.rows else self._most_tokens) // len(new.rows)
        end = min(length, new.start + max(most, PIECE))
        last = [min(max(ticket.prompted, new.start + 1), end) - 1 - new.start for ticket in new.rows]
        logits_BV = self.network.prefill(
            self.cache,
            len(self.rows),
            new.start,
            new.tokens[:, new.start : end],
            last,
            [ticket.adapter for ticket in new.rows],
        )
        for row, ticket in enumerate(new.rows):
            if new.start < ticket.prompted <= end:
                new.logits[id(ticket)] = logits_BV[row]
        new.start = end
        if end < length:
            return []
        for ticket in new.rows:
            ticket.length = ticket.prompted
        self.rows += new.rows
        self.new = None
        return choose(new.rows, torch.stack([new.logits[id(ticket)] for ticket in new.rows]))

    def leave(self, ticket: Ticket) -> None:
        """Free a decoding row's slot: the last one moves there, and the last newcomer to where that was."""
        slot, last = self.rows.index(ticket), len(self.rows) - 1
        if slot != last:
            self.cache.move(last, slot, self.rows[last].length)
            self.rows[slot] = self.rows[last]
        self.rows.pop()
        new = self.new
        if new is not None:
            self.cache.move(last + len(new.rows), last, new.start)
            order = [len(new.rows) - 1, *range(len(new.rows) - 1)]
            new.rows, new.tokens = [new.rows[i] for i in order], new.tokens[order]

    def clear(self) -> list[Ticket]:
        """Drop all rows and return them."""
        rows = self.rows + (self.new.rows if self.new else [])
        self.rows, self.new = [], None
        return rows


def too_long(tokens: int) -> ModelError:
    """What the caller of an answer that would fill the memory by itself is told."""
    return ModelError(
        f"there is no memory for the keys and values of {tokens} tokens. Shorten the conversation, or ask for fewer "
        "new tokens."
    )


def choose(rows: Sequence[Ticket], logits_BV: torch.Tensor) -> list[tuple[Ticket, int]]:
    """Each row with its next token."""
    draws = [0.0 if ticket.sampling.temperature == 0 else ticket.draw() for ticket in rows]
    return list(zip(rows, pick(logits_BV, [ticket.sampling for ticket in rows], draws), strict=True))
