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
from typing import Protocol

import torch

from tunesmith.infer.ticket import Ticket


class Batch(Protocol):
    """Rows that take one token a step together."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        ...

    rows: list[Ticket]

    def admit(self, waiting: deque[Ticket]) -> None:
        """Take rows from the left of `waiting`, as many as there is room for."""
        ...

    def step(self) -> list[tuple[Ticket, int]]:
        """Compute, and return rows with their next tokens."""
        ...

    def leave(self, ticket: Ticket) -> None:
        """A row that was returned has ended."""
        ...

    def clear(self) -> list[Ticket]:
        """Drop all rows and return them."""
        ...


class Scheduler:
    """Rows in, tokens out, for any number of threads."""

    def __init__(self, batch: Batch, stop_ids: Collection[int], between: Callable[[], None]) -> None:
        """Nothing runs yet.

        Args:
            batch: touched by the driving thread alone.
            stop_ids: ids that end an answer.
            between: called by the driving thread between two steps.
        """
        self._batch, self._stop_ids, self._between = batch, stop_ids, between
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._driven = False

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Let them begin in this order, as soon as there is room."""
        with self._changed:
            self._waiting.extend(ticket for ticket in tickets if not ticket.ended)
            self._changed.notify_all()

    def wait(self, ready: Callable[[], bool]) -> None:
        """Return when a condition on a submitted ticket holds; drive until then if nobody else does."""
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

    def _lead(self, ready: Callable[[], bool]) -> None:
        with torch.inference_mode():
            while not ready():
                self._once()
                with self._changed:
                    self._changed.notify_all()
                    if self._batch.idle and not self._waiting and not ready():
                        self._changed.wait(0.1)

    def _once(self) -> None:
        """Let rows in, compute one step, let rows out. What goes wrong is told to everybody who waits."""
        try:
            with self._changed:
                for ticket in [one for one in self._waiting if one.cancelled]:
                    self._waiting.remove(ticket)
                    ticket.end()
                self._batch.admit(self._waiting)
            if not self._batch.idle:
                self._between()
                self._step()
        except BaseException as error:
            with self._changed:
                tickets = [*self._batch.clear(), *self._waiting]
                self._waiting.clear()
            for ticket in tickets:
                ticket.end(error=error)
            if not isinstance(error, Exception):  # Ctrl-C is for this thread; the others hear of it all the same
                raise

    def _step(self) -> None:
        for ticket in [one for one in self._batch.rows if one.cancelled]:
            self._batch.leave(ticket)
            ticket.end()
        if self._batch.idle:
            return
        for ticket, token in self._batch.step():
            if ticket.add(token, token in self._stop_ids):
                self._batch.leave(ticket)
