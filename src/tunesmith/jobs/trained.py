"""The model of a checkpoint, as it is exported: the base, the way it is changed, and the weights that were trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.model.heads import train_head
from tunesmith.model.layout import adapter_folder
from tunesmith.model.load import LoadSpec, answering, load
from tunesmith.model.memory import to_answer
from tunesmith.model.methods.method import trainable
from tunesmith.model.methods.table import method_for
from tunesmith.model.new_tokens import put_back, put_saved_tokens, refuse_other_tokens, split_off, train_new_tokens
from tunesmith.model.value_head import without_value_head
from tunesmith.train.checkpoint import Checkpoint, method_tensors, put_weights, tensors_to_export
from tunesmith.train.recipe import Recipe


def changed_model(model: Any, recipe: Recipe, rows: Sequence[Any] = (), steps: int = 0) -> Any:
    """The model with what the method adds to it, the same each time for one recipe and its rows."""
    torch.manual_seed(recipe.seed)
    method = method_for(recipe.method)
    if (earlier := getattr(recipe.method, "continue_from", None)) is not None:
        refuse_other_tokens(adapter_folder(earlier), recipe.model.add_tokens)
        model = put_saved_tokens(model, adapter_folder(earlier))
    model = method.apply(split_off(model, getattr(recipe.method, "train_also", ())), recipe.method)
    train_new_tokens(train_head(model))
    method.prepare(model, recipe.method, rows, steps)
    return model


def pool_of(recipe: Recipe) -> Any:
    """Where a classifier's state is read, as a `LoadSpec` has it."""
    return getattr(recipe.objective, "pool", "own")


def trained_model(
    base: Path, recipe: Recipe, checkpoint: Checkpoint, task: str, facts: Mapping[str, Any]
) -> tuple[Any, bool]:
    """The model of a checkpoint, and whether training has changed anything.

    Args:
        base: folder of the base model.
        recipe: of the run.
        checkpoint: of it.
        task: what it is loaded for.
        facts: of the rows.

    Raises:
        TrainingError: the checkpoint is of other weights.
    """
    method = method_for(recipe.method)
    spec = to_answer(base, answering(recipe.device), recipe.model.quantize) if method.base_untouched else LoadSpec()
    spec = replace(spec, task=task, facts=facts)
    spec = replace(spec, new_tokens=tuple(recipe.model.add_tokens), pool=pool_of(recipe))
    saved = without_value_head(tensors_to_export(checkpoint))
    config, tensors = method.exported(recipe.method, saved, method_tensors(checkpoint))
    model = changed_model(load(base, spec).model, recipe.model_copy(update={"method": config}))
    tensors = method.fitted(model, method_tensors(checkpoint), tensors, trainable(model))
    changed = put_weights(trainable(model), tensors, checkpoint.folder)
    return put_back(model), changed
