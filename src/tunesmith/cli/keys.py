"""`tunesmith keys`: who may use the API; `tunesmith audit`: who has changed what through it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.queue.stores import Records, opened_records

if TYPE_CHECKING:
    from tunesmith.store.records import Records as Database

keys = typer.Typer(help="Keys of the API: create, list, revoke.", no_args_is_help=True, rich_markup_mode=None)
Home = Annotated[Path | None, typer.Option(help="The server's --home, where it has no --records.")]


def records_of(home: Path) -> str:
    """The address of the records that a server has in its home."""
    return f"sqlite:///{home.absolute() / 'records.sqlite'}"


@keys.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    project: Annotated[str, typer.Option(help="Whose files, jobs and models it opens.")] = "default",
    role: Annotated[str, typer.Option(help="member or admin.")] = "member",
    per_minute: Annotated[int | None, typer.Option(help="Requests that it may make.", min=1)] = None,
    largest_file: Annotated[int | None, typer.Option(help="Bytes of a file that it may send.", min=1)] = None,
    home: Home = None,
    records: Records = None,
) -> None:
    """Make a key; its secret is shown once."""
    from tunesmith.serve.audit import by_operator
    from tunesmith.serve.keys import create_key

    opened = _opened(home, records)
    key, secret = create_key(opened, name, project, role, per_minute, largest_file)
    by_operator(opened, project, "create", key.id)
    typer.echo(f"{key.id} ({key.role} of {key.project}): {secret}")


@keys.command("list")
def list_all(home: Home = None, records: Records = None) -> None:
    """List all keys."""
    from tunesmith.serve.keys import list_keys

    for key in list_keys(_opened(home, records)):
        state = "revoked" if key.revoked else key.role
        limits = f"{key.per_minute} a minute" if key.per_minute else ""
        limits += f", files to {key.largest_file:,} bytes" if key.largest_file else ""
        typer.echo(
            f"{key.id}  {key.start}...  {state:8} {key.project}  {key.name}  {limits.removeprefix(', ')}".rstrip()
        )


@keys.command("revoke")
def revoke(id: Annotated[str, typer.Argument(help="Of the key.")], home: Home = None, records: Records = None) -> None:
    """Let a key open nothing any more."""
    from tunesmith.serve.audit import by_operator
    from tunesmith.serve.keys import revoke_key

    opened = _opened(home, records)
    key = revoke_key(opened, id)
    by_operator(opened, key.project, "revoke", key.id)
    typer.echo(f"{key.id}: revoked")


def audit(
    days: Annotated[float, typer.Option(help="How far back.", min=0)] = 1.0,
    project: Annotated[str | None, typer.Option(help="Of one project alone.")] = None,
    most: Annotated[int, typer.Option(help="Lines, the last ones.", min=1)] = 1000,
    home: Home = None,
    records: Records = None,
) -> None:
    """Show who has changed what through the API: one JSON object a line."""
    import json
    import time

    from tunesmith.serve.audit import read

    for entry in read(_opened(home, records), time.time() - days * 24 * 3600, project, most):
        typer.echo(json.dumps(vars(entry)))


def _opened(home: Path | None, records: str | None) -> Database:
    return opened_records(records or (records_of(home) if home is not None else None))
