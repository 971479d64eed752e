"""What people see of jobs and do with them, from wherever the records can be reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, update

from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.core.events import Json
from tunesmith.exec.queue.lease import Said
from tunesmith.store.records import Records, now
from tunesmith.store.schema import attempts, checkpoints, events, jobs, models
from tunesmith.store.stores import Files, as_files

STATES = ("queued", "running", "paused", "succeeded", "failed", "cancelled")
PREFIX = "ftjob-"
ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class JobRecord:
    """A job as it stands.

    Attributes:
        id, number, label, project, priority: as it was submitted; numbers count up.
        state: one of `STATES`.
        wanted: `run`, or what a running one was asked for and has not done yet: `pause`, `cancel`.
        worker: who has worked on it last.
        attempts: times that it was claimed.
        fruitless: attempts in a row that brought it no further.
        created, started, ended: Unix seconds.
        sentence: why it stands so, where there is something to say.
        step: of its last committed checkpoint.
        job, inputs, details: what runs, with which files; what its submitter wants to find again.
        result: what it made.
    """

    id: str
    number: int
    label: str
    project: str
    priority: int
    state: str
    wanted: str
    worker: str | None
    attempts: int
    fruitless: int
    created: float
    started: float | None
    ended: float | None
    sentence: str
    step: int | None
    job: Json
    inputs: Files
    details: Json
    result: Json | None


@dataclass(frozen=True)
class Attempt:
    """One claim of a job; `log` holds the last lines that its processes printed."""

    token: int
    worker: str
    started: float
    ended: float | None
    outcome: str | None
    sentence: str | None
    log: str | None


def find_job(records: Records, id: str) -> JobRecord:
    """The job of an id, or of the beginning of one that fits no other.

    Raises:
        MissingError: there is none.
        ConfigError: there are several.
    """
    with records.read() as connection:
        return _record(connection, _row(connection, id))


def list_jobs(
    records: Records, project: str | None = None, states: Sequence[str] = (), most: int = 100
) -> list[JobRecord]:
    """The latest jobs, the last one first."""
    wanted = select(jobs).order_by(jobs.c.number.desc()).limit(most)
    if project is not None:
        wanted = wanted.where(jobs.c.project == project)
    if states:
        wanted = wanted.where(jobs.c.state.in_(states))
    with records.read() as connection:
        return [_record(connection, row) for row in connection.execute(wanted).all()]


def _row(connection: Connection, id: str, lock: bool = False) -> Any:
    wanted = select(jobs).with_for_update() if lock else select(jobs)
    if (row := connection.execute(wanted.where(jobs.c.id == id)).one_or_none()) is not None:
        return row
    start = id if id.startswith(PREFIX) else PREFIX + id
    found = connection.execute(wanted.where(jobs.c.id.startswith(start, autoescape=True)).limit(2)).all()
    if not found or len(start) < len(PREFIX) + 3:
        raise MissingError(f"job {id!r}: there is none. `tunesmith jobs` lists them.")
    if len(found) > 1:
        raise ConfigError(f"job {id!r}: several begin so. Write more of it; `tunesmith jobs` lists them.")
    return found[0]


def locked_row(connection: Connection, id: str) -> Any:
    """A job's row, which nobody else changes until the transaction ends; `id` as `find_job` takes it."""
    return _row(connection, id, lock=True)


def _record(connection: Connection, row: Any) -> JobRecord:
    tries = connection.scalar(select(func.count()).where(attempts.c.job == row.id)) or 0
    step = connection.scalar(select(func.max(checkpoints.c.step)).where(checkpoints.c.job == row.id))
    return JobRecord(
        row.id, row.number, row.label, row.project, row.priority, row.state, row.wanted, row.worker, tries,
        max(0, row.fruitless), row.created, row.started, row.ended, row.sentence, step, row.job, as_files(row.inputs),
        row.details, row.result,
    )  # fmt: skip


def cancel(records: Records, id: str) -> JobRecord:
    """End a job for good: at once where nobody works on it, else as soon as its worker hears of it. A failed one too.

    Raises:
        ConfigError: it has succeeded already.
    """
    with records.write() as connection:
        row = locked_row(connection, id)
        if row.state == "succeeded":
            raise ConfigError(f"{row.id}: it is {row.state} already.")
        if row.state == "running":
            _set(connection, row, wanted="cancel")
        elif row.state != "cancelled":
            _set(connection, row, state="cancelled", ended=now(), sentence="")
        return _record(connection, _row(connection, row.id))


def pause(records: Records, id: str) -> JobRecord:
    """Let a job rest: it goes on from its last checkpoint when it is resumed.

    Raises:
        ConfigError: it has ended already, or shall be cancelled.
    """
    with records.write() as connection:
        row = locked_row(connection, id)
        if row.state in ENDED or row.wanted == "cancel":
            raise ConfigError(f"{row.id}: it is {'about to be cancelled' if row.state == 'running' else row.state}.")
        if row.state == "running":
            _set(connection, row, wanted="pause")
        else:
            _set(connection, row, state="paused")
        return _record(connection, _row(connection, row.id))


def resume(records: Records, id: str) -> JobRecord:
    """Let a paused or failed job go on from its last checkpoint.

    Raises:
        ConfigError: it has succeeded, or was cancelled.
    """
    with records.write() as connection:
        row = locked_row(connection, id)
        if row.state in ("succeeded", "cancelled") or row.wanted == "cancel":
            raise ConfigError(f"{row.id}: it is {row.state}, and cannot go on. Submit it anew.")
        if row.state == "running":
            _set(connection, row, wanted="run")
        elif row.state in ("paused", "failed"):
            _set(connection, row, state="queued", fruitless=0, sentence="", ended=None)
        return _record(connection, _row(connection, row.id))


def _set(connection: Connection, row: Any, **values: Any) -> None:
    connection.execute(update(jobs).where(jobs.c.number == row.number).values(**values))


def read_said(records: Records, id: str, after: int = 0, most: int = 1000) -> list[Said]:
    """What a job has said, from the event behind the number `after`."""
    wanted = select(events).where(events.c.job == id, events.c.number > after).order_by(events.c.number).limit(most)
    with records.read() as connection:
        return [Said(row.number, row.time, row.body) for row in connection.execute(wanted)]


def read_attempts(records: Records, id: str) -> list[Attempt]:
    """The claims of a job, in their order."""
    wanted = select(attempts).where(attempts.c.job == id).order_by(attempts.c.token)
    with records.read() as connection:
        return [
            Attempt(row.token, row.worker, row.started, row.ended, row.outcome, row.sentence, row.log)
            for row in connection.execute(wanted)
        ]


def read_model(records: Records, id: str) -> tuple[str, Files] | None:
    """The id and the files of what a job has published; None if it has published nothing."""
    with records.read() as connection:
        row = connection.execute(select(models).where(models.c.job == id)).one_or_none()
    return None if row is None else (row.id, as_files(row.files))
