"""Records and blobs together: contents that records need are there, and contents that none needs can go.

Who keeps a content first writes down that it is needed now (`touch`), then makes sure that it is in the store, and at
last commits the record that uses it. Retention deletes a content only together with its row, where no record uses it
and nobody has touched it lately: within more time than anybody needs from the first to the last. So a content that a
record uses is never deleted, whatever is killed in between; and where a row was deleted meanwhile all the same, its
foreign key fails the commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from tunesmith.core.errors import StoreError
from tunesmith.core.files import sha256_of
from tunesmith.store.blobs import Blobs, open_blobs
from tunesmith.store.records import Records, now, open_records
from tunesmith.store.schema import blobs, projects, settings, uses

BOUND = "blobs"  # the setting that says that records have their blobs

Files = dict[str, tuple[str, int]]  # path -> SHA-256 and bytes


@dataclass(frozen=True)
class Stores:
    """Where everything lives."""

    records: Records
    blobs: Blobs


def as_files(values: Mapping[str, Any]) -> Files:
    """Files as a record's JSON has them."""
    return {path: (sha256, size) for path, (sha256, size) in values.items()}


def open_stores(records: str, blobs: str) -> Stores:
    """Both stores, which belong to each other from then on.

    Raises:
        ConfigError: an address is none, or the blobs belong to other records.
        StoreError: one of them cannot be reached.
    """
    opened = Stores(open_records(records), open_blobs(blobs))
    bound = select(settings.c.value).where(settings.c.name == BOUND)
    with opened.records.read() as connection:
        known = connection.scalar(bound) is not None
    opened.blobs.bind(opened.records.id, known)
    if not known:
        with opened.records.write() as connection:
            upsert(connection, settings, {"name": BOUND, "value": opened.blobs.name}, ["name"], None)
    return opened


def keep(stores: Stores, paths: Mapping[str, Path], known: Mapping[str, str] | None = None) -> Files:
    """Put files into the store; a record that uses them can be committed then.

    Args:
        stores: where to.
        paths: the files, by the path that they shall have.
        known: the SHA-256 of some.
    """
    found: Files = {}
    for name, path in paths.items():
        sha256 = (known or {}).get(name) or sha256_of(path)
        found[name] = (sha256, path.stat().st_size)
    touch(stores.records, found.values())
    for name, path in paths.items():
        stores.blobs.put(path, found[name][0])
    return found


def touch(records: Records, contents: Iterable[tuple[str, int]]) -> None:
    """Write down that these are needed now, before they are looked for in the store."""
    with records.write() as connection:
        for sha256, size in sorted(set(contents)):  # in one order, or two processes would wait for each other
            values = {"sha256": sha256, "bytes": size, "touched": now()}
            upsert(connection, blobs, values, ["sha256"], {"touched": values["touched"]})


def use(connection: Connection, holder: str, contents: Iterable[tuple[str, int]]) -> None:
    """Say that a record needs these contents, and no others, in the transaction that writes it.

    Raises:
        StoreError: one was deleted since it was touched: put it into the store again.
    """
    release(connection, holder)
    rows = [{"sha256": sha256, "holder": holder} for sha256 in sorted({sha256 for sha256, _ in contents})]
    if not rows:
        return
    try:
        connection.execute(insert(uses), rows)
    except IntegrityError:
        raise StoreError(f"a content of {holder} was deleted before it was used. It is put there again.") from None


def release(connection: Connection, holder: str) -> None:
    """A record that is no more needs nothing."""
    connection.execute(delete(uses).where(uses.c.holder == holder))


def sweep(stores: Stores, older: float, dry: bool = False) -> tuple[int, int]:
    """Delete contents that no record uses and nobody has touched since the Unix time `older`.

    Args:
        stores: of whose contents.
        older: who is putting something there has touched it later.
        dry: count only.

    Returns:
        How many, and their bytes.
    """
    unused = (
        select(blobs.c.sha256, blobs.c.bytes)
        .where(blobs.c.touched < older, ~select(uses.c.sha256).where(uses.c.sha256 == blobs.c.sha256).exists())
        .order_by(blobs.c.sha256)
    )
    if dry:
        with stores.records.read() as connection:
            found = connection.execute(unused).all()
        return len(found), sum(row.bytes for row in found)
    count = size = 0
    while True:
        try:
            with stores.records.write() as connection:
                if connection.dialect.name == "postgresql":  # the store may be slow
                    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                row = connection.execute(unused.limit(1).with_for_update(skip_locked=True)).one_or_none()
                if row is None:
                    return count, size
                connection.execute(delete(blobs).where(blobs.c.sha256 == row.sha256))
                stores.blobs.delete(row.sha256)  # once the database has agreed, while nobody else can have the row
        except IntegrityError:  # it came into use while it was looked at
            continue
        count, size = count + 1, size + row.bytes


def upsert(
    connection: Connection, table: Any, values: Mapping[str, Any], keys: list[str], changes: Mapping[str, Any] | None
) -> None:
    """Insert a row, or change the one that has its keys (None: leave it)."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement: Any = dialect.insert(table).values(**values)
    if changes is None:
        connection.execute(statement.on_conflict_do_nothing(index_elements=keys))
    else:
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=dict(changes)))


def know_project(connection: Connection, project: str) -> None:
    """Make a project, unless there is one of this name."""
    upsert(connection, projects, {"name": project, "served": 0}, ["name"], None)
