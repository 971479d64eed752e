"""Backups: a folder with the records as they were at one moment, and every content that they need."""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, create_engine, func, inspect, select, text, update

from tunesmith.core.errors import ConfigError, MissingError, StoreError, TunesmithError
from tunesmith.core.files import make_folder, read_json, read_object, write_json
from tunesmith.store.blobs import Blobs, Damaged, Missing, open_blobs
from tunesmith.store.records import Records, attributed, now, open_records, parsed_url, postgres_engine
from tunesmith.store.schema import attempts, jobs, uses
from tunesmith.store.schema import blobs as contents
from tunesmith.store.stores import Stores, touch

SQLITE, POSTGRES, CONTENTS, MARK = "records.sqlite", "records.dump", "contents.json", "backup.json"
PAST = 1_000_000  # more claims than any job has had since a backup of it was made


@dataclass(frozen=True)
class Backup:
    """What a backup holds."""

    records: str
    contents: int
    bytes: int


def backup(stores: Stores, folder: Path) -> Backup:
    """Write everything into a folder; one that holds an earlier backup is brought up to date, or stays as it is.

    Work goes on meanwhile.

    Raises:
        ConfigError: Postgres's `pg_dump` is not there.
        TunesmithError: a content that records need is missing or damaged.
        StoreError: records or blobs cannot be reached, or the disk is full.
    """
    make_folder(folder, "a backup")
    name = SQLITE if stores.records.sqlite else POSTGRES
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    try:
        with attributed(stores.records.name):
            needed = _save_sqlite(stores.records, temporary) if name == SQLITE else _dump(stores, temporary)
        touch(stores.records, needed)  # so that none of them goes while they are copied
        _copy(needed, stores.blobs, open_blobs(str(folder / "blobs")), stores.records.id)
        temporary.replace(folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    write_json(folder / CONTENTS, needed)
    made = Backup(name, len(needed), sum(size for _, size in needed))
    write_json(folder / MARK, {**vars(made), "made": now(), "id": stores.records.id})
    return made


def _copy(needed: Contents, source: Blobs, target: Blobs, id: str) -> None:
    """Bring contents from one store into another.

    Raises:
        TunesmithError: some are missing or damaged; the others are there.
    """
    target.bind(id)
    lacking: list[str] = []
    for sha256, size in needed:
        if target.size(sha256) != size:
            try:
                target.put_stream(source.read(sha256))
            except (Missing, Damaged) as error:
                lacking.append(str(error))
    if lacking:
        raise TunesmithError(f"{target.name}: not whole, {len(lacking)} contents lack. {lacking[0]}")


def restore(folder: Path, records: str, blobs: str) -> Backup:
    """Bring a backup back into empty stores; broken off, it can be done again. Jobs that ran then wait now.

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
    needed = [(sha256, size) for sha256, size in read_json(folder / CONTENTS)]
    with attributed(url.render_as_string(hide_password=True)):
        if kind == SQLITE:
            target = Path(str(url.database)).expanduser().absolute()
            if target.exists():
                raise ConfigError(f"{target}: there are records already. Move them away, or restore to another file.")
            _copy(needed, open_blobs(str(folder / "blobs")), open_blobs(blobs), mark["id"])
            make_folder(target.parent, "records")
            temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            shutil.copyfile(folder / SQLITE, temporary)
            _free_leases(create_engine(f"sqlite:///{temporary}"))
            temporary.replace(target)
        else:
            engine = postgres_engine(url)
            if inspect(engine).get_table_names():
                raise ConfigError(f"{records}: there are tables already. Restore into an empty database.")
            _copy(needed, open_blobs(str(folder / "blobs")), open_blobs(blobs), mark["id"])
            arguments = ["--no-owner", "--exit-on-error", "--single-transaction", "--dbname", _uri(engine)]
            _run("pg_restore", engine, [*arguments, str(folder / POSTGRES)])
            _free_leases(engine)
    open_records(records).close()
    return made


def _free_leases(engine: Engine) -> None:
    """Let nobody who holds a lease, or has held one since the backup was made, commit into what is restored."""
    with engine.begin() as connection:
        running = jobs.c.state == "running"
        ended = {"ended": now(), "outcome": "silent", "sentence": "a backup was restored."}
        open_attempts = attempts.c.job.in_(select(jobs.c.id).where(running)) & attempts.c.outcome.is_(None)
        connection.execute(update(attempts).where(open_attempts).values(ended))
        connection.execute(update(jobs).where(running).values(state="queued", wanted="run"))
        connection.execute(update(jobs).values(token=jobs.c.token + PAST + secrets.randbelow(PAST)))
    engine.dispose()


Contents = list[tuple[str, int]]
NEEDED = select(contents.c.sha256, contents.c.bytes).where(contents.c.sha256.in_(select(uses.c.sha256)))


def _save_sqlite(records: Records, target: Path) -> Contents:
    """SQLite's online backup: a whole copy while others write."""
    assert records.sqlite is not None
    target.unlink(missing_ok=True)
    source, copy = sqlite3.connect(records.sqlite), sqlite3.connect(target)
    try:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file
    except sqlite3.Error as error:
        raise StoreError(f"{target}: the records cannot be saved ({error}). Make room and try again.") from None
    finally:
        source.close()
        copy.close()
    engine = create_engine(f"sqlite:///{target}")
    with engine.connect() as connection:
        found = [(row.sha256, row.bytes) for row in connection.execute(NEEDED)]
    engine.dispose()
    return found


def _dump(stores: Stores, target: Path) -> Contents:
    """pg_dump of the very moment in which the list of contents is read."""
    engine = stores.records.engine
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        snapshot = connection.scalar(select(func.pg_export_snapshot()))
        found = [(row.sha256, row.bytes) for row in connection.execute(NEEDED)]
        options = ["--format=custom", "--no-owner", f"--snapshot={snapshot}", f"--file={target}"]
        _run("pg_dump", engine, [*options, "--dbname", _uri(engine)])
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
