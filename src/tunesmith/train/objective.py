"""What an objective is: how rows become batches, and batches a loss. The loop, the planner and the road name none.

Of an `Objective`, `collate`, `loss` and `curves` are needed; all else does nothing unless it is given. A loss is made
of terms, each a SUM with the unit that will divide it. Dividing once, in the loop, over all micro-batches and ranks of
a step, is what makes a big batch equal to accumulated small ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from tunesmith.data.prepare import Prepared
from tunesmith.prompt.contract import Contract
from tunesmith.train.batch import DummyBatch
from tunesmith.train.planning.plan import Plan
from tunesmith.train.rollouts import Rollouts
from tunesmith.train.weights.ranks import Ranks

Columns = Mapping[str, torch.Tensor]  # values that were computed beforehand, one for each row
PADDED = "rows of an encoder with a decoder are padded, several of about one length together"
Sums = dict[str, np.ndarray]  # by name: scalars, or vectors such as a count for each class


class Batch(Protocol):
    """One micro-batch, as the loop knows it. What else is inside is the objective's business."""

    @property
    def units(self) -> Mapping[str, float]:
        """How much of each normaliser it holds: `tokens`, `rows`, `pairs`."""
        ...

    @property
    def rows(self) -> Sequence[Prepared]:
        """The rows inside, for errors; none in a dummy batch."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens read, padding left out."""
        ...

    @property
    def size(self) -> int:
        """Tokens computed, padding among them: what memory depends on."""
        ...


@dataclass(frozen=True)
class Term:
    """A summed loss (scalar) and the unit that normalises it: `tokens`, `rows`, `pairs`."""

    name: str
    total: torch.Tensor
    unit: str


@dataclass(frozen=True)
class Loss:
    """The terms of one micro-batch, and counts to watch that carry no gradient: numbers, or vectors of numbers."""

    terms: list[Term]
    counts: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Models:
    """The models that a loss may ask, and the plan that they compute by.

    Attributes:
        policy: what is trained.
        plan: packing, chunked loss, compiled layers.
        others: by name, those that are not: a reference, a value or a reward model.
    """

    policy: Any
    plan: Plan
    others: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Draw:
    """What chance may depend on: never on how a step is cut, so that no cut changes a mask.

    Attributes:
        seed: of the run.
        epoch: over the rows, from 0.
    """

    seed: int = 0
    epoch: int = 0

    def of(self, row: Prepared) -> random.Random:
        """The random numbers of one row in this epoch, by what it holds and its line, wherever its file lies."""
        return random.Random(f"{self.seed}/{self.epoch}/{row.source.line}/{row.source.column}/{row.key.hex()}")


@dataclass(frozen=True)
class Check:
    """How the planner finds out whether packing and the chunked loss change what a model computes.

    Attributes:
        outputs: what the loss is made of: for each row of a batch, in order, a tensor whose first axis are its units.
        losses: the loss of each unit, shape (N,), in fp32.
        why_not_chunked: given models, a few rows and `collate`, None if the loss can be computed without building all
            logits, else the reason; absent if the objective builds none.
    """

    outputs: Callable[[Models, Any], list[torch.Tensor]]
    losses: Callable[[Models, Any], torch.Tensor]
    why_not_chunked: Callable[[Models, Sequence[Prepared]], str | None] | None = None


def _as_they_are(rows: Sequence[Prepared], draw: Draw) -> Sequence[Prepared]:
    return rows


def _all_tokens(row: Prepared) -> tuple[int, ...]:
    return (row.length,)


def refuse_nothing(rows: Sequence[Prepared]) -> None:
    """All rows can be learned from."""


def _choose_nothing(model: Any, rows: Sequence[Prepared]) -> dict[str, Any]:
    return {}


def nothing_before(models: Models, micro: Iterable[Any], ranks: Ranks) -> None:
    """A step has no statistics."""
    return None


@dataclass(frozen=True)
class Objective:
    """What is learned.

    Attributes:
        name: as recipes have it.
        reads: the kinds of rows that it takes.
        task: what the model is loaded for.
        collate: rows as one batch on the plan's device; `draw` gives what is drawn at random, `columns` what
            `precompute` has found for these rows.
        loss: of one batch; `whole` is what `before` returned for its step.
        curves: from the sums of a step over all ranks (the loss and each term divided by its unit, counts as they are)
            and its units, the values that people watch, by the names that they know; `loss` is among them.
        metrics: the curves that validations may be compared by.
        higher: those that are better when they are higher.
        before: statistics of a whole step, without gradient (KTO's KL, whitening); it is given the batches of this
            rank, which may be none, and the ranks to sum over. A validation is one step.
        arrange: the rows of a whole step before they are cut.
        precompute: once, before anything is learned, a value for each of some rows, saved with the run (reference log
            probabilities); `collate` is given them again with the rows. While the plan is made, it is given none.
        beside: of all rows that will ever be collated, the same with further sequences that each is read with; before
            `precompute`, which is given these (KTO's mismatched pairs).
        rate: its usual learning rate, as a multiple of the method's.
        padded: why its rows are never packed, as a sentence; empty where they may be.
        widths: where rows are padded, the tokens that a row takes of each tensor that it is padded in.
        soft: tokens that `collate` puts before each sequence of a row.
        recordable: whether its batches are `TokenBatch`es whose one loss can be recorded and launched again on a GPU.
        rollouts: of one that learns from the model's own answers, how; rows are their prompts.
        invents: whether batches hold tokens that rows do not: words drawn in the place of hidden ones, answers.
        check: lets the planner try packing and the chunked loss; without it rows are not packed.
        informed: the same objective, once it is known what the training rows' facts are (names of classes, how often
            each comes), and how they become tokens.
        refuse: refuses, by `DataError`, training rows of which it could learn nothing.
        choose: of the trained model and the validation rows, what its users need beside its weights, as plain values
            for its card: a threshold.
    """

    name: str
    reads: frozenset[str]
    collate: Callable[[Sequence[Prepared], Plan, Draw, Columns], Any]
    loss: Callable[[Models, Any, Any], Loss]
    curves: Callable[[Mapping[str, np.ndarray], Mapping[str, float]], dict[str, float]]
    task: str = "causal"
    metrics: tuple[str, ...] = ("loss",)
    higher: frozenset[str] = frozenset()
    before: Callable[[Models, Iterable[Any], Ranks], Any] = nothing_before
    arrange: Callable[[Sequence[Prepared], Draw], Sequence[Prepared]] = _as_they_are
    precompute: Callable[[Models, Sequence[Prepared]], Columns] | None = None
    padded: str = ""
    beside: Callable[[Sequence[Prepared]], Sequence[Prepared]] | None = None
    rate: float = 1.0
    widths: Callable[[Prepared], tuple[int, ...]] = _all_tokens
    soft: int = 0
    recordable: bool = False
    rollouts: Rollouts | None = None
    invents: bool = False
    check: Check | None = None
    informed: Callable[[Mapping[str, Any], Contract], Objective] | None = None
    refuse: Callable[[Sequence[Prepared]], None] = refuse_nothing
    choose: Callable[[Any, Sequence[Prepared]], dict[str, Any]] = _choose_nothing

    @property
    def updates(self) -> int:
        """Optimizer steps that are made of the rows of one."""
        return 1 if self.rollouts is None else self.rollouts.updates

    def rows_a_step(self, batch_size: int) -> int:
        """What one update is learned from, given the rows of a step: answers to them, where they are prompts."""
        if self.rollouts is None:
            return batch_size
        return max(1, batch_size * self.rollouts.config.samples // self.rollouts.config.parts)


# The losses of a batch, each with its share of the gradient; given an objective, and what its terms are divided by.
Perturb = Callable[[Objective, Models, Any, Any, Mapping[str, float]], Iterable[tuple[Loss, float]]]


def total_units(batches: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Units summed over the micro-batches of a step."""
    totals: dict[str, float] = {}
    for units in batches:
        for unit, amount in units.items():
            totals[unit] = totals.get(unit, 0) + amount
    return totals


def on_host(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same values with numpy arrays in the place of tensors, which are brought here in one transfer.

    Reading one waits for all that a GPU has been given to do: once a step, not once a value.
    """
    tensors = [value.detach() for values in found for value in values.values() if isinstance(value, torch.Tensor)]
    if not tensors:
        return [dict(values) for values in found]
    where = next((tensor.device for tensor in tensors if tensor.is_cuda), tensors[0].device)
    flat = torch.cat([tensor.double().flatten().to(where) for tensor in tensors]).cpu().numpy()
    parts = iter(np.split(flat, np.cumsum([tensor.numel() for tensor in tensors])[:-1]))
    return [
        {
            name: next(parts).reshape(tuple(value.shape)) if isinstance(value, torch.Tensor) else value
            for name, value in values.items()
        }
        for values in found
    ]


def add(sums: Sums, values: Mapping[str, Any]) -> None:
    """Add numbers or vectors to the sums of the same names."""
    for name, value in values.items():
        sums[name] = sums.get(name, np.zeros(())) + np.asarray(value, dtype=np.float64)


def real_ones(micro: Sequence[Any]) -> list[Any]:
    """The batches that count; a rank may have none."""
    return [batch for batch in micro if not isinstance(batch, DummyBatch)]


def nothing_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Zeros of the same shapes: what a batch that does not count adds, so that all ranks sum the same things."""
    return {
        name: np.zeros(tuple(value.shape) if isinstance(value, torch.Tensor) else np.shape(value))
        for name, value in values.items()
    }


def perturb_nothing(
    objective: Objective, models: Models, batch: Any, whole: Any, scale: Mapping[str, float]
) -> Iterable[tuple[Loss, float]]:
    """The loss of a batch as it is: once."""
    yield objective.loss(models, batch, whole), 1.0
