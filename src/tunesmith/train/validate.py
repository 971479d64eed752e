"""A look at rows that are not trained on."""

from __future__ import annotations

import torch

from tunesmith.train.batch import Batch
from tunesmith.train.objectives.sft import Sft
from tunesmith.train.policy import Policy


@torch.no_grad()
def validate(objective: Sft, policy: Policy, batches: list[Batch]) -> dict[str, float]:
    """Loss per trained token and token accuracy over all `batches`, weighted by tokens."""
    policy.model.eval()
    total = correct = tokens = 0.0
    for batch in batches:
        with policy.autocast():
            loss = objective.loss(policy.model, batch)
        total += sum(term.total.item() for term in loss.terms)
        correct += loss.counts["correct"]
        tokens += batch.units["tokens"]
    policy.model.train()
    return {"loss": total / tokens, "token_accuracy": correct / tokens}
