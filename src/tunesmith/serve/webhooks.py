"""`/v1/webhook_endpoints`: addresses that hear of the ends of a project's jobs."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy import delete, func, insert, select, update

from tunesmith.core.errors import ConfigError
from tunesmith.serve.deliver import TYPE, event_of, know_ended, tell
from tunesmith.serve.errors import not_found, refused
from tunesmith.serve.outside import addresses_of, refuse_address
from tunesmith.serve.server import Caller, Here, Server, page_of
from tunesmith.serve.signing import new_secret
from tunesmith.store.records import now
from tunesmith.store.schema import deliveries, webhooks

router = APIRouter(prefix="/v1/webhook_endpoints")
types = APIRouter(prefix="/v1/webhook_event_types")
MOST = 20  # of a project
DAY = 24 * 3600.0
Name = Annotated[str, Field(min_length=1, max_length=200)]
Url = Annotated[str, Field(min_length=1, max_length=2000)]
HERE = tuple(TYPE + state for state in ("succeeded", "failed", "cancelled"))


def known(type: str) -> str:
    """A type of event; of what is not fine-tuning, any: nothing of it happens here.

    Raises:
        ValueError: there is no such type.
    """
    if type.startswith("fine_tuning.") and type not in HERE:
        raise ValueError(f"{type!r} is not one of {list(HERE)}")
    return type


Type = Annotated[str, Field(max_length=60, pattern=r"^[a-z_]+(\.[a-z_]+)+$"), AfterValidator(known)]
Types = Annotated[list[Type], Field(min_length=1, max_length=50)]


class Create(BaseModel):
    """Whom to tell of what. Of OpenAI's types, those that nothing here is of never come."""

    name: Name
    url: Url
    event_types: Types


class Update(BaseModel):
    """What shall be another."""

    name: Name | None = None
    url: Url | None = None
    event_types: Types | None = None


class Rotate(BaseModel):
    """Whether the secret that was stays valid for a day."""

    keep_old_secret_active_for_24_hours: bool = False


class Sample(BaseModel):
    """What a sample is of."""

    event_type: Type


def shown(here: Server, row: Any, secret: str | None = None) -> dict[str, Any]:
    """A webhook as clients see it; with its secret where it was just made. What it has not taken is told beside."""
    this = deliveries.c.webhook == row.id
    with here.stores.records.read() as connection:
        waiting = connection.scalar(select(func.count()).where(this, deliveries.c.done.is_(None)))
        last = connection.scalar(
            select(deliveries.c.sentence).where(this, deliveries.c.tries > 0).order_by(deliveries.c.created.desc())
        )
    return {
        "id": row.id, "object": "webhook_endpoint", "name": row.name, "url": row.url, "event_types": row.types,
        "created_at": int(row.created), "updated_at": int(row.updated),
        "signing_secret_hint": f"{row.secret[:10]}...", **({"signing_secret": secret} if secret else {}),
        "tunesmith": {"waiting": waiting or 0, "sentence": last},
    }  # fmt: skip


def find(here: Server, project: str, id: str) -> Any:
    """A project's webhook.

    Raises:
        ApiError: it has none of this id.
    """
    with here.stores.records.read() as connection:
        wanted = select(webhooks).where(webhooks.c.id == id, webhooks.c.project == project)
        row = connection.execute(wanted).one_or_none()
    if row is None:
        raise not_found(f"No such webhook endpoint: {id}", "webhook_endpoint_id")
    return row


def refuse(here: Server, url: str) -> None:
    """Only where requests may be sent to.

    Raises:
        ApiError: not there.
    """
    try:
        parts = refuse_address(url, here.private_webhooks)
        addresses_of(str(parts.hostname), parts.port or 443, here.private_webhooks)
    except ConfigError as error:
        raise refused(f"url: {error}", "url") from None


@router.post("")
def create(here: Here, key: Caller, body: Create) -> dict[str, Any]:
    """Tell an address from now on; its secret is shown once."""
    refuse(here, body.url)
    secret, moment = new_secret(), now()
    row = {"project": key.project, "name": body.name, "url": body.url, "types": body.event_types, "secret": secret}
    id = f"whe_{secrets.token_hex(12)}"
    with here.stores.records.write() as connection:
        count = connection.scalar(select(func.count()).where(webhooks.c.project == key.project)) or 0
        if count >= MOST:
            raise refused(f"A project may have {MOST} webhook endpoints. Delete one.")
        connection.execute(insert(webhooks).values(id=id, **row, created=moment, updated=moment))
        know_ended(connection, id)
    return shown(here, find(here, key.project, id), secret)


@types.get("")
def list_types(here: Here, key: Caller) -> dict[str, Any]:
    """What can be heard of."""
    return {"object": "list", "data": list(HERE)}


@router.get("")
def list_all(
    here: Here, key: Caller, after: str | None = None, limit: Annotated[int, Query(ge=0, le=100)] = 20
) -> dict[str, Any]:
    """A project's, the newest first."""
    wanted = select(webhooks).where(webhooks.c.project == key.project)
    with here.stores.records.read() as connection:
        rows = connection.execute(wanted.order_by(webhooks.c.created.desc(), webhooks.c.id)).all()
    return page_of([shown(here, row) for row in rows], after, limit)


@router.get("/{id}")
def retrieve(here: Here, key: Caller, id: str) -> dict[str, Any]:
    """One."""
    return shown(here, find(here, key.project, id))


@router.post("/{id}")
def change(here: Here, key: Caller, id: str, body: Update) -> dict[str, Any]:
    """Change its name, address or types."""
    row = find(here, key.project, id)
    if body.url is not None:
        refuse(here, body.url)
    given = {"name": body.name, "url": body.url, "types": body.event_types}
    values = {name: value for name, value in given.items() if value is not None and value != getattr(row, name)}
    if values:
        with here.stores.records.write() as connection:
            connection.execute(update(webhooks).where(webhooks.c.id == id).values(**values, updated=now()))
    return shown(here, find(here, key.project, id))


@router.delete("/{id}")
def delete_one(here: Here, key: Caller, id: str) -> dict[str, Any]:
    """Tell it nothing more."""
    row = find(here, key.project, id)
    with here.stores.records.write() as connection:
        connection.execute(delete(deliveries).where(deliveries.c.webhook == row.id))
        connection.execute(delete(webhooks).where(webhooks.c.id == row.id))
    return {"id": id, "object": "webhook_endpoint.deleted", "deleted": True}


@router.post("/{id}/rotate_secret")
def rotate(here: Here, key: Caller, id: str, body: Rotate | None = None) -> dict[str, Any]:
    """A new secret, shown once."""
    row, secret = find(here, key.project, id), new_secret()
    values: dict[str, Any] = {"secret": secret, "old_secret": None, "old_until": None, "updated": now()}
    if body is not None and body.keep_old_secret_active_for_24_hours:
        values |= {"old_secret": row.secret, "old_until": now() + DAY}
    with here.stores.records.write() as connection:
        connection.execute(update(webhooks).where(webhooks.c.id == row.id).values(**values))
    return shown(here, find(here, key.project, id), secret)


@router.post("/{id}/test")
def test(here: Here, key: Caller, id: str, body: Sample) -> dict[str, Any]:
    """Send a sample now."""
    row, sample = find(here, key.project, id), f"evt_{secrets.token_hex(12)}"
    content = event_of(sample, body.event_type, "ftjob-sample", now())
    try:
        status = tell(row, sample, content, here.private_webhooks)
    except (ConfigError, OSError) as error:
        raise refused(f"The address cannot be told anything: {error}", "url") from None
    success: Literal[True] = True
    return {
        "object": "webhook_endpoint.test", "webhook_endpoint_id": id, "event_type": body.event_type,
        "status_code": status, "success": success,
    }  # fmt: skip
