"""`/v1/uploads`: a file that comes in parts, each of which is kept as it comes."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from os import SEEK_END
from typing import Annotated, Any

from fastapi import APIRouter, File, UploadFile
from pydantic import BaseModel, Field
from sqlalchemy import delete, insert, select, update

from tunesmith.serve.errors import ApiError, not_found, refused
from tunesmith.serve.files import add_file, describe, find_file, keep_stream, plain_name, refuse_purpose
from tunesmith.serve.server import Caller, Here, Server
from tunesmith.store.records import now
from tunesmith.store.schema import parts, uploads
from tunesmith.store.stores import release, touch, use

router = APIRouter(prefix="/v1/uploads")
LARGEST = 8 << 30  # bytes of all parts
LARGEST_PART = 64 << 20
LIVES = 3600.0  # seconds that an upload may take


class Create(BaseModel):
    """What will come."""

    bytes: Annotated[int, Field(ge=0, le=LARGEST)]
    filename: str
    mime_type: str
    purpose: str


class Complete(BaseModel):
    """All has come: in this order."""

    part_ids: list[str]
    md5: str | None = None


def shown(here: Server, row: Any) -> dict[str, Any]:
    """An upload as clients see it."""
    expired = row.status == "pending" and row.expires < now()
    file = describe(find_file(here.stores, row.project, row.file)) if row.file else None
    return {
        "id": row.id,
        "object": "upload",
        "bytes": row.bytes,
        "created_at": int(row.created),
        "expires_at": int(row.expires),
        "filename": row.name,
        "purpose": row.purpose,
        "status": "expired" if expired else row.status,
        "file": file,
    }


def find(here: Server, project: str, id: str, pending: bool = True) -> Any:
    """A project's upload.

    Raises:
        ApiError: it has none of this id, or nothing can be added to it any more.
    """
    with here.stores.records.read() as connection:
        wanted = select(uploads).where(uploads.c.id == id, uploads.c.project == project)
        row = connection.execute(wanted).one_or_none()
    if row is None:
        raise not_found(f"No such Upload object: {id}", "upload_id")
    if pending and (row.status != "pending" or row.expires < now()):
        state = "expired" if row.status == "pending" else row.status
        raise refused(f"Upload {id} is {state}.", "upload_id")
    return row


@router.post("")
def create(here: Here, key: Caller, body: Create) -> dict[str, Any]:
    """Begin."""
    refuse_purpose(body.purpose)
    if key.largest_file is not None and body.bytes > key.largest_file:
        raise ApiError(413, f"{body.bytes:,} bytes are announced, and this key may send {key.largest_file:,}.", "bytes")
    id, moment = f"upload_{secrets.token_hex(12)}", now()
    values = {"project": key.project, "name": plain_name(body.filename), "purpose": body.purpose, "bytes": body.bytes}
    with here.stores.records.write() as connection:
        row = {**values, "status": "pending", "created": moment, "expires": moment + LIVES}
        connection.execute(insert(uploads).values(id=id, **row))
    return shown(here, find(here, key.project, id))


@router.post("/{id}/parts")
def add_part(here: Here, key: Caller, id: str, data: Annotated[UploadFile, File()]) -> dict[str, Any]:
    """Keep a part."""
    row = find(here, key.project, id)
    size = data.file.seek(0, SEEK_END)
    if size > min(LARGEST_PART, row.bytes):
        raise ApiError(413, f"A part may have at most {min(LARGEST_PART, row.bytes):,} bytes.", "data")
    sha256, part, moment = keep_stream(here.stores, data.file), f"part_{secrets.token_hex(12)}", now()
    with here.stores.records.write() as connection:
        values = {"id": part, "upload": id, "sha256": sha256, "bytes": size, "created": moment}
        connection.execute(insert(parts).values(**values))
        use(connection, f"part:{part}", [(sha256, size)])
    return {"id": part, "object": "upload.part", "created_at": int(moment), "upload_id": id}


@router.post("/{id}/complete")
def complete(here: Here, key: Caller, id: str, body: Complete) -> dict[str, Any]:
    """Put the parts together into a file."""
    row = find(here, key.project, id)
    with here.stores.records.read() as connection:
        known = {one.id: one for one in connection.execute(select(parts).where(parts.c.upload == id))}
    if lacking := [part for part in body.part_ids if part not in known]:
        raise refused(f"Upload {id} has no part {lacking[0]}.", "part_ids")
    size = sum(known[part].bytes for part in body.part_ids)
    if size != row.bytes:
        raise refused(f"The parts have {size:,} bytes, and {row.bytes:,} were announced.", "part_ids")
    digest = hashlib.md5(usedforsecurity=False)

    def content() -> Iterator[bytes]:
        for part in body.part_ids:
            for piece in here.stores.blobs.read(known[part].sha256):
                digest.update(piece)
                yield piece

    sha256, _ = here.stores.blobs.put_stream(content())
    if body.md5 and digest.hexdigest() != body.md5.lower():
        raise refused("The content has another MD5.", "md5")
    touch(here.stores.records, [(sha256, size)])
    with here.stores.records.write() as connection:
        still = (uploads.c.id == id) & (uploads.c.status == "pending")
        if connection.execute(update(uploads).where(still).values(status="completed")).rowcount != 1:
            raise refused(f"Upload {id} was completed or cancelled meanwhile.", "upload_id")
        file = add_file(connection, key.project, row.name, row.purpose, sha256, size, None)
        connection.execute(update(uploads).where(uploads.c.id == id).values(file=file))
        _forget_parts(connection, list(known))
    return shown(here, find(here, key.project, id, pending=False))


@router.post("/{id}/cancel")
def cancel(here: Here, key: Caller, id: str) -> dict[str, Any]:
    """Want no more of it."""
    find(here, key.project, id)
    with here.stores.records.write() as connection:
        connection.execute(update(uploads).where(uploads.c.id == id).values(status="cancelled"))
        _forget_parts(connection, list(connection.scalars(select(parts.c.id).where(parts.c.upload == id))))
    return shown(here, find(here, key.project, id, pending=False))


def _forget_parts(connection: Any, ids: list[str]) -> None:
    for part in ids:
        release(connection, f"part:{part}")
        connection.execute(delete(parts).where(parts.c.id == part))
