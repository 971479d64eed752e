"""What the holder of a lease commits: checkpoints on the way, and how its attempt ended.

Each is one transaction, bears being done twice (whoever is cut off while it commits does not know whether it has), and
does nothing for a holder whose token is an earlier one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, delete, insert, select, update

from tunesmith.core.errors import LeaseLost
from tunesmith.core.events import Json
from tunesmith.exec.queue.lease import GAP, Lease, Said, fence, write_events
from tunesmith.store.records import Records, as_text, now
from tunesmith.store.schema import attempts, checkpoints, jobs, models
from tunesmith.store.stores import Files, as_files, release, upsert, use

CHECKPOINTS = 3  # of a job that are kept: the last one, and some before it where that is damaged
FURTHER = -1  # of `fruitless`: this attempt has brought the job further, so that its crash will not count


@dataclass(frozen=True)
class Ending:
    """How an attempt ended.

    Attributes:
        outcome: `succeeded`; `failed`, for a reason that another attempt would meet again; `crashed`, for one that it
            may not; `stopped`, since somebody wanted that; `released`, without having worked on it.
        sentence: why, for people.
        files: what a success publishes, in the store already.
        result: what the job made, or what its failure was of.
        log: the last lines of what it printed.
    """

    outcome: Literal["succeeded", "failed", "crashed", "stopped", "released"]
    sentence: str = ""
    files: Files | None = None
    result: Json | None = None
    log: str = ""


def commit_checkpoint(records: Records, lease: Lease, step: int, files: Files, said: Sequence[Said] = ()) -> None:
    """Write that the job can go on from here on any machine.

    Args:
        records: where to.
        lease: of the job.
        step: that was reached.
        files: of the job's folder, in the store already.
        said: events that belong to it.

    Raises:
        LeaseLost: another has taken the job over.
        StoreError: a file was deleted from the store meanwhile, or the records cannot be reached.
    """
    with records.write() as connection:
        fence(connection, lease)
        before = _steps(connection, lease.id)
        values = {"token": lease.token, "files": files, "bytes": _bytes(files), "created": now()}
        upsert(connection, checkpoints, {"job": lease.id, "step": step, **values}, ["job", "step"], values)
        use(connection, f"checkpoint:{lease.id}:{step}", files.values())
        later = [other for other in before if other > step]  # of a way that the job has left
        old = [other for other in before if other < step][CHECKPOINTS - 1 :]
        for other in (*later, *old):
            drop_checkpoint(connection, lease.id, other)
        if step > max(before, default=-1):
            connection.execute(update(jobs).where(jobs.c.id == lease.id).values(fruitless=FURTHER))
        write_events(connection, lease, said)


def drop_checkpoint(connection: Connection, job: str, step: int) -> None:
    """A checkpoint that nobody goes on from any more."""
    connection.execute(delete(checkpoints).where(checkpoints.c.job == job, checkpoints.c.step == step))
    release(connection, f"checkpoint:{job}:{step}")


def read_checkpoints(records: Records, job: str) -> list[tuple[int, Files]]:
    """The checkpoints of a job, the last one first."""
    with records.read() as connection:
        rows = connection.execute(
            select(checkpoints.c.step, checkpoints.c.files)
            .where(checkpoints.c.job == job)
            .order_by(checkpoints.c.step.desc())
        ).all()
    return [(row.step, as_files(row.files)) for row in rows]


def end(records: Records, lease: Lease, ending: Ending, said: Sequence[Said] = ()) -> str:
    """Write how an attempt ended, and what becomes of the job; returns its state.

    A success is published here: model, state and last events are one transaction, and a job has one model.

    Raises:
        LeaseLost, StoreError: as `commit_checkpoint`.
    """
    with records.write() as connection:
        try:
            row = fence(connection, lease)
        except LeaseLost:
            if (state := _ended_before(connection, lease)) is None:
                raise
            return state
        state, sentence = _becomes(row, ending)
        write_events(connection, lease, said)
        fruitless = max(0, row.fruitless + (ending.outcome == "crashed"))
        values: dict[str, Any] = {"state": state, "sentence": as_text(sentence), "fruitless": fruitless}
        values["wanted"] = "run"
        if state in ("succeeded", "failed", "cancelled"):
            values |= {"ended": now(), "result": ending.result}
        if state == "succeeded":
            _publish(connection, row, ending.files or {})
        connection.execute(update(jobs).where(jobs.c.id == lease.id).values(**values))
        _close_attempt(connection, lease.id, lease.token, ending.outcome, ending.sentence, ending.log)
    return state


def _becomes(row: Any, ending: Ending) -> tuple[str, str]:
    """The state of a job after an attempt, and the sentence beside it. What people wanted comes first."""
    if row.wanted == "cancel":
        return "cancelled", ""
    if ending.outcome in ("succeeded", "failed"):
        return ending.outcome, ending.sentence
    if ending.outcome == "crashed" and row.fruitless + 1 >= row.most_fruitless:
        return "failed", given_up(row.fruitless + 1, ending.sentence)
    return ("paused" if row.wanted == "pause" else "queued"), ending.sentence


def given_up(times: int, sentence: str) -> str:
    """Why a job is not tried again."""
    return (
        f"{times} attempts in a row brought it no further, the last one since: {sentence} Mend that, then go on with: "
        "tunesmith resume."
    )


def take_back(records: Records, job: str, token: int, beats: int) -> str | None:
    """End the lease of a holder that is silent; returns the job's state, or None if it was not silent after all.

    Who had to wait for the database does not know whether the holder could have reached it.
    """
    asked = time.monotonic()
    with records.write() as connection:
        same = (jobs.c.id == job) & (jobs.c.token == token) & (jobs.c.beats == beats) & (jobs.c.state == "running")
        row = connection.execute(update(jobs).where(same).values(beats=beats + 1).returning(jobs)).one_or_none()
        if row is None or time.monotonic() - asked > row.lease * GAP:
            return None
        why = f"worker {row.worker} fell silent (it was killed, cut off, or its machine stood still)."
        state, sentence = _becomes(row, Ending("crashed", why))
        values: dict[str, Any] = {"state": state, "sentence": sentence, "wanted": "run"}
        if state in ("failed", "cancelled"):
            values["ended"] = now()
        connection.execute(update(jobs).where(jobs.c.id == job).values(**values, fruitless=row.fruitless + 1))
        _close_attempt(connection, job, token, "silent", why, "")
    return state


def _publish(connection: Connection, row: Any, files: Files) -> None:
    id = f"model-{secrets.token_hex(12)}"
    connection.execute(
        insert(models).values(id=id, job=row.id, project=row.project, files=files, bytes=_bytes(files), created=now())
    )
    use(connection, f"model:{id}", files.values())


def _close_attempt(connection: Connection, job: str, token: int, outcome: str, sentence: str, log: str) -> None:
    this = (attempts.c.job == job) & (attempts.c.token == token)
    values = {"ended": now(), "outcome": outcome, "sentence": as_text(sentence), "log": as_text(log)}
    connection.execute(update(attempts).where(this).values(**values))


def _ended_before(connection: Connection, lease: Lease) -> str | None:
    """The job's state, if this very attempt was ended by its holder already; None if another took it over."""
    this = (attempts.c.job == lease.id) & (attempts.c.token == lease.token)
    outcome = connection.scalar(select(attempts.c.outcome).where(this))
    if outcome in (None, "silent"):
        return None
    return connection.scalar(select(jobs.c.state).where(jobs.c.id == lease.id))


def _steps(connection: Connection, job: str) -> list[int]:
    """Steps of a job's checkpoints, the last one first."""
    found = select(checkpoints.c.step).where(checkpoints.c.job == job).order_by(checkpoints.c.step.desc())
    return list(connection.scalars(found))


def _bytes(files: Files) -> int:
    return sum(size for _, size in files.values())
