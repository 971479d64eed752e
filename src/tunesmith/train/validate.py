"""Validation: what the objective watches, on rows that are not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tunesmith.train.batch import DummyBatch
from tunesmith.train.learner import Learner
from tunesmith.train.objective import Models, Objective, Sums, add, nothing_before, nothing_of, on_host
from tunesmith.train.planning.compiled import as_they_are


@torch.no_grad()
def validate(objective: Objective, models: Models, learner: Learner, batches: Sequence[Any]) -> dict[str, float]:
    """The objective's curves over all `batches` (of all processes).

    Batches that are made when they are asked for are on the device one at a time.
    """
    learner.model.eval()
    sums, units, unit_of = Sums(), Sums(), dict[str, str]()
    each: list[dict[str, Any]] = []
    with learner.with_average(), as_they_are():
        whole = None
        if objective.before is not nothing_before:  # else batches that are made when they are asked for are made once
            real_ones = (batch for batch in batches if not isinstance(batch, DummyBatch))
            whole = objective.before(models, real_ones, learner.ranks)
        for batch in batches:
            dummy = isinstance(batch, DummyBatch)
            real = batch.real if dummy else batch
            loss = objective.loss(models, real, whole)
            unit_of |= {term.name: term.unit for term in loss.terms}
            found = {f"sum of {term.name}": term.total for term in loss.terms} | dict(loss.counts)
            each.append(nothing_of(found) if dummy else found)
            add(units, nothing_of(real.units) if dummy else real.units)
    learner.model.train()
    for found in on_host(each):
        add(sums, found)
    sums, units = learner.ranks.sum_vectors(sums), learner.ranks.sum_vectors(units)
    scale = {name: float(amount) for name, amount in units.items()}
    terms = {name: sums[f"sum of {name}"] / scale[unit] for name, unit in unit_of.items() if scale[unit]}
    return objective.curves({**sums, **terms, "loss": np.sum(list(terms.values()), axis=0)}, scale)
