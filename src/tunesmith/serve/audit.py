"""The audit log: who has changed what, and when. No contents."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select

from tunesmith.core.errors import StoreError
from tunesmith.serve.keys import Key
from tunesmith.store.records import Records, now
from tunesmith.store.schema import audit

log = logging.getLogger("tunesmith.serve")
CHANGING = ("POST", "DELETE", "PUT", "PATCH")
ASKING = ("/v1/chat/completions", "/v1/completions")  # change nothing
OPERATOR = "operator"  # whoever uses the command line where the records are


@dataclass(frozen=True)
class Entry:
    """A change, or what was refused of one."""

    time: float
    request: str
    key: str
    project: str
    action: str
    what: str
    status: int


def note(records: Records, key: Key, scope: Any, status: int) -> None:
    """Write that a request has changed something, or was refused; it stands even if that cannot be written."""
    if scope["path"] in ASKING:
        return
    try:
        write(records, scope["state"]["request"], key.id, key.project, scope["method"], path_of(scope), status)
    except StoreError as error:
        log.error("not in the audit log: %s %s %s by %s (%s)", status, scope["method"], path_of(scope), key.id, error)


def path_of(scope: Any) -> str:
    """What was asked for, as it came: percent signs keep it on one line. Without what stands behind a question mark."""
    return scope.get("raw_path", scope["path"].encode()).decode("ascii", "replace")[:300]


def write(records: Records, request: str, key: str, project: str, action: str, what: str, status: int) -> None:
    """Add a line."""
    values = {"request": request, "key": key, "project": project, "action": action, "what": what, "status": status}
    with records.write() as connection:
        connection.execute(insert(audit).values(time=now(), **values))


def by_operator(records: Records, project: str, action: str, what: str) -> None:
    """Add a line of what was done on the command line."""
    write(records, "", OPERATOR, project, action, what, 200)


def read(records: Records, since: float = 0.0, project: str | None = None, most: int = 1000) -> Iterator[Entry]:
    """The last lines, in their order."""
    wanted = select(audit).where(audit.c.time >= since).order_by(audit.c.number.desc()).limit(most)
    if project is not None:
        wanted = wanted.where(audit.c.project == project)
    with records.read() as connection:
        rows = connection.execute(wanted).all()
    for row in reversed(rows):
        yield Entry(row.time, row.request, row.key, row.project, row.action, row.what, row.status)
