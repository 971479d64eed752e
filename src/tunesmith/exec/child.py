"""The child's side of `exec/local`: arguments in, events out, and no life without the parent."""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Report

Work = Callable[[dict[str, Any], Report], dict[str, Any]]

PARENT_GONE = 3


def serve(work: Work) -> int:
    """Run `work(arguments, report)` for the parent; its result becomes the `done` event.

    A `TunesmithError` becomes a `failed` event with its sentence; any other exception is our
    mistake: its traceback goes to the log, and the parent names that file.
    """
    events, parent = _claim_pipes()
    arguments = json.loads(parent.readline())
    ended = threading.Event()
    threading.Thread(target=_exit_with_parent, args=(parent, ended), daemon=True).start()

    def report(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    try:
        report({"kind": "done", **work(arguments, report)})
    except TunesmithError as error:
        report({"kind": "failed", "sentence": str(error)})
        return 1
    except Exception as error:  # noqa: BLE001  whatever it was, the parent must hear that the job failed
        traceback.print_exc()
        report({"kind": "failed", "sentence": "", "error": repr(error)})
        return 2
    finally:
        ended.set()
    return 0


def _claim_pipes() -> tuple[TextIO, TextIO]:
    """Keep standard output for events and standard input for the parent.

    What anyone prints goes to standard error, and who asks a question finds no one to answer.
    """
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    parent = os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    nobody = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nobody, sys.stdin.fileno())
    os.close(nobody)
    return events, parent


def _exit_with_parent(parent: TextIO, ended: threading.Event) -> None:
    """Wait until the parent closes the pipe, by will or by death; then end, unless the work has."""
    parent.read()
    if not ended.is_set():
        os._exit(PARENT_GONE)
