"""What every request passes on its way in and out: a name, bounds in size and time, a line in the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any, NoReturn

import anyio

from tunesmith.serve.audit import ASKING, CHANGING, note, path_of
from tunesmith.serve.errors import error_body
from tunesmith.serve.metrics import Metrics
from tunesmith.serve.turns import FULL, RETRY
from tunesmith.store.records import Records

log = logging.getLogger("tunesmith.serve.access")
JSON_BYTES = 16 << 20  # of a body that is no upload
SPARE = 1 << 20  # bytes of an upload around its file
SILENCE = 30.0  # seconds without a piece of a body that is not whole
SLOWEST = 10_000  # bytes a second that a body must come with, after the first silence


class Unbound(Exception):  # noqa: N818  a signal between two classes of this file
    """The body is longer, or comes more slowly, than it may."""


class Gate:
    """Names each request, refuses a body that is too long or too slow, logs without contents, writes the audit log.

    A request that changes something is in the audit log before it is answered. One that asks a model is refused here,
    before it costs anything, where too many wait already.
    """

    def __init__(
        self, app: Any, records: Records, largest_file: int, metrics: Metrics, is_full: Callable[[], bool]
    ) -> None:
        self.app, self.records, self.largest_file, self.metrics = app, records, largest_file, metrics
        self.is_full = is_full

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request"] = id = f"req_{secrets.token_hex(12)}"
        began, told = time.perf_counter(), {"status": 0, "bytes": 0, "refused": 0}

        bounds = Bounds(scope, receive, self.largest_file)

        async def answered(message: Any) -> None:
            if bounds.fault is not None and not told["refused"]:
                return  # whatever made of it
            if message["type"] == "http.response.start":
                told["status"] = message["status"]
                extra = [(b"x-request-id", id.encode()), (b"x-content-type-options", b"nosniff")]
                extra += [(name.encode(), value.encode()) for name, value in state.get("headers", {}).items()]
                message["headers"] = [*message.get("headers", ()), *extra]
                if scope["method"] in CHANGING and "key" in state:
                    await anyio.to_thread.run_sync(note, self.records, state["key"], scope, message["status"])
            told["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            with contextlib.suppress(Unbound):
                bounds.refuse_said()
                if scope["path"] in ASKING and scope["method"] == "POST" and self.is_full():
                    await error_body(503, FULL, headers=RETRY)(scope, receive, answered)
                else:
                    await self.app(scope, bounds, answered)
            if bounds.fault is not None and not told["status"]:
                told["refused"] = 1
                await error_body(*bounds.fault)(scope, receive, answered)
        finally:
            self.metrics.requested(scope, told["status"])
            _log(scope, state, told, time.perf_counter() - began)


class Bounds:
    """Receives a request's body within bounds.

    Attributes:
        fault: status and sentence, once the body is out of them: whoever reads it may make something else of that.
    """

    def __init__(self, scope: Any, receive: Any, largest_file: int) -> None:
        headers = dict(scope["headers"])
        upload = headers.get(b"content-type", b"").startswith(b"multipart/")
        self.most = largest_file + SPARE if upload else JSON_BYTES
        self.said = headers.get(b"content-length", b"0")
        self.receive, self.seen, self.whole, self.began = receive, 0, False, time.monotonic()
        self.fault: tuple[int, str] | None = None

    def refuse_said(self) -> None:
        """Look at how long the body says that it is.

        Raises:
            Unbound: too long.
        """
        if self.said.isdigit() and int(self.said) > self.most:
            self._too_long()

    async def __call__(self) -> Any:
        """The next piece.

        Raises:
            Unbound: there is too much, or too little in its time.
        """
        if self.whole:  # what comes now is that the client has gone, whenever that is
            return await self.receive()
        try:
            message = await asyncio.wait_for(self.receive(), SILENCE)
        except TimeoutError:
            self._too_slow()
        self.seen += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.seen > self.most:
            self._too_long()
        if not self.whole and time.monotonic() - self.began > SILENCE + self.seen / SLOWEST:
            self._too_slow()
        return message

    def _too_long(self) -> NoReturn:
        self.fault = 413, f"The body may have at most {self.most:,} bytes."
        raise Unbound

    def _too_slow(self) -> NoReturn:
        self.fault = 408, "The body came too slowly."
        raise Unbound


def _log(scope: Any, state: dict[str, Any], told: dict[str, int], seconds: float) -> None:
    """One line of JSON: who asked for what, and how it went; nothing of what was said."""
    key = state.get("key")
    line = {
        "time": round(time.time(), 3), "request": state["request"], "method": scope["method"], "path": path_of(scope),
        "status": told["status"], "ms": round(seconds * 1000, 1), "bytes": told["bytes"],
        "key": key and key.id, "project": key and key.project,
    }  # fmt: skip
    log.info(json.dumps({**line, **state.get("log", {})}))
