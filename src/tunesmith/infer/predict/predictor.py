"""The seam for tasks that answer no chat: what says something of each row, whatever that is.

A predictor takes a row's values as files have them, reads them as its model does, and answers many at once. `table`
names the one for each task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np

from tunesmith.data.prepare import Prepared
from tunesmith.prompt.contract import Contract

ROWS_AT_ONCE = 1024  # that are sorted by length and read together


class Answer(Protocol):
    """What is said of one row."""

    def to_json(self) -> dict[str, Any]:
        """Plain values: what stands in a line of `tunesmith predict` beside the row."""
        ...


class Predictor(Protocol):
    """A model that says something of each row.

    Attributes:
        keys: names of columns, one of which at least every row must have.
    """

    keys: frozenset[str]

    def given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a row of a file gives the model, which is told beside the answer.

        Raises:
            RowFault: it gives nothing that can be read.
        """
        ...

    def read(self, given: Any) -> Any:
        """What was given, of a file or by hand, as the model reads it.

        Raises:
            DataError: it cannot.
        """
        ...

    def answers(self, reads: Sequence[Any]) -> Sequence[Any]:
        """An `Answer` to each of what was read, in order."""
        ...

    def predict(self, texts: Iterable[Any]) -> list[Any]:
        """An `Answer` to each of what is given."""
        ...


@dataclass(frozen=True)
class TaskPredictor:
    """What predicts for a task, and what its models are compared by.

    Attributes:
        make: of a model with its adapter, its contract and its card, what predicts.
        outputs: what a model computes of prepared rows, each (P positions, V values) in fp32: equal before and after
            it is exported, and nearly so when an adapter is folded into its base.
        losses: the loss of each row, where outputs are too large to keep of several: it stands for them when a model is
            exported.
    """

    make: Callable[[Any, Contract, Mapping[str, Any]], Predictor]
    outputs: Callable[[Any, Sequence[Prepared]], list[np.ndarray]]
    losses: Callable[[Any, Sequence[Prepared]], list[float]] | None = None


def stream(predictor: Predictor, given: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Each of what is given with its answer, in order, as they come."""
    waiting = iter(given)
    while some := list(islice(waiting, ROWS_AT_ONCE)):
        yield from zip(some, predictor.answers([predictor.read(one) for one in some]), strict=True)
