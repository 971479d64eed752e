"""What the routes of the API share: stores, bases, limits, and who asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Annotated

from fastapi import Depends, Header, Request

from tunesmith.serve.engines import Engines
from tunesmith.serve.errors import ApiError
from tunesmith.serve.keys import Key, find_key
from tunesmith.serve.metrics import Metrics
from tunesmith.serve.names import Bases
from tunesmith.serve.rates import Rates
from tunesmith.serve.sessions import COOKIE, PAGE, key_of_session
from tunesmith.serve.ticks import Ticks
from tunesmith.serve.turns import Turns
from tunesmith.store.stores import Stores

LARGEST_FILE = 512 << 20  # bytes, as OpenAI has it
LEAST_ROWS = 10  # of a training file, as OpenAI has it


@dataclass(frozen=True)
class Server:
    """What an operator has set up.

    Attributes:
        stores: of records and blobs.
        bases: models that may be tuned and asked.
        engines: models that answer.
        folder: for models that are brought here.
        largest_file: bytes of an upload.
        private_webhooks: whether webhooks may be in networks of the operator's own.
        integrations: trackers that clients may ask for.
        graders: addresses of models elsewhere that may grade, by the names that clients know.
        rates: how often keys have asked.
        turns: of answers.
        ticks: tell of the engines' steps.
        metrics: counts of what it does.
        ending: set when it takes no more requests, and those who only watch are to go.
    """

    stores: Stores
    bases: Bases
    engines: Engines
    folder: Path
    largest_file: int = LARGEST_FILE
    private_webhooks: bool = False
    integrations: tuple[str, ...] = ()
    graders: Mapping[str, str] = field(default_factory=dict[str, str])
    rates: Rates = field(default_factory=Rates)
    turns: Turns = field(default_factory=Turns)
    ticks: Ticks = field(default_factory=Ticks)
    metrics: Metrics = field(default_factory=Metrics)
    ending: Event = field(default_factory=Event)

    def largest_of(self, key: Key) -> int:
        """Bytes of an upload with this key."""
        return min(self.largest_file, self.largest_file if key.largest_file is None else key.largest_file)


def server_of(request: Request) -> Server:
    """The server that a request reached."""
    return request.app.state.server


def who_asks(request: Request, authorization: Annotated[str | None, Header()] = None) -> Key:
    """The key of a request.

    Raises:
        ApiError: there is none, it opens nothing, or it asks too often.
    """
    records = server_of(request).stores.records
    if authorization is None and PAGE in request.headers and (token := request.cookies.get(COOKIE)):
        return _asked_by(request, key_of_session(records, token), "Your session has ended. Log in again.")
    kind, _, secret = (authorization or "").partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        message = "You didn't provide an API key. Send it as a header: Authorization: Bearer YOUR_KEY."
        raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
    message = f"Incorrect API key provided: {shortened(secret.strip())}. `tunesmith keys create` makes one."
    return _asked_by(request, find_key(records, secret.strip()), message)


def _asked_by(request: Request, key: Key | None, otherwise: str) -> Key:
    """Note whose a request is."""
    if key is None:
        raise ApiError(401, otherwise, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
    request.state.key = key
    request.state.headers = server_of(request).rates.take(key)
    return key


def shortened(secret: str) -> str:
    """Enough of a key to know it again, and too little to use it."""
    return f"{secret[:6]}***" if len(secret) > 12 else "***"


Here = Annotated[Server, Depends(server_of)]
Caller = Annotated[Key, Depends(who_asks)]


def page_of(items: list[dict[str, object]], after: str | None, limit: int) -> dict[str, object]:
    """One page of a list, as OpenAI's clients turn its pages: what comes behind the item called `after`."""
    ids = [item["id"] for item in items]
    start = ids.index(after) + 1 if after in ids else 0
    page = items[start : start + limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return {"object": "list", "data": page, **ends, "has_more": start + limit < len(items)}
