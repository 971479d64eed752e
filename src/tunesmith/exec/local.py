"""Run a job in child processes on this machine and listen to it.

A child is `python -m tunesmith.jobs NAME`. It reads its arguments as one JSON line from standard
input, then keeps that pipe open: when it closes, the parent is gone and the child exits. It writes
events as JSON lines to standard output; what libraries print goes to a log file. Where several
processes work on one job (ranks), the first one speaks for all, and the end of one is the end of all.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunesmith.core.errors import JobError, OutOfMemory, Stopped, TunesmithError
from tunesmith.core.events import Report
from tunesmith.core.files import home
from tunesmith.exec.child import STOP
from tunesmith.exec.cores import look_at_cores, waiting
from tunesmith.exec.memory import MemoryWatch

GRACE = 30.0  # seconds that a child has to end

# Freed memory stays inside the process, since large tensors come and go at every layer, and is asked for in large
# pages; the kernels that oneDNN makes for each shape of a product stay as well (1024 shapes if this is not set).
SETTINGS = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296"
    ":glibc.malloc.hugetlb=1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8192",
}


@dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        name: of the job.
        arguments: plain JSON values.
        stoppable: whether it can come to an end that it can be resumed from, when it is interrupted.
        processes: how many children work on it together; each is told its `rank`, the `ranks` there are, and
            a file where they meet.
    """

    name: str
    arguments: dict[str, Any]
    stoppable: bool = False
    processes: int = 1


@dataclass
class _Child:
    """A child process and the last thing it said."""

    process: subprocess.Popen[str]
    last: dict[str, Any] = field(default_factory=dict[str, Any])
    ended: bool = False  # by us
    listener: threading.Thread | None = None  # that reads what it says, where it is not who has started it

    @property
    def failed(self) -> bool:
        """Whether it ended, and neither well nor because it was asked to."""
        return self.process.poll() is not None and self.last.get("kind") not in ("done", "stopped")

    def events(self) -> Iterator[dict[str, Any]]:
        """What it says, until it has no more to say."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self.last = json.loads(line)
            except json.JSONDecodeError:  # it was killed, or we were interrupted, in the middle of a word
                continue
            yield self.last

    def say(self, line: str) -> bool:
        """Write a line to it; whether it could still be reached."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError:
            return False
        return True

    def hang_up(self) -> None:
        """Close the pipe that keeps it alive."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def bury(self) -> None:
        """Kill it if it is alive, with what it has started; then close its output, once nobody reads it any more."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.listener is not None:
            self.listener.join(timeout=5)  # longer only where a process that it forked lives on and holds the pipe
            if self.listener.is_alive():
                return
        assert self.process.stdout is not None
        self.process.stdout.close()


def run_child(job: Job, log: Path, report: Report, grace: float = GRACE) -> dict[str, Any]:
    """Run `job` to its end and return what it says it made (its `done` event).

    Args:
        job: the work.
        log: file for everything the children print that is not an event.
        report: hears each event.
        grace: seconds that a child has to end once its work is done, and again once its pipe is closed; then it is
            killed.

    Raises:
        TunesmithError: the job failed with a sentence for the user.
        OutOfMemory: there was no room for it.
        JobError: a child ended without a word; the message names the log.
        Stopped: it was interrupted and came to an end that it can be resumed from.
        KeyboardInterrupt: it was interrupted, twice if it is stoppable; the children have been ended.
    """
    with tempfile.TemporaryDirectory() as meeting:
        given = environment(job.processes, report)
        children = [_start(job, rank, meeting, log, given) for rank in range(job.processes)]
        first, others = children[0], children[1:]
        watch = MemoryWatch([child.process.pid for child in children])
        for child in others:
            child.listener = threading.Thread(target=_follow, args=(child, children), daemon=True)
            child.listener.start()
        try:
            while True:
                try:
                    for event in first.events():
                        report(event)
                    break
                except KeyboardInterrupt:
                    if not job.stoppable or not first.say(STOP):
                        raise
                    report({"kind": "stopping"})
                    job = replace(job, stoppable=False)  # the next interruption ends it at once
            _let_finish([first], grace)
            if first.failed:
                _end_all(others)
            _let_finish(others, grace)
        finally:
            _end(children, grace)
            watch.close()
    return _outcome(children, watch, log)


def environment(processes: int, report: Report) -> dict[str, str]:
    """What a child is started with: `SETTINGS`, and what the user has set, which counts where both say something.

    Args:
        processes: how many children share the cores that are free now.
        report: hears a warning where others use some.
    """
    found = {**SETTINGS, **waiting(os.environ), **os.environ, "TOKENIZERS_PARALLELISM": "false"}
    if tunables := os.environ.get("GLIBC_TUNABLES"):
        found["GLIBC_TUNABLES"] = f"{SETTINGS['GLIBC_TUNABLES']}:{tunables}"  # the later one counts
    found.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home() / "compiled"))  # torch's own is gone after a restart
    if "OMP_NUM_THREADS" not in found:
        cores = look_at_cores()
        found["OMP_NUM_THREADS"] = str(max(1, cores.free // processes))
        if cores.sentence:
            report({"kind": "warning", "sentence": cores.sentence})
    return found


def _start(job: Job, rank: int, meeting: str, log: Path, given: dict[str, str]) -> _Child:
    arguments = job.arguments
    if job.processes > 1:
        arguments = {**arguments, "rank": rank, "ranks": job.processes, "meeting": f"{meeting}/store"}
    with log.open("a", encoding="utf-8") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tunesmith.jobs", job.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=given,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops the child
        )
    child = _Child(process)
    child.say(json.dumps(arguments))  # if it died before it could read them, its exit code tells
    return child


def _follow(child: _Child, all_of_them: list[_Child]) -> None:
    """Listen to a child that does not speak for all, and end the others when it fails."""
    for _ in child.events():
        pass
    child.process.wait()
    if child.failed:
        _end_all([other for other in all_of_them if other is not child])


def _end_all(children: list[_Child]) -> None:
    for child in children:
        if child.process.poll() is None:
            child.ended = True
            child.process.kill()


def _let_finish(children: list[_Child], grace: float) -> None:
    """Children whose work is done end by themselves; none is waited for long."""
    deadline = time.monotonic() + grace
    with contextlib.suppress(subprocess.TimeoutExpired):
        for child in children:
            child.process.wait(max(0.0, deadline - time.monotonic()))


def _end(children: list[_Child], grace: float) -> None:
    """Close the pipes that keep children alive and wait for their end; those that hang are killed."""
    for child in children:
        child.hang_up()
    try:
        _let_finish(children, grace)
    finally:  # also where the user is out of patience
        for child in children:
            child.bury()


def _outcome(children: list[_Child], watch: MemoryWatch, log: Path) -> dict[str, Any]:
    """The result of the first child, or the reason why there is none: of the one that failed first."""
    ended = [child.last for child in children]
    for last in ended:
        if last.get("kind") == "out_of_memory":
            raise OutOfMemory(last["sentence"])
    for last in ended:
        if last.get("kind") == "failed" and last.get("sentence"):
            raise TunesmithError(last["sentence"])
    if ended[0].get("kind") == "done":
        return ended[0]
    if ended[0].get("kind") == "stopped":
        raise Stopped(ended[0]["sentence"])
    codes = [child.process.returncode for child in children if not child.ended]
    if -signal.SIGKILL in codes and watch.blames_memory():
        raise OutOfMemory("the system killed the job for lack of memory.")
    raise JobError(_epitaph(min(codes, default=-signal.SIGKILL), log))  # who was killed explains who lost a partner


def _epitaph(code: int, log: Path) -> str:
    """How a child ended that left no result, as a sentence."""
    if code < 0:
        return f"the job was killed by {signal.Signals(-code).name}. Its log: {log}"
    words = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"the job ended with exit code {code}: {words[-1].strip() if words else 'no word'}. Its log: {log}"
