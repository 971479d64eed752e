"""Which stores a command is about: two options, the same everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tunesmith.store.records import Records as Database
    from tunesmith.store.stores import Stores

Records = Annotated[
    str | None,
    typer.Option(
        envvar="TUNESMITH_RECORDS",
        help="Database of jobs: sqlite:///FILE or postgresql://...; a file of the user's if not given.",
    ),
]
Blobs = Annotated[
    str | None,
    typer.Option(
        envvar="TUNESMITH_BLOBS", help="Where files are: a folder, or s3://BUCKET/PREFIX; beside the database's file."
    ),
]


def addresses(records: str | None, blobs: str | None) -> tuple[str, str]:
    """Where both stores are.

    Raises:
        ConfigError: a database elsewhere needs blobs elsewhere.
    """
    from pathlib import Path

    from tunesmith.core.errors import ConfigError
    from tunesmith.core.files import data_home

    records = records or f"sqlite:///{data_home().absolute() / 'records.sqlite'}"
    if blobs is None and not records.removeprefix("sqlite:///").rstrip("/"):
        raise ConfigError(f"--records {records!r}: a file is missing. Write sqlite:///path/to/records.sqlite.")
    if blobs is None and not records.startswith("sqlite:///"):
        raise ConfigError("--blobs is missing: name the folder or bucket that every worker of this database reaches.")
    return records, blobs or str(Path(records.removeprefix("sqlite:///")).with_name("blobs"))


def opened(records: str | None, blobs: str | None) -> Stores:
    """Both stores."""
    from tunesmith.store.stores import open_stores

    return open_stores(*addresses(records, blobs))


def opened_records(records: str | None) -> Database:
    """The records alone."""
    from tunesmith.store.records import open_records

    return open_records(addresses(records, "")[0])
