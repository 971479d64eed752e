"""Averages of the trained weights, which are validated and exported in their place, while training goes on with these.

`Ema` is an exponential moving average (Polyak averaging; Morales-Brotons et al., 2024): average = d average + (1 - d)
weight after each step, with d growing to `decay` as (1 + t) / (10 + t), so that the random start is soon forgotten.
`ScheduleFreeAverage` is the one that schedule-free optimizers keep themselves (Defazio et al., 2024).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

Weights = Mapping[str, torch.nn.Parameter]


class Average(Protocol):
    """An average of some weights."""

    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        ...

    def in_place(self) -> AbstractContextManager[None]:
        """The weights are the averages while the block lasts, and bit by bit what they were afterwards."""
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averages by name."""
        ...

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `tensors` has given."""
        ...


class Ema:
    """The moving average of some weights."""

    def __init__(self, weights: Weights, decay: float) -> None:
        self.decay = decay
        self._weights = weights
        self._tensors = {name: weight.detach().clone() for name, weight in weights.items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averages by name."""
        return self._tensors

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from these."""
        self._tensors = dict(tensors)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, weight in self._weights.items():
            self._tensors[name].lerp_(weight.detach(), share)

    @contextlib.contextmanager
    def in_place(self) -> Generator[None]:
        """The model computes with the averages while the block lasts."""
        with _put_back(self._weights), torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(self._tensors[name])
            yield


class ScheduleFreeAverage:
    """The average that a schedule-free optimizer computes from the weights and its own state."""

    def __init__(self, weights: Weights, optimizer: Any) -> None:
        self._weights, self._optimizer = weights, optimizer

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averages by name."""
        with self.in_place():
            return {name: weight.detach().clone() for name, weight in self._weights.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Nothing: weights and state say what it is."""

    def update(self, step: int) -> None:
        """Nothing: the optimizer does."""

    @contextlib.contextmanager
    def in_place(self) -> Generator[None]:
        """The model computes with the averages while the block lasts."""
        with _put_back(self._weights), torch.no_grad():
            self._optimizer.eval()
            try:
                yield
            finally:  # its own way back would round
                for group in self._optimizer.param_groups:
                    group["train_mode"] = True


@contextlib.contextmanager
def _put_back(weights: Weights) -> Iterator[None]:
    """Weights may be changed while the block lasts."""
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(kept[name])
