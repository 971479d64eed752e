"""Batches of rows that lie on disk: each epoch in another order, cut so that a micro-batch fits into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, TypeVar

import torch

from tunesmith.data.pack import deal, epoch_batches, micro_batches, padded_batches
from tunesmith.data.prepare import Prepared
from tunesmith.data.replay import in_epoch
from tunesmith.train.batch import DummyBatch, LazyBatches
from tunesmith.train.objective import Draw, Objective
from tunesmith.train.planning.plan import Plan
from tunesmith.train.source import Tensors
from tunesmith.train.weights.ranks import ALONE, Ranks

ONE_DRAW = Draw()
Item = TypeVar("Item")


def steps_per_epoch(rows: Sequence[Prepared], batch_size: int) -> int:
    """Optimizer steps in one pass over the rows."""
    return -(-len(rows) // batch_size)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items of an endless iterator, each made by another thread while the one before is used."""
    with ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(torch.cuda.current_device(),)) as worker:
        coming = worker.submit(next, items)
        while True:
            item = coming.result()
            coming = worker.submit(next, items)
            yield item


@dataclass
class RowSource:
    """A `Source` over prepared rows.

    Attributes:
        rows: what is trained on.
        objective: makes batches of them.
        plan: how a step is cut.
        batch_size: rows in one step, over all processes.
        planned_steps: of the run.
        seed: of the order of rows.
        ranks: the processes that share each step.
        taken: steps that were taken so far; more than the learner's where some were left behind.
    """

    rows: Sequence[Prepared]
    objective: Objective
    plan: Plan
    batch_size: int
    planned_steps: int = 0
    seed: int = 0
    ranks: Ranks = ALONE
    taken: int = 0

    def steps(self) -> Iterator[list[Any]]:
        """The micro-batches of one optimizer step after another, without end.

        Of a GPU they are made and on their way there while it computes the step before.
        """
        made = self._from(self.taken)
        for micro in one_ahead(made) if self.plan.device == "cuda" else made:
            self.taken += 1
            yield micro

    def _from(self, step: int) -> Iterator[list[Any]]:
        """The same from a step on, whatever was taken."""
        an_epoch = steps_per_epoch(self.rows, self.batch_size)
        for epoch in count(step // an_epoch):
            rows, draw = in_epoch(self.rows, epoch), Draw(self.seed, epoch)
            passed = max(0, step - epoch * an_epoch)
            for indices in islice(epoch_batches(len(rows), self.batch_size, self.seed, epoch), passed, None):
                chosen = [rows[i] for i in indices]
                yield list(self.cut(self.objective.arrange(chosen, draw), draw, self.plan.accumulation))

    def cut(self, rows: Sequence[Prepared], draw: Draw = ONE_DRAW, accumulation: int | None = None) -> LazyBatches:
        """This process's share of `rows` as micro-batches, each made when it is asked for: many rows take no memory.

        Every process has as many; where there is nothing left for one, dummy batches are among them.
        """
        plan, lengths = self.plan, [row.length + self.objective.soft * len(row.sequences) for row in rows]

        def cut(hand: list[int]) -> list[list[int]]:
            if accumulation is None and not plan.packing:
                widths = [self.objective.widths(rows[i]) for i in hand]
                soft = [lengths[i] - rows[i].length for i in hand]
                padded = [(first + more, *rest) for (first, *rest), more in zip(widths, soft, strict=True)]
                groups = padded_batches(padded, plan.micro_tokens)
            else:
                groups = micro_batches([lengths[i] for i in hand], accumulation, plan.micro_tokens, plan.packing)
            return [[hand[i] for i in group] for group in groups]

        cuts = [cut(hand) if hand else [] for hand in deal(lengths, self.ranks.count)]
        waiting = max(map(len, cuts)) - len(cuts[self.ranks.rank])
        groups: list[list[int]] = cuts[self.ranks.rank] + [[]] * waiting

        def collate(places: list[int]) -> Any:
            return self.objective.collate([rows[i] for i in places], plan, draw, {})

        return LazyBatches(groups, lambda group: collate(group) if group else DummyBatch(collate([0])))

    def watched(self, rows: Sequence[Prepared]) -> Sequence[Any]:
        """Rows to validate on, as micro-batches."""
        return self.cut(rows)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """How many steps were taken: all else follows from that."""
        return {}, {"taken": self.taken}

    def restore(self, tensors: Tensors, values: Mapping[str, Any]) -> None:
        """Stand where it stood."""
        self.taken = values["taken"]
