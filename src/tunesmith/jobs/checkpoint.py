"""The model of a checkpoint: what a run would have exported, had it ended there."""

from __future__ import annotations

import copy
from pathlib import Path

from tunesmith.core.errors import TrainingError
from tunesmith.jobs.trained import trained_model
from tunesmith.model.export import export
from tunesmith.model.load import read_config
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.train.checkpoint import find_step
from tunesmith.train.objectives.table import objective_for
from tunesmith.train.recipe import read_recipe


def export_checkpoint(folder: Path, step: int) -> Path:
    """Export the model of one of a run's checkpoints, without what was measured of it; returns the model's folder.

    Args:
        folder: the run's: config.yaml, the inputs that it names there, and `checkpoints/`.
        step: of the checkpoint.

    Raises:
        TunesmithError: the checkpoint is not there, is damaged, or belongs to another base or prompt contract.
    """
    recipe = read_recipe(folder / "config.yaml")
    own = folder / recipe.model.base
    base = resolve(str(own) if own.is_dir() else recipe.model.base, recipe.model.revision)
    contract = load_contract(
        base.folder, recipe.model.template, recipe.data.train_on, add_tokens=recipe.model.add_tokens
    )
    checkpoint = find_step(folder / "checkpoints", step)
    made_from = checkpoint.state["made_from"]
    if (made_from["base model"], made_from["tokenizer and template"]) != (base.fingerprint(), contract.id):
        raise TrainingError(f"{checkpoint.folder}: it was trained on another base model, or under another template.")
    task = objective_for(recipe.objective, read_config(base.folder)).task
    start = copy.copy(recipe)
    if (adapter := getattr(recipe.method, "continue_from", None)) is not None and (folder / adapter).is_dir():
        start = recipe.model_copy(
            update={"method": recipe.method.model_copy(update={"continue_from": str(folder / adapter)})}
        )
    model, _ = trained_model(base.folder, start, checkpoint, task, {})
    card = {
        "base": {
            "name": base.name if base.commit else recipe.model.base,
            "commit": base.commit,
            "sha256": base.fingerprint(),
        },
        "method": recipe.method.model_dump(mode="json"),
        "task": task,
        "new_tokens": list(recipe.model.add_tokens),
        "contract": {"id": contract.id, "train_on": contract.train_on, "stop_ids": list(contract.stop_ids)},
        "steps": step,
        "recipe": recipe.model_dump(mode="json"),
    }
    export(model, base, contract, folder / "model", card)
    return folder / "model"
