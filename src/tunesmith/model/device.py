"""Which device computes, and what it has left."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

from tunesmith.core.errors import ConfigError, ModelError
from tunesmith.exec.memory import memory_limit

KEPT_BYTES = 2**29  # freed memory that a training process keeps, to be used again
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt's numbers for them


def choose_device(wanted: str) -> tuple[str, str]:
    """The device, and why.

    Raises:
        ConfigError: the wanted one is not there.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError("device = 'cuda': no CUDA device is there (or torch was built without CUDA). Set device=cpu.")
    if wanted != "auto":
        return wanted, "given"
    if there:
        return "cuda", "a CUDA device is there"
    if torch.backends.mps.is_available():
        return "cpu", "Apple's GPU is there, but nothing has been proven on it, so the CPU is used"
    return "cpu", "no CUDA device"


def sent(tensor: torch.Tensor, device: str) -> torch.Tensor:
    """A tensor of the host's on a device; to a GPU it is under way when this returns, and nothing has waited for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device == "cuda" else tensor.to(device)


def free_bytes(device: str) -> int:
    """Memory that is free now on this device, and that a container allows; what torch keeps unused is free."""
    if device == "cuda":
        free, stats = torch.cuda.mem_get_info()[0], torch.cuda.memory_stats_as_nested_dict()  # the flat one is slow
        reserved, allocated = (stats[f"{kind}_bytes"]["all"]["current"] for kind in ("reserved", "allocated"))
        return free + reserved - allocated
    return min(psutil.virtual_memory().available, memory_limit())


def total_bytes(device: str) -> int:
    """All of this device's memory that programs may use."""
    return torch.cuda.mem_get_info()[1] if device == "cuda" else memory_limit()


def on_device(folder: Path, model: Any, device: str) -> Any:
    """A model that was read from `folder`, moved to where it computes; parts of it may be there already.

    Raises:
        ModelError: a GPU has no room for its weights.
    """
    if device == "cuda":
        coming = [tensor for tensor in (*model.parameters(), *model.buffers()) if not tensor.is_cuda]
        needed, free = sum(tensor.numel() * tensor.element_size() for tensor in coming), free_bytes(device)
        if needed > free:
            raise ModelError(
                f"{folder}: its weights take {needed / 2**30:.1f} GB, and the GPU has {free / 2**30:.1f} GB free. "
                "Close what else uses it, let the CPU compute (device=cpu), or train beside a base in 4 bits "
                "(model.quantize=nf4)."
            )
    return model.to(device)


def let_go(device: str) -> None:
    """Free what nobody can reach any more, and give back what torch keeps of a GPU's memory for later.

    A model whose layers are compiled reaches itself, so that it stays until cycles are looked for.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Let glibc keep what is freed instead of giving it back: each page that comes anew is zeroed and mapped first.

    Where drawing and learning take turns, much would be freed and mapped again in each step. Where there is no
    glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)
