"""One attempt of a queued job, as its worker sees it through: inputs in, a child supervised, checkpoints out, an end.

The child writes into the attempt's folder alone, and knows nothing of records. This is the only one who writes records
of the job, each under its lease. Where a store does not answer, it waits; where the lease is lost, it kills the child
and leaves everything as it is, since the job is another's by then.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from tunesmith.core import events
from tunesmith.core.errors import LeaseLost, StoreError, TunesmithError
from tunesmith.core.events import Event, to_attempts
from tunesmith.exec.executor import Executor, Outcome
from tunesmith.exec.queue.commit import Ending, commit_checkpoint, end, read_checkpoints
from tunesmith.exec.queue.lease import Lease, Said
from tunesmith.exec.snapshot import bring, freeze, what_is_made, whole
from tunesmith.exec.supervise import supervise
from tunesmith.store.blobs import Damaged, Missing
from tunesmith.store.records import now, persistently
from tunesmith.store.stores import Files, Stores, keep

LOG = 20_000  # characters of a log that records keep

Result = TypeVar("Result")


class StoppedEarly(TunesmithError):  # noqa: N818  nothing went wrong
    """Somebody wanted the job to stop before its child was there."""


@dataclass
class Wish:
    """What is wanted of an attempt, set by its worker's thread and read by the attempt's own."""

    people: str = "run"  # or pause, cancel: as the record says
    drain: bool = False  # the worker ends
    now: bool = False  # at once
    lost: bool = False  # the lease is

    @property
    def stop(self) -> bool:
        """Whether the job is to come to an end that it can be resumed from."""
        return self.people != "run" or self.drain or self.now


class Attempt:
    """What happens under one lease. `run` is called once, in a thread of its own; the rest from any thread."""

    def __init__(
        self, stores: Stores, lease: Lease, executor: Executor, folder: Path, say: Callable[[str], None],
        patience: float,
    ) -> None:  # fmt: skip
        """Nothing is done yet.

        Args:
            stores: of records and blobs.
            lease: of the job.
            executor: where it runs.
            folder: of this attempt and no other; taken away at its end.
            say: hears, in words, what happens.
            patience: seconds that the job has to come to an end once it was asked to.
        """
        self.lease, self.wish = lease, Wish()
        self._stores, self._executor, self._say, self._patience = stores, executor, say, patience
        self._root, self.folder = folder, folder / lease.label
        self._lock, self._number, self._pending = threading.Lock(), lease.next_event, list[Said]()
        self._news, self._over = threading.Condition(self._lock), False
        self._frozen: Path | None = None
        self._frozen_count = 0
        self._freed = threading.Event()  # set where there is nothing to wait for any more

    # What its worker does with it.

    def said(self) -> list[Said]:
        """Events that records do not have yet, as far as is known."""
        with self._lock:
            return list(self._pending)

    def written(self, said: Sequence[Said]) -> None:
        """Records have these now."""
        last = said[-1].number if said else 0
        with self._lock:
            self._pending = [one for one in self._pending if one.number > last]

    def wanted(self, people: str | None) -> None:
        """What the record says that people want; None: the lease is lost."""
        self.wish.lost = self.wish.lost or people is None
        self.wish.people = people or self.wish.people
        if self.wish.lost:
            self._freed.set()

    def ending(self, drain: bool, now: bool) -> None:
        """Whether its worker ends: when its jobs have stopped, or at once."""
        self.wish.drain, self.wish.now = drain, now
        if now:
            self._freed.set()

    # Its own thread.

    def run(self) -> None:
        """See the attempt through; returns when its lease is given back or lost."""
        try:
            self._end(self._work())
        except LeaseLost:
            self._say(f"{self.lease.id}: another worker has taken it over; what was done here since does not count")
        except StoreError as error:
            self._say(f"{self.lease.id}: given up, and another worker will take it over: {error}")
        finally:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._root)

    def _work(self) -> Ending:
        uploader = threading.Thread(target=self._upload, daemon=True)
        try:
            resumed = self._prepare()
            uploader.start()
            arguments = {**self.lease.job.arguments, "folder": str(self.folder)}
            if resumed:
                arguments |= {"resume": True, "allow_inexact": True}
            job = replace(self.lease.job, arguments=arguments, inside=True)
            note = to_attempts(self.folder)
            outcome = supervise(self._executor, job, self.folder, self._hear, note, self._cancelled, self._patience)
            if not isinstance(outcome, events.Done):
                with contextlib.suppress(TunesmithError):  # on a full disk
                    note(outcome)
            return self._ending(outcome)
        except StoppedEarly:
            return Ending("released")
        except (LeaseLost, StoreError):
            raise
        except TunesmithError as error:
            return Ending("failed", str(error))
        except OSError as error:
            return Ending("crashed", f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001  our mistake: the worker lives on, and the record says so
            return Ending("crashed", f"{type(error).__name__}: {error}", log=traceback.format_exc()[-LOG:])
        finally:
            with self._news:
                self._over = True
                self._news.notify_all()
            if uploader.ident is not None:
                uploader.join()

    def _prepare(self) -> bool:
        """Bring inputs and the last checkpoint that is whole; whether there is one."""
        self._bring(self.lease.inputs)
        found = self._persist(lambda: read_checkpoints(self._stores.records, self.lease.id), early=True)
        for step, files in found:
            try:
                self._bring(files)
            except (Missing, Damaged) as error:
                self._hear(events.Warning(f"the checkpoint of step {step} is not used: {error}"))
                shutil.rmtree(self.folder)
                self._bring(self.lease.inputs)
            else:
                return True
        if found:
            raise TunesmithError(
                f"none of its checkpoints is whole. Bring {self._stores.blobs.name} back from a backup and go on with: "
                "tunesmith resume; or submit the job anew."
            )
        return False

    def _bring(self, files: Files) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        blobs = self._stores.blobs
        self._persist(lambda: bring(blobs, files, self.folder, self._refuse_early), early=True)

    def _refuse_early(self) -> None:
        if self.wish.lost:
            raise LeaseLost(self.lease.id)
        if self.wish.stop:
            raise StoppedEarly("stopped before its child was there.")

    def _persist(self, action: Callable[[], Result], early: bool = False) -> Result:
        """Do what needs a store, until it answers, or nobody waits for that any more."""
        try:
            return persistently(action, lambda seconds: self._wait(seconds, early))
        except StoreError:
            if early or self.wish.lost:
                self._refuse_early()
            raise

    def _wait(self, seconds: float, early: bool) -> bool:
        self._freed.wait(seconds)
        return self.wish.lost or self.wish.now or (early and self.wish.stop)

    def _cancelled(self) -> bool:
        """Whether the job is to stop; what is lost, cancelled or to end at once is killed by the exception."""
        if self.wish.lost or self.wish.now or self.wish.people == "cancel":
            self._refuse_early()
        return self.wish.stop

    def _hear(self, event: Event) -> None:
        """Note an event for the records; a checkpoint is frozen at once, and kept as soon as can be."""
        if event.file:
            with self._lock:
                self._pending.append(Said(self._number, now(), event.to_json()))
                self._number += 1
        if isinstance(event, events.Checkpoint):
            self._freeze()

    def _freeze(self) -> None:
        with self._lock:
            self._frozen_count += 1
            into = self._root / f"frozen-{self._frozen_count}"
        try:
            freeze(self.folder, into, self.lease.inputs)
        except OSError as error:
            shutil.rmtree(into, ignore_errors=True)
            self._hear(events.Warning(f"a checkpoint could not be copied to be kept ({error}). The next one is tried."))
            return
        with self._news:
            older, self._frozen = self._frozen, into
            self._news.notify_all()
        if older is not None:  # a later one is there before it was begun
            shutil.rmtree(older, ignore_errors=True)

    def _upload(self) -> None:
        """Keep what was frozen, the latest first, until the attempt is over: a thread of its own."""
        while True:
            with self._news:
                while self._frozen is None and not self._over:
                    self._news.wait()
                frozen, self._frozen = self._frozen, None
            if frozen is None:
                return
            try:
                self._save(frozen)
            except LeaseLost:
                self.wanted(None)
            except StoreError:  # nobody waits for it any more
                pass
            except Exception as error:  # noqa: BLE001  whatever it was, the next checkpoint may be kept
                reason = f"{type(error).__name__}: {error}"
                self._hear(events.Warning(f"a checkpoint was not kept ({reason}). The next one is tried."))
            finally:
                shutil.rmtree(frozen, ignore_errors=True)

    def _save(self, frozen: Path) -> None:
        """Keep and commit the checkpoints of a frozen folder."""
        paths, hashes, step = whole(frozen)
        if step is None:
            return

        def commit() -> Sequence[Said]:
            files, said = keep(self._stores, paths, hashes), self.said()
            commit_checkpoint(self._stores.records, self.lease, step, files, said)
            return said

        self.written(self._persist(commit))
        self._say(f"{self.lease.id}: the checkpoint of step {step} is kept")

    def _ending(self, outcome: Outcome) -> Ending:
        """What the child's end means for the job; what can be gone on from is kept first."""
        if isinstance(outcome, events.Done):
            frozen = self._root / "made"
            freeze(self.folder, frozen, self.lease.inputs)
            paths = what_is_made(whole(frozen)[0])
            files = self._persist(lambda: keep(self._stores, paths))
            result = {name: value for name, value in outcome.result.items() if name != "folder"}
            return Ending("succeeded", files=files, result=result)
        if self.wish.people != "cancel":
            self._freeze()
        log = self.folder / "child.log"
        tail = log.read_text(encoding="utf-8", errors="replace")[-LOG:] if log.exists() else ""
        advice = f"Its log: tunesmith logs {self.lease.id}."
        sentence = getattr(outcome, "sentence", "").replace(f"Its log: {log}", advice)
        if isinstance(outcome, events.Stopped) or self.wish.stop:
            return Ending("stopped", log=tail)
        crashed = isinstance(outcome, events.OutOfMemory) or bool(getattr(outcome, "error", ""))
        reason = getattr(outcome, "reason", "")
        result = {"reason": reason} if reason else None
        return Ending("crashed" if crashed else "failed", sentence, result=result, log=tail)

    def _end(self, ending: Ending) -> None:
        """Write the end, whatever that takes."""

        def write() -> tuple[str, Sequence[Said]]:
            said = self.said()
            return end(self._stores.records, self.lease, ending, said), said

        state, said = self._persist(write)
        self.written(said)
        reason = f": {ending.sentence}" if ending.sentence else ""
        became = "" if state == ending.outcome else f", and is {state} now"
        self._say(f"{self.lease.id}: {ending.outcome}{became}{reason}")
