"""Tells readers in the event loop that models have computed a step, without a thread for each of them."""

from __future__ import annotations

import asyncio


class Ticks:
    """Heard from any thread, waited for in one event loop."""

    def __init__(self) -> None:
        """Nobody waits yet."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._told = False

    def __call__(self) -> None:
        """Something has come; safe from any thread."""
        loop = self._loop
        if loop is not None and not self._told and not loop.is_closed():
            self._told = True
            loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._told = False
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    def bind(self) -> None:
        """Wake readers in the event loop that runs now."""
        self._loop = asyncio.get_running_loop()

    async def wait(self) -> None:
        """Return when something has come."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn
