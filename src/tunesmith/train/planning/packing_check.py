"""Before a run: does packing change what this model computes? Then it is off.

Whether packed rows read each other is asked of the model as it will be trained, in its own precision: when one row is
another, no bit of what is computed of the others may move. Whether packed rows are what they are alone is asked in
fp32, where rounding cannot be taken for an answer: in bf16 it moves each token's loss by about 0.05. Soft prompts,
sliding windows and learned positions show here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.errors import ModelError
from tunesmith.data.prepare import Prepared
from tunesmith.model.attention import PACKED
from tunesmith.model.exact import can_widen, in_fp32
from tunesmith.model.packed import UNFIT
from tunesmith.train.objective import Draw, Models, Objective

SAME_LOSS = 3e-4  # of a token in fp32, root mean square: another order of sums differs by some 1e-6
SAME_LOSS_SHARDED = 0.1  # where weights are parted among processes and cannot be widened
UNMOVED = 1e-4  # of logits in fp32, relative: experts share products, whose order of sums changes with their company


@torch.no_grad()
def why_not_packed(objective: Objective, models: Models, rows: Sequence[Prepared]) -> str | None:
    """None if packed rows are computed as they are alone, else the reason, as a sentence.

    Leaves the model's attention set for packing when it returns None, as it was otherwise.

    Args:
        objective: what would be computed of packed rows.
        models: as they will be trained; their plan says how much will be packed together: where that is more positions
            than the model has, so many are tried.
        rows: a few to try.
    """
    if objective.check is None:
        return f"packing is off: objective {objective.name} does not say what packed rows must leave as it is."
    model, plan = models.policy, models.plan
    before = model.config._attn_implementation
    three = rows_to_perturb(model, rows, plan.micro_tokens)
    limit = SAME_LOSS if can_widen(model) else SAME_LOSS_SHARDED
    reason = None
    with evaluating(model):
        try:
            model.set_attn_implementation(PACKED)
            if rows_read_each_other(objective, models, three):
                reason = "packing is off: packed rows of this model read each other."
            elif not (apart := how_far_apart(objective, models, rows, before)) <= limit:
                reason = f"packing is off: packed rows give other losses than rows alone (by {apart:.2g} a token)."
        except torch.OutOfMemoryError:
            raise
        except UNFIT as error:
            reason = f"packing is off: this model does not support it ({first_line(error)})."
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


def rows_read_each_other(objective: Objective, models: Models, rows: Sequence[Prepared]) -> bool:
    """Whether what is computed of packed rows depends on what stands in one in their middle."""
    check = objective.check
    assert check is not None
    middle = len(rows) // 2
    top = max(int(row.ids.max()) for row in rows)
    other = replace(rows[middle], ids=top - rows[middle].ids)
    changed = [*rows[:middle], other, *rows[middle + 1 :]]
    plan = replace(models.plan, packing=True, graphs=None)  # nothing filled up but the sequence
    batches = [objective.collate(some, plan, Draw(), {}) for some in (rows, changed)]

    def others() -> list[torch.Tensor]:
        found = [check.outputs(models, batch) for batch in batches]
        return [torch.cat([*outputs[:middle], *outputs[middle + 1 :]]) for outputs in found]

    return not moved(models.policy, others) <= UNMOVED


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


def how_far_apart(objective: Objective, models: Models, rows: Sequence[Prepared], before: str) -> float:
    """Root mean square of the difference of a unit's loss, packed and alone; in fp32 if that is possible.

    Args:
        objective: whose loss it is.
        models: the policy is set for packing.
        rows: to compare.
        before: the model's attention for padded rows.
    """
    model, check = models.policy, objective.check
    assert check is not None
    together, alone = (
        objective.collate(rows, replace(models.plan, packing=packing, graphs=None), Draw(), {})
        for packing in (True, False)
    )
    with in_fp32(model) if can_widen(model) else nullcontext():
        packed_N = check.losses(models, together)
        model.set_attn_implementation(before)
        alone_N = check.losses(models, alone)
        model.set_attn_implementation(PACKED)
    return (packed_N - alone_N).square().mean().sqrt().item()


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


def refuse_looking_ahead(folder: Path, model: Any, row: Prepared) -> None:
    """Refuse a model that reads what it shall predict.

    Raises:
        ModelError: it does.
    """
    if looks_ahead(model, row):
        raise ModelError(
            f"{folder}: what this model predicts depends on the tokens that come after: it is no causal language "
            "model, and would learn to copy what it reads. Take another base model."
        )


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


def first_line(error: Exception) -> str:
    """What went wrong, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
