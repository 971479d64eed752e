"""`tunesmith worker`: work on queued jobs."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.queue.stores import Blobs, Records, opened


def worker(
    records: Records = None,
    blobs: Blobs = None,
    slots: Annotated[int, typer.Option(help="Jobs at once; each has cores of its own.", min=1)] = 1,
    lease: Annotated[
        float, typer.Option(help="Seconds of silence after which another worker takes a job over.", min=1)
    ] = 30.0,
    patience: Annotated[
        float, typer.Option(help="Seconds that a job has to stop at a checkpoint, before it is killed.", min=0)
    ] = 600.0,
    until_empty: Annotated[bool, typer.Option(help="End when no job waits.")] = False,
    with_parent: Annotated[bool, typer.Option(hidden=True, help="Drain when standard input closes.")] = False,
    work: Annotated[Path | None, typer.Option(help="Folder for jobs under way; the user's cache if not given.")] = None,
) -> None:
    """Work on jobs of a queue, until Ctrl-C or SIGTERM: then jobs stop at a checkpoint and go back to the queue."""
    from tunesmith.exec.worker import Settings, Worker, heeding_signals

    def say(sentence: str) -> None:
        typer.echo(f"{time.strftime('%H:%M:%S')} {sentence}")

    stores = opened(records, blobs)
    settings = Settings(slots=slots, lease=lease, patience=patience, until_empty=until_empty, work=work)
    one = Worker(stores, settings, say)
    say(f"worker {one.name}: {slots} job{'s' if slots > 1 else ''} at once from {stores.records.name}")
    if with_parent:
        threading.Thread(target=lambda: (sys.stdin.read(), one.drain()), daemon=True).start()
    with heeding_signals(one):
        one.run()
