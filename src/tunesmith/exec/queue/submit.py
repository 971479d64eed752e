"""Put a job into the queue: once, however often it is sent with one key."""

from __future__ import annotations

import hashlib
import json
import re
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
PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
    refuse_odd_names(wanted)
    with records.write() as connection:
        know_project(connection, wanted.project)
        # On Postgres, too, submissions of one project come one after another, so that its limits are kept.
        project = connection.execute(select(projects).where(projects.c.name == wanted.project).with_for_update()).one()
        if wanted.key is not None and (first := _first(connection, wanted)) is not None:
            return first
        size = sum(size for _, size in wanted.inputs.values())
        refuse_too_much(connection, wanted.project, project.most_queued, project.most_bytes, size)
        id = f"ftjob-{secrets.token_hex(12)}"
        connection.execute(
            insert(jobs).values(
                id=id,
                project=wanted.project,
                label=wanted.label,
                job=asdict(wanted.job),
                inputs=wanted.inputs,
                bytes=size,
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


def refuse_odd_names(wanted: Submission) -> None:
    """Names that a database, a folder or a person could not bear.

    Raises:
        ConfigError: it says which.
    """
    if not PROJECT.fullmatch(wanted.project):
        raise ConfigError(f"project {wanted.project!r}: must be letters, digits, dots and dashes, at most 64.")
    if len(wanted.label) > 100 or not wanted.label or wanted.label.startswith(".") or "/" in wanted.label:
        raise ConfigError(f"name {wanted.label!r}: must be the name of a folder, of at most 100 characters.")
    if wanted.key is not None and not 0 < len(wanted.key) <= 255:
        raise ConfigError(f"key {wanted.key[:40]!r}: must have 1 to 255 characters.")


def refuse_too_much(
    connection: Connection, project: str, most_queued: int | None, most_bytes: int | None, size: int
) -> None:
    """Keep a project within its limits, with a job of so many bytes more.

    Raises:
        LimitReached: it says what it has.
    """
    if most_queued is not None:
        waiting = select(func.count()).where(jobs.c.project == project, jobs.c.state.in_(("queued", "paused")))
        if (count := connection.scalar(waiting) or 0) >= most_queued:
            raise LimitReached(
                f"project {project!r}: {count} jobs wait, and it may have {most_queued}. Wait, cancel some, or raise "
                "the limit: tunesmith limits."
            )
    if most_bytes is not None and (held := bytes_of(connection, project)) + size > most_bytes:
        raise LimitReached(
            f"project {project!r}: it holds {held:,} bytes, and may hold {most_bytes:,}; this job needs {size:,} more. "
            "Delete jobs (tunesmith delete), or raise the limit (tunesmith limits)."
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


def read_limits(records: Records, project: str) -> tuple[int | None, int | None]:
    """How many jobs of a project may wait, and how many bytes it may hold; None is no limit."""
    with records.read() as connection:
        wanted = select(projects.c.most_queued, projects.c.most_bytes).where(projects.c.name == project)
        row = connection.execute(wanted).one_or_none()
    return (None, None) if row is None else (row.most_queued, row.most_bytes)


def set_limits(records: Records, project: str, most_queued: int | None, most_bytes: int | None) -> None:
    """How many jobs of a project may wait, and how many bytes it may hold; None is no limit."""
    with records.write() as connection:
        know_project(connection, project)
        values = {"most_queued": most_queued, "most_bytes": most_bytes}
        connection.execute(projects.update().where(projects.c.name == project).values(**values))
