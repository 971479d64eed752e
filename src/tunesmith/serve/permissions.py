"""`/v1/fine_tuning/checkpoints/NAME/permissions`: which other projects may ask a tuned model. For admins."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlalchemy import delete, insert, select

from tunesmith.serve.errors import ApiError, not_found
from tunesmith.serve.models import unknown
from tunesmith.serve.server import Caller, Here, Key, Server, page_of
from tunesmith.serve.tuned import find_tuned
from tunesmith.store.records import now
from tunesmith.store.schema import permissions

router = APIRouter(prefix="/v1/fine_tuning/checkpoints")


class Create(BaseModel):
    """Who shall be able to ask it."""

    project_ids: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=64)]], Field(min_length=1, max_length=100)
    ]


def refuse_others(here: Server, key: Key, name: str) -> None:
    """Only an admin shares, and only what is its project's.

    Raises:
        ApiError: neither is so.
    """
    if key.role != "admin":
        raise ApiError(403, "This needs an admin's key: tunesmith keys create NAME --role admin.", code="admin_needed")
    found = find_tuned(here, key.project, name)
    if found is None or found.job.project != key.project:
        raise unknown(name)


@router.post("/{name:path}/permissions")
def create(here: Here, key: Caller, name: str, body: Create) -> dict[str, Any]:
    """Share a model with projects."""
    refuse_others(here, key, name)
    with here.stores.records.write() as connection:
        for project in dict.fromkeys(body.project_ids):
            same = (permissions.c.model == name) & (permissions.c.project == project)
            if connection.scalar(select(permissions.c.id).where(same)) is None:
                id = f"cp_{secrets.token_hex(12)}"
                values = {"id": id, "model": name, "project": project, "created": now()}
                connection.execute(insert(permissions).values(**values))
    wanted = set(body.project_ids)
    return page_of([one for one in _all(here, name) if one["project_id"] in wanted], None, 100)


@router.get("/{name:path}/permissions")
def list_all(
    here: Here, key: Caller, name: str, project_id: str | None = None, after: str | None = None,
    limit: Annotated[int, Query(ge=0, le=1000)] = 10, order: str = "descending",
) -> dict[str, Any]:  # fmt: skip
    """Whom a model is shared with."""
    refuse_others(here, key, name)
    found = [one for one in _all(here, name) if project_id in (None, one["project_id"])]
    return page_of(found if order == "ascending" else found[::-1], after, limit)


@router.delete("/{name:path}/permissions/{id}")
def delete_one(here: Here, key: Caller, name: str, id: str) -> dict[str, Any]:
    """Share it no more."""
    refuse_others(here, key, name)
    with here.stores.records.write() as connection:
        this = (permissions.c.id == id) & (permissions.c.model == name)
        if connection.execute(delete(permissions).where(this)).rowcount != 1:
            raise not_found(f"No such permission: {id}", "permission_id")
    return {"id": id, "object": "checkpoint.permission", "deleted": True}


def _all(here: Server, name: str) -> list[dict[str, Any]]:
    """The oldest first."""
    wanted = select(permissions).where(permissions.c.model == name).order_by(permissions.c.created, permissions.c.id)
    with here.stores.records.read() as connection:
        return [
            {"id": row.id, "object": "checkpoint.permission", "created_at": int(row.created), "project_id": row.project}
            for row in connection.execute(wanted)
        ]
