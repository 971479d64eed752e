"""Rows as tensors: packed into one sequence, or padded to the longest.

Axes: B sequences, T tokens, N trained positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch

from tunesmith.data.prepare import Prepared
from tunesmith.model.device import sent
from tunesmith.model.packed import few_of, packed_inputs, padded_inputs


@dataclass(frozen=True)
class TokenBatch:
    """One micro-batch of rows whose next tokens are predicted.

    Attributes:
        inputs: keyword arguments of the model's forward pass; `logits_to_keep` selects positions
            when rows are packed.
        picked_N: where trained positions stand among the logits (flattened), or None when
            `logits_to_keep` has selected them already.
        target_N: the token to predict at each trained position.
        rows: the rows inside, for errors.
        tokens: tokens read, padding left out.
        weight_N: where positions fill up their number, 1 of those that count and 0 of those that do not; else None.
        counted: positions that count, all if absent.
    """

    inputs: dict[str, object]
    picked_N: torch.Tensor | None
    target_N: torch.Tensor
    rows: Sequence[Prepared]
    tokens: int
    weight_N: torch.Tensor | None = None
    counted: int | None = None

    @property
    def units(self) -> dict[str, float]:
        """How much of each normaliser this batch holds."""
        return {"tokens": len(self.target_N) if self.counted is None else self.counted, "rows": len(self.rows)}

    @property
    def size(self) -> int:
        """Tokens that are computed, padding among them."""
        ids: Any = self.inputs["input_ids"]
        return ids.numel()


@dataclass(frozen=True)
class DummyBatch:
    """What a process computes to keep step with others that have more to do: its loss counts nothing.

    Attributes:
        real: a batch like those of the others.
    """

    real: Any
    rows: Sequence[Prepared] = ()
    tokens: int = 0

    @property
    def units(self) -> dict[str, float]:
        """None of each unit: all ranks must sum the same ones."""
        return dict.fromkeys(self.real.units, 0.0)

    @property
    def size(self) -> int:
        """Tokens that are computed all the same."""
        return self.real.size


@dataclass(frozen=True)
class LazyBatches(Sequence[Any]):
    """Micro-batches that are made, and brought to the device, each time they are asked for.

    Attributes:
        groups: what each is made of.
        make: makes one of them.
    """

    groups: Sequence[list[int]]
    make: Callable[[list[int]], Any]

    def __len__(self) -> int:
        return len(self.groups)

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> LazyBatches: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return LazyBatches(self.groups[place], self.make)
        return self.make(self.groups[place])


def packed(rows: Sequence[Prepared], device: str, few_shapes: bool = False) -> TokenBatch:
    """The rows in a single sequence (see `packed_inputs`): nothing is learned from what fills it up.

    With `few_shapes` trained positions are filled up too, so that batches of about one size are of one shape.
    """
    ids = torch.from_numpy(np.concatenate([row.ids for row in rows]).astype(np.int64))
    # A position is trained when the next token is a trained token of the same row.
    keep_N = torch.from_numpy(np.concatenate([np.append(row.mask[1:], False) for row in rows])).nonzero()[:, 0]
    target_N, weight_N, counted = ids[keep_N + 1], None, len(keep_N)
    if few_shapes:
        filling = keep_N.new_zeros(few_of(counted) - counted)
        keep_N, target_N, weight_N = (
            torch.cat([keep_N, filling]),
            torch.cat([target_N, filling]),
            sent(torch.cat([torch.ones(counted), torch.zeros(len(filling))]), device),
        )
    inputs = {**packed_inputs([row.ids for row in rows], device, few_shapes), "logits_to_keep": sent(keep_N, device)}
    return TokenBatch(inputs, None, sent(target_N, device), rows, len(ids), weight_N, counted)


def padded(rows: Sequence[Prepared], device: str) -> TokenBatch:
    """One row in each sequence, padded on the right."""
    inputs = padded_inputs([row.ids for row in rows], device)
    ids_BT: torch.Tensor = inputs["input_ids"]
    trained_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        trained_BT[i, : len(row.ids) - 1] = torch.from_numpy(row.mask[1:])
    picked_N = sent(trained_BT.flatten().nonzero()[:, 0], device)
    target_N = ids_BT.roll(-1, dims=1).flatten()[picked_N]
    return TokenBatch(inputs, picked_N, target_N, rows, sum(len(row.ids) for row in rows))
