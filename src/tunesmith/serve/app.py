"""The app: every route with its key, every error in OpenAI's shape, no body larger than it may be."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from tunesmith import __version__
from tunesmith.serve import (
    chat,
    completions,
    files,
    fine_tuning,
    grading,
    models,
    permissions,
    stored,
    uploads,
    webhooks,
)
from tunesmith.serve.deliver import Deliverer
from tunesmith.serve.errors import ApiError, error_body, handle_errors
from tunesmith.serve.gate import Gate
from tunesmith.serve.server import Caller, Server


def make_app(server: Server, hosts: list[str], origins: list[str] | None = None) -> FastAPI:
    """The API of a server.

    Args:
        server: what an operator has set up.
        hosts: names that requests may come to it by; `*` for any.
        origins: pages of other sites, such as `https://app.example`, whose scripts may ask it.
    """

    @contextlib.asynccontextmanager
    async def living(app: FastAPI) -> AsyncGenerator[None]:
        deliverer = Deliverer(server.stores.records, server.private_webhooks)
        deliverer.start()
        server.ticks.bind()
        server.engines.listen(server.ticks)
        yield
        server.engines.close()
        deliverer.stop()

    app = FastAPI(title="tunesmith", version=__version__, docs_url="/docs", redoc_url=None, lifespan=living)
    app.state.server = server
    for module in (files, uploads, fine_tuning, grading, permissions, models, chat, stored, completions, webhooks):
        app.include_router(module.router)
    app.include_router(webhooks.types)

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

    @app.get("/metrics")
    def metrics(key: Caller) -> Response:
        """Counts, for Prometheus with an admin's key."""
        if key.role != "admin":
            raise ApiError(
                403, "This needs an admin's key: tunesmith keys create NAME --role admin.", code="admin_needed"
            )
        return Response(server.metrics.text(server), media_type="text/plain; version=0.0.4; charset=utf-8")

    handle_errors(app)
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Origins, allowed=tuple(origins or ()))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    rules = {"records": server.stores.records, "largest_file": server.largest_file, "metrics": server.metrics}
    app.add_middleware(Gate, **rules, is_full=lambda: server.turns.is_full)
    return app


class Origins:
    """Refuses what pages of other sites have a browser send: it may hold a key that they have not."""

    def __init__(self, app: Any, allowed: tuple[str, ...]) -> None:
        self.app, self.allowed = app, allowed

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        headers = dict(scope.get("headers", ()))
        origin, host = (headers.get(name, b"").decode("latin-1") for name in (b"origin", b"host"))
        if not origin or origin in self.allowed or origin.partition("://")[2] == host:
            await self.app(scope, receive, send)
        else:
            message = f"Origin {origin[:100]!r} is another site. The operator can allow it: --allow-origin."
            await error_body(403, message, code="origin_not_allowed")(scope, receive, send)
