"""Which words a run trains: where only those in its rows can learn, the others' rows are no part of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tunesmith.core.errors import TrainingError
from tunesmith.model.used_words import STATE, part_words
from tunesmith.train.checkpoint import Checkpoint, method_tensors
from tunesmith.train.objective import Objective
from tunesmith.train.optimizers import kind_of
from tunesmith.train.planning.plan import Plan
from tunesmith.train.recipe import Recipe


def with_used_words(
    plan: Plan, model: Any, recipe: Recipe, objective: Objective, words: np.ndarray, checkpoint: Checkpoint | None
) -> Plan:
    """The plan, knowing which rows of the table of words are trained; the table is parted, if not all are.

    A run that goes on stays with what it did before; words that its rows did not have then join those in use.

    Args:
        plan: as far as it is decided.
        model: as the method left it.
        recipe: of the run.
        objective: what is learned.
        words: the token ids in its rows, ascending.
        checkpoint: that the run goes on from.

    Raises:
        TrainingError: the checkpoint holds rows in use alone, and here weights are parted among processes.
    """
    before = None if checkpoint is None else method_tensors(checkpoint).get(STATE)
    if before is not None and plan.sharding == "full":
        raise TrainingError(
            f"sharding=full: the run's checkpoints hold the {len(before):,} words in use alone, and parted weights are "
            "whole tables. Go on with sharding=none, or start a new run."
        )
    may_begin = checkpoint is None and plan.sharding == "none" and recipe.method.type == "full"
    others_learn = objective.invents or objective.rollouts is not None or not kind_of(recipe.optim.optimizer).by_row
    if others_learn or (before is None and not may_begin):
        return replace(plan, words=None)
    used = words if before is None else np.union1d(words, before.numpy())
    if not (count := part_words(model, used)):
        return replace(plan, words=None)
    reason = f"{len(used):,} of {count:,} words occur in the rows; the others stay as they are"
    return replace(plan, words=len(used), reasons={**plan.reasons, "words": reason})
