"""Before a run: is the loss without logits the model's own? Else all logits are built.

It is if the last layer reads what the layers before it give, and gives what the model gives, bit for bit. Scaled,
capped and masked logits show here.

Axes: N trained positions, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from tunesmith.data.prepare import Prepared
from tunesmith.model.packed import UNFIT
from tunesmith.train.loss import hidden_at_trained, linear_cross_entropy, logits_at_trained, output_layer
from tunesmith.train.objective import Columns, Draw, Models
from tunesmith.train.planning.packing_check import distance, evaluating, first_line
from tunesmith.train.planning.plan import Plan

ROUNDING = 0.01  # of what one and the same forward pass gives twice, in bf16, where sums come in another order
WIDE = 100.0  # largest logit given: a cap, which small logits would hide, shows

Collate = Callable[[Sequence[Prepared], Plan, Draw, Columns], Any]
Ask = Callable[[Any, Any], torch.Tensor]


@torch.no_grad()
def why_not_chunked(
    models: Models, rows: Sequence[Prepared], collate: Collate, logits: Ask = logits_at_trained,
    hidden: Ask = hidden_at_trained,
) -> str | None:  # fmt: skip
    """None if the loss without logits is the model's own, else the reason, as a sentence.

    Args:
        models: as they will be trained.
        rows: a few to compare on.
        collate: makes a batch of rows, as for training.
        logits: asks the model for those of a batch, (N, V).
        hidden: asks it for what its last layer would read, (N, D).
    """
    model = models.policy
    head = output_layer(model)
    if head is None:
        return "the last layer is more than a matrix product"
    batch = collate(rows, replace(models.plan, graphs=None), Draw(), {})
    read: list[torch.Tensor] = []
    given: list[torch.Tensor] = []

    def spread(_: torch.nn.Module, args: tuple[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
        read.append(args[0])
        given.append(logits * (WIDE / logits.abs().max()))
        return given[0]

    hook = head.register_forward_hook(spread)
    with evaluating(model):
        try:
            logits_NV, hidden_ND = logits(model, batch), hidden(model, batch)
            total, _ = linear_cross_entropy(hidden_ND, head, batch.target_N)
        except torch.OutOfMemoryError:
            raise
        except UNFIT as error:
            return f"this model does not support it ({first_line(error)})"
        finally:
            hook.remove()
    read_ND, given_NV = (
        tensor[0].flatten(0, -2)[... if batch.picked_N is None else batch.picked_N] for tensor in (read, given)
    )
    if not distance(hidden_ND, read_ND) <= ROUNDING:
        return "it differs from the model's own: the last layer reads something else than the layers before it give"
    if not torch.equal(logits_NV.float(), given_NV.float()):
        return "it differs from the model's own: logits are scaled, capped or masked after the last layer"
    return None if total.isfinite() else f"it is {total.item()}"
