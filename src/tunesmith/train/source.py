"""What a source of batches is: it gives the micro-batches of one step after another, and can go on where it stood."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

Tensors = Mapping[str, torch.Tensor]


class Source(Protocol):
    """Where batches come from. Between two steps, its state is all that it needs to go on to the same bits."""

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of the whole run."""
        ...

    def steps(self) -> Iterator[list[Any]]:
        """This process's micro-batches of each step, from where the source stands; every process gets as many."""
        ...

    def watched(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Rows to validate on, as this process's micro-batches, made each time they are asked for."""
        ...

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Where it stands: what rollouts are under way, and plain values; each process has its own."""
        ...

    def restore(self, tensors: Tensors, values: Mapping[str, Any]) -> None:
        """Stand where it stood."""
        ...
