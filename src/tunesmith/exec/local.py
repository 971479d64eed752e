"""Run a job in a child process on this machine and listen to it.

The child is `python -m tunesmith.jobs NAME`. It reads its arguments as one JSON line from standard
input, then keeps that pipe open: when it closes, the parent is gone and the child exits. It writes
events as JSON lines to standard output; what libraries print goes to a log file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunesmith.core.errors import JobError, Stopped, TunesmithError
from tunesmith.core.events import Report
from tunesmith.exec.child import STOP

# Keep freed memory inside the process between steps: large tensors come and go at every layer.
ALLOCATOR = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296"


@dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        name: of the job.
        arguments: plain JSON values.
        stoppable: whether it can come to an end that it can be resumed from, when it is interrupted.
    """

    name: str
    arguments: dict[str, Any]
    stoppable: bool = False


def run_child(job: Job, log: Path, report: Report) -> dict[str, Any]:
    """Run `job` to its end and return what it says it made (its `done` event).

    Args:
        job: the work.
        log: file for everything the child prints that is not an event.
        report: hears each event.

    Raises:
        TunesmithError: the job failed with a sentence for the user.
        JobError: the child ended without a word; the message names the log.
        Stopped: it was interrupted and came to an end that it can be resumed from.
        KeyboardInterrupt: it was interrupted, twice if it is stoppable; the child has been ended.
    """
    environment = {**os.environ, "GLIBC_TUNABLES": ALLOCATOR, "TOKENIZERS_PARALLELISM": "false"}
    with log.open("a", encoding="utf-8") as log_file:
        child = subprocess.Popen(
            [sys.executable, "-m", "tunesmith.jobs", job.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=environment,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops the child
        )
    assert child.stdin is not None
    assert child.stdout is not None
    last: dict[str, Any] = {}
    try:
        with contextlib.suppress(BrokenPipeError):  # it died before it read its arguments: its exit code tells
            child.stdin.write(json.dumps(job.arguments) + "\n")
            child.stdin.flush()
        while True:
            try:
                for line in child.stdout:
                    try:
                        last = json.loads(line)
                    except json.JSONDecodeError:  # it was killed, or we were interrupted, in the middle of a word
                        continue
                    report(last)
                break
            except KeyboardInterrupt:
                if not job.stoppable or not _ask_to_stop(child):
                    raise
                report({"kind": "stopping"})
                job = replace(job, stoppable=False)  # the next interruption ends it at once
    finally:
        _stop(child)
    if last.get("kind") == "done":
        return last
    if last.get("kind") == "stopped":
        raise Stopped(last["sentence"])
    if last.get("kind") == "failed" and last.get("sentence"):
        raise TunesmithError(last["sentence"])
    raise JobError(_epitaph(child.returncode, log))


def _ask_to_stop(child: subprocess.Popen[str]) -> bool:
    """Whether the child could still be asked."""
    assert child.stdin is not None
    try:
        child.stdin.write(f"{STOP}\n")
        child.stdin.flush()
    except OSError:
        return False
    return True


def _stop(child: subprocess.Popen[str]) -> None:
    """Close the pipe that keeps the child alive and wait for its end."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    try:
        child.wait(timeout=30)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _epitaph(code: int, log: Path) -> str:
    """How a child ended that left no result, as a sentence."""
    if code < 0:
        name = signal.Signals(-code).name
        advice = " The system may have run out of memory: lower micro_tokens or data.max_length."
        return f"the job was killed by {name}.{advice if name == 'SIGKILL' else ''} Its log: {log}"
    words = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"the job ended with exit code {code}: {words[-1].strip() if words else 'no word'}. Its log: {log}"
