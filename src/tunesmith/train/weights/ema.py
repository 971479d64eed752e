"""An exponential moving average of the trained weights (Polyak averaging; Morales-Brotons et al., 2024).

average = d average + (1 - d) weight after each step, with d growing to `decay` as (1 + t) / (10 + t), so that
the random start is soon forgotten. What is validated and exported is the average.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import torch


class Ema:
    """The moving average of some weights.

    Attributes:
        tensors: the averages by name.
    """

    def __init__(self, weights: dict[str, torch.nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._weights = weights
        self.tensors = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, weight in self._weights.items():
            self.tensors[name].lerp_(weight.detach(), share)

    @contextlib.contextmanager
    @torch.no_grad()
    def in_place(self) -> Generator[None]:
        """The model computes with the averages while the block lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, weight in self._weights.items():
            kept = weight.detach().clone()
            weight.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)
