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
    events = _claim_stdout()
    arguments = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()

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
    return 0


def _claim_stdout() -> TextIO:
    """Keep standard output for events alone: what anyone prints goes to standard error."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return events


def _exit_with_parent() -> None:
    """Wait until the parent closes the pipe, by will or by death; then end at once."""
    sys.stdin.read()
    os._exit(PARENT_GONE)
