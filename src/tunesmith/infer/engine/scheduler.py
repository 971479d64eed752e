"""Who drives the batch: one thread at a time, whichever waits for a token, or one that does nothing else.

A thread that reads an answer drives everybody's until it has what it waits for, then another takes over. So an
evaluation or a chat computes in its own thread: on a CPU, a second thread that computes slows down
every step, since OpenMP's workers of several threads no longer wait actively for each other. A server lets one
thread `drive` and all others only read.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from tunesmith.infer.engine.request import Request
from tunesmith.infer.generator import Full, Tops

Value = TypeVar("Value")


class Next(NamedTuple):
    """The next token of a row, and its log probability and the likeliest beside it if these were asked for."""

    request: Request
    token: int
    logprob: float | None
    tops: Tops = []  # noqa: RUF012  nobody adds to it


class Batch(Protocol):
    """Rows that take one token a step together. A row that cannot go on is ended with its error; others go on."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        ...

    rows: list[Request]

    def admit(self, waiting: deque[Request]) -> None:
        """Take rows from the left of `waiting`, as many as there is room for."""
        ...

    def step(self) -> list[Next]:
        """Compute, and return the next tokens of rows."""
        ...

    def leave(self, request: Request) -> None:
        """A row that was returned has ended."""
        ...

    def clear(self) -> list[Request]:
        """Drop all rows and return them."""
        ...


class Scheduler:
    """Rows in, tokens out, for any number of threads."""

    def __init__(self, batch: Batch, stop_ids: Collection[int], between: Callable[[], None], most_waiting: int) -> None:
        """Nothing runs yet.

        Args:
            batch: touched by the driving thread alone.
            stop_ids: ids that end an answer.
            between: called by the driving thread between two steps.
            most_waiting: answers that may wait for a place in the batch.
        """
        self.batch = batch
        self._stop_ids, self._between, self._most_waiting = stop_ids, between, most_waiting
        self.heard: Callable[[], None] = lambda: None  # called by the driving thread after each step
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._actions: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._driven = False

    def submit(self, requests: Sequence[Request]) -> None:
        """Let them begin in this order, as soon as there is room.

        Raises:
            Full: there are more than may wait; none of them will begin.
        """
        with self._changed:
            self._forget_cancelled()
            if len(self._waiting) + len(requests) > self._most_waiting:
                raise Full(
                    f"{len(self._waiting)} answers wait for their turn, of at most {self._most_waiting}, so "
                    f"{len(requests)} more are refused. Try again in a moment."
                )
            self._waiting.extend(requests)
            self._changed.notify_all()

    def wait(self, ready: Callable[[], bool]) -> None:
        """Return when a condition on a submitted request holds; drive until then if nobody else does."""
        leads = False
        try:
            with self._changed:
                self._changed.wait_for(lambda: ready() or not self._driven)
                if ready():
                    return
                leads = self._driven = True
            self._lead(ready)
        finally:
            if leads:
                with self._changed:
                    self._driven = False
                    self._changed.notify_all()

    def drive(self, stop: threading.Event) -> None:
        """Drive for everybody until `stop` is set; looks at it ten times a second when there is nothing to do."""
        self.wait(stop.is_set)

    def exclusively(self, action: Callable[[], Value]) -> Value:
        """Do something while no step is under way: in this thread, or in the one that drives. Returns when it is done.

        Args:
            action: what it returns or raises reaches the caller alone.
        """
        done: Future[Value] = Future()
        with self._changed:
            self._actions.append((action, done))
            self._changed.notify_all()
        self.wait(done.done)
        return done.result()

    def _lead(self, ready: Callable[[], bool]) -> None:
        with torch.inference_mode():
            while True:
                self._act()
                if ready():
                    return
                self._once()
                self.heard()
                with self._changed:
                    self._changed.notify_all()
                    if self.batch.idle and not self._waiting and not self._actions and not ready():
                        self._changed.wait(0.1)

    def _act(self) -> None:
        while self._actions:
            action, done = self._actions.popleft()
            try:
                done.set_result(action())
            except BaseException as error:
                done.set_exception(error)
                if not isinstance(error, Exception):
                    raise

    def _once(self) -> None:
        """Let rows in, compute one step, let rows out. What the batch does not attribute ends those that are in it."""
        try:
            with self._changed:
                self._forget_cancelled()
                self.batch.admit(self._waiting)
            if not self.batch.idle:
                self._between()
                self._step()
        except BaseException as error:
            ended = self.batch.clear()
            if not isinstance(error, Exception):  # Ctrl-C is for this thread; the others hear of it all the same
                with self._changed:
                    ended += self._waiting
                    self._waiting.clear()
            for request in ended:
                request.end(error=error)
            if not isinstance(error, Exception):
                raise

    def _forget_cancelled(self) -> None:
        for request in [one for one in self._waiting if one.cancelled]:
            self._waiting.remove(request)
            request.end("cancelled")

    def _step(self) -> None:
        for request in [one for one in self.batch.rows if one.cancelled or one.ended]:
            self.batch.leave(request)
            request.end("cancelled")
        if self.batch.idle:
            return
        for request, token, logprob, tops in self.batch.step():
            try:
                request.add(token, logprob, token in self._stop_ids, tops)
            except Exception as error:  # noqa: BLE001  its tokens cannot be spelled: nobody else's affair
                request.end(error=error)
            if request.ended:
                self.batch.leave(request)
