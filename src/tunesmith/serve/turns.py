"""Whose answer is next: so many at once, keys take turns, and who would wait too long is told so at once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from tunesmith.serve.errors import ApiError

RUNNING = 32  # answers at once, over all models
WAITING = 16  # requests that wait, of all keys: half of a batch, so that nobody waits longer than for an answer
RETRY = {"Retry-After": "2"}
FULL = "The server has as much to do as it can. Try again in a moment."


class Turns:
    """Lets requests begin; all of it in the thread of the event loop."""

    def __init__(self, running: int = RUNNING, waiting: int = WAITING) -> None:
        """At most `running` answers at once and `waiting` requests in line; half of these may be one key's."""
        self._most, self._most_waiting, self._most_of_key = running, waiting, max(1, waiting // 2)
        self._queues: OrderedDict[str, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()
        self.running = self.waiting = 0

    @property
    def is_full(self) -> bool:
        """Whether nobody more may wait, whoever it is."""
        return self.waiting >= self._most_waiting

    async def take(self, key: str, answers: int) -> int:
        """Wait for a turn; returns what `give_back` is to be told.

        Args:
            key: whose request it is.
            answers: that it asks for.

        Raises:
            ApiError: too many wait (503), or too many of this key's (429).
        """
        size = min(answers, self._most)  # one that asks for more than there is room for has all of it
        if not self._queues and self.running + size <= self._most:
            self.running += size
            return size
        queue = self._queues.get(key, deque())
        if len(queue) >= self._most_of_key:
            message = f"{len(queue)} requests of this key wait already. Try again in a moment."
            raise ApiError(429, message, code="rate_limit_exceeded", headers=RETRY)
        if self.is_full:
            raise ApiError(503, FULL, headers=RETRY)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(key, queue).append((size, turn))
        self.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had its turn, and has gone
                self.give_back(size)
            else:
                self._forget(key, turn)
            raise
        return size

    def give_back(self, size: int) -> None:
        """An answer is over."""
        self.running -= size
        self._next()

    def _next(self) -> None:
        """Let begin who can: the first of each key in turn."""
        while self._queues:
            key, queue = next(iter(self._queues.items()))
            size, turn = queue[0]
            if self.running + size > self._most:
                return
            queue.popleft()
            self._queues.move_to_end(key)
            if not queue:
                del self._queues[key]
            self.waiting -= 1
            self.running += size
            turn.set_result(None)

    def _forget(self, key: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(key, deque())
        kept = deque(one for one in queue if one[1] is not turn)
        self.waiting -= len(queue) - len(kept)
        if kept:
            self._queues[key] = kept
        else:
            self._queues.pop(key, None)
        self._next()
