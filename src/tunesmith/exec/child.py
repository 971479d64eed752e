"""The child's side of `exec/local`: arguments in, events out, and no life without the parent."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from tunesmith.core import events
from tunesmith.core.errors import OutOfMemory, Stopped, TunesmithError
from tunesmith.core.events import Event, Report

Stop = Callable[[], bool]
Work = Callable[[dict[str, Any], Report, Stop], dict[str, Any]]

PARENT_GONE = 3
STOP = "stop"  # what a parent writes to ask its child to come to an end


def serve(work: Work) -> int:
    """Run `work(arguments, report, stop)` for the parent; its result becomes the `done` event.

    `stop()` says whether the parent has asked for an end, or the system has by SIGTERM.

    A `TunesmithError` becomes a `failed` event with its sentence; any other exception is our
    mistake: its traceback goes to the log, and the parent names that file.
    """
    pipe, parent = _claim_pipes()
    arguments = json.loads(parent.readline())
    ended, asked = threading.Event(), threading.Event()
    threading.Thread(target=_listen, args=(parent, ended, asked), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda number, frame: asked.set())

    def report(event: Event) -> None:
        pipe.write(json.dumps(event.to_json()) + "\n")
        pipe.flush()

    try:
        report(events.Done(work(arguments, report, asked.is_set)))
    except Stopped as error:
        report(events.Stopped(str(error)))
        return 1
    except OutOfMemory as error:
        report(events.OutOfMemory(str(error)))
        return 1
    except TunesmithError as error:
        report(events.Failed(str(error), reason=type(error).__name__))
        return 1
    except Exception as error:  # noqa: BLE001  whatever it was, the parent must hear that the job failed
        traceback.print_exc()
        if _no_room(error):
            report(events.OutOfMemory("there was no memory for it."))
            return 1
        report(events.Failed(_full_disk(error), repr(error)))
        return 2
    finally:
        ended.set()
    return 0


def _no_room(error: Exception) -> bool:
    """Whether a lack of memory ended the work, in Python's words or torch's (which this room does not import)."""
    lacks = ("can't allocate memory", "CUDA out of memory")
    return isinstance(error, MemoryError) or any(words in str(error) for words in lacks)


def _full_disk(error: Exception) -> str:
    """The sentence for a full disk, wherever it was met; empty for anything else."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}. What was written before is intact: make room and try again, or resume."


def heeding(report: Report, stop: Stop) -> Report:
    """A report that ends the work between two phases, or two pieces of one, when somebody has asked for it."""

    def say(event: Event) -> None:
        report(event)
        if isinstance(event, events.Phase | events.Pulse) and stop():
            doing = event.name if isinstance(event, events.Phase) else event.doing
            raise Stopped(f"stopped at {doing}; what was done before is kept.")

    return say


def _claim_pipes() -> tuple[TextIO, TextIO]:
    """Keep standard output for events and standard input for the parent.

    What anyone prints goes to standard error, and who asks a question finds no one to answer.
    """
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    parent = os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    nobody = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nobody, sys.stdin.fileno())
    os.close(nobody)
    return pipe, parent


def _listen(parent: TextIO, ended: threading.Event, asked: threading.Event) -> None:
    """Hear the parent out until it closes the pipe, by will or by death; then end, unless the work has."""
    for line in parent:
        if line.strip() == STOP:
            asked.set()
    if not ended.is_set():
        os._exit(PARENT_GONE)
