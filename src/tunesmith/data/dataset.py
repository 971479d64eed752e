"""A dataset on disk, open: prepared rows, memory-mapped, and parts of them.

A folder holds `rows.arrow` and `meta.json`; `cache` makes it and finds it again. A row is one row of the table, however
many sequences it has: they lie one behind the other in its `ids`, and `sequences` says where each ends. Of a row with a
single one, as most are, that is empty, and reading it costs nothing.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow

from tunesmith.data.kinds.kind import Facts, RowKind
from tunesmith.data.kinds.prepared import Prepared, parted
from tunesmith.data.kinds.row import Row
from tunesmith.data.kinds.table import find_kind
from tunesmith.data.quality.ledger import Ledger, Source, ledger_from

ROWS, META = "rows.arrow", "meta.json"
SCHEMA = pyarrow.schema(
    [
        ("ids", pyarrow.list_(pyarrow.int32())),
        ("spans", pyarrow.list_(pyarrow.int32())),  # begin and end of each, counted from the row's beginning
        ("sequences", pyarrow.list_(pyarrow.int32())),  # tokens and trained tokens of each, where there are several
        ("trained", pyarrow.int32()),
        ("file", pyarrow.int32()),
        ("line", pyarrow.int64()),
        ("column", pyarrow.int64()),  # of the line, where the row begins
        ("group", pyarrow.uint64()),  # what the whole row asks, by the first row of the group of near duplicates
        ("asked", pyarrow.uint64()),
        ("cut", pyarrow.bool_()),
        ("goes_on", pyarrow.bool_()),
        ("row", pyarrow.string()),  # JSON, in the canonical format of its kind
    ]
)
Lists = list[tuple[np.ndarray, np.ndarray]]  # of each record batch, offsets and values


@dataclass(frozen=True)
class Dataset:
    """A folder of prepared rows.

    Attributes:
        folder: where it is.
        meta: what meta.json says.
    """

    folder: Path
    meta: dict[str, Any]

    @property
    def id(self) -> str:
        """The data id: a hash of the rows after cleaning."""
        return self.meta["id"]

    @property
    def files(self) -> list[str]:
        """The files that it was made from, as the user named them."""
        return self.meta["files"]

    @property
    def kind(self) -> RowKind:
        """What its rows are."""
        return find_kind(self.meta["kind"])

    @property
    def facts(self) -> Facts:
        """What its kind gathered of the whole of it."""
        return self.meta["facts"]

    def ledgers(self) -> dict[str, Ledger]:
        """The account of each file."""
        return {values["file"]: ledger_from(values) for values in self.meta["ledgers"]}

    def column(self, name: str) -> np.ndarray:
        """A column of numbers."""
        return self._table.column(name).to_numpy()

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, in all its sequences."""
        return _counts(self._ids)

    @cached_property
    def largest_id(self) -> int:
        """The largest token id of all rows."""
        return max((int(values.max()) for _, values in self._ids if len(values)), default=-1)

    @cached_property
    def words(self) -> np.ndarray:
        """The token ids that occur in its rows, ascending."""
        occurs = np.zeros(self.largest_id + 1, dtype=bool)
        for _, values in self._ids:
            occurs[values] = True
        return occurs.nonzero()[0]

    @cached_property
    def starts(self) -> np.ndarray:
        """For each row the number of its first sequence, and at the end how many there are.

        What is saved beside a dataset for each sequence, such as reference log probabilities, is found by it.
        """
        return np.cumsum(np.concatenate([[0], np.maximum(_counts(self._sequences) // 2, 1)]))

    @cached_property
    def sequence_lengths(self) -> np.ndarray:
        """Tokens of each sequence."""
        return self._of_each_sequence(0, self.lengths)

    @cached_property
    def sequence_trained(self) -> np.ndarray:
        """Trained tokens of each sequence."""
        return self._of_each_sequence(1, self.column("trained"))

    @cached_property
    def least_trained(self) -> np.ndarray:
        """Of each row, the trained tokens of the sequence that has fewest."""
        if not self._has_several:
            return self.column("trained")
        return np.minimum.reduceat(self.sequence_trained, self.starts[:-1])

    def _of_each_sequence(self, which: int, of_rows: np.ndarray) -> np.ndarray:
        """A number of each sequence: of rows with a single one, the row's own."""
        if not self._has_several:
            return of_rows
        counts = np.diff(self.starts)
        found = np.repeat(of_rows, counts)
        values = np.concatenate([values.reshape(-1, 2)[:, which] for _, values in self._sequences])
        found[np.repeat(counts > 1, counts)] = values
        return found

    @cached_property
    def _table(self) -> pyarrow.Table:
        return pyarrow.ipc.open_file(pyarrow.memory_map(str(self.folder / ROWS))).read_all()

    @cached_property
    def _chunks(self) -> list[int]:
        return list(np.cumsum([0, *(len(chunk) for chunk in self._table.column("ids").chunks)]))

    def _lists(self, name: str) -> Lists:
        """For each record batch, the offsets and values of a column of lists, without a copy."""
        return [
            (chunk.offsets.to_numpy(), chunk.values.to_numpy(zero_copy_only=True))
            for chunk in self._table.column(name).chunks
        ]

    @cached_property
    def _ids(self) -> Lists:
        return self._lists("ids")

    @cached_property
    def _spans(self) -> Lists:
        return self._lists("spans")

    @cached_property
    def _sequences(self) -> Lists:
        return self._lists("sequences")

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.column("file"), self.column("line"), self.column("column")

    @cached_property
    def _marks(self) -> tuple[np.ndarray, np.ndarray]:
        return self.column("cut"), self.column("goes_on")

    @cached_property
    def _has_several(self) -> bool:
        return any(len(values) for _, values in self._sequences)

    def prepared(self, index: int) -> Prepared:
        """The row at `index`; its text is read only when asked for."""
        chunk = bisect_right(self._chunks, index) - 1
        place = index - self._chunks[chunk]

        def part(lists: Lists) -> np.ndarray:
            offsets, values = lists[chunk]
            return values[offsets[place] : offsets[place + 1]]

        ids, spans = part(self._ids), tuple(map(tuple, part(self._spans).reshape(-1, 2).tolist()))
        source = self.source(index)
        others = ()
        if self._has_several and len(table := part(self._sequences)):
            first, *rest = parted(ids, table[::2].tolist(), spans)
            ids, spans, others = first.ids, first.spans, tuple(rest)
        cut, goes_on = (bool(column[index]) for column in self._marks)
        return Prepared(ids, spans, source, lambda: self.row(index, source), cut, goes_on, others)

    def source(self, index: int) -> Source:
        """Where the row at `index` stands."""
        file, line, column = (int(column[index]) for column in self._places)
        return Source(self.files[file], line, column)

    def row(self, index: int, source: Source) -> Row:
        """The row's text, read back."""
        chunk = bisect_right(self._chunks, index) - 1
        values = json.loads(self._table.column("row").chunk(chunk)[index - self._chunks[chunk]].as_py())
        found = Row(self.kind.read_back(values["row"]), source, values["labels"])
        if (plain := values.get("unprompted")) is None:
            return found
        return replace(found, unprompted=replace(found, content=find_kind(plain["kind"]).read_back(plain["row"])))


def _counts(lists: Lists) -> np.ndarray:
    """How many values each list has."""
    return np.concatenate([np.diff(offsets) for offsets, _ in lists] or [np.zeros(0, np.int32)])


@dataclass(frozen=True)
class Subset(Sequence[Prepared]):
    """Rows of a dataset, in an order: one part of a split. A row may stand in it several times."""

    dataset: Dataset
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> Prepared: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Prepared]: ...
    def __getitem__(self, place: int | slice) -> Prepared | Sequence[Prepared]:
        if isinstance(place, slice):
            return Subset(self.dataset, self.places[place])
        return self.dataset.prepared(int(self.places[place]))

    def __iter__(self) -> Iterator[Prepared]:
        return (self.dataset.prepared(int(index)) for index in self.places)

    def at(self, places: np.ndarray) -> Subset:
        """Those of these rows, in this order."""
        return Subset(self.dataset, self.places[places])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, in all its sequences."""
        return self.dataset.lengths[self.places]

    @property
    def trained(self) -> np.ndarray:
        """Trained tokens of each row, in all its sequences."""
        return self.dataset.column("trained")[self.places]

    @property
    def least_trained(self) -> np.ndarray:
        """Of each row, the trained tokens of the sequence that has fewest."""
        return self.dataset.least_trained[self.places]
