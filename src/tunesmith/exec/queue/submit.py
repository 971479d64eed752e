"""Put a job into the queue: once, however often it is sent with one key."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass, field

from sqlalchemy import Connection, func, insert, select

from tunesmith.core.errors import ConfigError, LimitReached
from tunesmith.core.events import Json
from tunesmith.exec.executor import Job
from tunesmith.store.records import Records, now
from tunesmith.store.schema import checkpoints, files, jobs, models, projects
from tunesmith.store.stores import Files, know_project, use

DEFAULT = "default"  # the project of who names none
FRUITLESS = 3  # attempts in a row that bring a job no further, after which it has failed
OPEN = ("queued", "running", "paused")  # states of jobs that have not ended


@dataclass(frozen=True)
class Submission:
    """A job to be done, and how it stands among others.

    Attributes:
        job: what runs; a worker sets the arguments `folder`, `resume` and `allow_inexact` beside its own.
        inputs: files of its folder, in the store already (`keep`).
        label: the name of its folder.
        project: whose it is. Projects take turns.
        priority: higher ones go first, whosever they are.
        most_fruitless: attempts in a row that bring it no further, after which it has failed.
        key: a second submission of the same with the same key, in one project, is the first one.
        details: whatever its submitter wants to find there again.
    """

    job: Job
    inputs: Files = field(default_factory=dict[str, tuple[str, int]])
    label: str = "run"
    project: str = DEFAULT
    priority: int = 0
    most_fruitless: int = FRUITLESS
    key: str | None = None
    details: Json = field(default_factory=dict[str, object])

    def digest(self) -> str:
        """The same for two that ask for the same."""
        values = {**asdict(self), "key": None}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def submit(records: Records, wanted: Submission) -> str:
    """Put a job into the queue; returns its id once it is on the disk.

    Raises:
        ConfigError: the key was used for something else.
        LimitReached: the project has too many jobs that wait, or too much in the store.
        StoreError: the records cannot be reached, or an input was deleted since it was kept.
    """
    with records.write() as connection:
        know_project(connection, wanted.project)
        # On Postgres, too, submissions of one project come one after another, so that its limits are kept.
        project = connection.execute(select(projects).where(projects.c.name == wanted.project).with_for_update()).one()
        if wanted.key is not None and (first := _first(connection, wanted)) is not None:
            return first
        _refuse_too_many(connection, wanted.project, project.most_queued, project.most_bytes)
        id = f"ftjob-{secrets.token_hex(12)}"
        connection.execute(
            insert(jobs).values(
                id=id,
                project=wanted.project,
                label=wanted.label,
                job=asdict(wanted.job),
                inputs=wanted.inputs,
                bytes=sum(size for _, size in wanted.inputs.values()),
                details=wanted.details,
                state="queued",
                wanted="run",
                priority=wanted.priority,
                token=0,
                beats=0,
                lease=0.0,
                fruitless=0,
                most_fruitless=wanted.most_fruitless,
                idempotency_key=wanted.key,
                request=wanted.digest(),
                created=now(),
                sentence="",
            )
        )
        use(connection, f"inputs:{id}", wanted.inputs.values())
    return id


def _first(connection: Connection, wanted: Submission) -> str | None:
    """The job that was submitted with this key."""
    same = (jobs.c.project == wanted.project) & (jobs.c.idempotency_key == wanted.key)
    found = connection.execute(select(jobs.c.id, jobs.c.request).where(same)).one_or_none()
    if found is not None and found.request != wanted.digest():
        raise ConfigError(f"key {wanted.key!r}: it was used for another job, {found.id}. Take a new key for a new job.")
    return None if found is None else found.id


def _refuse_too_many(connection: Connection, project: str, most_queued: int | None, most_bytes: int | None) -> None:
    if most_queued is not None:
        waiting = select(func.count()).where(jobs.c.project == project, jobs.c.state.in_(("queued", "paused")))
        if (count := connection.scalar(waiting) or 0) >= most_queued:
            raise LimitReached(
                f"project {project!r}: {count} jobs wait, and it may have {most_queued}. Wait, cancel some, or raise "
                "the limit: tunesmith limits."
            )
    if most_bytes is not None and (held := bytes_of(connection, project)) > most_bytes:
        raise LimitReached(
            f"project {project!r}: it holds {held:,} bytes, and may hold {most_bytes:,}. Delete files and jobs, then "
            "run tunesmith gc; or raise the limit: tunesmith limits."
        )


def bytes_of(connection: Connection, project: str) -> int:
    """Bytes that a project's records need; what two of them share counts twice."""
    own = (
        select(func.sum(jobs.c.bytes)).where(jobs.c.project == project),
        select(func.sum(files.c.bytes)).where(files.c.project == project),
        select(func.sum(models.c.bytes)).where(models.c.project == project),
        select(func.sum(checkpoints.c.bytes))
        .join(jobs, jobs.c.id == checkpoints.c.job)
        .where(jobs.c.project == project),
    )
    return sum(connection.scalar(statement) or 0 for statement in own)


def set_limits(records: Records, project: str, most_queued: int | None, most_bytes: int | None) -> None:
    """How many jobs of a project may wait, and how many bytes it may hold; None is no limit."""
    with records.write() as connection:
        know_project(connection, project)
        values = {"most_queued": most_queued, "most_bytes": most_bytes}
        connection.execute(projects.update().where(projects.c.name == project).values(**values))
