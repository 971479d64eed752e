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

from tunesmith.data.pack import deal, epoch_batches, micro_batches
from tunesmith.data.prepare import Prepared
from tunesmith.train.batch import Batch, LazyBatches, idle, packed, padded
from tunesmith.train.loss import hidden_at_trained, linear_cross_entropy, output_layer
from tunesmith.train.plan import Plan
from tunesmith.train.ranks import ALONE, Ranks
from tunesmith.train.terms import Loss, Term


@dataclass(frozen=True)
class Sft:
    """The objective over prepared rows.

    Attributes:
        rows: what is trained on.
        batch_size: rows in one step, over all processes.
        seed: of the order of rows.
        plan: how batches are made here.
        ranks: the processes that share each step.
    """

    rows: Sequence[Prepared]
    batch_size: int
    seed: int
    plan: Plan
    ranks: Ranks = ALONE

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the rows."""
        return -(-len(self.rows) // self.batch_size)

    def steps(self, done: int = 0) -> Iterator[list[Batch]]:
        """The micro-batches of one optimizer step after another, without end, after the first `done` steps."""
        epoch, passed = divmod(done, self.steps_per_epoch)
        while True:
            for indices in islice(epoch_batches(len(self.rows), self.batch_size, self.seed, epoch), passed, None):
                yield self.batches([self.rows[i] for i in indices], self.plan.accumulation)
            epoch, passed = epoch + 1, 0

    def batches(self, rows: Sequence[Prepared], accumulation: int | None = None) -> list[Batch]:
        """This process's share of `rows` as micro-batches; every process has as many, some of them idle."""
        return list(self.lazy_batches(rows, accumulation))

    def lazy_batches(self, rows: Sequence[Prepared], accumulation: int | None = None) -> Sequence[Batch]:
        """The same, each of them made anew when it is asked for: many rows take no memory."""
        plan, lengths = self.plan, [len(row.ids) for row in rows]
        make = packed if plan.packing else padded

        def cut(hand: list[int]) -> list[list[int]]:
            groups = micro_batches([lengths[i] for i in hand], accumulation, plan.micro_tokens, plan.packing)
            return [[hand[i] for i in group] for group in groups]

        cuts = [cut(hand) if hand else [] for hand in deal(lengths, self.ranks.count)]
        waiting = max(map(len, cuts)) - len(cuts[self.ranks.rank])
        groups: list[list[int]] = cuts[self.ranks.rank] + [[]] * waiting

        def batch(group: list[int]) -> Batch:
            return make([rows[i] for i in group], plan.device) if group else idle(rows[0], make, plan.device)

        return LazyBatches(groups, batch)

    def loss(self, model: Any, batch: Batch) -> Loss:
        """The summed loss over the batch's trained tokens, and how many were the model's first choice."""
        if self.plan.chunked:
            head, compiled = output_layer(model), self.plan.compiled is True
            assert head is not None
            total, correct = linear_cross_entropy(
                hidden_at_trained(model, batch), head.weight, batch.target_N, compiled
            )
            return Loss([Term("loss", total, "tokens")], {"correct": int(correct)})
        logits_NV = logits_at_trained(model, batch)
        total = cross_entropy(logits_NV.float(), batch.target_N, reduction="sum")
        correct = (logits_NV.detach().argmax(-1) == batch.target_N).sum()
        return Loss([Term("loss", total, "tokens")], {"correct": int(correct)})


def logits_at_trained(model: Any, batch: Batch) -> torch.Tensor:
    """Logits of shape (N, V) at the positions that are trained; others are not built when packed."""
    logits = model(**batch.inputs).logits.flatten(0, 1)
    return logits if batch.picked_N is None else logits[batch.picked_N]
