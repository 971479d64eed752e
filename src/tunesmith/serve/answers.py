"""One request for answers from its turn to its end: whoever asked may go at any moment, and then nothing goes on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import anyio
from fastapi import Request

from tunesmith.core.errors import TunesmithError
from tunesmith.infer.generator import Completion, Delta, Options, Prompt
from tunesmith.serve.engines import Serving
from tunesmith.serve.errors import ApiError
from tunesmith.serve.keys import Key
from tunesmith.serve.models import finder_of
from tunesmith.serve.server import Server

PACE = 0.04  # seconds between two pieces of a stream: each costs the processor what a good part of a token does
Value = TypeVar("Value")
Prepare = Callable[[Serving], tuple[Prompt, Options]]


class Answers:
    """Answers under way.

    Attributes:
        model: its name.
        serving: what answers.
        options: how.
        operation: `chat` or `text_completion`.
        tokens, prompt_tokens: that have come, and that were asked.
        queued: seconds until its turn had come.
        first: seconds from the request to the first token; None before.
    """

    def __init__(self, here: Server, model: str, operation: str) -> None:
        """Nothing is asked yet. Use `begin`."""
        self._here, self.model, self.operation, self._began = here, model, operation, time.perf_counter()
        self._held = contextlib.ExitStack()
        self.queued, self.first = 0.0, None
        self.tokens = self.prompt_tokens = 0
        self._closed = False
        self.serving: Serving
        self.options: Options
        self._answering: Any = None

    @classmethod
    async def begin(
        cls, here: Server, key: Key, model: str, answers: int, prepare: Prepare, operation: str = "chat"
    ) -> Answers:
        """Wait for a turn, load the model if need be, and ask.

        Args:
            here: the server.
            key: who asks.
            model: by name.
            answers: how many are asked for.
            prepare: makes prompt and options, once it is known what answers; in another thread.
            operation: what it is in the metrics.

        Raises:
            ApiError: there is no such model, or too many wait.
            TunesmithError: it cannot be loaded, or cannot answer this.
        """
        name, find = await anyio.to_thread.run_sync(finder_of, here, key.project, model)
        made = cls(here, name, operation)
        try:
            size = await here.turns.take(key.id, answers)
            made._held.callback(here.turns.give_back, size)
            made.queued = time.perf_counter() - made._began
            await anyio.to_thread.run_sync(made._ask, find, prepare, key.project)
        except BaseException as error:
            made.close(error)
            raise
        return made

    def _ask(self, find: Callable[[], Any], prepare: Prepare, project: str) -> None:
        self.serving = self._held.enter_context(self._here.engines.borrow(self.model, find))
        prompt, options = prepare(self.serving)
        self.options = replace(options, shared_by=project)
        self._answering = self.serving.engine.submit(prompt, self.options)
        self._held.callback(self._answering.cancel)
        self.prompt_tokens = len(self._answering.requests[0].prompt)

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, those that were known from another that begins alike."""
        return 0 if self._answering is None else self._answering.requests[0].copied

    async def deltas(self) -> AsyncIterator[Delta]:
        """What comes, as it comes, but not in smaller pieces than anybody could read."""
        while True:
            ended, read = self._answering.ended, time.perf_counter()
            for delta in self._answering.news():
                if self.first is None:
                    self.first = time.perf_counter() - self._began
                self.tokens += len(delta.ids)
                yield delta
            if self._answering.over:
                return
            await self._here.ticks.wait()
            while self.first is not None and time.perf_counter() - read < PACE and self._answering.ended == ended:
                await self._here.ticks.wait()

    async def whole(self) -> Completion:
        """All of it."""
        async for _ in self.deltas():
            pass
        return self.result()

    def result(self) -> Completion:
        """All of it, once `deltas` has ended."""
        return self._answering.result(0.0)

    def close(self, error: BaseException | None = None) -> None:
        """Want no more of it, and let the next one have its turn; `error` is why, where it went wrong."""
        if not self._closed:
            self._closed = True
            gone = not error and not (self._answering is not None and self._answering.over)
            kind = "gone" if gone else str(getattr(error, "status", type(error).__name__)) if error else ""
            self._here.metrics.answered(self, time.perf_counter() - self._began, kind)
        self._held.close()


async def unless_gone(request: Request, work: Awaitable[Value]) -> Value:
    """Do something while the client waits; when it has gone, nobody wants it any more.

    Raises:
        ApiError: it has gone. Nobody reads that.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    wanted, left = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait([wanted, left], return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            return wanted.result()
        raise ApiError(499, "The client has gone.")
    finally:
        wanted.cancel()
        left.cancel()
        await asyncio.gather(wanted, left, return_exceptions=True)


async def answered(request: Request, begin: Awaitable[Answers], shape: Callable[[Answers, Completion], Value]) -> Value:
    """Answer at once: all of it, in some shape."""

    async def work() -> Value:
        answers = await begin
        try:
            return await anyio.to_thread.run_sync(partial(shape, answers, await answers.whole()))
        except TunesmithError as error:
            answers.close(error)
            raise
        finally:
            answers.close()

    return await unless_gone(request, work())
