"""What a tracking sink is, and the thread that stands between one and the training loop.

A step only puts a note into a queue. The thread hands notes on in batches, waits for whoever does not answer, and
leaves a sink alone that keeps failing; so a dead server costs a run nothing but the curves on that server.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Ending = Literal["finished", "failed", "stopped"]

SECONDS, MOST = 2.0, 50  # a batch is sent when its first note is so old, or when it has so many
PAUSES = (1.0, 5.0, 30.0)  # between tries, in seconds
FARTHEST_BEHIND = 10_000  # notes that wait for a sink; with more it is left alone
PATIENCE = 20.0  # seconds that the end of a run waits for its sinks


@dataclass(frozen=True)
class Note:
    """Something to write down about a run.

    Attributes:
        step: optimizer steps taken.
        values: numbers that belong to that step.
        facts: what holds for the whole run.
        resumed: the run goes on from here; what was noted of later steps is void.
        time: Unix time.
    """

    step: int
    values: Mapping[str, float] = field(default_factory=dict[str, float])
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    resumed: bool = False
    time: float = field(default_factory=time.time)


class Sink(Protocol):
    """Where notes go. A `send` that failed may be made again with the same notes; `close` is called once, if at all."""

    name: str

    def send(self, notes: list[Note]) -> None:
        """Write these down, in order."""
        ...

    def close(self, ending: Ending) -> None:
        """Write down how the run ended, and let go."""
        ...


class Sender:
    """One sink and the thread that talks to it; nothing here waits long, and nothing raises."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._queue: queue.Queue[Note | None] = queue.Queue(FARTHEST_BEHIND)
        self._ending: Ending = "failed"
        self._hurry = threading.Event()  # the run is over: no more pauses
        self._given_up = threading.Event()
        self._trouble: str | None = None
        self._thread = threading.Thread(target=self._work, name=f"track-{sink.name}", daemon=True)
        self._thread.start()

    def put(self, note: Note) -> None:
        """Have `note` sent soon."""
        if self._given_up.is_set():
            return
        try:
            self._queue.put_nowait(note)
        except queue.Full:
            self._give_up(f"it is {FARTHEST_BEHIND} notes behind")

    def end(self, ending: Ending) -> None:
        """Have all that waits sent, and then the ending."""
        self._ending = ending
        self._hurry.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)

    def wait(self, until: float) -> None:
        """Wait until `end` is done, or `time.monotonic()` is at `until`."""
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._give_up("it did not take the last notes in time")

    def trouble(self) -> str | None:
        """Why the sink was left alone, as a sentence that is told once."""
        sentence, self._trouble = self._trouble, None
        return sentence

    def _give_up(self, why: str) -> None:
        if not self._given_up.is_set():
            self._trouble = (
                f"{self._sink.name} is left alone from here on: {why}. "
                "The run goes on, and its folder holds every metric."
            )
            self._given_up.set()

    def _work(self) -> None:
        over = False
        while not over and not self._given_up.is_set():
            notes, over = self._gather()
            if notes:
                self._try(lambda notes=notes: self._sink.send(notes))
        if not self._given_up.is_set():
            self._try(lambda: self._sink.close(self._ending), pauses=())

    def _gather(self) -> tuple[list[Note], bool]:
        """The next batch, and whether it is the last one."""
        note = self._queue.get()
        notes: list[Note] = []
        until = time.monotonic() + SECONDS
        while note is not None:
            notes.append(note)
            if len(notes) >= MOST:
                break
            try:
                note = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
        return notes, note is None

    def _try(self, call: Callable[[], None], pauses: tuple[float, ...] = PAUSES) -> None:
        """Make a call to the sink, again after each pause; at the end of a run only once more, and at once."""
        last = False
        for pause in (*pauses, None):
            try:
                return call()
            except Exception as error:  # noqa: BLE001  whatever a sink does, the run goes on
                if last or pause is None:
                    return self._give_up(reason(error))
            last = self._hurry.wait(pause)


def reason(error: BaseException) -> str:
    """Why a call failed, short enough for a sentence and without passwords: what the system said, if it did."""
    deepest = link = error
    while link := link.__cause__ or (None if link.__suppress_context__ else link.__context__):
        deepest = link if isinstance(link, OSError) else deepest
    said = deepest.strerror if isinstance(deepest, OSError) and deepest.strerror else str(deepest)
    lines = said.strip().splitlines() or [type(deepest).__name__]
    text = without_password(lines[0]).rstrip(". ")
    return text if len(text) <= 200 else f"{text[:200]} ..."


def without_password(text: str) -> str:
    """`text` without the `user:password@` of the addresses in it."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


@contextlib.contextmanager
def environment(always: Mapping[str, str], unless_set: Mapping[str, str]) -> Generator[None]:
    """Environment variables for the time of the block: some in any case, some where the user has not set them."""
    wanted = {**{name: value for name, value in unless_set.items() if name not in os.environ}, **always}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
