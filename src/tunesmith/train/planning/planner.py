"""The plan of a run, decided whole and in one place, before anything is learned.

First what the machine says (`make_plan`), then, of the model as it will be trained, what leaves its results as they are
(`complete_plan`): packing, the chunked loss, activation checkpointing, compiled layers. What one process finds counts
for all.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import torch

from tunesmith.core import events
from tunesmith.core.events import Report, silent
from tunesmith.data.pack import epoch_batches, padded_batches
from tunesmith.data.prepare import Prepared
from tunesmith.data.replay import Mixture
from tunesmith.exec.machine import processor, versions
from tunesmith.model.device import choose_device, free_bytes
from tunesmith.model.layers import layers_of
from tunesmith.train.loss import why_loss_differs
from tunesmith.train.objective import Draw, Models, Objective, total_units
from tunesmith.train.planning.compiled import leave_uncompiled, why_not_compiled
from tunesmith.train.planning.estimates import (
    largest_micro_batch,
    seconds_of_training,
    why_checkpointing,
    why_compiling_does_not_pay,
)
from tunesmith.train.planning.memory import checkpoint_activations, gathered_bytes, kept_bytes, state_bytes
from tunesmith.train.planning.packing_check import why_not_packed
from tunesmith.train.planning.plan import Plan
from tunesmith.train.weights.placed import Placed
from tunesmith.train.weights.ranks import ALONE, Ranks
from tunesmith.train.weights.shards import forget_gathered

FEW = 4  # rows that decisions are tried on
STEPS_LOOKED_AT = 20  # by which the share of padding is estimated


def make_plan(
    precision: str,
    packing: str,
    micro_tokens: int,
    accumulation: int | None = None,
    device: str = "auto",
    ranks: Ranks = ALONE,
    sharding: Literal["none", "full"] = "none",
) -> Plan:
    """What can be decided of a plan before there is a model: device, precision, threads.

    Args:
        precision: `auto`, `fp32` or `bf16`.
        packing: `auto` or `off`.
        micro_tokens: most tokens in one forward pass.
        accumulation: micro-batches in one step, where they are given.
        device: `auto`, `cpu` or `cuda`.
        ranks: the processes that train together.
        sharding: whether each holds all weights or a part of them.
    """
    device, reason = choose_device(device)
    reasons = {"device": reason}
    if precision == "auto":
        gain = product_rate(device, torch.bfloat16) / product_rate(device, torch.float32)
        precision = "bf16" if gain > 1.3 else "fp32"
        reasons["precision"] = f"a bf16 matrix product ran {gain:.1f} times as fast as fp32"
    else:
        reasons["precision"] = "given"
    threads = torch.get_num_threads()
    if device == "cpu" and threads < (os.cpu_count() or 1) // ranks.count:
        reasons["threads"] = f"{threads} of {os.cpu_count()} cores were free, or OMP_NUM_THREADS says so"
    reasons["packing"] = "rows share sequences" if packing == "auto" else "given"
    return Plan(
        device=device,
        precision="bf16" if precision == "bf16" else "fp32",
        packing=packing == "auto",
        micro_tokens=micro_tokens,
        accumulation=accumulation,
        processes=ranks.count,
        sharding=sharding if ranks.count > 1 else "none",
        threads=threads,
        reasons=reasons,
        versions=versions(),
        machine=torch.cuda.get_device_name() if device == "cuda" else processor(),
    )


def product_rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a matrix product here: measured, since flags promise too much."""
    a, b = torch.ones(1024, 512, dtype=dtype, device=device), torch.ones(512, 1024, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - started)
    return 2 * 1024 * 512 * 1024 / best


@dataclass(frozen=True)
class Wishes:
    """What the recipe says of decisions that are taken here.

    Attributes:
        compile: `auto`, `on` or `off`.
        checkpointing: the same.
        batch_size: rows in one step, over all processes.
        steps: of the whole run, each as often as it passes over its rows.
        bytes_a_weight: of gradient and optimizer state together.
    """

    compile: str
    checkpointing: str
    batch_size: int
    steps: int
    bytes_a_weight: int = 12  # a gradient and AdamW's two moments


def complete_plan(
    plan: Plan, wishes: Wishes, placed: Placed, objective: Objective, rows: Mixture, report: Report = silent
) -> Plan:
    """The whole plan; what it decides is done to the model: its attention, checkpointed and compiled layers.

    What an earlier attempt has decided stays.

    Args:
        plan: what `make_plan` or an earlier attempt has decided.
        wishes: the recipe's.
        placed: the model as it will be trained.
        objective: what it will learn.
        rows: that it will be trained on.
        report: hears what is off, and why.
    """
    if plan.packing and objective.padded:
        share = padding_share(objective, rows, plan.micro_tokens, wishes.batch_size)
        reasons = {**plan.reasons, "packing": objective.padded}
        plan = replace(plan, packing=False, padding=round(share, 3), reasons=reasons)
    plan = decide_packing(plan, placed, objective, rows, report)
    plan = decide_loss(plan, placed, objective, rows, report)
    placed.model.train()  # as in training, or other layers would be measured and compiled
    plan = decide_checkpointing(plan, wishes, placed, objective, rows)
    return decide_layers(plan, wishes, placed, objective, rows, report)


def shortest(rows: Mixture) -> list[Prepared]:
    """A few rows that are quickly computed, without reading all others."""
    return [rows[int(i)] for i in rows.lengths.argsort()[:FEW]]


def padding_share(objective: Objective, rows: Mixture, micro_tokens: int, batch_size: int) -> float:
    """How much of what is computed of padded rows is padding, by the first steps of an epoch."""
    told = computed = 0
    for step in islice(epoch_batches(len(rows), batch_size, 0, 0), STEPS_LOOKED_AT):
        widths = [objective.widths(rows[place]) for place in step]
        told += sum(map(sum, widths))
        for group in padded_batches(widths, micro_tokens):
            computed += len(group) * sum(map(max, zip(*(widths[place] for place in group), strict=True)))
    return 1 - told / computed


def decide_packing(plan: Plan, placed: Placed, objective: Objective, rows: Mixture, report: Report = silent) -> Plan:
    """The plan with packing off if this model, as it is trained, computes something else when packed."""
    if not plan.packing:
        return plan
    model = placed.model
    before = model.config._attn_implementation
    reason = first_said(placed.ranks, why_not_packed(objective, Models(model, plan), shortest(rows)))
    if reason is None:
        return plan
    model.set_attn_implementation(before)
    report(events.Warning(reason))
    return replace(plan, packing=False, reasons={**plan.reasons, "packing": reason})


def decide_loss(plan: Plan, placed: Placed, objective: Objective, rows: Mixture, report: Report = silent) -> Plan:
    """The plan, knowing whether the loss can be computed without building all logits; alike in all processes."""
    if plan.chunked is not None:
        return plan
    check = None if objective.check is None else objective.check.why_not_chunked
    if check is None:
        return replace(plan, chunked=False, reasons={**plan.reasons, "chunked": "the objective builds no logits"})
    reason = first_said(placed.ranks, check(Models(placed.model, plan), shortest(rows)))
    said = "logits are never all there"
    if reason is not None:
        said = f"logits are built: {reason}"
        report(events.Warning(f"all logits are built for the loss, which takes memory: {reason}."))
    return replace(plan, chunked=reason is None, reasons={**plan.reasons, "chunked": said})


def first_said(ranks: Ranks, reason: str | None) -> str | None:
    """The reason of the first process that has one."""
    return next(filter(None, ranks.gather(reason)), None)


def decide_checkpointing(plan: Plan, wishes: Wishes, placed: Placed, objective: Objective, rows: Mixture) -> Plan:
    """The plan, knowing whether layers are computed again in the backward pass; they are, if so."""
    reason, wanted = plan.reasons.get("checkpointing", "given"), wishes.checkpointing
    if plan.checkpointing is None and wanted == "auto":
        batch, models = trial_batch(plan, objective, rows), Models(placed.model, plan)
        with torch.random.fork_rng():
            whole = objective.before(models, [batch], placed.ranks)
            kept = kept_bytes(placed.model, lambda: objective.loss(models, batch, whole))
        forget_gathered(placed.model)  # it counts among what is to come
        most = largest_micro_batch(plan, wishes.batch_size, (rows.every_length + objective.soft).tolist())
        free = free_bytes(plan.device) // (plan.processes if plan.device == "cpu" else 1)
        found = why_checkpointing(int(kept / batch.size * most), bytes_to_come(plan, placed, wishes), free)
        found = first_said(placed.ranks, found)  # who has least decides
        reason, wanted = found or "a micro-batch fits into memory as it is", "off" if found is None else "on"
    checkpointing = wanted == "on" if plan.checkpointing is None else plan.checkpointing
    if checkpointing:
        checkpoint_activations(placed.model)
    return replace(plan, checkpointing=checkpointing, reasons={**plan.reasons, "checkpointing": reason})


def decide_layers(
    plan: Plan, wishes: Wishes, placed: Placed, objective: Objective, rows: Mixture, report: Report = silent
) -> Plan:
    """The plan, knowing whether layers are compiled; they are, if so. A plan that has decided before stays with it."""
    if plan.compiled is False:
        return plan
    reason, wished = "given" if wishes.compile == "off" else None, wishes.compile == "on" or plan.compiled is True
    if wishes.compile == "auto" and not wished:
        tokens = wishes.steps * wishes.batch_size * float(rows.lengths.mean())
        weights = sum(weight.numel() for weight in placed.model.parameters())
        trained = sum(weight.numel() for weight in placed.weights.values())
        rate = product_rate(plan.device, plan.dtype)
        seconds = seconds_of_training(weights, trained, tokens, rate, plan.processes)
        reason = placed.ranks.gather(why_compiling_does_not_pay(seconds))[0]
        wished = reason is None
    if wished:
        reason = first_said(placed.ranks, why_layers_cannot(plan, placed, objective, rows))
        if reason is not None:
            leave_uncompiled(placed.model)  # here too, where another process could not
            report(events.Warning(f"layers are not compiled, which is slower: {reason}."))
    said = "layers are compiled" if reason is None else f"layers run as they are: {reason}"
    return replace(plan, compiled=reason is None, reasons={**plan.reasons, "compiled": said})


def why_layers_cannot(plan: Plan, placed: Placed, objective: Objective, rows: Mixture) -> str | None:
    """Compile the layers; why they cannot be, as a sentence."""
    if not plan.packing:  # each mask and each number of rows would be a graph of its own
        return "rows are not packed, and only layers that read packed rows are compiled"
    trial = replace(plan, compiled=True)
    batch = trial_batch(trial, objective, rows)
    reason = why_not_compiled(placed.model, placed.weights, lambda: one_backward(trial, placed, objective, batch))
    return reason or (why_loss_differs(plan.dtype, plan.device) if plan.chunked else None)


def trial_batch(plan: Plan, objective: Objective, rows: Mixture) -> Any:
    """A few rows, the same in every process."""
    return objective.collate(shortest(rows), plan, Draw(), {})


def one_backward(plan: Plan, placed: Placed, objective: Objective, batch: Any) -> float:
    """The loss of a batch, whose gradients are added."""
    models = Models(placed.model, plan)
    loss = objective.loss(models, batch, objective.before(models, [batch], placed.ranks))
    units = total_units([batch.units])
    total = sum(term.total / units[term.unit] for term in loss.terms)
    assert isinstance(total, torch.Tensor)
    total.backward()
    return total.item()


def bytes_to_come(plan: Plan, placed: Placed, wishes: Wishes) -> int:
    """Bytes in this process of gradients and moments, and of the layers that it puts together at once."""
    state = state_bytes(placed.weights.values(), wishes.bytes_a_weight)
    if plan.sharding == "none":
        return state
    return state + gathered_bytes(placed.model, layers_of(placed.model), plan.dtype.itemsize)
