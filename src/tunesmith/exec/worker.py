"""A worker: takes jobs from the queue, as many at once as it has slots, and gives none back unfinished but when asked.

Any number of workers share the stores. One thread beats for all leases of this worker and looks whose job it is next;
each attempt has a thread of its own. The main thread never waits for a blob, so that a lease is not lost to a slow one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tunesmith.core.errors import StoreError
from tunesmith.core.files import home, make_folder
from tunesmith.exec.attempt import Attempt
from tunesmith.exec.cores import allowed_cores
from tunesmith.exec.executor import Executor
from tunesmith.exec.local import LocalExecutor
from tunesmith.exec.queue.commit import take_back
from tunesmith.exec.queue.lease import Watch, any_queued, beat, claim
from tunesmith.exec.supervise import PATIENCE
from tunesmith.store.blobs import STALE
from tunesmith.store.stores import Stores

LEASE = 30.0  # seconds of silence after which a job is another's
LOOK = 0.5  # seconds between two looks at the queue


def on_this_machine(cores: tuple[int, ...] | None) -> Executor:
    """Child processes, on these cores."""
    return LocalExecutor(cores=cores)


@dataclass(frozen=True)
class Settings:
    """How a worker works.

    Attributes:
        slots: jobs at once.
        lease: seconds of silence after which others may take a job over.
        look: seconds between two looks at the queue.
        patience: seconds that a job has to come to an end once it was asked to.
        until_empty: end when no job waits or runs here.
        work: folder for what is worked on; in tunesmith's home if None.
        executor: what runs the children, given the cores that they may use.
    """

    slots: int = 1
    lease: float = LEASE
    look: float = LOOK
    patience: float = PATIENCE
    until_empty: bool = False
    work: Path | None = None
    executor: Callable[[tuple[int, ...] | None], Executor] = field(default=on_this_machine)


class Worker:
    """Takes jobs from stores until it is asked to end."""

    def __init__(self, stores: Stores, settings: Settings, say: Callable[[str], None]) -> None:
        """Nothing is taken yet; `say` hears in words what happens."""
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._stores, self._settings, self._say = stores, settings, say
        self._held: dict[int, tuple[Attempt, threading.Thread]] = {}  # by slot
        self._cores = shares(allowed_cores(), settings.slots)
        self._draining = self._hurry = False
        self._trouble = ""

    def drain(self) -> None:
        """Take no more jobs, and ask those that run for an end that they can be resumed from; the second time: at once.

        It may be called by a handler of signals.
        """
        self._hurry, self._draining = self._draining, True

    def run(self) -> None:
        """Work until `drain` was called and every job is given back."""
        self._stores.blobs.clean(time.time() - STALE)
        with self._folder() as folder, self._ending_all():
            watch, last_beat = Watch(), 0.0
            while not (self._draining and not self._held):
                for attempt, _ in self._held.values():
                    attempt.ending(self._draining, self._hurry)
                self._forget_ended()
                try:
                    if self._held and time.monotonic() - last_beat >= self._settings.lease / 6:
                        self._beat()
                        last_beat = time.monotonic()
                    self._take_back(watch)
                    waits = not self._draining and self._claim(folder)
                    self._trouble = ""
                except StoreError as error:
                    waits, watch = False, Watch()  # nobody knows who else could not write
                    if not self._trouble:
                        self._tell(f"waiting: {error}")
                    self._trouble = str(error)
                if self._settings.until_empty and not self._held and not waits and self._nothing_waits():
                    return
                if not waits:
                    time.sleep(self._settings.look)

    def _claim(self, folder: Path) -> bool:
        """Take a job if there is room for it; whether one was taken."""
        slot = next((slot for slot in range(self._settings.slots) if slot not in self._held), None)
        lease = None if slot is None else claim(self._stores.records, self.name, self._settings.lease)
        if slot is None or lease is None:
            return False
        place = folder / f"{lease.id}-{lease.token}"
        executor = self._settings.executor(self._cores[slot])
        attempt = Attempt(self._stores, lease, executor, place, self._tell, self._settings.patience)
        thread = threading.Thread(target=attempt.run, name=lease.id)
        thread.start()
        self._held[slot] = (attempt, thread)
        self._tell(f"{lease.id}: taken ({lease.label})")
        return True

    def _nothing_waits(self) -> bool:
        """Whether the queue was read, and is empty; jobs that another is about to take are none of ours."""
        if self._trouble:
            return False
        try:
            return not any_queued(self._stores.records)
        except StoreError:
            return False

    def _tell(self, sentence: str) -> None:
        """Say it, if it can be said: a full disk under a log, or a reader that has left, is no reason to stop."""
        with contextlib.suppress(OSError, ValueError):
            self._say(sentence)

    def _beat(self) -> None:
        """Say that all leases are held, and hear what people want of their jobs."""
        attempts = [attempt for attempt, _ in self._held.values()]
        said = [attempt.said() for attempt in attempts]
        leases = [attempt.lease for attempt in attempts]
        wanted = beat(self._stores.records, list(zip(leases, said, strict=True)))
        for attempt, events, people in zip(attempts, said, wanted, strict=True):
            attempt.written(events)
            attempt.wanted(people)

    @contextlib.contextmanager
    def _ending_all(self) -> Generator[None]:
        """Whatever ends the block, no job goes on without a thread that beats for it."""
        try:
            yield
        finally:
            for attempt, thread in self._held.values():
                attempt.ending(True, True)
                thread.join()

    def _forget_ended(self) -> None:
        for slot, (_, thread) in list(self._held.items()):
            if not thread.is_alive():
                thread.join()
                del self._held[slot]

    def _take_back(self, watch: Watch) -> None:
        """Give jobs whose worker is silent back to the queue."""
        for job, token, beats in watch.silent(self._stores.records):
            state = take_back(self._stores.records, job, token, beats)
            if state is not None:
                self._tell(f"{job}: its worker fell silent, and it is {state} now")

    @contextlib.contextmanager
    def _folder(self) -> Generator[Path]:
        """A folder of this worker's own; those of workers that are no more are taken away."""
        parent = make_folder(self._settings.work or home() / "work", "jobs")
        for other in parent.glob("*.lock"):
            lock = FileLock(other)
            with contextlib.suppress(Timeout, OSError), lock.acquire(timeout=0):
                if other.with_suffix("").exists():
                    shutil.rmtree(other.with_suffix(""))
                other.unlink()
        with FileLock(parent / f"{self.name}.lock"):
            folder = make_folder(parent / self.name, "jobs")
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                if not folder.exists():
                    (parent / f"{self.name}.lock").unlink(missing_ok=True)


def shares(cores: list[int], slots: int) -> list[tuple[int, ...] | None]:
    """Cores for each slot: neighbours, none of two slots' unless there are too few; None where one slot has all."""
    if slots == 1:
        return [None]
    if slots >= len(cores):
        return [(cores[slot % len(cores)],) for slot in range(slots)]
    bounds = [len(cores) * slot // slots for slot in range(slots + 1)]
    return [tuple(cores[start:stop]) for start, stop in pairwise(bounds)]


@contextlib.contextmanager
def heeding_signals(worker: Worker) -> Generator[None]:
    """SIGTERM and Ctrl-C drain the worker; the second one ends its jobs at once."""
    signals = (signal.SIGTERM, signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        worker.drain()

    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
