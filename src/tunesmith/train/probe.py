"""Before a run: does packing change what this model computes? If it does, packing is off.

A few rows go through the library's own forward pass, padded, and through ours, packed. Soft prompts,
sliding windows, scaled or capped logits and learned positions would all show here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from tunesmith.data.prepare import Prepared
from tunesmith.model.attention import PACKED
from tunesmith.train.batch import Batch, packed, padded
from tunesmith.train.objectives.sft import logits_at_trained

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
ROWS = 4


@torch.no_grad()
def why_not_packed(model: Any, rows: Sequence[Prepared]) -> str | None:
    """None if packed rows give the same losses as padded ones, else the reason, as a sentence.

    Leaves the model's attention set for packing when it returns None, as it was otherwise.
    """
    sample = sorted(rows, key=lambda row: len(row.ids))[:ROWS]
    before = model.config._attn_implementation
    alone = _losses(model, padded(sample, str(model.device)))
    try:
        model.set_attn_implementation(PACKED)
        together = _losses(model, packed(sample, str(model.device)))
    except (NotImplementedError, ValueError, TypeError) as error:
        model.set_attn_implementation(before)
        return f"packing is off: this model does not support it ({error})."
    worst = (together - alone).abs().max().item()
    if worst > TOLERANCE[model.dtype]:
        model.set_attn_implementation(before)
        return f"packing is off: packed rows give other losses than rows alone (by up to {worst:.2g})."
    return None


def _losses(model: Any, batch: Batch) -> torch.Tensor:
    """Loss of each trained position, shape (N,)."""
    logits_NV = logits_at_trained(model, batch)
    return cross_entropy(logits_NV.float(), batch.target_N, reduction="none")
