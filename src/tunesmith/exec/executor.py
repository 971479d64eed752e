"""What runs jobs, and what can be done about one that runs: the seam between the road and the places it runs in.

A job is a name and plain values; nothing is pickled. Whoever starts one gets a `Running`, which may be stopped or
killed from any thread. `local` starts child processes on this machine; a place of another kind is another `Executor`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tunesmith.core import events
from tunesmith.core.events import Event, Json

Outcome = events.Done | events.Stopped | events.Failed | events.OutOfMemory


@dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        name: of the job.
        arguments: plain JSON values.
        processes: how many children work on it together; each is told its `rank`, the `ranks` there are, and a file
            where they meet.
        stoppable: whether it can come to an end that it can be resumed from.
        smaller: arguments to set beside where there was no room for it; None if that would not help.
        shrinks: the phase in which `smaller` helps.
        inside: whether paths that it names from nowhere (`inputs/rows.jsonl`) begin in its folder.
    """

    name: str
    arguments: Json
    processes: int = 1
    stoppable: bool = False
    smaller: Json | None = None
    shrinks: str = ""
    inside: bool = False


class Running(Protocol):
    """A job under way. Everything but `events` may be called from any thread."""

    def events(self) -> Iterator[Event | None]:
        """What it says from now on, until it has no more to say; None from time to time: its reader may do more.

        There is one reader; asked again, it goes on where it was.
        """
        ...

    def stop(self) -> None:
        """Ask it to come to an end that it can be resumed from; returns at once."""
        ...

    def kill(self) -> None:
        """End it now; returns when it has ended."""
        ...

    def outcome(self) -> Outcome:
        """Wait for its end: what it made, or why it made nothing. Whoever hangs when all is said is killed."""
        ...


class Executor(Protocol):
    """A place where jobs run."""

    def start(self, job: Job, folder: Path) -> Running:
        """Start a job; what it prints goes to `child.log` in the folder."""
        ...
