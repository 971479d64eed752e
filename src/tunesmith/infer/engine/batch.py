"""The running batch: rows join with their prompts, take one token a step together, and leave.

Decoding rows have slots 0 to n - 1, those whose prompts are being read the slots behind them. A prompt is read in
pieces, between steps, so that a long one holds nobody up for long. Where a prompt begins like one that was read before,
that much of it is copied (`prefixes.py`); prompts that begin alike wait for the first of them.

What fails ends as few rows as possible. Where a step of several fails, each is tried alone; where there is no memory
for more keys and values, all rows begin again from the tokens that they have, fewer together.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tunesmith.core.errors import ModelError
from tunesmith.infer.engine.network import Network
from tunesmith.infer.engine.prefixes import WORTH, Kept, Prefixes, as_ids, in_common
from tunesmith.infer.engine.replay import FEWEST_POSITIONS, Recorder, Replays
from tunesmith.infer.engine.request import Request
from tunesmith.infer.engine.sample import choose
from tunesmith.infer.engine.scheduler import Next
from tunesmith.infer.engine.slots import POSITION_MULTIPLE, SlotCache
from tunesmith.model.device import free_bytes

CACHE_SHARE = 0.5  # of the free memory, that keys and values may take
PROMPT_TOKENS_A_STEP = 512  # most that are read between two steps of other rows


@dataclass
class PrefillBatch:
    """Rows whose prompts are read together.

    Attributes:
        rows: in the order of their slots.
        tokens: ids (B, T), or embeddings (B, T, width), padded at the end.
        start: how many of T have been read.
        logits: of the last token of each prompt that has been read to its end, by row.
    """

    rows: list[Request]
    tokens: torch.Tensor
    start: int
    logits: dict[int, torch.Tensor]


class SlotBatch:
    """Rows in the slots of one network.

    Attributes:
        network: decodes; may be replaced between steps by one that computes the same.
        rows: those that decode, in the order of their slots.
        prefill: those whose prompts are being read.
        prefixes: what rows have read, for others that begin alike.
        replays: steps that were recorded; None where nothing is.
        seconds: spent in steps so far.
    """

    def __init__(
        self,
        network: Network,
        most_rows: int,
        most_tokens: int,
        make_recorder: Callable[[], Recorder] | None = None,
    ) -> None:
        """Start with none.

        Args:
            network: decodes.
            most_rows: at once.
            most_tokens: of prompts, padding included, that are read in one pass.
            make_recorder: makes what records steps, to be replayed; None if they are not.
        """
        self.network = network
        self.cache = SlotCache()
        self.prefixes = Prefixes(network.device.type)
        self.rows: list[Request] = []
        self.prefill: PrefillBatch | None = None
        self.replays = None if make_recorder is None else Replays(make_recorder)
        if self.replays is not None:  # what was recorded is lost when slots grow
            self.cache.ensure(self.cache.slots, 2 * FEWEST_POSITIONS)
        self.seconds = 0.0
        self._most_rows, self._most_tokens = most_rows, most_tokens
        self._rows_now = most_rows  # fewer after memory ran out
        self._again: deque[Request] = deque()  # to be read alone, after something failed

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.rows and self.prefill is None and not self._again

    def admit(self, waiting: deque[Request]) -> None:
        """Take as many from the left of `waiting` as there is room for, unless others are being read."""
        if self.prefill is not None and all(request.cancelled for request in self.prefill.rows):
            for request in self.prefill.rows:
                request.end("cancelled")
            self.prefill = None
        if self.prefill is not None:
            return
        if self.idle:
            self._rows_now = self._most_rows
        room = self._rows_now - len(self.rows)
        chosen = self._take(self._again, min(room, 1)) if self._again else self._take(waiting, room)
        if not chosen:
            return
        self.prefill = PrefillBatch(chosen, torch.empty(0), 0, {})  # where an interrupt finds them
        try:
            self.prefill.tokens = self._prompts(chosen)
        except Exception as error:  # noqa: BLE001  one of them cannot be embedded
            self._apart(error)
            return
        if self._grow(len(self.rows) + len(chosen), max(request.filled for request in chosen) + POSITION_MULTIPLE):
            self._copy(self.prefill)

    def _copy(self, prefill: PrefillBatch) -> None:
        """Begin behind what all of these prompts have in common with others that were read."""
        version = self.network.version
        found = [self._known(request) for request in prefill.rows]
        prefill.start = min(shared for _, shared in found)
        for slot, (request, (kept, _)) in enumerate(zip(prefill.rows, found, strict=True), len(self.rows)):
            request.version, request.copied = version, prefill.start
            if kept is not None and prefill.start:
                self.cache.write(slot, kept.states, prefill.start)

    def _known(self, request: Request) -> tuple[Kept | None, int]:
        """What was read that its prompt begins like, and how many tokens of it."""
        if request.embeddings is not None:
            return None, 0
        return self.prefixes.of(self.network.version).best(request.tokens, request.reader)

    def _keep(self, slot: int, request: Request) -> None:
        """For those who begin alike."""
        if request.version == self.network.version and request.error is None:
            self.prefixes.of(request.version).keep(self.cache, slot, request.read, request.reader)

    def _take(self, queue: deque[Request], most: int) -> list[Request]:
        """The first of a queue for which there is memory, at most so many."""
        chosen: list[Request] = []
        longest, needed = 0, max((request.longest for request in self.rows), default=0)
        while queue and len(chosen) < most:
            request = queue[0]
            if request.cancelled:
                queue.popleft().end("cancelled")
                continue
            longest, needed = max(longest, request.filled), max(needed, request.longest)
            count = len(chosen) + 1
            if chosen and (longest * count > self._most_tokens or self._better_apart(chosen, request)):
                break
            if not self._has_room(len(self.rows) + count, needed, CACHE_SHARE):
                if self.rows or chosen:
                    break
                self.prefixes.forget()
                self.cache.forget()  # many short rows may have left it wide, and this one needs it long
                if not self._has_room(1, needed, 1.0):
                    queue.popleft().end(error=too_long(needed))
                    longest = needed = 0
                    continue
            chosen.append(queue.popleft())
        return chosen

    def _better_apart(self, chosen: Sequence[Request], request: Request) -> bool:
        """Whether reading it with those would be to read much twice: what it has in common with one of them, or what
        was read before for it, or for them.
        """
        known = self._known(request)[1]
        if abs(known - self._known(chosen[0])[1]) >= WORTH:
            return True
        if request.embeddings is not None or request.filled <= known + WORTH:
            return False
        ids = as_ids(request.tokens)
        alike = (one for one in chosen if one.reader == request.reader and one.embeddings is None)
        return any(in_common(as_ids(one.tokens), ids) - known >= WORTH for one in alike)

    def _has_room(self, rows: int, positions: int, share: float) -> bool:
        """Whether this share of the free memory holds so many slots of so many positions."""
        slots, positions = self.cache.grown(rows, positions)
        more = slots * positions - (self.cache.slots * self.cache.positions if self.cache.keys else 0)
        return more <= 0 or more * self.network.bytes_per_position <= share * free_bytes(self.network.device.type)

    def _prompts(self, rows: Sequence[Request]) -> torch.Tensor:
        """Prompts padded at the end: ids, or embeddings where a row has a soft prompt."""
        longest = max(request.filled for request in rows)
        device = self.network.device
        ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
        for row, request in enumerate(rows):
            ids_BT[row, request.filled - len(request.tokens) : request.filled] = torch.tensor(request.tokens)
        ids_BT = ids_BT.to(device)
        if all(request.embeddings is None for request in rows):
            return ids_BT
        embedded_BTC = self.network.embed(ids_BT)
        for row, request in enumerate(rows):
            if request.embeddings is not None:
                embedded_BTC[row, : len(request.embeddings)] = request.embeddings.to(embedded_BTC)
        return embedded_BTC

    def _grow(self, slots: int, positions: int) -> bool:
        """Whether the cache has room for so many. Else its memory is gone: all begin again, half as many at once."""
        try:
            self.cache.ensure(slots, positions)
        except Exception as error:  # noqa: BLE001  each device has an error of its own for it
            self.prefixes.forget()
            if self.replays is not None:
                self.replays.forget()
            rows = [*self.rows, *(self.prefill.rows if self.prefill else ())]
            self.rows, self.prefill = [], None
            if len(rows) == 1:
                rows[0].end(error=error)
            else:
                self._again.extend(rows)
                self._rows_now = max(1, len(rows) // 2)
            return False
        return True

    def _apart(self, error: Exception) -> None:
        """Reading prompts together failed: read them one by one, or end the only one."""
        assert self.prefill is not None
        rows, self.prefill = self.prefill.rows, None
        if len(rows) == 1:
            rows[0].end(error=error)
        else:
            self._again.extend(rows)

    def step(self) -> list[Next]:
        """Read a piece of the prompts that are new, and one token of every other row; return the next tokens."""
        begun = time.perf_counter()
        came = self._decode() if self.rows else []
        if self.prefill is not None:
            came += self._read(self.prefill)
        self.seconds += time.perf_counter() - begun
        return came

    def _decode(self) -> list[Next]:
        rows = self.rows
        if not self._grow(len(rows), max(request.length for request in rows) + 1):
            return []
        try:
            logits_BV, likeliest_B = self._forward()
        except Exception:  # noqa: BLE001  whose fault it is shows when each is tried alone
            return self._decode_each()
        for request in rows:
            request.length += 1
        return choose(rows, logits_BV, likeliest_B)

    def _forward(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The logits (B, V) of all rows, and the likeliest token of each (B) if it is known."""
        rows = self.rows
        tokens, places = [request.last for request in rows], [request.length for request in rows]
        adapters = [request.adapter for request in rows]
        if self.replays is None:
            return self.network.decode(self.cache, tokens, places, adapters), None
        spare = 0 if self.prefill is None else self.prefill.start  # of prompts it is read next
        return self.replays.decode(self.network, self.cache, tokens, places, adapters, spare)

    def _decode_each(self) -> list[Next]:
        """The same for one row at a time, in its own slot; those that fail are ended."""
        came: list[Next] = []
        for slot, request in enumerate(self.rows):
            token_11 = torch.tensor([[request.last]], device=self.network.device)
            try:
                logits_1V = self.network.prefill(self.cache, slot, request.length, token_11, [0], [request.adapter])
            except Exception as error:  # noqa: BLE001  it is this row's
                request.end(error=error)
                continue
            request.length += 1
            came += choose([request], logits_1V)
        return came

    def _read(self, prefill: PrefillBatch) -> list[Next]:
        """The next piece of the prompts; when it was the last, their rows join the others."""
        length = prefill.tokens.shape[1]
        most = (PROMPT_TOKENS_A_STEP if self.rows else self._most_tokens) // len(prefill.rows)
        end = min(length, prefill.start + max(most, POSITION_MULTIPLE))
        last = [min(max(request.filled, prefill.start + 1), end) - 1 - prefill.start for request in prefill.rows]
        try:
            logits_BV = self.network.prefill(
                self.cache,
                len(self.rows),
                prefill.start,
                prefill.tokens[:, prefill.start : end],
                last,
                [request.adapter for request in prefill.rows],
            )
        except Exception as error:  # noqa: BLE001  whose fault it is shows when each is read alone
            self._apart(error)
            return []
        for row, request in enumerate(prefill.rows):
            if prefill.start < request.filled <= end:
                prefill.logits[id(request)] = logits_BV[row]
        prefill.start = end
        if end < length:
            return []
        for slot, request in enumerate(prefill.rows, len(self.rows)):
            request.length = request.filled
            self._keep(slot, request)
        self.rows += prefill.rows
        self.prefill = None
        return choose(prefill.rows, torch.stack([prefill.logits[id(request)] for request in prefill.rows]))

    def leave(self, request: Request) -> None:
        """Free a decoding row's slot: the last one moves there, and the last that is being read to where that was."""
        slot, last = self.rows.index(request), len(self.rows) - 1
        self._keep(slot, request)
        if slot != last:
            self.cache.move(last, slot, self.rows[last].length)
            self.rows[slot] = self.rows[last]
        self.rows.pop()
        prefill = self.prefill
        if prefill is not None:
            self.cache.move(last + len(prefill.rows), last, prefill.start)
            order = [len(prefill.rows) - 1, *range(len(prefill.rows) - 1)]
            prefill.rows, prefill.tokens = [prefill.rows[i] for i in order], prefill.tokens[order]

    def clear(self) -> list[Request]:
        """Drop all rows and return them."""
        self.prefixes.forget()
        rows = [*self.rows, *(self.prefill.rows if self.prefill else ()), *self._again]
        self.rows, self.prefill = [], None
        self._again.clear()
        return rows


def too_long(tokens: int) -> ModelError:
    """What the caller of an answer that would fill the memory by itself is told."""
    return ModelError(
        f"there is no memory for the keys and values of {tokens} tokens. Shorten the conversation, or ask for fewer "
        "new tokens."
    )
