"""A row as token ids: one sequence for most, several for what is compared, for a source and its target, for windows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tunesmith.data.kinds.row import Row
from tunesmith.data.quality.ledger import Source
from tunesmith.prompt.contract import Rendered

Spans = tuple[tuple[int, int], ...]


def count_trained(spans: Iterable[tuple[int, int]]) -> int:
    """Tokens in `spans` that have a prediction: all but the first of the sequence."""
    return sum(max(0, end - max(begin, 1)) for begin, end in spans)


def mask_of(length: int, spans: Spans) -> np.ndarray:
    """Which of so many tokens are in `spans`."""
    mask = np.zeros(length, dtype=bool)
    for begin, end in spans:
        mask[begin:end] = True
    return mask


@dataclass(frozen=True)
class Tokens:
    """One sequence.

    Attributes:
        ids: token ids, length T.
        spans: begin and end of each stretch of `ids` that is trained on as targets.
    """

    ids: np.ndarray
    spans: Spans

    @property
    def mask(self) -> np.ndarray:
        """Which tokens are trained on, length T."""
        return mask_of(len(self.ids), self.spans)

    @property
    def trained(self) -> int:
        """Tokens that count in the loss."""
        return count_trained(self.spans)


def tokens_of(rendered: Rendered) -> Tokens:
    """What a contract rendered, without a copy."""
    return Tokens(np.frombuffer(rendered.ids, np.int32), rendered.spans)


@dataclass(frozen=True)
class Prepared:
    """A row, or a part of it, ready for training.

    Attributes:
        ids: token ids of its first sequence, length T: the only one of most kinds.
        spans: begin and end of each stretch of `ids` that is trained on as targets.
        source: where the row stands.
        origin: the row, or what reads it back.
        cut: whether an end was cut away to fit.
        goes_on: whether this is a piece of a text, which the next row continues.
        others: its further sequences, in the order that its kind has them in.
    """

    ids: np.ndarray
    spans: Spans
    source: Source
    origin: Row | Callable[[], Row]
    cut: bool = False
    goes_on: bool = False
    others: tuple[Tokens, ...] = ()

    @property
    def row(self) -> Row:
        """What the ids stand for."""
        return self.origin() if callable(self.origin) else self.origin

    @property
    def sequences(self) -> tuple[Tokens, ...]:
        """All its sequences."""
        return (Tokens(self.ids, self.spans), *self.others)

    @property
    def mask(self) -> np.ndarray:
        """Which tokens of the first sequence are trained on, length T."""
        return mask_of(len(self.ids), self.spans)

    @property
    def trained(self) -> int:
        """Tokens of all sequences that count in the loss: the first of each has no prediction."""
        return count_trained(self.spans) + sum(one.trained for one in self.others)

    @property
    def length(self) -> int:
        """Tokens of all sequences."""
        return len(self.ids) + sum(len(one.ids) for one in self.others)

    @property
    def key(self) -> bytes:
        """Equal for rows that teach the same."""
        digest = hashlib.sha256(self.ids.astype(np.int32).tobytes() + repr(self.spans).encode())
        for one in self.others:
            digest.update(one.ids.astype(np.int32).tobytes() + repr(one.spans).encode())
        return digest.digest()


class TrainingRows(Protocol):
    """Rows to train on, as kinds look at them before training."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> Prepared: ...
    def __iter__(self) -> Iterator[Prepared]: ...

    @property
    def least_trained(self) -> np.ndarray:
        """Of each row, the trained tokens of the sequence that has fewest."""
        ...


def prepared(row: Row, sequences: Iterable[Tokens], cut: bool = False, goes_on: bool = False) -> Prepared:
    """A row with its sequences, at least one."""
    first, *others = sequences
    return Prepared(first.ids, first.spans, row.source, row, cut, goes_on, tuple(others))


def joined(row: Prepared) -> tuple[np.ndarray, list[int], list[tuple[int, int]]]:
    """A row as a dataset holds it: the ids of all sequences one behind the other; of several, the tokens and trained
    tokens of each; and the spans, counted from the row's beginning."""
    if not row.others:
        return row.ids, [], list(row.spans)
    spans: list[tuple[int, int]] = []
    table: list[int] = []
    start = 0
    for one in row.sequences:
        spans += [(start + begin, start + end) for begin, end in one.spans]
        table += [len(one.ids), one.trained]
        start += len(one.ids)
    return np.concatenate([one.ids for one in row.sequences]), table, spans


def parted(ids: np.ndarray, lengths: Iterable[int], spans: Iterable[tuple[int, int]]) -> Iterator[Tokens]:
    """The sequences that `joined` made one of."""
    left = list(spans)
    start = 0
    for length in lengths:
        end = start + length
        own = tuple((first - start, last - start) for first, last in left if start <= first < end)
        yield Tokens(ids[start:end], own)
        start = end
