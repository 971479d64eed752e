"""See a job through: hear what it says, stop it when somebody wants that, try it again smaller where there is no room.

What the parent of a run has to say (why an attempt ended, that another begins) stands in a file of its own, so that
parent and child never write to the same one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith.core import events
from tunesmith.core.errors import JobError, OutOfMemory, Stopped, TunesmithError
from tunesmith.core.events import Json, Report, silent
from tunesmith.exec.executor import Executor, Job, Outcome, Running

PATIENCE = 600.0  # seconds that a job has to come to an end, once it was asked to


def supervise(
    executor: Executor,
    job: Job,
    folder: Path,
    hear: Report,
    note: Report = silent,
    cancelled: Callable[[], bool] = lambda: False,
    patience: float = PATIENCE,
) -> Outcome:
    """Run a job to its end, in as many attempts as that takes.

    Args:
        executor: where it runs.
        job: the work.
        folder: what belongs to it.
        hear: hears each event.
        note: hears what an attempt leaves to be written down beside what the job wrote itself.
        cancelled: whether somebody, in whatever thread, wants the job to stop.
        patience: seconds from then until it is killed.

    Returns:
        How the last attempt ended.

    Raises:
        KeyboardInterrupt: the user interrupted a job that cannot be stopped, or twice; it was killed.
    """
    while True:
        running = executor.start(job, folder)
        try:
            doing, stopped = _follow(running, job, hear, cancelled, patience)
            outcome = running.outcome()
        except BaseException:
            running.kill()
            raise
        if stopped or not isinstance(outcome, events.OutOfMemory) or job.smaller is None:
            return outcome
        if doing != job.shrinks:
            advice = "Take a smaller base model, lower evaluate.rows or data.max_length, or close what else runs here."
            return events.Failed(f"{outcome.sentence} It was {doing}. {advice}", "out of memory")
        sentence = f"{outcome.sentence} The run goes on from its last checkpoint with smaller micro-batches."
        for listener in (note, hear):
            listener(events.Warning(sentence))
        job = replace(job, arguments={**job.arguments, **job.smaller})


def _follow(
    running: Running, job: Job, hear: Report, cancelled: Callable[[], bool], patience: float
) -> tuple[str, bool]:
    """Pass on what a job says, to its end; the phase that it was in, and whether it was to stop."""
    doing, asked_at = "starting", 0.0
    said = running.events()
    while True:
        try:
            event = next(said, _OVER)
            if event is _OVER:
                return doing, bool(asked_at)
            if isinstance(event, events.Phase):
                doing = event.name
            if event is not None:
                hear(event)
            if cancelled() and not asked_at:
                running.stop()
                asked_at = time.monotonic()
            if asked_at and time.monotonic() - asked_at > patience:
                running.kill()
                return doing, True
        except KeyboardInterrupt:
            if not job.stoppable or asked_at:  # the next interruption ends it at once
                raise
            running.stop()
            asked_at = time.monotonic()
            hear(events.Stopping())
            said = running.events()  # a generator that was interrupted is no more


_OVER: Any = object()


def result_of(outcome: Outcome) -> Json:
    """What a job made.

    Raises:
        TunesmithError: it failed with a sentence for the user.
        OutOfMemory: there was no room for it.
        JobError: it ended without a word; the message names the log.
        Stopped: it came to an end that it can be resumed from.
    """
    match outcome:
        case events.Done(result):
            return result
        case events.Stopped(sentence):
            raise Stopped(sentence)
        case events.OutOfMemory(sentence):
            raise OutOfMemory(sentence)
        case events.Failed(sentence, error):
            raise JobError(sentence) if error else TunesmithError(sentence)
