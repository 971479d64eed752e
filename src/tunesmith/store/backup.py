"""Backups: a folder with the records as they were at one moment, and every content that they need."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, create_engine, func, inspect, select, text, update

from tunesmith.core.errors import ConfigError, MissingError, StoreError, TunesmithError
from tunesmith.core.files import make_folder, read_object, write_json
from tunesmith.store.blobs import open_blobs
from tunesmith.store.records import Records, now, open_records, parsed_url
from tunesmith.store.schema import attempts, jobs, uses
from tunesmith.store.schema import blobs as contents
from tunesmith.store.stores import Stores, touch

SQLITE, POSTGRES, MARK = "records.sqlite", "records.dump", "backup.json"


@dataclass(frozen=True)
class Backup:
    """What a backup holds."""

    records: str
    contents: int
    bytes: int


def backup(stores: Stores, folder: Path) -> Backup:
    """Write everything into a folder; one that holds an earlier backup is brought up to date.

    Work goes on meanwhile. The folder is whole when its `backup.json` is written, at the very end.

    Raises:
        ConfigError: Postgres's `pg_dump` is not there.
        TunesmithError: a content that records need is missing or damaged.
    """
    make_folder(folder, "a backup")
    (folder / MARK).unlink(missing_ok=True)
    name = SQLITE if stores.records.sqlite else POSTGRES
    needed = _save_sqlite(stores.records, folder / name) if stores.records.sqlite else _dump(stores, folder / name)
    touch(stores.records, needed)  # so that none of them goes while they are copied
    copies = open_blobs(str(folder / "blobs"))
    lacking: list[str] = []
    for sha256, size in needed:
        if copies.size(sha256) != size:
            try:
                copies.put_stream(stores.blobs.read(sha256))
            except MissingError as error:
                lacking.append(str(error))
    if lacking:
        raise TunesmithError(f"{folder}: the backup is not whole, {len(lacking)} contents lack. {lacking[0]}")
    copies.bind(stores.records.id)
    made = Backup(name, len(needed), sum(size for _, size in needed))
    write_json(folder / MARK, {"records": made.records, "contents": made.contents, "bytes": made.bytes, "made": now()})
    return made


def restore(folder: Path, records: str, blobs: str) -> Backup:
    """Bring a backup back into stores that are empty. Jobs that ran then wait now.

    Raises:
        MissingError: there is no whole backup in the folder.
        ConfigError: the records there are not empty, or of another kind of database.
    """
    if not (folder / MARK).exists():
        raise MissingError(f"{folder}: no whole backup ({MARK} is missing). Make it again: tunesmith backup {folder}.")
    mark = read_object(folder / MARK)
    made = Backup(mark["records"], mark["contents"], mark["bytes"])
    url = parsed_url(records)
    kind = SQLITE if url.get_backend_name() == "sqlite" else POSTGRES
    if made.records != kind:
        raise ConfigError(f"{folder}: its {made.records} goes into a database of its kind, and {records} is another.")
    if kind == SQLITE:
        target = Path(str(url.database)).expanduser().absolute()
        if target.exists():
            raise ConfigError(f"{target}: there are records already. Move them away, or restore to another file.")
        make_folder(target.parent, "records")
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.copyfile(folder / SQLITE, temporary)
        temporary.replace(target)
    else:
        engine = create_engine(url)
        if inspect(engine).get_table_names():
            raise ConfigError(f"{records}: there are tables already. Restore into an empty database.")
        _run("pg_restore", engine, ["--no-owner", "--exit-on-error", "--dbname", _uri(engine), str(folder / POSTGRES)])
        engine.dispose()
    opened = open_records(records)
    target_blobs, copies = open_blobs(blobs), open_blobs(str(folder / "blobs"))
    target_blobs.bind(opened.id)
    for sha256, size in _needed(opened):
        if target_blobs.size(sha256) != size:
            target_blobs.put_stream(copies.read(sha256))
    _free_leases(opened)
    return made


def _free_leases(records: Records) -> None:
    """Who held a lease when the backup was made can commit nothing into what was restored."""
    with records.write() as connection:
        running = jobs.c.state == "running"
        held = select(jobs.c.id).where(running)
        ended = {"ended": now(), "outcome": "silent", "sentence": "it ran when a backup was made."}
        connection.execute(update(attempts).where(attempts.c.job.in_(held), attempts.c.outcome.is_(None)).values(ended))
        connection.execute(update(jobs).where(running).values(state="queued", token=jobs.c.token + 1))


def _needed(records: Records) -> list[tuple[str, int]]:
    with records.read() as connection:
        return [(row.sha256, row.bytes) for row in connection.execute(NEEDED)]


NEEDED = select(contents.c.sha256, contents.c.bytes).where(contents.c.sha256.in_(select(uses.c.sha256)))


def _save_sqlite(records: Records, target: Path) -> list[tuple[str, int]]:
    """SQLite's online backup: a whole copy while others write."""
    assert records.sqlite is not None
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    source, copy = sqlite3.connect(records.sqlite), sqlite3.connect(temporary)
    try:
        source.backup(copy)
    except sqlite3.Error as error:
        raise StoreError(f"{target}: the records cannot be saved ({error}). Make room and try again.") from None
    finally:
        source.close()
        copy.close()
    temporary.replace(target)
    engine = create_engine(f"sqlite:///{target}")
    with engine.connect() as connection:
        found = [(row.sha256, row.bytes) for row in connection.execute(NEEDED)]
    engine.dispose()
    return found


def _dump(stores: Stores, target: Path) -> list[tuple[str, int]]:
    """pg_dump of the very moment in which the list of contents is read."""
    engine = stores.records.engine
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        snapshot = connection.scalar(select(func.pg_export_snapshot()))
        found = [(row.sha256, row.bytes) for row in connection.execute(NEEDED)]
        options = ["--format=custom", "--no-owner", f"--snapshot={snapshot}", f"--file={temporary}"]
        _run("pg_dump", engine, [*options, "--dbname", _uri(engine)])
    temporary.replace(target)
    return found


def _run(program: str, engine: Engine, arguments: Sequence[str]) -> None:
    """Run one of Postgres's programs.

    Raises:
        ConfigError: it is not here.
        StoreError: it failed.
    """
    if shutil.which(program) is None:
        raise ConfigError(f"{program} is not here. Install Postgres's client programs, as new as the server or newer.")
    secret = {"PGPASSWORD": engine.url.password} if engine.url.password else {}
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **secret}
    )
    if done.returncode != 0:
        raise StoreError(" ".join(done.stderr.split()) or f"{program} failed with code {done.returncode}.")


def _uri(engine: Engine) -> str:
    """The address without its password, which other users of this machine could see among its processes."""
    url = engine.url
    return url._replace(password=None, drivername="postgresql").render_as_string(hide_password=False)
