"""What an objective returns: sums, each with the unit that will divide it.

Dividing once, in the loop, over all micro-batches and ranks of a step, is what makes a big batch
equal to accumulated small ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Term:
    """A summed loss (scalar) and the unit that normalises it: `tokens`, `rows` or `pairs`."""

    name: str
    total: torch.Tensor
    unit: str


@dataclass(frozen=True)
class Loss:
    """The terms of one micro-batch, and counts to watch that carry no gradient."""

    terms: list[Term]
    counts: Mapping[str, float] = field(default_factory=dict)


def total_units(batches: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Units summed over the micro-batches of a step."""
    totals: dict[str, int] = {}
    for units in batches:
        for unit, amount in units.items():
            totals[unit] = totals.get(unit, 0) + amount
    return totals
