"""Supervised fine-tuning: the negative log likelihood of every trained token.

Axes: N trained positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from tunesmith.data.pack import epoch_batches, micro_batches
from tunesmith.data.prepare import Prepared
from tunesmith.train.batch import Batch, packed, padded
from tunesmith.train.plan import Plan
from tunesmith.train.terms import Loss, Term


@dataclass(frozen=True)
class Sft:
    """The objective over prepared rows.

    Attributes:
        rows: what is trained on.
        batch_size: rows in one step.
        accumulation: micro-batches in one step, or None for as many as the plan's memory needs.
        seed: of the order of rows.
        plan: how batches are made here.
    """

    rows: Sequence[Prepared]
    batch_size: int
    accumulation: int | None
    seed: int
    plan: Plan

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the rows."""
        return -(-len(self.rows) // self.batch_size)

    def steps(self, done: int = 0) -> Iterator[list[Batch]]:
        """The micro-batches of one optimizer step after another, without end, after the first `done` steps."""
        epoch, passed = divmod(done, self.steps_per_epoch)
        while True:
            for indices in islice(epoch_batches(len(self.rows), self.batch_size, self.seed, epoch), passed, None):
                yield self.batches([self.rows[i] for i in indices], self.accumulation)
            epoch, passed = epoch + 1, 0

    def batches(self, rows: Sequence[Prepared], accumulation: int | None = None) -> list[Batch]:
        """`rows` as micro-batches."""
        lengths = [len(row.ids) for row in rows]
        groups = micro_batches(lengths, accumulation, self.plan.micro_tokens, self.plan.packing)
        make = packed if self.plan.packing else padded
        return [make([rows[i] for i in group], self.plan.device) for group in groups]

    def loss(self, model: Any, batch: Batch) -> Loss:
        """The summed loss over the batch's trained tokens, and how many were the model's first choice."""
        logits_NV = logits_at_trained(model, batch)
        total = cross_entropy(logits_NV.float(), batch.target_N, reduction="sum")
        correct = (logits_NV.detach().argmax(-1) == batch.target_N).sum()
        return Loss([Term("loss", total, "tokens")], {"correct": int(correct)})


def logits_at_trained(model: Any, batch: Batch) -> torch.Tensor:
    """Logits of shape (N, V) at the positions that are trained; others are not built when packed."""
    logits = model(**batch.inputs).logits.flatten(0, 1)
    return logits if batch.picked_N is None else logits[batch.picked_N]
