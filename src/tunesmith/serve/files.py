"""`/v1/files`: what clients upload, and the results of their jobs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from os import SEEK_END
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import Response, StreamingResponse
from sqlalchemy import Connection, delete, insert, select

from tunesmith.core.errors import MissingError
from tunesmith.exec.queue.control import find_job
from tunesmith.serve.errors import ApiError, not_found, refused
from tunesmith.serve.results import csv_of
from tunesmith.serve.server import Caller, Here, Server, page_of
from tunesmith.store.blobs import CHUNK
from tunesmith.store.records import now
from tunesmith.store.schema import files
from tunesmith.store.stores import Stores, release, touch, use

router = APIRouter(prefix="/v1/files")
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
RESULTS = "file-results-"  # of a job; its id follows


def describe(row: Any) -> dict[str, Any]:
    """A file as clients see it."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": int(row.created),
        "expires_at": None if row.expires is None else int(row.expires),
        "filename": row.name,
        "purpose": "user_data" if row.purpose == "evals" else row.purpose,
        "status": "processed",
        "status_details": None,
    }


def find_file(stores: Stores, project: str, id: str, param: str = "id") -> Any:
    """A project's file.

    Raises:
        ApiError: it has none of this id.
    """
    with stores.records.read() as connection:
        row = connection.execute(select(files).where(files.c.id == id, files.c.project == project)).one_or_none()
    if row is None or (row.expires is not None and row.expires < now()):
        raise not_found(f"No such File object: {id}", param)
    return row


@router.post("")
def upload(
    here: Here,
    key: Caller,
    file: Annotated[UploadFile, File()],
    purpose: Annotated[str, Form()],
    lives: Annotated[int | None, Form(alias="expires_after[seconds]", ge=3600, le=2_592_000)] = None,
) -> dict[str, Any]:
    """Keep a file."""
    refuse_purpose(purpose)
    size = file.file.seek(0, SEEK_END)
    if size > (most := here.largest_of(key)):
        raise ApiError(413, f"The file has {size:,} bytes, and may have {most:,}.", "file")
    if not size:
        raise refused("The file is empty.", "file")
    sha256 = keep_stream(here.stores, file.file)
    with here.stores.records.write() as connection:
        id = add_file(connection, key.project, plain_name(file.filename), purpose, sha256, size, lives)
    return describe(find_file(here.stores, key.project, id))


def refuse_purpose(purpose: str) -> None:
    """Files are for something.

    Raises:
        ApiError: not for this.
    """
    if purpose not in PURPOSES:
        raise refused(f"'{purpose}' is not one of {list(PURPOSES)} - 'purpose'", "purpose")


def plain_name(given: str | None) -> str:
    """The name of a file without the folders that a client may have sent along."""
    return (given or "").replace("\\", "/").rpartition("/")[2][:200] or "upload"


def add_file(
    connection: Connection, project: str, name: str, purpose: str, sha256: str, size: int, lives: int | None
) -> str:
    """Write the record of a content that is in the store; returns its id.

    Args:
        connection: of a transaction that writes.
        project, name, purpose: of the file.
        sha256, size: of its content, which was touched.
        lives: seconds after which it is no more.
    """
    id, moment = f"file-{secrets.token_hex(12)}", now()
    values = {"project": project, "name": name, "purpose": purpose, "bytes": size, "sha256": sha256}
    connection.execute(insert(files).values(id=id, **values, created=moment, expires=lives and moment + lives))
    use(connection, f"file:{id}", [(sha256, size)])
    return id


@router.get("")
def list_files(
    here: Here, key: Caller, purpose: str | None = None, after: str | None = None, order: str = "desc",
    limit: Annotated[int, Query(ge=0, le=10_000)] = 10_000,
) -> dict[str, Any]:  # fmt: skip
    """A project's files."""
    wanted = select(files).where(files.c.project == key.project)
    if purpose is not None:
        wanted = wanted.where(files.c.purpose == purpose)
    wanted = wanted.order_by(files.c.created.asc() if order == "asc" else files.c.created.desc(), files.c.id)
    with here.stores.records.read() as connection:
        found = [describe(row) for row in connection.execute(wanted)]
    page = page_of(found, after, limit)
    return {**page, "first_id": page["first_id"] or "", "last_id": page["last_id"] or ""}


@router.get("/{id}")
def retrieve(here: Here, key: Caller, id: str) -> dict[str, Any]:
    """One file."""
    if id.startswith(RESULTS):
        job, text = result_of(here, key.project, id)
        return {
            "id": id, "object": "file", "bytes": len(text.encode()), "created_at": int(job.ended or job.created),
            "expires_at": None, "filename": "step_metrics.csv", "purpose": "fine-tune-results", "status": "processed",
            "status_details": None,
        }  # fmt: skip
    return describe(find_file(here.stores, key.project, id))


@router.get("/{id}/content")
def content(here: Here, key: Caller, id: str) -> Response:
    """What is in it, verified while it is sent."""
    if id.startswith(RESULTS):
        return Response(result_of(here, key.project, id)[1], media_type="text/csv")
    row = find_file(here.stores, key.project, id)
    pieces: Iterator[bytes] = here.stores.blobs.read(row.sha256)
    headers = {"Content-Length": str(row.bytes), "Content-Disposition": "attachment"}
    return StreamingResponse(pieces, media_type="application/octet-stream", headers=headers)


@router.delete("/{id}")
def delete_file(here: Here, key: Caller, id: str) -> dict[str, Any]:
    """Take a file away; jobs that were made of it keep what they need."""
    row = find_file(here.stores, key.project, id)
    with here.stores.records.write() as connection:
        connection.execute(delete(files).where(files.c.id == row.id))
        release(connection, f"file:{row.id}")
    return {"id": id, "object": "file", "deleted": True}


def result_of(here: Server, project: str, id: str) -> tuple[Any, str]:
    """The job whose results a file has, and the file's text.

    Raises:
        ApiError: there is no such job of the project, or it has not succeeded.
    """
    try:
        job = find_job(here.stores.records, f"ftjob-{id.removeprefix(RESULTS)}")
    except MissingError:
        raise not_found(f"No such File object: {id}", "id") from None
    if job.project != project or job.state != "succeeded":
        raise not_found(f"No such File object: {id}", "id")
    return job, csv_of(here.stores.records, job.id)


def keep_stream(stores: Stores, stream: BinaryIO) -> str:
    """Put what is in a stream into the store, so that a record can use it; returns its SHA-256."""
    while True:
        stream.seek(0)
        sha256, size = stores.blobs.put_stream(iter(lambda: stream.read(CHUNK), b""))
        touch(stores.records, [(sha256, size)])
        if stores.blobs.size(sha256) == size:  # else it was there, unused, and went before it was touched
            return sha256
