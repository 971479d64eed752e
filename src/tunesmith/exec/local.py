"""Run a job in child processes on this machine.

A child is `python -m tunesmith.jobs NAME`. It reads its arguments as one JSON line from standard
input, then keeps that pipe open: when it closes, the parent is gone and the child exits. It writes
events as JSON lines to standard output; what libraries print goes to a log file. Where several
processes work on one job (ranks), the first one speaks for all, and the end of one is the end of all.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.core import events
from tunesmith.core.events import Event, from_json
from tunesmith.core.files import home
from tunesmith.exec.child import STOP
from tunesmith.exec.cores import look_at_cores, waiting
from tunesmith.exec.executor import Job, Outcome
from tunesmith.exec.memory import MemoryWatch

GRACE = 30.0  # seconds that a child has to end once its work is done, and again once its pipe is closed
BEAT = 0.2  # seconds after which a reader of events hears that there is none

# Freed memory stays inside the process, since large tensors come and go at every layer, and is asked for in large
# pages; the kernels that oneDNN makes for each shape of a product stay as well (1024 shapes if this is not set).
SETTINGS = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296"
    ":glibc.malloc.hugetlb=1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8192",
}


@dataclass(frozen=True)
class LocalExecutor:
    """Child processes of this one.

    Attributes:
        grace: seconds that a child has to end once its work is done, and again once its pipe is closed; then it is
            killed.
        cores: that its children may use, and nobody else who asks; all that are free when they start if None.
        program: what a child is started with, and the job's name follows; this Python's `tunesmith.jobs` if None.
    """

    grace: float = GRACE
    cores: tuple[int, ...] | None = None
    program: tuple[str, ...] | None = None

    def start(self, job: Job, folder: Path) -> LocalRunning:
        """Start the children of a job."""
        return LocalRunning(job, folder, self)


@dataclass
class _Child:
    """A child process and the last thing it said."""

    process: subprocess.Popen[str]
    last: Event | None = None
    ended: bool = False  # by us
    listener: threading.Thread | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)  # of what is written to it

    @property
    def failed(self) -> bool:
        """Whether it ended, and neither well nor because it was asked to."""
        return self.process.poll() is not None and not isinstance(self.last, events.Done | events.Stopped)

    def events(self) -> Iterator[Event]:
        """What it says, until it has no more to say."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self.last = from_json(json.loads(line))
            except (json.JSONDecodeError, KeyError, TypeError):  # it was killed in the middle of a word
                continue
            yield self.last

    def say(self, line: str) -> None:
        """Write a line to it, if it is there to read it."""
        assert self.process.stdin is not None
        with self.lock, contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def hang_up(self) -> None:
        """Close the pipe that keeps it alive."""
        assert self.process.stdin is not None
        with self.lock, contextlib.suppress(OSError):
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


class LocalRunning:
    """The children of one job. A thread reads each of them, so whoever waits for events is never stuck in a pipe."""

    def __init__(self, job: Job, folder: Path, place: LocalExecutor) -> None:
        """Start them.

        Args:
            job: the work.
            folder: of the job; everything the children print that is no event goes to its `child.log`.
            place: that starts them.
        """
        self._log, self._grace = folder / "child.log", place.grace
        self._said: queue.Queue[Event | None] = queue.Queue()
        self._meeting = tempfile.TemporaryDirectory()
        self._ending = threading.Lock()
        self._outcome: Outcome | None = None
        given, warning = environment(job.processes, place.cores)
        if warning is not None:
            self._said.put(warning)
        self._children = [self._start(job, rank, folder, given, place) for rank in range(job.processes)]
        self._watch = MemoryWatch([child.process.pid for child in self._children])
        for child in self._children:
            child.listener = threading.Thread(target=self._follow, args=(child,), daemon=True)
            child.listener.start()

    def _start(self, job: Job, rank: int, folder: Path, given: dict[str, str], place: LocalExecutor) -> _Child:
        arguments: dict[str, Any] = job.arguments
        if job.processes > 1:
            arguments = {**arguments, "rank": rank, "ranks": job.processes, "meeting": f"{self._meeting.name}/store"}
        with self._log.open("a", encoding="utf-8") as log_file:
            process = subprocess.Popen(
                [*(place.program or (sys.executable, "-m", "tunesmith.jobs")), job.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env=given,
                cwd=folder if job.inside else None,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then stops the child
            )
        if place.cores and hasattr(os, "sched_setaffinity"):  # of all that it starts, since it waits for its arguments
            with contextlib.suppress(OSError):
                os.sched_setaffinity(process.pid, place.cores)
        child = _Child(process)
        child.say(json.dumps(arguments))  # if it died before it could read them, its exit code tells
        return child

    def events(self) -> Iterator[Event | None]:
        """What the first child says; see `Running`."""
        while True:
            try:
                event = self._said.get(timeout=BEAT)
            except queue.Empty:
                listener = self._children[0].listener
                if (listener is None or not listener.is_alive()) and self._said.empty():
                    return  # it has said all, and its last word was heard, or lost to an interruption
                yield None
                continue
            if event is None:
                return
            yield event

    def stop(self) -> None:
        """Ask the children to come to an end."""
        self._children[0].say(STOP)

    def kill(self) -> None:
        """End them now, and what they have started, which may hold their pipe though they have ended."""
        _end_all(self._children)
        for child in self._children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)
        self.outcome()

    def outcome(self) -> Outcome:
        """Wait for the end; see `Running`."""
        with self._ending:
            if self._outcome is None:
                self._outcome = self._end()
            return self._outcome

    def _end(self) -> Outcome:
        first, others = self._children[0], self._children[1:]
        try:
            assert first.listener is not None
            first.listener.join()
            _let_finish([first], self._grace)
            if first.failed:
                _end_all(others)
            _let_finish(others, self._grace)
        finally:  # also where the user is out of patience
            for child in self._children:
                child.hang_up()
            try:
                _let_finish(self._children, self._grace)
            finally:
                for child in self._children:
                    child.bury()
                self._watch.close()
                self._meeting.cleanup()
        return outcome_of(self._children, self._watch, self._log)

    def _follow(self, child: _Child) -> None:
        """Listen to a child; the first one speaks for all, and another that fails ends all."""
        speaks = child is self._children[0]
        try:
            for event in child.events():
                if speaks:
                    self._said.put(event)
        finally:
            if speaks:
                self._said.put(None)
        if speaks:
            return
        child.process.wait()
        if child.failed:
            _end_all([other for other in self._children if other is not child])


def environment(processes: int, own: Sequence[int] | None = None) -> tuple[dict[str, str], events.Warning | None]:
    """What a child is started with: `SETTINGS`, and what the user has set, which counts where both say something.

    Args:
        processes: how many children share the cores.
        own: the cores that they have for themselves; those that are free now if None.

    Returns:
        The environment, and a warning where others use some of the cores.
    """
    found = {**SETTINGS, **waiting(os.environ), **os.environ, "TOKENIZERS_PARALLELISM": "false"}
    if tunables := os.environ.get("GLIBC_TUNABLES"):
        found["GLIBC_TUNABLES"] = f"{SETTINGS['GLIBC_TUNABLES']}:{tunables}"  # the later one counts
    found.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home() / "compiled"))  # torch's own is gone after a restart
    if "OMP_NUM_THREADS" in found:
        return found, None
    if own is not None:
        found["OMP_NUM_THREADS"] = str(max(1, len(own) // processes))
        return found, None
    cores = look_at_cores()
    found["OMP_NUM_THREADS"] = str(max(1, cores.free // processes))
    return found, events.Warning(cores.sentence) if cores.sentence else None


def _end_all(children: Sequence[_Child]) -> None:
    for child in children:
        if child.process.poll() is None:
            child.ended = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)  # with what it has started, which may hold its output


def _let_finish(children: Sequence[_Child], grace: float) -> None:
    """Children whose work is done end by themselves; none is waited for long."""
    deadline = time.monotonic() + grace
    with contextlib.suppress(subprocess.TimeoutExpired):
        for child in children:
            child.process.wait(max(0.0, deadline - time.monotonic()))


def outcome_of(children: Sequence[_Child], watch: MemoryWatch, log: Path) -> Outcome:
    """What the first child made, or why there is nothing: of the one that failed first."""
    ended = [child.last for child in children]
    for last in ended:
        if isinstance(last, events.OutOfMemory):
            return last
    for last in ended:
        if isinstance(last, events.Failed) and last.sentence:
            return events.Failed(last.sentence, reason=last.reason)
    if isinstance(ended[0], events.Done | events.Stopped):
        return ended[0]
    codes = [child.process.returncode for child in children if not child.ended]
    if -signal.SIGKILL in codes and watch.blames_memory():
        return events.OutOfMemory("the system killed the job for lack of memory.")
    code = min(codes, default=-signal.SIGKILL)  # who was killed explains who lost a partner
    return events.Failed(_epitaph(code, log), f"exit code {code}")


def _epitaph(code: int, log: Path) -> str:
    """How a child ended that left no result, as a sentence."""
    if code < 0:
        return f"the job was killed by {signal.Signals(-code).name}. Its log: {log}"
    words = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"the job ended with exit code {code}: {words[-1].strip() if words else 'no word'}. Its log: {log}"
