"""Every automatic decision of a run, taken once, before the first step, and written to plan.json."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_json

LIBRARIES = ("tunesmith", "torch", "transformers", "peft", "tokenizers")


@dataclass(frozen=True)
class Plan:
    """How this run uses this machine.

    Attributes:
        device: `cpu` or `cuda`.
        precision: `fp32` or `bf16`, of the matrix products.
        packing: whether rows share sequences.
        micro_tokens: most tokens in one forward pass.
        threads: CPU threads of torch.
        reasons: why each decision fell as it did, for people.
        versions: of the libraries that results depend on.
        machine: processor or GPU.
    """

    device: str
    precision: Literal["fp32", "bf16"]
    packing: bool
    micro_tokens: int
    threads: int
    reasons: dict[str, str]
    versions: dict[str, str]
    machine: str

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch names it."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def to_json(self) -> dict[str, Any]:
        """Plain values for plan.json."""
        return asdict(self)


def read_plan(path: Path) -> Plan:
    """The plan that `to_json` wrote.

    Raises:
        TunesmithError: it is not one.
    """
    try:
        return Plan(**read_json(path))
    except TypeError:
        raise TunesmithError(f"{path}: not a plan of this version of tunesmith. Start the run anew.") from None


def differences(plan: Plan, here: Plan) -> list[str]:
    """What is another here than when the plan was made, of all that decides the last bit of a result."""
    pairs = {"machine": (plan.machine, here.machine), "device": (plan.device, here.device)}
    pairs |= {f"{name}'s version": (old, here.versions.get(name)) for name, old in plan.versions.items()}
    pairs["threads"] = (str(plan.threads), str(here.threads))
    return [f"{name} was {old} and is {new}" for name, (old, new) in pairs.items() if old != new]


def make_plan(precision: str, packing: str, micro_tokens: int) -> Plan:
    """Decide how to run here.

    Args:
        precision: `auto`, `fp32` or `bf16`.
        packing: `auto` or `off`.
        micro_tokens: most tokens in one forward pass.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reasons = {"device": "a CUDA device is there" if device == "cuda" else "no CUDA device"}
    if precision == "auto":
        gain = bf16_gain(device)
        precision = "bf16" if gain > 1.3 else "fp32"
        reasons["precision"] = f"a bf16 matrix product ran {gain:.1f} times as fast as fp32"
    else:
        reasons["precision"] = "given"
    reasons["packing"] = "rows share sequences" if packing == "auto" else "given"
    return Plan(
        device=device,
        precision="bf16" if precision == "bf16" else "fp32",
        packing=packing == "auto",
        micro_tokens=micro_tokens,
        threads=torch.get_num_threads(),
        reasons=reasons,
        versions={"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        machine=torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores",
    )


def bf16_gain(device: str) -> float:
    """How many times as fast as fp32 a bf16 matrix product is here: measured, since flags promise too much."""

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(1024, 512, dtype=dtype, device=device), torch.ones(512, 1024, dtype=dtype, device=device)
        best = float("inf")
        for _ in range(6):
            started = time.perf_counter()
            (a @ b).sum().item()
            best = min(best, time.perf_counter() - started)
        return best

    return seconds(torch.float32) / seconds(torch.bfloat16)
