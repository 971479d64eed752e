"""Tuned models by their names: whose job has made one, and who may ask it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.exec.queue.commit import read_checkpoints
from tunesmith.exec.queue.control import JobRecord, find_job, read_model
from tunesmith.serve.names import job_of, tuned_name
from tunesmith.serve.server import Server
from tunesmith.store.records import Records
from tunesmith.store.schema import permissions
from tunesmith.store.stores import Files


def tuned(job: JobRecord, step: int | None = None) -> str:
    """The name of what a job makes."""
    return tuned_name(job.details["root"], job.project, job.details["suffix"], job.id, step)


@dataclass(frozen=True)
class Tuned:
    """What a job has made.

    Attributes:
        job: that has made it.
        files: the model's, or those of the checkpoint.
        step: of the checkpoint; None for the model.
    """

    job: JobRecord
    files: Files
    step: int | None


def find_tuned(here: Server, project: str, name: str) -> Tuned | None:
    """The model of a name, or the checkpoint; None if no job of the project has made it, or it was deleted."""
    known = job_of(name)
    if known is None:
        return None
    try:
        job = find_job(here.stores.records, known[0])
    except (MissingError, ConfigError):
        return None
    if not job.details.get("api") or tuned(job, known[1]) != name:
        return None
    if job.project != project and not is_shared(here.stores.records, name, project):
        return None
    published, step = read_model(here.stores.records, job.id), known[1]
    if step is None or (published is not None and step == job.step):  # the last checkpoint is the model
        return None if published is None else Tuned(job, published[1], None)
    kept = dict(read_checkpoints(here.stores.records, job.id)).get(step)
    return None if kept is None else Tuned(job, kept, step)


def is_shared(records: Records, name: str, project: str) -> bool:
    """Whether a project may ask a model that is another's."""
    shared = (permissions.c.model == name) & (permissions.c.project == project)
    with records.read() as connection:
        return connection.scalar(select(permissions.c.id).where(shared)) is not None
