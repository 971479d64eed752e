"""How fast this machine is, measured: flags promise too much, and a GPU's launches are not its products."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from tunesmith.core.errors import ConfigError
from tunesmith.model.kernels import fastest, kernels_for, milliseconds, trial, use_kernel

SIDE = 4096  # of a product that keeps a large GPU busy: 0.2 ms of an H100
ROUNDS = 3  # of both precisions in turn: others on the machine stop one of them now and then
GAIN = 1.3  # from which bf16 is worth its rounding
BF16_SINCE = (8, 0)  # compute capability of the first NVIDIA cards with bf16 units
ALIKE = 0.5  # share of rows that are as long as the longest, from which a kernel for those is worth a look


def product_rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a matrix product here."""
    if device == "cuda":
        a, b = (torch.randn(SIDE, SIDE, dtype=dtype, device=device) for _ in range(2))
        return 2 * SIDE**3 / (milliseconds(lambda: a @ b) / 1000)
    a, b = torch.ones(1024, 512, dtype=dtype), torch.ones(512, 1024, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - started)
    return 2 * 1024 * 512 * 1024 / best


def choose_precision(wanted: str, device: str) -> tuple[str, str]:
    """The precision of matrix products, and why.

    Raises:
        ConfigError: bf16 is wanted on a card without units for it.
    """
    units = device != "cuda" or torch.cuda.get_device_capability() >= BF16_SINCE
    if wanted == "bf16" and not units:
        raise ConfigError(
            f"precision = 'bf16': {torch.cuda.get_device_name()} has no bf16 units. Set precision=fp32; fp16 with loss "
            "scaling is not offered."
        )
    if wanted != "auto":
        return wanted, "given"
    if device == "cuda":
        return ("bf16", "this card has bf16 units") if units else ("fp32", "this card has no bf16 units")
    rates = [(product_rate(device, torch.bfloat16), product_rate(device, torch.float32)) for _ in range(ROUNDS)]
    gain = max(bf16 for bf16, _ in rates) / max(fp32 for _, fp32 in rates)
    return "bf16" if gain > GAIN else "fp32", f"a bf16 matrix product ran {gain:.1f} times as fast as fp32"


def seconds_of(run: Callable[[], Any], device: str) -> float:
    """How long something takes, until a GPU has done it too: the median of three after one that is left out."""

    def timed() -> float:
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return statistics.median([timed() for _ in range(4)][1:])


def use_fastest_attention(model: Any, lengths: Any, most: int) -> str:
    """Let a model that reads packed rows on a GPU in bf16 use the kernel that is fastest for them; why it is that.

    Args:
        model: set for packing; changed.
        lengths: of all rows.
        most: tokens that are computed together.
    """
    longest = int(lengths.max())
    alike = float((lengths == longest).mean()) >= ALIKE
    names = kernels_for(alike, torch.cuda.get_device_capability()[0])
    if len(names) == 1:
        return "torch's kernel for rows of many lengths"
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = heads // (getattr(config, "num_key_value_heads", None) or heads)
    some = [longest] * max(1, most // longest) if alike else rows_of_one_pass(lengths, most)
    chosen, said = fastest(names, trial(heads, groups, width, some))
    use_kernel(model, chosen)
    return said


def rows_of_one_pass(lengths: Any, most: int) -> list[int]:
    """The lengths of as many of the rows as are computed together, from the first on."""
    count = max(1, int((lengths.cumsum() <= most).sum()))
    return [int(length) for length in lengths[:count]]
