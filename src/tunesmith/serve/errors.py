"""Errors as OpenAI's clients understand them: `{"error": {"message", "type", "param", "code"}}` with a status.

The client repeats requests that end in 408, 409, 429 or 5xx. So these are only for what heals by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException

from tunesmith.core.errors import LimitReached, MissingError, StoreError, TunesmithError
from tunesmith.infer.generator import Full, GivenUp

log = logging.getLogger("tunesmith.serve")
RETRY_AFTER = "5"  # seconds
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is an error; raised wherever it is found."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers


def not_found(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """What was named is not there, or not the caller's."""
    return ApiError(404, message, param, code)


def refused(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The request cannot be done as it is."""
    return ApiError(400, message, param, code)


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None, headers: Any = None
) -> JSONResponse:
    """An error as an answer."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    content = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(content, status, headers=dict(headers or {}))


def handle_errors(app: FastAPI) -> None:
    """Let every error leave the app in this shape."""

    def api_error(request: Request, error: Any) -> JSONResponse:
        return error_body(error.status, error.message, error.param, error.code, error.headers)

    def validation(request: Request, error: Any) -> JSONResponse:
        fault = error.errors()[0]
        place = [str(part) for part in fault["loc"] if part not in ("body", "query", "path", "header")]
        name = ".".join(place) or None
        message = f"{fault['msg']}{f': {name!r}' if name else ''}."
        return error_body(400, message, name)

    def http(request: Request, error: Any) -> JSONResponse:
        if error.status_code == 404:
            message = f"{request.url.path}: there is no such route here."
            return error_body(404, message, code="unknown_url")
        return error_body(error.status_code, str(error.detail), headers=error.headers)

    def ours(request: Request, error: Any) -> JSONResponse:
        if isinstance(error, StoreError):
            log.warning("a store does not answer: %s", error)
            return error_body(503, "The stores cannot be reached now.", headers={"Retry-After": RETRY_AFTER})
        if isinstance(error, LimitReached | Full):
            return error_body(429, str(error), code="rate_limit_exceeded", headers={"Retry-After": RETRY_AFTER})
        if isinstance(error, GivenUp):
            return error_body(503, str(error), headers={"Retry-After": RETRY_AFTER})
        return error_body(404 if isinstance(error, MissingError) else 400, str(error))

    def unwritable(request: Request, error: Any) -> JSONResponse:
        return error_body(400, "A text holds characters that cannot be kept: NUL, or half of a pair (surrogates).")

    def unforeseen(request: Request, error: Any) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_body(500, "The server made a mistake; its log has the details.")

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(TunesmithError, ours)
    app.add_exception_handler(UnicodeEncodeError, unwritable)
    app.add_exception_handler(DataError, unwritable)
    app.add_exception_handler(Exception, unforeseen)
