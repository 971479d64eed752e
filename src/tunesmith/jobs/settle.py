"""The plan of a run, settled decision by decision: what the machine allows, and what leaves the results as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.errors import ModelError
from tunesmith.core.events import Report, silent
from tunesmith.data.prepare import Prepared
from tunesmith.data.replay import Mixture
from tunesmith.data.split import Splits
from tunesmith.jobs.recipe import Recipe
from tunesmith.jobs.resume import find_resumed
from tunesmith.model.device import free_bytes
from tunesmith.train.batch import Batch, packed, padded
from tunesmith.train.checkpoint import Checkpoint, find_step
from tunesmith.train.compiled import does_not_pay, layers_of, leave_uncompiled, why_not_compiled
from tunesmith.train.eight_bit import AdamW8bit
from tunesmith.train.loss import why_loss_differs
from tunesmith.train.memory import (
    checkpoint_activations,
    gathered_bytes,
    kept_bytes,
    state_bytes,
    why_checkpointing,
)
from tunesmith.train.objectives.sft import Sft
from tunesmith.train.plan import Plan, in_smaller_pieces, make_plan, product_rate
from tunesmith.train.policy import Policy
from tunesmith.train.probe import looks_ahead, why_not_chunked, why_not_packed
from tunesmith.train.ranks import ALONE, Ranks
from tunesmith.train.shards import forget_gathered

FEW = 4  # rows that decisions are tried on
USED = 0.3  # of the rate of a matrix product, that uncompiled training reaches


def settle_plan(
    recipe: Recipe, folder: Path, bound: dict[str, Any], splits: Splits, arguments: dict[str, Any], ranks: Ranks,
    report: Report,
) -> tuple[Plan, Checkpoint | None, bool]:  # fmt: skip
    """The plan, decided by the first process; the checkpoint to go on from; whether the run was changed since."""
    plan = make_plan(
        recipe.precision, recipe.data.packing, recipe.micro_tokens, recipe.optim.accumulation, recipe.device, ranks,
        recipe.sharding,
    )  # fmt: skip
    checkpoint, changed = None, False
    if ranks.leads:
        resumed = find_resumed(folder, bound, plan, arguments, report) if arguments.get("resume") else None
        if resumed is not None:
            plan, checkpoint, changed = resumed.plan, resumed.checkpoint, resumed.changed
        if arguments.get("smaller"):
            plan = in_smaller_pieces(plan, recipe.optim.batch_size, splits.mixture.every_length.tolist())
    told = {"plan": plan.to_json(), "step": None if checkpoint is None else checkpoint.step, "changed": changed}
    told = ranks.gather(told)[0]
    if told["step"] is not None and checkpoint is None:
        checkpoint = find_step(folder / "checkpoints", told["step"])
    return Plan(**told["plan"]), checkpoint, told["changed"]


def shortest(rows: Mixture) -> list[Prepared]:
    """A few rows that are quickly computed, without reading all others."""
    return [rows[int(i)] for i in rows.lengths.argsort()[:FEW]]


def refuse_looking_ahead(folder: Path, model: Any, rows: Mixture) -> None:
    """Refuse a model that reads what it shall predict.

    Raises:
        ModelError: it does.
    """
    if looks_ahead(model, shortest(rows)[-1]):
        raise ModelError(
            f"{folder}: what this model predicts depends on the tokens that come after: it is no causal language "
            "model, and would learn to copy what it reads. Take another base model."
        )


def settle_packing(plan: Plan, model: Any, rows: Mixture, report: Report, ranks: Ranks = ALONE) -> Plan:
    """The plan with packing off if this model, as it is trained, computes something else when packed.

    The model's attention is set. What one process finds counts for all.
    """
    if not plan.packing:
        return plan
    before = model.config._attn_implementation
    reason = first_said(ranks, why_not_packed(model, shortest(rows), plan.micro_tokens))
    if reason is None:
        return plan
    model.set_attn_implementation(before)
    report({"kind": "warning", "sentence": reason})
    return replace(plan, packing=False, reasons={**plan.reasons, "packing": reason})


def settle_loss(plan: Plan, model: Any, rows: Mixture, report: Report = silent, ranks: Ranks = ALONE) -> Plan:
    """The plan, knowing whether the loss can be computed without building all logits; alike in all processes."""
    if plan.chunked is not None:
        return plan
    reason = first_said(ranks, why_not_chunked(model, shortest(rows), packed if plan.packing else padded))
    said = "logits are never all there"
    if reason is not None:
        said = f"logits are built: {reason}"
        report({"kind": "warning", "sentence": f"all logits are built for the loss, which takes memory: {reason}."})
    return replace(plan, chunked=reason is None, reasons={**plan.reasons, "chunked": said})


def first_said(ranks: Ranks, reason: str | None) -> str | None:
    """The reason of the first process that has one."""
    return next(filter(None, ranks.gather(reason)), None)


def settle_memory(wanted: str, policy: Policy, objective: Sft, rows: Mixture) -> Sft:
    """The objective under a plan that knows whether layers are computed again in the backward pass; they are, if so."""
    plan = objective.plan
    reason = plan.reasons.get("checkpointing", "given")
    if plan.checkpointing is None and wanted == "auto":
        batch = trial_batch(objective, rows)
        with torch.random.fork_rng():
            kept = kept_bytes(policy.model, lambda: objective.loss(policy.model, batch))
        forget_gathered(policy.model)  # it counts among what is to come
        ids: Any = batch.inputs["input_ids"]
        most = largest_micro_batch(plan, objective.batch_size, rows.every_length.tolist())
        free = free_bytes(plan.device) // (plan.processes if plan.device == "cpu" else 1)
        found = why_checkpointing(int(kept / ids.numel() * most), bytes_to_come(policy, plan), free)
        found = first_said(policy.ranks, found)  # who has least decides
        reason, wanted = found or "a micro-batch fits into memory as it is", "off" if found is None else "on"
    checkpointing = wanted == "on" if plan.checkpointing is None else plan.checkpointing
    if checkpointing:
        checkpoint_activations(policy.model)
    plan = replace(plan, checkpointing=checkpointing, reasons={**plan.reasons, "checkpointing": reason})
    return replace(objective, plan=plan)


def settle_layers(wanted: str, policy: Policy, objective: Sft, rows: Mixture, steps: int, report: Report) -> Sft:
    """The objective under a plan that knows whether layers are compiled; they are, if so.

    Args:
        wanted: `auto`, `on` or `off`; a plan that has decided before stays with it.
        policy: what is trained.
        objective: what it is trained by.
        rows: what it is trained on.
        steps: of the whole run.
        report: hears why layers that were to be compiled are not.
    """
    plan = objective.plan
    if plan.compiled is False:
        return objective
    reason, wished = "given" if wanted == "off" else None, wanted == "on" or plan.compiled is True
    if wanted == "auto" and not wished:
        tokens = steps * objective.batch_size * float(rows.lengths.mean())
        reason = policy.ranks.gather(does_not_pay(seconds_of_training(policy, plan, tokens)))[0]
        wished = reason is None
    if wished:
        reason = first_said(policy.ranks, why_layers_cannot(policy, objective, rows))
        if reason is not None:
            leave_uncompiled(policy.model)  # here too, where another process could not
            report({"kind": "warning", "sentence": f"layers are not compiled, which is slower: {reason}."})
    said = "layers are compiled" if reason is None else f"layers run as they are: {reason}"
    plan = replace(plan, compiled=reason is None, reasons={**plan.reasons, "compiled": said})
    return replace(objective, plan=plan)


def why_layers_cannot(policy: Policy, objective: Sft, rows: Mixture) -> str | None:
    """Compile the layers; why they cannot be, as a sentence."""
    plan = objective.plan
    if not plan.packing:  # each mask and each number of rows would be a graph of its own
        return "rows are not packed, and only layers that read packed rows are compiled"
    trial = replace(objective, plan=replace(plan, compiled=True))
    batch = trial_batch(trial, rows)
    reason = why_not_compiled(policy.model, policy.weights, lambda: one_backward(policy, trial, batch))
    return reason or (why_loss_differs(plan.dtype, plan.device) if plan.chunked else None)


def trial_batch(objective: Sft, rows: Mixture) -> Batch:
    """A few rows, the same in every process."""
    return replace(objective, ranks=ALONE).batches(shortest(rows))[0]


def bytes_to_come(policy: Policy, plan: Plan) -> int:
    """Bytes in this process of gradients and moments, and of the layers that it puts together at once."""
    bytes_a_weight = 6 if isinstance(policy.optimizer, AdamW8bit) else 12  # a gradient and two moments
    state = state_bytes(policy.weights.values(), bytes_a_weight)
    if plan.sharding == "none":
        return state
    return state + gathered_bytes(policy.model, layers_of(policy.model), plan.dtype.itemsize)


def largest_micro_batch(plan: Plan, batch_size: int, lengths: Sequence[int]) -> int:
    """Tokens of it, at most.

    Args:
        plan: how a step is parted.
        batch_size: rows in one step, over all processes.
        lengths: tokens of each row.
    """
    lengths = sorted(lengths, reverse=True)
    longest = lengths[0]
    if plan.accumulation is not None:
        count = -(-batch_size // (plan.accumulation * plan.processes))
        return sum(lengths[:count]) if plan.packing else longest * count
    step = sum(lengths[:batch_size]) if plan.packing else longest * batch_size
    share = step if plan.processes == 1 else min(step, step // plan.processes + longest)  # nobody has a row more
    return max(longest, min(plan.micro_tokens, share))


def one_backward(policy: Policy, objective: Sft, batch: Batch) -> float:
    """The loss of a batch, whose gradients are added."""
    [term] = objective.loss(policy.model, batch).terms
    loss = term.total / batch.units[term.unit]
    policy.backward(loss)
    return loss.item()


def seconds_of_training(policy: Policy, plan: Plan, tokens: float) -> float:
    """How long training on so many tokens takes without compiled layers, about, by its matrix products alone."""
    weights = sum(weight.numel() for weight in policy.model.parameters())
    trained = sum(weight.numel() for weight in policy.weights.values())
    return (4 * weights + 2 * trained) * tokens / (USED * product_rate(plan.device, plan.dtype)) / plan.processes
