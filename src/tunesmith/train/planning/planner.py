"""The plan of a run, decided whole and in one place, before anything is learned.

First what the machine says (`make_plan`), then, of the model as it will be trained, what leaves its results as they are
(`complete_plan`): packing, the chunked loss, activation checkpointing, compiled layers. What one process finds counts
for all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
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
from tunesmith.model import native
from tunesmith.model.device import choose_device, free_bytes
from tunesmith.model.kernels import use_kernel
from tunesmith.model.layers import inside, layers_of
from tunesmith.model.load import ATTENTION_DROPOUTS
from tunesmith.train.loss import output_layer, piece_bytes, why_loss_differs
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
from tunesmith.train.planning.speed import choose_precision, product_rate, seconds_of, use_fastest_attention
from tunesmith.train.weights.placed import Placed
from tunesmith.train.weights.ranks import ALONE, Ranks
from tunesmith.train.weights.shards import forget_gathered

MICRO_TOKENS = {"cpu": 4096, "cuda": 16384}  # beyond which products gain nothing
LEAST_TOKENS = 2048  # that are worth more than computing layers again
FEW = 4  # rows that decisions are tried on
LOOKED_AT = 512  # tokens of each where all logits are built: 4 x 512 x 128,256 words are 1 GB in fp32
STEPS_LOOKED_AT = 20  # by which the share of padding is estimated


def make_plan(
    precision: str,
    packing: str,
    micro_tokens: int | Literal["auto"],
    accumulation: int | None = None,
    device: str = "auto",
    ranks: Ranks = ALONE,
    sharding: Literal["none", "full"] = "none",
) -> Plan:
    """What can be decided of a plan before there is a model: device, precision, threads.

    Args:
        precision: `auto`, `fp32` or `bf16`.
        packing: `auto` or `off`.
        micro_tokens: most tokens in one forward pass; `auto` leaves it to the device and its memory.
        accumulation: micro-batches in one step, where they are given.
        device: `auto`, `cpu` or `cuda`.
        ranks: the processes that train together.
        sharding: whether each holds all weights or a part of them.
    """
    device, reason = choose_device(device)
    precision, why = choose_precision(precision, device)
    reasons = {"device": reason, "precision": why}
    if micro_tokens == "auto":
        micro_tokens = MICRO_TOKENS[device]
        reasons["micro_tokens"] = f"auto, which is {micro_tokens} or what has room on this {device}"
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
        versions=versions() | ({"cpp": native.version()} if device == "cpu" else {}),
        machine=torch.cuda.get_device_name() if device == "cuda" else processor(),
    )


@dataclass(frozen=True)
class Wishes:
    """What the recipe says of decisions that are taken here.

    Attributes:
        compile: `auto`, `on` or `off`.
        checkpointing: the same.
        batch_size: rows in one step, over all processes.
        steps: of the whole run, each as often as it passes over its rows.
        bytes_a_weight: of gradient and optimizer state together.
        micro_tokens: as the recipe has it.
        plain: whether a step is the objective's loss and nothing else, of a base in its own precision.
    """

    compile: str
    checkpointing: str
    batch_size: int
    steps: int
    bytes_a_weight: int = 12  # a gradient and AdamW's two moments
    micro_tokens: int | Literal["auto"] = "auto"
    plain: bool = False


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
    plan = decide_attention(plan, placed, rows)
    placed.model.train()  # as in training, or other layers would be measured and compiled
    plan = decide_checkpointing(plan, wishes, placed, objective, rows)
    plan = decide_layers(plan, wishes, placed, objective, rows, report)
    return decide_graphs(plan, wishes, placed, objective, rows)


def shortest(rows: Mixture) -> list[Prepared]:
    """A few rows that are quickly computed, without reading all others."""
    return [rows[int(i)] for i in rows.lengths.argsort()[:FEW]]


def looked_at(rows: Mixture, objective: Objective) -> list[Prepared]:
    """The same for checks that build all logits: of long texts, a stretch around what is first trained on."""
    found = shortest(rows)
    return [stretch(row, LOOKED_AT) for row in found] if objective.task == "causal" else found


def stretch(row: Prepared, most: int) -> Prepared:
    """At most so many tokens of a row of one sequence, from the one before the first that is trained on."""
    if row.others or len(row.ids) <= most or not row.spans:
        return row
    begin = min(max(row.spans[0][0] - 1, 0), len(row.ids) - most)
    spans = ((max(start - begin, 0), min(end - begin, most)) for start, end in row.spans)
    return replace(row, ids=row.ids[begin : begin + most], spans=tuple(span for span in spans if span[0] < span[1]))


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
    reason = first_said(placed.ranks, why_not_packed(objective, Models(model, plan), looked_at(rows, objective)))
    if reason is None:
        return plan
    model.set_attn_implementation(before)
    report(events.Warning(reason))
    return replace(plan, packing=False, reasons={**plan.reasons, "packing": reason})


def decide_attention(plan: Plan, placed: Placed, rows: Mixture) -> Plan:
    """The plan, knowing which kernel computes attention where there are several: on a GPU, in bf16."""
    if not plan.packing or plan.device != "cuda" or plan.precision != "bf16" or leaves_out(placed.model):
        return plan
    if plan.attention is not None:
        use_kernel(placed.model, plan.attention)
        return plan
    reason = use_fastest_attention(placed.model, rows.every_length, plan.micro_tokens)
    chosen = placed.ranks.gather(placed.model.config._attn_implementation)[0]
    use_kernel(placed.model, chosen)
    return replace(plan, attention=chosen, reasons={**plan.reasons, "attention": reason})


def decide_loss(plan: Plan, placed: Placed, objective: Objective, rows: Mixture, report: Report = silent) -> Plan:
    """The plan, knowing whether the loss can be computed without building all logits; alike in all processes."""
    if plan.chunked is not None:
        return plan
    check = None if objective.check is None else objective.check.why_not_chunked
    if check is None:
        return replace(plan, chunked=False, reasons={**plan.reasons, "chunked": "the objective builds no logits"})
    reason = first_said(placed.ranks, check(Models(placed.model, plan), looked_at(rows, objective)))
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
        lengths = (rows.every_length + objective.soft).tolist()
        free = free_bytes(plan.device) // (plan.processes if plan.device == "cpu" else 1)

        def why(plan: Plan) -> str | None:
            most = largest_micro_batch(plan, wishes.batch_size, lengths)
            found = why_checkpointing(int(kept / batch.size * most), bytes_to_come(plan, placed, wishes), free)
            return first_said(placed.ranks, found)  # who has least decides

        halves = wishes.micro_tokens == "auto"
        plan, found = halved_until_it_fits(plan, why) if halves else (plan, why(plan))
        reason, wanted = found or "a micro-batch fits into memory as it is", "off" if found is None else "on"
    checkpointing = wanted == "on" if plan.checkpointing is None else plan.checkpointing
    if checkpointing:
        checkpoint_activations(placed.model)
    return replace(plan, checkpointing=checkpointing, reasons={**plan.reasons, "checkpointing": reason})


def halved_until_it_fits(plan: Plan, why_not: Callable[[Plan], str | None]) -> tuple[Plan, str | None]:
    """The plan with as much in one forward pass as has room, and why even the least has none."""
    found = why_not(plan)
    while found and plan.micro_tokens > LEAST_TOKENS:
        reasons = {**plan.reasons, "micro_tokens": f"auto: there is no room for {plan.micro_tokens} tokens at once"}
        plan = replace(plan, micro_tokens=max(plan.micro_tokens // 2, LEAST_TOKENS), reasons=reasons)
        found = why_not(plan)
    return plan, found


def decide_layers(
    plan: Plan, wishes: Wishes, placed: Placed, objective: Objective, rows: Mixture, report: Report = silent
) -> Plan:
    """The plan, knowing whether layers are compiled; they are, if so. A plan that has decided before stays with it."""
    if plan.compiled is False:
        return plan
    reason, wished = "given" if wishes.compile == "off" else None, wishes.compile == "on" or plan.compiled is True
    if wishes.compile == "auto" and not wished:
        seconds = seconds_uncompiled(plan, wishes, placed, objective, rows)
        reason = placed.ranks.gather(why_compiling_does_not_pay(seconds, plan.device))[0]
        wished = reason is None
    if wished:
        reason = first_said(placed.ranks, why_layers_cannot(plan, placed, objective, rows))
        if reason is not None:
            leave_uncompiled(placed.model)  # here too, where another process could not
            report(events.Warning(f"layers are not compiled, which is slower: {reason}."))
    said = "layers are compiled" if reason is None else f"layers run as they are: {reason}"
    return replace(plan, compiled=reason is None, reasons={**plan.reasons, "compiled": said})


def seconds_uncompiled(
    plan: Plan, wishes: Wishes, placed: Placed, objective: Objective, rows: Mixture
) -> float:  # fmt: skip
    """How long the run takes without compiled layers, about: by its products, or on a GPU by what it must launch."""
    tokens = wishes.steps * wishes.batch_size * float(rows.lengths.mean())
    weights = sum(weight.numel() for weight in placed.model.parameters())
    trained = sum(weight.numel() for weight in placed.weights.values())
    products = seconds_of_training(weights, trained, tokens, product_rate(plan.device, plan.dtype), plan.processes)
    if plan.device != "cuda":
        return products
    passes = wishes.steps * max(1.0, tokens / wishes.steps / plan.processes / plan.micro_tokens)
    return max(products, passes * seconds_of_launching(plan, placed, objective, rows))


def seconds_of_launching(plan: Plan, placed: Placed, objective: Objective, rows: Mixture) -> float:
    """How long a pass forward and back takes a GPU at least, however little there is to compute: of a few rows."""
    batch = trial_batch(plan, objective, rows)
    with torch.random.fork_rng():
        once = seconds_of(lambda: one_backward(plan, placed, objective, batch), plan.device)
    placed.forget_gradients()
    return once


def decide_graphs(plan: Plan, wishes: Wishes, placed: Placed, objective: Objective, rows: Mixture) -> Plan:
    """The plan, knowing whether kernels are recorded and replayed: where launching them takes longer than computing."""
    reason = why_not_recorded(plan, wishes, placed, objective)
    if reason is not None and plan.graphs:  # a run that goes on with other settings, or elsewhere
        plan = replace(plan, graphs=False, reasons={**plan.reasons, "graphs": reason})
    if plan.graphs is None and plan.device == "cuda":
        if reason is None:
            tokens = min(plan.micro_tokens, wishes.batch_size * float(rows.lengths.mean()))
            weights = sum(weight.numel() for weight in placed.model.parameters())
            trained = sum(weight.numel() for weight in placed.weights.values())
            products = seconds_of_training(weights, trained, tokens, product_rate(plan.device, plan.dtype), 1)
            launching = seconds_of_launching(plan, placed, objective, rows)
            said = f"launching a pass takes {1000 * launching:.0f} ms and computing it about {1000 * products:.0f}"
            reason = None if launching > products else said
        reasons = {**plan.reasons, "graphs": reason or "kernels are recorded: launching them takes longer than they do"}
        plan = replace(plan, graphs=reason is None, reasons=reasons)
    placed.keeps_gradients = plan.graphs is True
    return plan


def why_not_recorded(plan: Plan, wishes: Wishes, placed: Placed, objective: Objective) -> str | None:
    """Why a step's kernels cannot be recorded, as a sentence; None if they may be."""
    if plan.device != "cuda":
        return "there is no GPU"
    if not objective.recordable or objective.soft or not wishes.plain:
        return "a step is more than a loss of tokens"
    if not (plan.packing and plan.chunked and plan.precision == "bf16"):
        return "only what is packed, in bf16 and without logits comes in few shapes"
    if leaves_out(placed.model):
        return "attention leaves out probabilities"
    if plan.checkpointing or plan.processes > 1:
        return "layers are computed again" if plan.checkpointing else "several processes train together"
    return None


def leaves_out(model: Any) -> bool:
    """Whether attention leaves out probabilities, which no kernel of a library does for packed rows."""
    config = inside(model).config
    return any(getattr(config, name, 0) for name in ATTENTION_DROPOUTS)


def why_layers_cannot(plan: Plan, placed: Placed, objective: Objective, rows: Mixture) -> str | None:
    """Compile the layers; why they cannot be, as a sentence."""
    if not plan.packing:  # each mask and each number of rows would be a graph of its own
        return "rows are not packed, and only layers that read packed rows are compiled"
    if leaves_out(placed.model):
        return "attention leaves out probabilities (model.dropout.attention)"
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
    """Bytes in this process of gradients and moments, of the loss, and of the layers that it puts together at once."""
    state = state_bytes(placed.weights.values(), wishes.bytes_a_weight)
    head = output_layer(placed.model) if plan.chunked else None
    state += 0 if head is None else piece_bytes(head, plan.micro_tokens)
    if plan.sharding == "none":
        return state
    return state + gathered_bytes(placed.model, layers_of(placed.model), plan.dtype.itemsize)
