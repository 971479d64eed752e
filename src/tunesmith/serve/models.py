"""`/v1/models`: bases that may be tuned and asked, and what a project's jobs have made."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import APIRouter
from filelock import FileLock
from sqlalchemy import delete, select

from tunesmith.core.files import make_folder
from tunesmith.exec.queue.control import list_jobs
from tunesmith.jobs.checkpoint import export_checkpoint
from tunesmith.jobs.submit import bring_run
from tunesmith.model.export import find_model
from tunesmith.serve.errors import ApiError, not_found, refused
from tunesmith.serve.server import Caller, Here, Server
from tunesmith.serve.tuned import find_tuned, tuned
from tunesmith.store.schema import models
from tunesmith.store.stores import release

router = APIRouter(prefix="/v1/models")
WHOLE = ".whole"  # marks a folder that everything was brought to


def unknown(name: str) -> ApiError:
    """There is no such model for whoever asks."""
    return not_found(f"The model `{name}` does not exist or you do not have access to it.", "model", "model_not_found")


def finder_of(here: Server, project: str, name: str) -> tuple[str, Callable[[], Any]]:
    """A model's name, and what brings it here and finds it; "" names the only one that there is.

    Raises:
        ApiError: there is no such model for this project.
    """
    if not name:
        names = [str(model["id"]) for model in _all(here, project)]
        if len(names) != 1:
            raise refused(f"model: '' means the only one, and there are {len(names)}.", "model")
        name = names[0]
    if name in here.bases.table:
        base = here.bases.table[name]
        return name, lambda: find_model(base)
    found = find_tuned(here, project, name)
    if found is None:
        raise unknown(name)

    def find() -> Any:
        folder = here.folder / (found.job.id if found.step is None else f"{found.job.id}-step-{found.step}")
        make_folder(here.folder, "models")
        with FileLock(here.folder / f".{folder.name}.lock"):
            if not (folder / WHOLE).exists():
                shutil.rmtree(folder, ignore_errors=True)
                bring_run(here.stores, found.job, found.files, folder)
                if found.step is not None:
                    export_checkpoint(folder, found.step)
                (folder / WHOLE).touch()
        return find_model(str(folder))

    return name, find


def _all(here: Server, project: str) -> Iterator[dict[str, Any]]:
    for name in here.bases.table:
        yield {"id": name, "object": "model", "created": 0, "owned_by": "tunesmith"}
    with here.stores.records.read() as connection:
        published = set(connection.scalars(select(models.c.job).where(models.c.project == project)))
    for job in list_jobs(here.stores.records, project, ["succeeded"], most=10_000):
        if job.id in published and job.details.get("api"):
            yield {"id": tuned(job), "object": "model", "created": int(job.ended or 0), "owned_by": project}


@router.get("")
def list_models(here: Here, key: Caller) -> dict[str, Any]:
    """All that this key may ask."""
    return {"object": "list", "data": list(_all(here, key.project))}


@router.get("/{name:path}")
def retrieve(here: Here, key: Caller, name: str) -> dict[str, Any]:
    """One model."""
    for model in _all(here, key.project):
        if model["id"] == name:
            return model
    raise unknown(name)


@router.delete("/{name:path}")
def delete_model(here: Here, key: Caller, name: str) -> dict[str, Any]:
    """Take a tuned model away; its job stays."""
    if name in here.bases.table:
        raise refused(f"{name} is a base model of this server; its operator decides what it offers.", "model")
    found = find_tuned(here, key.project, name)
    if found is None or found.job.project != key.project:
        raise unknown(name)
    job = found.job
    if found.step is not None:
        raise refused(f"{name} is a checkpoint, which goes with its job. Delete {tuned(job)}.", "model")
    with here.stores.records.write() as connection:
        for id in connection.scalars(select(models.c.id).where(models.c.job == job.id)).all():
            release(connection, f"model:{id}")
            connection.execute(delete(models).where(models.c.id == id))
    here.engines.forget(name)
    shutil.rmtree(here.folder / job.id, ignore_errors=True)
    return {"id": name, "object": "model", "deleted": True}
