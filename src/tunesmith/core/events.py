"""What a piece of work says while it runs: plain dictionaries with a `kind`.

A job reports through one function, `Report`; who listens (a file, the parent process, a test)
is not the job's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.core.files import append_line

Report = Callable[[dict[str, Any]], None]


def silent(event: dict[str, Any]) -> None:
    """A listener that hears nothing."""


def to_folder(folder: Path, forward: Report = silent) -> Report:
    """Write each event into a run's folder and pass it on.

    `step` events go to `metrics.jsonl`, all others to `events.jsonl`, each with its Unix time.
    `pulse` events are for watchers only: passed on, kept nowhere.
    """

    def report(event: dict[str, Any]) -> None:
        event = {"time": round(time.time(), 3), **event}
        if event["kind"] != "pulse":
            append_line(folder / ("metrics.jsonl" if event["kind"] == "step" else "events.jsonl"), event)
        forward(event)

    return report
