"""Tuned models by their names: whose job has made one, and who may ask it."""

from __future__ import annotations

from sqlalchemy import select

from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.exec.queue.control import JobRecord, find_job, read_model
from tunesmith.serve.names import job_of, tuned_name
from tunesmith.serve.server import Server
from tunesmith.store.records import Records
from tunesmith.store.schema import permissions
from tunesmith.store.stores import Files


def tuned(job: JobRecord, step: int | None = None) -> str:
    """The name of what a job makes."""
    return tuned_name(job.details["root"], job.project, job.details["suffix"], job.id, step)


def find_tuned(here: Server, project: str, name: str) -> tuple[JobRecord, Files] | None:
    """The job that has made a model, and its files; None if no job of the project has, or it was deleted."""
    known = job_of(name)
    if known is None:
        return None
    try:
        job = find_job(here.stores.records, known[0])
    except (MissingError, ConfigError):
        return None
    found = read_model(here.stores.records, job.id)
    mine = job.project == project or is_shared(here.stores.records, name, project)
    mine = mine and job.details.get("api") and found is not None
    last = known[1] is None or known[1] == job.step  # the last checkpoint is the model
    return (job, found[1]) if mine and found is not None and last and tuned(job, known[1]) == name else None


def is_shared(records: Records, name: str, project: str) -> bool:
    """Whether a project may ask a model that is another's."""
    shared = (permissions.c.model == name) & (permissions.c.project == project)
    with records.read() as connection:
        return connection.scalar(select(permissions.c.id).where(shared)) is not None
