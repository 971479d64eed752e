"""`tunesmith limits`, `gc`, `backup` and `restore`: what operators do with the stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.queue.stores import Blobs, Records, addresses, opened, opened_records


def limits(
    project: Annotated[str, typer.Argument(help="A project; `default` is that of jobs that name none.")],
    queued: Annotated[int | None, typer.Option(help="Most jobs that may wait.", min=0, max=2**31 - 1)] = None,
    bytes: Annotated[int | None, typer.Option(help="Most bytes in the store.", min=0, max=2**62)] = None,
    none: Annotated[bool, typer.Option(help="Lift those that are not given.")] = False,
    records: Records = None,
) -> None:
    """Show how much of the queue and of the store a project may take, and set it."""
    from tunesmith.exec.queue.submit import read_limits, set_limits

    database = opened_records(records)
    before = (None, None) if none else read_limits(database, project)
    queued = before[0] if queued is None else queued
    bytes = before[1] if bytes is None else bytes
    set_limits(database, project, queued, bytes)
    jobs = "any number of jobs" if queued is None else f"at most {queued} jobs"
    size = "any number of bytes" if bytes is None else f"at most {bytes:,} bytes"
    typer.echo(f"{project}: {jobs} may wait, and it may hold {size}")


def gc(
    days: Annotated[
        float, typer.Option(help="Days after a job has ended, until its checkpoints go; its model stays.", min=0)
    ] = 7.0,
    grace: Annotated[
        float, typer.Option(help="Hours that what was just put there stays, whatever records say.", min=1)
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
    records: Records = None,
    blobs: Blobs = None,
) -> None:
    """Delete checkpoints of jobs that ended, expired files, and contents that no record needs."""
    from tunesmith.core.names import counted
    from tunesmith.exec.queue.retention import collect

    found = collect(opened(records, blobs), days, grace * 3600, dry_run)
    verb = "would go" if dry_run else "deleted"
    parts = (counted(found.checkpoints, "checkpoint"), counted(found.files, "file"), counted(found.contents, "content"))
    typer.echo(f"{verb}: {', '.join(parts)} ({found.bytes:,} bytes)")


def backup(
    folder: Annotated[Path, typer.Argument(help="Where to; an earlier backup there is brought up to date.")],
    records: Records = None,
    blobs: Blobs = None,
) -> None:
    """Save records and all that they need into a folder, while work goes on."""
    from tunesmith.store.backup import backup as save

    made = save(opened(records, blobs), folder)
    typer.echo(f"{folder}: {made.records}, {made.contents} contents ({made.bytes:,} bytes)")


def restore(
    folder: Annotated[Path, typer.Argument(help="A backup.")],
    records: Records = None,
    blobs: Blobs = None,
) -> None:
    """Bring a backup back into empty stores; jobs that ran then wait now."""
    from tunesmith.store.backup import restore as bring_back

    made = bring_back(folder, *addresses(records, blobs))
    typer.echo(f"restored {made.records} and {made.contents} contents ({made.bytes:,} bytes)")
