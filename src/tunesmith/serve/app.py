"""The app: every route with its key, every error in OpenAI's shape, no body larger than it may be."""

from __future__ import annotations

import secrets
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from tunesmith import __version__
from tunesmith.serve import chat, files, fine_tuning, models, permissions, uploads
from tunesmith.serve.errors import error_body, handle_errors
from tunesmith.serve.server import Server

JSON_BYTES = 16 << 20  # of a body that is no upload
SPARE = 1 << 20  # bytes of an upload around its file


def make_app(server: Server, hosts: list[str]) -> FastAPI:
    """The API of a server.

    Args:
        server: what an operator has set up.
        hosts: names that requests may come to it by; `*` for any.
    """
    app = FastAPI(title="tunesmith", version=__version__, docs_url="/docs", redoc_url=None)
    app.state.server = server
    for module in (files, uploads, fine_tuning, permissions, models, chat):
        app.include_router(module.router)

    @app.get("/healthz")
    def alive() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    def ready() -> JSONResponse:
        """The stores answer, too."""
        with server.stores.records.read() as connection:
            connection.exec_driver_sql("SELECT 1")
        return JSONResponse({"status": "ok"})

    handle_errors(app)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.add_middleware(Bounded, largest_file=server.largest_file)
    return app


class Bounded:
    """Names each request, and refuses a body that is too long: by what it says of itself, and by what comes."""

    def __init__(self, app: Any, largest_file: int) -> None:
        self.app, self.largest_file = app, largest_file

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        upload = headers.get(b"content-type", b"").startswith(b"multipart/")
        most = self.largest_file + SPARE if upload else JSON_BYTES
        said = headers.get(b"content-length", b"0")
        seen, id = 0, f"req_{secrets.token_hex(12)}".encode()

        async def named(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", id)]
            await send(message)

        async def bounded() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise TooLong
            return message

        try:
            if said.isdigit() and int(said) > most:
                raise TooLong
            await self.app(scope, bounded, named)
        except TooLong:
            await error_body(413, f"The body may have at most {most:,} bytes.")(scope, receive, named)


class TooLong(Exception):  # noqa: N818  a signal between two functions of this file
    """The body is longer than it may be."""
