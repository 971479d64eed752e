"""A look at rows that are not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunesmith.train.batch import Batch
from tunesmith.train.compiled import as_they_are
from tunesmith.train.objectives.sft import Sft
from tunesmith.train.policy import Policy


@torch.no_grad()
def validate(objective: Sft, policy: Policy, batches: Sequence[Batch]) -> dict[str, float]:
    """Loss per trained token and token accuracy over all `batches` (of all processes), weighted by tokens.

    Batches that are made when they are asked for are on the device one at a time.
    """
    policy.model.eval()
    sums = {"loss": 0.0, "correct": 0.0, "tokens": 0.0}
    with policy.averaged(), as_they_are():
        for batch in batches:
            loss = objective.loss(policy.model, batch)
            sums["loss"] += sum(term.total.item() for term in loss.terms)
            sums["correct"] += loss.counts["correct"]
            sums["tokens"] += batch.units["tokens"]
    policy.model.train()
    sums = policy.ranks.sum(sums)
    return {"loss": sums["loss"] / sums["tokens"], "token_accuracy": sums["correct"] / sums["tokens"]}
