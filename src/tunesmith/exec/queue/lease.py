"""The lease of a job: who claims it, how long it holds, and what its holder may write.

A job is worked on by the holder of its lease. Each claim counts the job's `token` up, and whatever a holder writes is
written in one transaction that first asks for its token (a fencing token: M. Kleppmann, "How to do distributed
locking", 2016). A holder that was stopped and wakes up after another has taken over can write nothing any more.

A holder lives as long as its `beats` move. Whoever waits for a lease to end measures the silence by a steady clock of
its own; the clocks of two machines are never compared.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from tunesmith.core.errors import LeaseLost
from tunesmith.core.events import Json
from tunesmith.exec.executor import Job
from tunesmith.store.records import Records, now
from tunesmith.store.schema import attempts, events, jobs, projects
from tunesmith.store.stores import Files, as_files, upsert

GAP = 0.25  # of a lease: the most that the time between two looks counts


@dataclass(frozen=True)
class Lease:
    """The right to work on a job.

    Attributes:
        id: of the job.
        token: of this claim.
        project, label, job, inputs: as they were submitted.
        next_event: the number of the first event that this holder may write.
    """

    id: str
    token: int
    project: str
    label: str
    job: Job
    inputs: Files
    next_event: int


@dataclass(frozen=True)
class Said:
    """An event of a job, as records keep it."""

    number: int
    time: float
    body: Json


def claim(records: Records, worker: str, seconds: float) -> Lease | None:
    """Take the lease of the job whose turn it is; None if none waits.

    Args:
        records: where jobs wait.
        worker: who takes it, for people.
        seconds: of silence after which others may take it.
    """
    if not any_queued(records):  # as most often, and nobody need be locked out to see that
        return None
    with records.write() as connection:
        number = _whose_turn(connection)
        if number is None:
            return None
        values = {"state": "running", "token": jobs.c.token + 1, "beats": 0, "lease": seconds, "worker": worker}
        values["sentence"] = ""
        taken = connection.execute(
            update(jobs)
            .where(jobs.c.number == number)
            .values(**values, started=func.coalesce(jobs.c.started, now()))
            .returning(jobs)
        ).one()
        last = select(func.coalesce(func.max(projects.c.served), 0) + 1).scalar_subquery()
        connection.execute(update(projects).where(projects.c.name == taken.project).values(served=last))
        connection.execute(insert(attempts).values(job=taken.id, token=taken.token, worker=worker, started=now()))
        number = connection.scalar(select(func.max(events.c.number)).where(events.c.job == taken.id)) or 0
    return Lease(
        taken.id, taken.token, taken.project, taken.label, Job(**taken.job), as_files(taken.inputs), number + 1
    )


def any_queued(records: Records) -> bool:
    """Whether a job waits."""
    with records.read() as connection:
        return connection.scalar(select(jobs.c.number).where(jobs.c.state == "queued").limit(1)) is not None


def _whose_turn(connection: Connection) -> int | None:
    """The number of the job to start: of the highest priority, of the project with the fewest running jobs (of two, of
    the one that was served the longest ago), the oldest. Each step reads one entry of an index.
    """
    waits = jobs.c.state == "queued"
    top = connection.scalar(select(func.max(jobs.c.priority)).where(waits))
    if top is None:
        return None
    running = {
        row.project: row.count
        for row in connection.execute(
            select(jobs.c.project, func.count().label("count"))
            .where(jobs.c.state == "running")
            .group_by(jobs.c.project)
        )
    }
    waiting = _waiting_projects(connection, top)
    served = select(projects.c.name, projects.c.served).where(projects.c.name.in_(waiting))
    turns = sorted((running.get(row.name, 0), row.served, row.name) for row in connection.execute(served))
    for _, _, project in turns:
        oldest = (
            select(jobs.c.number)
            .where(waits, jobs.c.priority == top, jobs.c.project == project)
            .order_by(jobs.c.number)
            .limit(1)
            .with_for_update(skip_locked=True)  # on Postgres: whom another is about to take is passed over
        )
        if (number := connection.scalar(oldest)) is not None:
            return number
    return None


def _waiting_projects(connection: Connection, priority: int) -> list[str]:
    """Projects with jobs that wait, each found by one step in the index, however many jobs it has."""
    here = (jobs.c.state == "queued") & (jobs.c.priority == priority)
    found: Any = select(func.min(jobs.c.project).label("project")).where(here).cte("waiting", recursive=True)
    later = select(func.min(jobs.c.project)).where(here, jobs.c.project > found.c.project).scalar_subquery()
    found = found.union_all(select(later).where(found.c.project.is_not(None)))
    return [row.project for row in connection.execute(select(found.c.project)) if row.project is not None]


def beat(records: Records, held: Sequence[tuple[Lease, Sequence[Said]]]) -> list[str | None]:
    """Say that these leases are held, and write what their jobs have said.

    Returns:
        For each what people want of its job (`run`, `pause` or `cancel`); None: the lease is lost.
    """
    wanted: list[str | None] = []
    with records.write() as connection:
        for lease, said in held:
            try:
                wanted.append(fence(connection, lease).wanted)
            except LeaseLost:
                wanted.append(None)
            else:
                write_events(connection, lease, said)
    return wanted


def fence(connection: Connection, lease: Lease) -> Any:
    """The job's record, changed by nobody else until the transaction ends; the first thing that any commit does.

    Raises:
        LeaseLost: another has claimed it, or it has ended.
    """
    held = (jobs.c.id == lease.id) & (jobs.c.token == lease.token) & (jobs.c.state == "running")
    row = connection.execute(update(jobs).where(held).values(beats=jobs.c.beats + 1).returning(jobs)).one_or_none()
    if row is None:
        raise LeaseLost(f"{lease.id}: another worker has taken this job over.")
    return row


def write_events(connection: Connection, lease: Lease, said: Sequence[Said]) -> None:
    """Write what a job has said; what is there from an earlier try stays as it is."""
    for one in said:
        values = {"job": lease.id, "number": one.number, "token": lease.token, "time": one.time}
        row = {**values, "kind": one.body["kind"], "body": one.body}
        upsert(connection, events, row, ["job", "number"], None)


class Watch:
    """Leases, and for how long each has been silent, by the steady clock of who looks.

    Time in which nobody looked counts for little: whoever could not reach the records, or stood still, does not know
    whether others could.
    """

    def __init__(self) -> None:
        self._looked = time.monotonic()
        self._seen: dict[tuple[str, int], tuple[int, float]] = {}  # id and token -> beats, seconds of silence

    def silent(self, records: Records) -> list[tuple[str, int, int]]:
        """Jobs whose holder has said nothing for as long as its lease lasts: id, token, beats."""
        with records.read() as connection:
            running = connection.execute(
                select(jobs.c.id, jobs.c.token, jobs.c.beats, jobs.c.lease).where(jobs.c.state == "running")
            ).all()
        before, clock = self._seen, time.monotonic()
        passed, self._looked, self._seen = clock - self._looked, clock, {}
        found: list[tuple[str, int, int]] = []
        for row in running:
            beats, silence = before.get((row.id, row.token), (None, 0.0))
            silence = silence + min(passed, row.lease * GAP) if beats == row.beats else 0.0
            self._seen[row.id, row.token] = (row.beats, silence)
            if silence >= row.lease:
                found.append((row.id, row.token, row.beats))
        return found
