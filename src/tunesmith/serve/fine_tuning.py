"""`/v1/fine_tuning/jobs`: a job of the queue, in the words of OpenAI's API."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, Field

from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.data.source import SUFFIXES
from tunesmith.exec.queue import control
from tunesmith.exec.queue.commit import read_checkpoints
from tunesmith.exec.queue.control import JobRecord, find_job, list_jobs, read_said
from tunesmith.exec.queue.lease import Said
from tunesmith.exec.queue.submit import Submission, submit
from tunesmith.jobs.start import finetuning
from tunesmith.jobs.submit import config_input, gather
from tunesmith.serve.errors import not_found, refused
from tunesmith.serve.files import RESULTS, find_file
from tunesmith.serve.learning import Hyperparameters, Method, described, learning_of
from tunesmith.serve.recipes import going_on, recipe_of, rows_of
from tunesmith.serve.results import ALL, events_of, finish_of, steps_of
from tunesmith.serve.server import LEAST_ROWS, Caller, Here, Server, page_of
from tunesmith.serve.tuned import find_tuned, tuned
from tunesmith.store.records import now
from tunesmith.store.stores import Files, keep
from tunesmith.track.trackers import TrackConfig
from tunesmith.train.recipe import Recipe

router = APIRouter(prefix="/v1/fine_tuning/jobs")
SUPERVISED = {"type": "supervised", "hyperparameters": {}}  # what jobs were before they said how they learn
CODES = {"TooFewRows": "invalid_n_examples", "DataError": "invalid_training_file"}


class Wandb(BaseModel):
    """A project on Weights & Biases."""

    project: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^/]+$")]
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    entity: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^/]+$")] | None = None
    tags: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=50)] | None = None


class Integration(BaseModel):
    """Where a job's metrics go, too."""

    type: Literal["wandb"]
    wandb: Wandb

    def tracking(self) -> TrackConfig:
        """The same as a recipe has it."""
        asked = self.wandb
        project = f"{asked.entity}/{asked.project}" if asked.entity else asked.project
        return TrackConfig(wandb=project, name=asked.name, tags=asked.tags or [])


class Create(BaseModel):
    """A request for a job. What else a client sends is passed over, as OpenAI does."""

    model: str
    training_file: str
    validation_file: str | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^:/\s]+$")] | None = None
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = None
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = None
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = None
    tunesmith: dict[str, Any] | None = None


@router.post("")
def create(
    here: Here, key: Caller, body: Create, idempotency_key: Annotated[str | None, Header()] = None
) -> dict[str, Any]:
    """Queue a fine-tuning."""
    if body.metadata is not None and len(body.metadata) > 16:
        raise refused("metadata may have at most 16 keys.", "metadata")
    refuse_integrations(here, body.integrations or [])
    learning = learning_of(here, key, body.method, body.hyperparameters)
    root, start, changes, brought = _beginning(here, key.project, body.model)
    given = {
        part: find_file(here.stores, key.project, id, name)
        for part, name, id in (
            ("train", "training_file", body.training_file), ("validation", "validation_file", body.validation_file)
        )
        if id is not None
    }  # fmt: skip
    rows, base = rows_of(here.stores.blobs, given["train"]), here.bases.table.get(root, "")
    recipe, paths = gather(recipe_of(start, learning, body.seed or 0, body.tunesmith, rows, base))
    inputs = {f"inputs/{part}/rows{_suffix(row.name)}": (row.sha256, row.bytes) for part, row in given.items()}
    if body.integrations:
        recipe = recipe.model_copy(update={"track": body.integrations[0].tracking()})
    recipe = _with_files(recipe, {name.split("/")[1]: name for name in inputs}, changes)
    inputs |= brought | keep(here.stores, paths) | config_input(here.stores, recipe)
    job = finetuning(recipe, {"until": "exported", "least_rows": LEAST_ROWS})
    multiplier = learning.asked.learning_rate_multiplier
    details = body.model_dump(exclude={"tunesmith", "method"}) | {
        "api": True, "root": root, "seed": recipe.seed, "n_epochs": math.ceil(recipe.optim.epochs),
        "batch_size": recipe.optim.batch_size,
        "learning_rate_multiplier": 1.0 if multiplier == "auto" else multiplier, "learning": learning.told,
    }  # fmt: skip
    wanted = Submission(job, inputs, "run", key.project, key=idempotency_key, details=details)
    return describe(here, find_job(here.stores.records, submit(here.stores.records, wanted)))


def refuse_integrations(here: Server, asked: list[Integration]) -> None:
    """Metrics leave the machine only where the operator lets them, and to one place.

    Raises:
        ApiError: they may not.
    """
    for one in asked:
        if one.type not in here.integrations:
            message = f"The operator of this server has not set up {one.type}: --allow-integration {one.type}."
            raise refused(message, "integrations")
    if len(asked) > 1:
        raise refused("A job can have one integration here.", "integrations")


def _beginning(here: Server, project: str, name: str) -> tuple[str, dict[str, Any], dict[str, Any], Files]:
    """What a job begins with: the name of the base, how its recipe begins, what changes in it later, and files.

    Raises:
        ApiError: there is no such model to be tuned.
    """
    if name in here.bases.table:
        return name, {"model": {"base": here.bases.table[name]}, "method": {"type": "lora"}}, {}, {}
    found = find_tuned(here, project, name)
    if found is None:
        known = ", ".join(here.bases.table)
        message = f"Model {name} is not available for fine-tuning here. Available: {known}, and what your jobs made."
        raise refused(message, "model", "model_not_available")
    if found.step is not None:
        raise refused(f"{name} is a checkpoint: training goes on from what a job has published.", "model")
    return found.job.details["root"], *going_on(here, found.job, found.files)


def _with_files(recipe: Recipe, files: dict[str, str], changes: dict[str, Any]) -> Recipe:
    """The recipe with the files of the job's folder, and the model that it goes on from."""
    validation = files.get("validation", recipe.data.validation)
    data = recipe.data.model_copy(update={"train": files["train"], "validation": validation})
    method = {name: value for name, value in changes.items() if name == "continue_from"}
    model = {name: value for name, value in changes.items() if name != "continue_from"}
    return recipe.model_copy(
        update={
            "data": data,
            "model": recipe.model.model_copy(update=model),
            "method": recipe.method.model_copy(update=method),
        }
    )


def _suffix(name: str) -> str:
    ending = "." + name.rpartition(".")[2].lower()
    return ending if ending in SUFFIXES else ".jsonl"


def describe(here: Server, job: JobRecord, said: list[Said] | None = None) -> dict[str, Any]:
    """A job as clients see it. A paused one is `queued` to them: their types know no other word.

    Args:
        here: the server.
        job: as it stands.
        said: all that it has said, if that was read already.
    """
    asked = job.details
    said = read_said(here.stores.records, job.id, most=ALL) if said is None else said
    kinds = {one.body["kind"] for one in said}
    status = {"paused": "queued", "running": "running" if "data" in kinds else "validating_files"}.get(
        job.state, job.state
    )
    hyperparameters = {
        "n_epochs": asked["n_epochs"],
        "batch_size": asked["batch_size"],
        "learning_rate_multiplier": asked["learning_rate_multiplier"],
    }
    failed, done = job.state == "failed", job.state == "succeeded"
    steps = steps_of(said)
    left = finish_of(steps) if job.state == "running" else None
    code = CODES.get((job.result or {}).get("reason", ""), "server_error" if failed else "")
    param = "training_file" if code in CODES.values() else None
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": int(job.created),
        "error": {"code": code, "message": job.sentence, "param": param} if failed else None,
        "fine_tuned_model": tuned(job) if done else None,
        "finished_at": None if job.ended is None else int(job.ended),
        "hyperparameters": hyperparameters,
        "method": described(asked.get("learning", SUPERVISED), hyperparameters),
        "model": asked["model"],
        "organization_id": job.project,
        "result_files": [RESULTS + job.id.removeprefix(control.PREFIX)] if done else [],
        "seed": asked["seed"],
        "status": status,
        "trained_tokens": sum(step["tokens"] for step in steps.values()) if done else None,
        "training_file": asked["training_file"],
        "validation_file": asked["validation_file"],
        "integrations": asked.get("integrations") or [],
        "metadata": asked["metadata"],
        "estimated_finish": None if left is None else int(now() + left),
        "user_provided_suffix": asked["suffix"],
        "tunesmith": {"state": job.state, "step": job.step, "attempts": job.attempts, "sentence": job.sentence},
    }


def find(here: Server, project: str, id: str) -> JobRecord:
    """A project's job of the API.

    Raises:
        ApiError: it has none of this id.
    """
    try:
        job = find_job(here.stores.records, id)
    except (MissingError, ConfigError):
        job = None
    if job is None or job.id != id or job.project != project or not job.details.get("api"):
        raise not_found(f"Could not find fine tune: {id}", "fine_tune_id", "fine_tune_not_found")
    return job


@router.get("")
def list_all(
    here: Here, key: Caller, request: Request, after: str | None = None,
    limit: Annotated[int, Query(ge=0, le=1000)] = 20,
) -> dict[str, Any]:  # fmt: skip
    """A project's jobs, the last one first; `metadata[KEY]=VALUE` picks those with it, `metadata=null` the others."""
    found = [job for job in list_jobs(here.stores.records, key.project, most=10_000) if job.details.get("api")]
    for name, value in request.query_params.items():
        if name == "metadata" and value == "null":
            found = [job for job in found if not job.details["metadata"]]
        elif name.startswith("metadata[") and name.endswith("]"):
            wanted = (name.removeprefix("metadata[")[:-1], value)
            found = [job for job in found if wanted in (job.details["metadata"] or {}).items()]
    page = page_of([{"id": job.id, "job": job} for job in found], after, limit)
    jobs: Any = page["data"]
    return {"object": "list", "data": [describe(here, one["job"]) for one in jobs], "has_more": page["has_more"]}


@router.get("/{id}")
def retrieve(here: Here, key: Caller, id: str) -> dict[str, Any]:
    """One job."""
    return describe(here, find(here, key.project, id))


@router.post("/{id}/{action}")
def act(here: Here, key: Caller, id: str, action: Literal["cancel", "pause", "resume"]) -> dict[str, Any]:
    """Cancel, pause or resume a job."""
    job = find(here, key.project, id)
    try:
        done = {"cancel": control.cancel, "pause": control.pause, "resume": control.resume}[action]
        return describe(here, done(here.stores.records, job.id))
    except ConfigError as error:
        raise refused(str(error), "fine_tune_id") from None


@router.get("/{id}/events")
def list_events(
    here: Here, key: Caller, id: str, after: str | None = None, limit: Annotated[int, Query(ge=0, le=10_000)] = 20
) -> dict[str, Any]:
    """What a job has said, the last first."""
    job = find(here, key.project, id)
    said = read_said(here.stores.records, job.id, most=ALL)
    return page_of(events_of(job, job.details["training_file"], said, tuned(job)), after, limit)


@router.get("/{id}/checkpoints")
def list_checkpoints(
    here: Here, key: Caller, id: str, after: str | None = None, limit: Annotated[int, Query(ge=0, le=1000)] = 10
) -> dict[str, Any]:
    """A job's kept checkpoints, the last first."""
    job = find(here, key.project, id)
    steps = steps_of(read_said(here.stores.records, job.id, most=ALL))
    names = ("step", "train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy")
    found = [
        {
            "id": f"ftckpt_{job.id.removeprefix(control.PREFIX)}_{step}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": int(job.created),
            "fine_tuned_model_checkpoint": tuned(job, step),
            "fine_tuning_job_id": job.id,
            "step_number": step,
            "metrics": {
                name: steps.get(step, {}).get(name) for name in names if steps.get(step, {}).get(name) is not None
            },
        }
        for step, _ in read_checkpoints(here.stores.records, job.id)
    ]
    return page_of(found, after, limit)
