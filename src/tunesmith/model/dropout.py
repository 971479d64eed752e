"""Dropout on a CPU whose chance is computed from a seed, for all numbers at once (`cpp/dropout.cpp`).

Torch draws a number after the other from its generator and keeps what was left out for the way back: for a classifier
that takes as long as attention. Here its generator gives a seed for each call, and what a number's chance is follows
from the seed and its place. So a run that goes on, or computes a layer again, leaves out the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from tunesmith.model.native import library

SEEDS = 2**32
MOST_SHARE = 0.99  # that is left out here: what stays is multiplied by a hundred
NUMBERS = (torch.bfloat16, torch.float32)


class SeededDropout(torch.nn.Dropout):
    """`torch.nn.Dropout`, faster where the C++ can be used; in compiled layers it is torch's own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The numbers, some of which are zero while the model is trained."""
        here = input.device.type == "cpu" and input.dtype in NUMBERS and 0 < self.p <= MOST_SHARE and not self.inplace
        if not self.training or not here or torch.compiler.is_compiling() or library() is None:
            return super().forward(input)
        return _Dropped.apply(input, self.p, int(torch.randint(SEEDS, ())))  # pyright: ignore[reportReturnType]


class _Dropped(torch.autograd.Function):
    """The same numbers are left out of what comes in and of its gradient."""

    @staticmethod
    def forward(ctx: Any, numbers: torch.Tensor, share: float, seed: int) -> torch.Tensor:
        ctx.chance = share, seed
        return _without(numbers, share, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # pyright: ignore
        return _without(gradient, *ctx.chance), None, None


def _without(numbers: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    functions = library()
    assert functions is not None
    numbers = numbers.contiguous()
    found = torch.empty_like(numbers)
    functions.dropout(
        numbers.data_ptr(), found.data_ptr(), numbers.numel(), numbers.element_size(), share, seed,
        torch.get_num_threads(),
    )  # fmt: skip
    return found


def seed_dropout(model: torch.nn.Module) -> None:
    """Let the dropout of a model, and of what a method has added to it, be the seeded one."""
    for part in model.modules():
        if type(part) is torch.nn.Dropout:
            part.__class__ = SeededDropout
