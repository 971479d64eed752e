"""A thread with an event loop that does asynchronous work for threads that have none.

It lives while there is work, and its client with it: nothing has to be closed, it works beside a notebook's own loop,
and a process whose work was cancelled can end.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from tunesmith.infer.generator import Full

Client = TypeVar("Client")
Value = TypeVar("Value")


class _Work(NamedTuple):
    """Something to do with a client, and who waits for it."""

    future: Future[Any]
    do: Callable[[Any], Awaitable[Any]]


class Portal(Generic[Client]):
    """Work goes in from any thread, and is done in the order in which it came, some of it at once."""

    def __init__(
        self, client: Callable[[], AbstractAsyncContextManager[Client]], at_once: int, most_waiting: int
    ) -> None:
        """Nothing runs yet.

        Args:
            client: makes what the work is done with.
            at_once: most pieces of work under way.
            most_waiting: most pieces that wait for their turn.
        """
        self._client, self._at_once, self._most_waiting = client, at_once, most_waiting
        self._lock = threading.Lock()
        self._waiting: deque[_Work] = deque()
        self._tasks: dict[Future[Any], asyncio.Task[None]] = {}  # touched by the loop's thread alone
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None
        self._alive = False

    def start(self, do: Callable[[Client], Awaitable[Value]]) -> Future[Value]:
        """Begin something as soon as there is room.

        Raises:
            Full: too much waits already.
        """
        future: Future[Value] = Future()
        with self._lock:
            self._waiting = deque(work for work in self._waiting if not work.future.cancelled())
            if len(self._waiting) >= self._most_waiting:
                raise Full(f"{len(self._waiting)} requests wait for their turn, which is the most. Try again later.")
            self._waiting.append(_Work(future, do))
            if not self._alive:
                self._alive = True
                threading.Thread(target=lambda: asyncio.run(self._serve()), name="tunesmith-remote").start()
            elif self._loop is not None and self._news is not None:
                self._loop.call_soon_threadsafe(self._news.set)
        return future

    def cancel(self, future: Future[Any]) -> None:
        """Want no more of it. What was under way ends with `CancelledError`."""
        if future.cancel():
            return
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel_task, future)

    def _cancel_task(self, future: Future[Any]) -> None:
        if future in self._tasks:
            self._tasks[future].cancel()

    async def _serve(self) -> None:
        """Work until there is none, then forget the loop, so that more work starts another."""
        with self._lock:
            self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
            news = self._news
        async with AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(self._client())
            except Exception as error:  # noqa: BLE001  there is nothing to work with: everybody hears of it
                with self._lock:
                    left, self._waiting = self._waiting, deque()
                    self._loop, self._news, self._alive = None, None, False
                for work in left:
                    if work.future.set_running_or_notify_cancel():
                        work.future.set_exception(error)
                return
            while (taken := self._take()) is not None:
                for work in taken:
                    task = asyncio.create_task(self._do(work, client))
                    self._tasks[work.future] = task
                    task.add_done_callback(partial(self._over, work, news))
                await news.wait()
                news.clear()

    def _take(self) -> list[_Work] | None:
        """What may begin now; None if that is nothing, and nothing is under way: then this loop is over."""
        with self._lock:
            taken: list[_Work] = []
            while self._waiting and len(self._tasks) + len(taken) < self._at_once:
                work = self._waiting.popleft()
                if work.future.set_running_or_notify_cancel():
                    taken.append(work)
            if not taken and not self._tasks:
                self._loop, self._news, self._alive = None, None, False
                return None
            return taken

    async def _do(self, work: _Work, client: Client) -> None:
        try:
            value = await work.do(client)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  it is for whoever waits
            work.future.set_exception(error)
        else:
            work.future.set_result(value)

    def _over(self, work: _Work, news: asyncio.Event, task: asyncio.Task[None]) -> None:
        """Let go of a task that is over, also of one that was cancelled before its first step."""
        if task.cancelled():
            work.future.set_exception(CancelledError())
        del self._tasks[work.future]
        news.set()
