"""What a plan holds: every automatic decision of a run, as plan.json has it. `planner` takes them; no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tunesmith.core.errors import TrainingError, TunesmithError
from tunesmith.core.files import read_json

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
        padding: how much of what is computed is padding, about, of rows that are never packed.
        attention: the kernel of packed rows, by the name that models know it by; None where there is no choice.
        graphs: whether kernels are recorded and replayed, on a GPU; None before it is decided.
        words: rows of the table of words that are trained, those in use (`model/used_words`); None for all.
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
    padding: float | None = None
    attention: str | None = None
    graphs: bool | None = None
    words: int | None = None

    @property
    def dtype(self) -> Any:
        """The precision as torch names it."""
        import torch

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


def with_threads(plan: Plan, threads: int, why: str) -> Plan:
    """The plan with another number of threads, from a checkpoint on: exactness is promised per plan."""
    return replace(plan, threads=threads, reasons={**plan.reasons, "threads": f"{plan.threads} before; then {why}"})


def in_smaller_pieces(plan: Plan, batch_size: int, lengths: Sequence[int]) -> Plan:
    """The plan with half as much in one forward pass, for a run that had no room; its results are the same.

    Where kernels were recorded, which takes memory of their own, they no longer are, and nothing else changes.

    Args:
        plan: under which it had no room.
        batch_size: rows in one step.
        lengths: tokens of each row.

    Raises:
        TrainingError: a single row has no room.
    """
    if plan.graphs:
        reason = "there was no room for recorded kernels, or they cannot be recorded"
        return replace(plan, graphs=False, reasons={**plan.reasons, "graphs": reason})
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
