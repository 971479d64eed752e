"""Before a run: do packing and the chunked loss change what this model computes? What does is off.

Whether packed rows read each other is asked of the model as it will be trained, in its own precision: when one row is
another, no bit of the others' logits may move. Whether packed rows are what they are alone is asked in fp32,
where rounding cannot be taken for an answer: in bf16 it moves each token's loss by about 0.05. The loss without logits
is the model's own if its last layer reads what the layers before it give, and gives what the model gives, bit for bit.
Soft prompts, sliding windows, learned positions, scaled or capped logits all show here.

Axes: N trained positions, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from tunesmith.data.prepare import Prepared
from tunesmith.model.attention import PACKED
from tunesmith.model.exact import can_widen, in_fp32
from tunesmith.train.batch import Batch, packed, padded
from tunesmith.train.loss import hidden_at_trained, linear_cross_entropy, output_layer
from tunesmith.train.objectives.sft import logits_at_trained

SAME_LOSS = 3e-4  # of a token in fp32, root mean square: another order of sums differs by some 1e-6
SAME_LOSS_SHARDED = 0.1  # where weights are parted among processes and cannot be widened
UNMOVED = 1e-4  # of logits in fp32, relative: experts share products, whose order of sums changes with their company
ROUNDING = 0.01  # of what one and the same forward pass gives twice, in bf16, where sums come in another order
WIDE = 100.0  # largest logit given: a cap, which small logits would hide, shows
UNFIT = (NotImplementedError, ValueError, TypeError, RuntimeError, AttributeError, IndexError, KeyError)


@torch.no_grad()
def why_not_packed(model: Any, rows: Sequence[Prepared], micro_tokens: int = 0) -> str | None:
    """None if packed rows are computed as they are alone, else the reason, as a sentence.

    Leaves the model's attention set for packing when it returns None, as it was otherwise.

    Args:
        model: as it will be trained.
        rows: a few to try.
        micro_tokens: the most that will be packed together; more positions than the model has are tried too.
    """
    before = model.config._attn_implementation
    three = rows_to_perturb(model, rows, micro_tokens)
    limit = SAME_LOSS if can_widen(model) else SAME_LOSS_SHARDED
    reason = None
    with evaluating(model):
        try:
            model.set_attn_implementation(PACKED)
            if rows_read_each_other(model, three):
                reason = "packing is off: packed rows of this model read each other."
            elif not (apart := how_far_apart(model, rows, before)) <= limit:
                reason = f"packing is off: packed rows give other losses than rows alone (by {apart:.2g} a token)."
        except UNFIT as error:
            reason = f"packing is off: this model does not support it ({_first_line(error)})."
    if reason is not None:
        model.set_attn_implementation(before)
    return reason


def rows_to_perturb(model: Any, rows: Sequence[Prepared], micro_tokens: int) -> list[Prepared]:
    """At least three rows; where packs will be longer than the model has positions, as many as are so too."""
    positions = getattr(model.config, "max_position_embeddings", None) or micro_tokens
    least = positions + 1 if positions < micro_tokens else 0
    chosen, total = [], 0
    for row in cycle(rows):
        if len(chosen) >= 3 and total >= least:
            return chosen
        chosen.append(row)
        total += len(row.ids)
    raise AssertionError("no rows to try")


def rows_read_each_other(model: Any, rows: Sequence[Prepared]) -> bool:
    """Whether the logits of packed rows depend on what stands in one in their middle."""
    middle = len(rows) // 2
    top = max(int(row.ids.max()) for row in rows)
    other = replace(rows[middle], ids=top - rows[middle].ids)
    changed = [*rows[:middle], other, *rows[middle + 1 :]]
    batches = [packed(some, str(model.device)) for some in (rows, changed)]
    counts = [int(row.mask[1:].sum()) for row in rows]
    own_N = torch.zeros(sum(counts), dtype=torch.bool, device=model.device)
    own_N[sum(counts[:middle]) : sum(counts[: middle + 1])] = True

    def others() -> list[torch.Tensor]:
        return [logits_at_trained(model, batch)[~own_N] for batch in batches]

    return not moved(model, others) <= UNMOVED


def moved(model: Any, twice: Callable[[], Sequence[torch.Tensor]]) -> float:
    """How far the second of two tensors is from the first: 0 if no bit differs, else as computed in fp32.

    Args:
        model: what computes them.
        twice: computes both.
    """
    one, two = twice()
    if torch.equal(one, two):
        return 0.0
    with in_fp32(model) if can_widen(model) else nullcontext():
        one, two = twice()
    return distance(two, one)


def how_far_apart(model: Any, rows: Sequence[Prepared], before: str) -> float:
    """Root mean square of the difference of a token's loss, packed and alone; in fp32 if that is possible.

    Args:
        model: set for packing.
        rows: to compare.
        before: the model's attention for padded rows.
    """
    with in_fp32(model) if can_widen(model) else nullcontext():
        together = _losses(model, packed(rows, str(model.device)))
        model.set_attn_implementation(before)
        alone = _losses(model, padded(rows, str(model.device)))
        model.set_attn_implementation(PACKED)
    return (together - alone).square().mean().sqrt().item()


@torch.no_grad()
def looks_ahead(model: Any, row: Prepared) -> bool:
    """Whether what the model predicts after a token depends on later ones, so that training teaches it to copy them."""
    ids_1T = torch.from_numpy(row.ids.astype("int64"))[None].to(model.device)
    other_1T = ids_1T.clone()
    other_1T[0, -1] = ids_1T.max() - ids_1T[0, -1] if 2 * ids_1T[0, -1] != ids_1T.max() else 0

    def earlier() -> list[torch.Tensor]:
        return [model(input_ids=ids, use_cache=False).logits[:, :-1] for ids in (ids_1T, other_1T)]

    with evaluating(model):
        return moved(model, earlier) > UNMOVED


@torch.no_grad()
def why_not_chunked(model: Any, rows: Sequence[Prepared], make: Callable[..., Batch]) -> str | None:
    """None if the loss without logits is the model's own, else the reason, as a sentence.

    Args:
        model: as it will be trained.
        rows: a few to compare on.
        make: makes a batch of rows, as for training.
    """
    head = output_layer(model)
    if head is None:
        return "the last layer is more than a matrix product"
    batch = make(rows, str(model.device))
    read: list[torch.Tensor] = []
    given: list[torch.Tensor] = []

    def spread(_: torch.nn.Module, args: tuple[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
        read.append(args[0])
        given.append(logits * (WIDE / logits.abs().max()))
        return given[0]

    hook = head.register_forward_hook(spread)
    with evaluating(model):
        try:
            logits_NV = logits_at_trained(model, batch)
            hidden_ND = hidden_at_trained(model, batch)
            total, _ = linear_cross_entropy(hidden_ND, head.weight, batch.target_N)
        except UNFIT as error:
            return f"this model does not support it ({_first_line(error)})"
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


@contextmanager
def evaluating(model: Any) -> Generator[None]:
    """Nothing is dropped at random while the block lasts."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far a tensor is from another, relative to it."""
    return ((one.float() - other.float()).norm() / other.float().norm().clamp(min=1e-9)).item()


def _losses(model: Any, batch: Batch) -> torch.Tensor:
    """Loss of each trained position, shape (N,)."""
    logits_NV = logits_at_trained(model, batch)
    return cross_entropy(logits_NV.float(), batch.target_N, reduction="none")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
