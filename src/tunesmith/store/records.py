"""Records: a database, SQLite's one file or Postgres, opened by its URL.

Who reads or writes does so in a transaction of `read()` or `write()`. On SQLite a write takes the one lock for writers
at its beginning (BEGIN IMMEDIATE), so that what it has read is still so when it writes; on Postgres what is read to be
changed is locked by the statement that reads it. What `write()` has returned from is on the disk.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, select, text
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tunesmith.core.errors import ConfigError, StoreError
from tunesmith.core.files import make_folder
from tunesmith.store.schema import settings

VERSION = "0006"  # of the tables: the last one in migrations/versions
BUSY = 60.0  # seconds that a writer waits for the others
CONNECTIONS = 32  # that one process holds at most
MIGRATING = 7_391_604  # the number of Postgres's lock, while tables are changed
FORM = "Write sqlite:///path/to/records.sqlite or postgresql://user:password@host/database."

Result = TypeVar("Result")


def as_json(value: Any) -> str:
    """Plain values as any database takes them: what is no number (a loss that is NaN) becomes null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(json.loads(json.dumps(value), parse_constant=lambda name: None))


def as_text(words: str) -> str:
    """Text as any database takes it."""
    return words.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")


SETTINGS: dict[str, Any] = {
    "pool_size": CONNECTIONS, "max_overflow": 0, "pool_timeout": BUSY, "json_serializer": as_json,
}  # fmt: skip


@dataclass(frozen=True)
class Records:
    """A database of records, with today's tables.

    Attributes:
        engine: SQLAlchemy's.
        name: the URL without its password.
        id: made with the database, and its own.
    """

    engine: Engine
    name: str
    id: str = field(default="")

    @property
    def sqlite(self) -> Path | None:
        """The file, where it is SQLite's."""
        return Path(str(self.engine.url.database)) if self.engine.dialect.name == "sqlite" else None

    @contextlib.contextmanager
    def read(self) -> Generator[Connection]:
        """A transaction that writes nothing.

        Raises:
            StoreError: the database cannot be reached.
        """
        with attributed(self.name), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Generator[Connection]:
        """A transaction that is all on the disk when the block has ended well, and did nothing when not.

        Raises:
            StoreError: the database cannot be reached, or its disk is full. If that was met at the very end, it may
                have been written all the same: whoever tries again must bear that.
        """
        with attributed(self.name), self.engine.execution_options(writes=True).begin() as connection:
            yield connection

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()


def open_records(url: str) -> Records:
    """The records at an address; made there, or brought up to date, if need be.

    Args:
        url: `sqlite:///relative/or//absolute.sqlite`, or `postgresql://user:password@host/database`.

    Raises:
        ConfigError: it is no such address, its driver is not installed, or a newer tunesmith has made these records.
        StoreError: the database cannot be reached.
    """
    parsed = parsed_url(url)
    name = parsed.render_as_string(hide_password=True)
    if parsed.get_backend_name() == "sqlite":
        path = Path(str(parsed.database)).expanduser().absolute()
        parsed = parsed.set(database=str(path))
        make_folder(path.parent, "records")
        with FileLock(path.with_name(f".{path.name}.opening")):  # SQLite lets only one process change to WAL
            return _opened(Records(_sqlite(parsed), name))
    return _opened(Records(postgres_engine(parsed), name.replace("+psycopg", "")))


def parsed_url(url: str) -> URL:
    """An address of records, with the driver that is used.

    Raises:
        ConfigError: it is none.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError(f"records {url!r}: not an address. {FORM}") from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        shown = parsed.render_as_string(hide_password=True)
        raise ConfigError(f"records {shown!r}: {parsed.get_backend_name()} is not known. {FORM}")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigError(f"records {url!r}: a database in memory would be lost. {FORM}")
    return parsed


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY}, **SETTINGS)

    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begin)
    return engine


# Of a connection to Postgres. Who is stopped in the middle of a transaction holds its locks no longer than the server
# lets it be idle; who hears nothing from a server takes it for gone.
LIMITS = "-c idle_in_transaction_session_timeout=10000 -c lock_timeout=20000 -c statement_timeout=60000"
KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}


def postgres_engine(url: URL) -> Engine:
    """An engine for Postgres, with bounds on how long anything may take.

    Raises:
        ConfigError: the driver is not installed.
    """
    try:
        return create_engine(
            url,
            connect_args={"connect_timeout": 5, "application_name": "tunesmith", "options": LIMITS, **KEEPALIVE},
            pool_pre_ping=True,
            **SETTINGS,
        )
    except ModuleNotFoundError:
        raise ConfigError("records on Postgres need an extra: pip install 'tunesmith[postgres]'.") from None


def _opened(records: Records) -> Records:
    try:
        return _brought_up_to_date(records)
    except ProgrammingError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise ConfigError(f"{records.name}: its tables cannot be made or read ({reason}). Grant that first.") from None


def _brought_up_to_date(records: Records) -> Records:
    with records.write() as connection:
        if connection.dialect.name == "postgresql" and _version(connection) != VERSION:
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": MIGRATING})
        version = _version(connection)
        if version != VERSION:
            migrate(connection, records.name)
        found = connection.scalar(select(settings.c.value).where(settings.c.name == "id"))
        if found is None:
            found = secrets.token_hex(12)
            connection.execute(settings.insert().values(name="id", value=found))
    return Records(records.engine, records.name, found)


def _version(connection: Connection) -> str | None:
    """Of the tables that are there; None if there are none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(text("SELECT version_num FROM alembic_version"))


def migrate(connection: Connection, name: str, to: str = "head") -> None:
    """Bring the tables to a version, with what is in them.

    Raises:
        ConfigError: they are of a version that this tunesmith does not know.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, to)
    except CommandError as error:
        raise ConfigError(
            f"{name}: these records are of another tunesmith ({error}). Use the newer one, or another database."
        ) from None


@contextlib.contextmanager
def attributed(name: str) -> Generator[None]:
    """Whatever keeps a database from answering is a `StoreError` with its address."""
    try:
        yield
    except (IntegrityError, ProgrammingError, DataError, NotSupportedError):  # an answer
        raise
    except (DatabaseError, InterfaceError, PoolTimeout) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0].rstrip(".")
        raise StoreError(
            f"{name}: the records cannot be reached ({reason}). Check the address, and that it is up."
        ) from None


def persistently(action: Callable[[], Result], wait: Callable[[float], bool], longest: float = 5.0) -> Result:
    """Do what needs a store, again and again until the store answers; `action` must bear being done twice.

    Args:
        action: what to do.
        wait: waits so many seconds, and says whether to give up.
        longest: seconds between two tries.

    Raises:
        StoreError: it was given up.
    """
    pause = 0.05
    while True:
        try:
            return action()
        except StoreError:
            if wait(pause):
                raise
            pause = min(longest, pause * 2)


def now() -> float:
    """Unix seconds, for people."""
    return round(time.time(), 3)
