"""Every automatic decision of a run, taken once, before the first step, and written to plan.json."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tunesmith.core.errors import TrainingError, TunesmithError
from tunesmith.core.files import read_json
from tunesmith.exec.machine import processor, versions
from tunesmith.model.device import choose_device
from tunesmith.train.ranks import ALONE, Ranks

SURROUNDINGS = ("machine", "device", "threads", "processes", "sharding", "versions")


@dataclass(frozen=True)
class Plan:
    """How this run uses this machine.

    Attributes:
        device: `cpu` or `cuda`.
        precision: `fp32` or `bf16`, of the matrix products.
        packing: whether rows share sequences.
        chunked: whether the loss is computed without building all logits; None before it is decided.
        compiled: whether layers are compiled; None before it is decided.
        checkpointing: whether the backward pass computes layers again; None before it is decided.
        micro_tokens: most tokens in one forward pass.
        accumulation: micro-batches in one step of a process, or None for as many as `micro_tokens` makes.
        processes: how many train together.
        sharding: `none` (each holds all weights) or `full` (each holds a part of every weight).
        threads: CPU threads of torch, in each process.
        reasons: why each decision fell as it did, for people.
        versions: of the libraries that results depend on.
        machine: processor or GPU.
    """

    device: str
    precision: Literal["fp32", "bf16"]
    packing: bool
    micro_tokens: int
    accumulation: int | None
    processes: int
    sharding: Literal["none", "full"]
    threads: int
    reasons: dict[str, str]
    versions: dict[str, str]
    machine: str
    chunked: bool | None = None
    compiled: bool | None = None
    checkpointing: bool | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch names it."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def to_json(self) -> dict[str, Any]:
        """Plain values for plan.json."""
        return asdict(self)

    def surroundings(self) -> dict[str, Any]:
        """All that decides the last bit of a result and is no decision of the recipe's, as plain values by name."""
        return {name: getattr(self, name) for name in SURROUNDINGS}


def read_plan(path: Path) -> Plan:
    """The plan that `to_json` wrote.

    Raises:
        TunesmithError: it is not one.
    """
    try:
        return Plan(**read_json(path))
    except TypeError:
        raise TunesmithError(f"{path}: not a plan of this version of tunesmith. Start the run anew.") from None


def make_plan(
    precision: str,
    packing: str,
    micro_tokens: int,
    accumulation: int | None = None,
    device: str = "auto",
    ranks: Ranks = ALONE,
    sharding: Literal["none", "full"] = "none",
) -> Plan:
    """Decide how to run here.

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


def with_threads(plan: Plan, threads: int, why: str) -> Plan:
    """The plan with another number of threads, from a checkpoint on: exactness is promised per plan."""
    return replace(plan, threads=threads, reasons={**plan.reasons, "threads": f"{plan.threads} before; then {why}"})


def in_smaller_pieces(plan: Plan, batch_size: int, lengths: Sequence[int]) -> Plan:
    """The plan with half as much in one forward pass, for a run that had no room; its results are the same.

    Args:
        plan: under which it had no room.
        batch_size: rows in one step.
        lengths: tokens of each row.

    Raises:
        TrainingError: a single row has no room.
    """
    batch_size = -(-batch_size // plan.processes)  # of one process
    lengths = sorted(lengths)[-batch_size:]
    longest, most = lengths[-1], min(plan.micro_tokens, sum(lengths))
    if plan.accumulation is not None and plan.accumulation < batch_size:
        count = min(2 * plan.accumulation, batch_size)
        reason = f"there was no room for a step in {plan.accumulation} micro-batches"
        return replace(plan, accumulation=count, reasons={**plan.reasons, "accumulation": reason})
    if plan.accumulation is None and most > longest:
        tokens = max(most // 2, longest)
        reason = f"there was no room for {most} tokens"
        return replace(plan, micro_tokens=tokens, reasons={**plan.reasons, "micro_tokens": reason})
    if not plan.checkpointing:
        reason = f"there was no room for a row of {longest} tokens"
        return replace(plan, checkpointing=True, reasons={**plan.reasons, "checkpointing": reason})
    raise TrainingError(
        f"there is no room for a micro-batch of one row (the longest has {longest} tokens). Lower data.max_length, "
        "take method.type=lora or a smaller base model, or a machine with more memory."
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
