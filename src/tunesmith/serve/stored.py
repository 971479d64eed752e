"""`/v1/chat/completions` that clients have asked to keep (`store`), with metadata to find them by."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from sqlalchemy import delete, insert, select, update

from tunesmith.serve.asked import ChatRequest, Metadata
from tunesmith.serve.errors import not_found, refused
from tunesmith.serve.server import Caller, Here, Server, page_of
from tunesmith.store.records import now
from tunesmith.store.schema import completions

router = APIRouter(prefix="/v1/chat/completions")
MOST = 10_000  # that a list looks at


class Update(BaseModel):
    """What shall stand beside it."""

    metadata: Metadata | None = None


def keep(here: Server, project: str, body: ChatRequest, answer: dict[str, Any]) -> None:
    """Keep a completion: what was asked, and the answer as the client has it."""
    asked = body.model_dump(exclude_none=True, exclude={"stream", "stream_options", "store", "metadata"})
    row = {"id": answer["id"], "project": project, "model": answer["model"], "created": now()}
    with here.stores.records.write() as connection:
        values = {**row, "asked": asked, "answer": answer, "metadata": body.metadata or {}}
        connection.execute(insert(completions).values(**values))


def shown(row: Any) -> dict[str, Any]:
    """A kept completion as clients see it."""
    told = ("temperature", "top_p", "seed", "tools", "tool_choice", "response_format")
    return {**{name: row.asked.get(name) for name in told}, **row.answer, "metadata": row.metadata}


def find(here: Server, project: str, id: str) -> Any:
    """A project's kept completion.

    Raises:
        ApiError: it has none of this id.
    """
    with here.stores.records.read() as connection:
        wanted = select(completions).where(completions.c.id == id, completions.c.project == project)
        row = connection.execute(wanted).one_or_none()
    if row is None:
        raise not_found(f"No such chat completion: {id}. Only those with store=true are kept.", "completion_id")
    return row


@router.get("")
def list_all(
    here: Here, key: Caller, request: Request, model: str | None = None, after: str | None = None,
    limit: Annotated[int, Query(ge=0, le=100)] = 20, order: Literal["asc", "desc"] = "asc",
) -> dict[str, Any]:  # fmt: skip
    """A project's; `metadata[KEY]=VALUE` picks those with it."""
    wanted = select(completions).where(completions.c.project == key.project).limit(MOST)
    if model is not None:
        wanted = wanted.where(completions.c.model == model)
    number = completions.c.number
    with here.stores.records.read() as connection:
        rows = connection.execute(wanted.order_by(number if order == "asc" else number.desc())).all()
    pairs = [
        (name.removeprefix("metadata[")[:-1], value)
        for name, value in request.query_params.items()
        if name.startswith("metadata[") and name.endswith("]")
    ]
    found = [shown(row) for row in rows if all(row.metadata.get(name) == value for name, value in pairs)]
    return page_of(found, after, limit)


@router.get("/{id}")
def retrieve(here: Here, key: Caller, id: str) -> dict[str, Any]:
    """One."""
    return shown(find(here, key.project, id))


@router.post("/{id}")
def change(here: Here, key: Caller, id: str, body: Update) -> dict[str, Any]:
    """Give it other metadata."""
    row = find(here, key.project, id)
    if body.metadata is not None and len(body.metadata) > 16:
        raise refused("metadata may have at most 16 keys.", "metadata")
    with here.stores.records.write() as connection:
        this = completions.c.number == row.number
        connection.execute(update(completions).where(this).values(metadata=body.metadata or {}))
    return shown(find(here, key.project, id))


@router.delete("/{id}")
def delete_one(here: Here, key: Caller, id: str) -> dict[str, Any]:
    """Forget it."""
    row = find(here, key.project, id)
    with here.stores.records.write() as connection:
        connection.execute(delete(completions).where(completions.c.number == row.number))
    return {"id": id, "object": "chat.completion.deleted", "deleted": True}


@router.get("/{id}/messages")
def messages(
    here: Here, key: Caller, id: str, after: str | None = None, limit: Annotated[int, Query(ge=0, le=100)] = 20,
    order: Literal["asc", "desc"] = "asc",
) -> dict[str, Any]:  # fmt: skip
    """What was asked."""
    asked = find(here, key.project, id).asked["messages"]
    found = [
        {"refusal": None, **message, **_content(message.get("content")), "id": f"{id}-{number}"}
        for number, message in enumerate(asked)
    ]
    return page_of(found if order == "asc" else found[::-1], after, limit)


def _content(content: Any) -> dict[str, Any]:
    if isinstance(content, list):
        return {"content": "".join(str(part.get("text", "")) for part in content), "content_parts": content}
    return {"content": content, "content_parts": None}
