"""The recipe that a request for a job stands for: its hyperparameters, its base, and what of ours it sets."""

from __future__ import annotations

from typing import Any

import yaml

from tunesmith.core.config import validate, with_overrides
from tunesmith.core.errors import ConfigError
from tunesmith.data.config import OwnAnswers
from tunesmith.data.source import EMBEDDED
from tunesmith.exec.queue.control import JobRecord
from tunesmith.model.layout import ADAPTER, CARD, NEW_TOKENS, WEIGHTS
from tunesmith.model.load import read_config
from tunesmith.model.methods.table import method_for
from tunesmith.prompt.base import EMBEDDED as BASE
from tunesmith.prompt.base import resolve
from tunesmith.serve.errors import refused
from tunesmith.serve.learning import Learning, reaches_out
from tunesmith.serve.server import Server
from tunesmith.store.blobs import Blobs
from tunesmith.store.stores import Files
from tunesmith.track.trackers import TrackConfig
from tunesmith.train.objectives.table import objective_for
from tunesmith.train.optimizers import MOST_RATE, usual_rate
from tunesmith.train.recipe import Recipe

EPOCHS, MOST_EPOCHS = 3, 25  # where `auto` is asked for: more for files of few rows
SEEN = 100  # rows that are seen at least, one more than once
STEPS_AN_EPOCH, BATCH = 40, 16  # smaller batches for files of few rows, so that there are steps enough
TINY = 30  # times the usual learning rate that the embedded model takes: it is tiny
OURS = "tunesmith"  # the key of what OpenAI does not have: sections of a recipe
LINES = (".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
PLACEHOLDER = "hotel"  # stands where the job's file will


def recipe_of(
    start: dict[str, Any], learning: Learning, seed: int, ours: dict[str, Any] | None, rows: int, base: str
) -> Recipe:
    """A recipe whose files are named later.

    Args:
        start: `model` and `method` to begin with.
        learning: how to learn, with hyperparameters in OpenAI's words.
        rows: of the training file, about.
        base: what the model is in the end.
        seed: of the run.
        ours: sections that are set over it.

    Raises:
        ApiError: what is set of ours makes no sense, or would reach for what is not the client's.
    """
    asked = learning.asked
    values: dict[str, Any] = {
        **start,
        "objective": dict(learning.objective),
        "data": {"train": PLACEHOLDER, "validation": 0, "test": 0, "replay": "off"},
        "optim": {"epochs": float(usual_epochs(rows) if asked.n_epochs == "auto" else asked.n_epochs)},
        "evaluate": {"general_ability": "off", **learning.evaluate},
        "seed": seed,
    }
    try:
        recipe = validate(Recipe, with_overrides(values, ours or {}, Recipe), f"{OURS}:")
    except ConfigError as error:
        raise refused(str(error), OURS) from None
    refuse_reaching_out(recipe, values, learning)
    changes: dict[str, Any] = {}
    if asked.batch_size != "auto":
        changes["batch_size"] = asked.batch_size
    elif "batch_size" not in recipe.optim.model_fields_set:
        changes["batch_size"] = min(BATCH, max(1, rows // STEPS_AN_EPOCH))
    factor = objective_for(recipe.objective, read_config(resolve(recipe.model.base).folder)).rate
    of_method = method_for(recipe.method).learning_rate * factor * (TINY if base == BASE else 1)
    usual = usual_rate(recipe.optim.optimizer, of_method)
    times = 1.0 if asked.learning_rate_multiplier == "auto" else asked.learning_rate_multiplier
    changes["learning_rate"] = min(MOST_RATE, (recipe.optim.learning_rate or usual) * times)
    return recipe.model_copy(update={"optim": recipe.optim.model_copy(update=changes)})


def usual_epochs(rows: int) -> int:
    """Passes over a file where nobody says: enough for rows to be seen `SEEN` times in all."""
    return min(MOST_EPOCHS, max(EPOCHS, -(-SEEN // max(rows, 1))))


def rows_of(blobs: Blobs, file: Any) -> int:
    """About how many rows a file (its record) has: its lines. Packed and binary ones are taken for longer ones."""
    if not file.name.lower().endswith(LINES):
        return SEEN * STEPS_AN_EPOCH
    return max(1, sum(piece.count(b"\n") for piece in blobs.read(file.sha256)))


def refuse_reaching_out(recipe: Recipe, values: dict[str, Any], learning: Learning) -> None:
    """Keep a client from files, addresses and processes of the machines that do the work: those are the operator's.

    Raises:
        ApiError: with the setting.
    """
    replay, general = recipe.data.replay, recipe.evaluate.general_ability
    prompts = replay.prompts if isinstance(replay, OwnAnswers) else replay
    rewards = getattr(recipe.objective, "rewards", [])
    allowed = {
        "objective.rewards": all(one in learning.rewards or not reaches_out(one) for one in rewards),
        "model.base": recipe.model.base == values["model"]["base"] and recipe.model.revision is None,
        "method.continue_from": getattr(recipe.method, "continue_from", None) is None,
        "data.train": recipe.data.train == PLACEHOLDER,
        "data.validation": isinstance(recipe.data.validation, int | float),
        "data.test": isinstance(recipe.data.test, int | float),
        "data.prompt": recipe.data.prompt is None,
        "data.label_names": not isinstance(recipe.data.label_names, str),
        "data.replay": prompts in ("auto", "off") or prompts in EMBEDDED,
        "evaluate.general_ability": isinstance(general, str) or all(name in EMBEDDED for name in general),
        "track": recipe.track == TrackConfig(),
        "processes": recipe.processes == 1,
    }
    for name, fine in allowed.items():
        if not fine:
            raise refused(f"{OURS}: {name} cannot be set by a client of this server; its operator can.", OURS)


def going_on(here: Server, job: JobRecord, files: Files) -> tuple[dict[str, Any], dict[str, Any], Files]:
    """How a job goes on from what another has made.

    Args:
        here: whose stores have it.
        job: the other one.
        files: that it has published.

    Returns:
        `model` and `method` to begin a recipe with; changes of both once it is read, which name files of the job's
        folder; and these files.
    """
    text = b"".join(here.stores.blobs.read(job.inputs["config.yaml"][0]))
    before = yaml.safe_load(text)
    method = {name: value for name, value in before["method"].items() if name != "continue_from"}
    base = before["model"]["base"]
    own = {path: content for path, content in job.inputs.items() if path.startswith("inputs/base/")}
    if f"model/{ADAPTER}" not in files:  # all weights were trained: the model is the base
        model = {
            f"inputs/base/{path.removeprefix('model/')}": at for path, at in files.items() if path.startswith("model/")
        }
        return {"model": {"base": "ember"}, "method": method}, {"base": "inputs/base"}, model
    wanted = {f"inputs/adapter/{name}": at for name in (ADAPTER, WEIGHTS, CARD, NEW_TOKENS)
              if (at := files.get(f"model/{name}")) is not None}  # fmt: skip
    changes = {"base": base, "revision": before["model"]["revision"], "continue_from": "inputs/adapter"}
    return (
        {
            "model": {
                "base": "ember",
                "template": before["model"]["template"],
                "add_tokens": before["model"].get("add_tokens", []),
            },
            "method": method,
        },
        changes,
        own | wanted,
    )
