"""Before a run: do packing and the chunked loss change what this model computes? What does is off.

A few rows go through the library's own forward pass, padded, and through ours, packed; and through the library's
logits, and past them. Soft prompts, sliding windows, learned positions, scaled or capped logits would all show here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy

from tunesmith.data.prepare import Prepared
from tunesmith.model.attention import PACKED
from tunesmith.train.batch import Batch, packed, padded
from tunesmith.train.loss import hidden_at_trained, linear_cross_entropy, output_layer
from tunesmith.train.objectives.sft import logits_at_trained

# Of the loss of a token, root mean square. Two sound orders of computing in bf16 differ by 0.04 for ember.
TOLERANCE = {torch.float32: 3e-4, torch.bfloat16: 0.1}
SAME = {torch.float32: 3e-4, torch.bfloat16: 0.01}  # of the mean loss of one and the same forward pass


@torch.no_grad()
def why_not_packed(model: Any, rows: Sequence[Prepared]) -> str | None:
    """None if packed rows give the same losses as padded ones, else the reason, as a sentence.

    Leaves the model's attention set for packing when it returns None, as it was otherwise.
    """
    before = model.config._attn_implementation
    alone = _losses(model, padded(rows, str(model.device)))
    try:
        model.set_attn_implementation(PACKED)
        together = _losses(model, packed(rows, str(model.device)))
    except (NotImplementedError, ValueError, TypeError, RuntimeError) as error:
        model.set_attn_implementation(before)
        return f"packing is off: this model does not support it ({error})."
    apart = (together - alone).square().mean().sqrt().item()
    if not apart <= TOLERANCE[precision_of(model)]:
        model.set_attn_implementation(before)
        return f"packing is off: packed rows give other losses than rows alone (by {apart:.2g} a token)."
    return None


@torch.no_grad()
def why_not_chunked(model: Any, rows: Sequence[Prepared], make: Callable[..., Batch]) -> str | None:
    """None if the loss without logits is the model's own, else the reason, as a sentence.

    Args:
        model: as the method left it.
        rows: a few to compare on.
        make: makes a batch of rows, as for training.
    """
    head = output_layer(model)
    if head is None:
        return "the last layer is more than a matrix product"
    batch = make(rows, str(model.device))
    alone = _losses(model, batch).mean().item()
    try:
        total, _ = linear_cross_entropy(hidden_at_trained(model, batch), head.weight, batch.target_N)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        return f"this model does not support it ({error})"
    apart = abs(total.item() / len(batch.target_N) - alone)
    return None if apart <= SAME[precision_of(model)] else f"it differs from the model's own by {apart:.2g}"


def precision_of(model: Any) -> torch.dtype:
    """What a model that has just computed computes in: of sharded weights, those in no layer are put together then."""
    return next((weight.dtype for weight in model.parameters() if not isinstance(weight, DTensor)), model.dtype)


def _losses(model: Any, batch: Batch) -> torch.Tensor:
    """Loss of each trained position, shape (N,)."""
    logits_NV = logits_at_trained(model, batch)
    return cross_entropy(logits_NV.float(), batch.target_N, reduction="none")
