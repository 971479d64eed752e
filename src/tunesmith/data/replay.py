"""General rows that are seen beside the user's, so that a tuned model keeps what it knew (rehearsal; Robins, 1995).

They are a dataset of their own: the user's dataset keeps its id, its counts and its splits, and no replayed row is ever
validated or evaluated on. A replayed row that asks what one of the user's rows asks, or that is a near duplicate of a
held-out one, is left out and counted.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, overload

import numpy as np

from tunesmith.core.errors import DataError
from tunesmith.core.files import sha256_of
from tunesmith.data.cache import prepared_dataset
from tunesmith.data.config import DataConfig
from tunesmith.data.dataset import Subset
from tunesmith.data.kinds.prepared import Prepared
from tunesmith.data.kinds.row import Edit, Row
from tunesmith.data.kinds.table import kind_of
from tunesmith.data.quality.ledger import Ledger, RowFault, Source
from tunesmith.data.quality.near_duplicates import NearDuplicates, shingles
from tunesmith.data.source import SourceFile
from tunesmith.prompt.contract import Contract

HELD_OUT_COMPARED = 10_000  # held-out rows that replayed ones are compared with


@dataclass(frozen=True)
class Replay:
    """General rows, and how many of them an epoch sees.

    Attributes:
        rows: all of them, in the order in which epochs take them, round and round.
        an_epoch: how many one epoch takes.
        what: what they are, for people.
        files: where they were read from: the SHA-256 of each, by its name.
        ledgers: the account of each file.
    """

    rows: Subset
    an_epoch: int
    what: str
    files: dict[str, str]
    ledgers: list[Ledger]

    def sentence(self) -> str:
        """How much is replayed, for people."""
        count = len(self.rows)
        some = f", {self.an_epoch} in each epoch," if self.an_epoch < count else ""
        left_out = sum(ledger.read for ledger in self.ledgers) - count
        less = f"; {left_out} more are left out" if left_out else ""
        return (
            f"{count} {self.what}{some} are replayed beside yours so that the model keeps what it knows: "
            f"data.replay=off leaves them out{less}."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, for records."""
        files = [
            {"file": name, "sha256": sha256, "read": 0, "kept": 0, **ledger.counts()}
            for (name, sha256), ledger in zip(self.files.items(), self.ledgers, strict=True)
        ]
        return {
            "what": self.what,
            "id": self.rows.dataset.id,
            "rows": len(self.rows),
            "an_epoch": self.an_epoch,
            "files": files,
        }


@dataclass(frozen=True)
class Mixture(Sequence[Prepared]):
    """What one epoch sees: all of the user's rows and, after them, its share of the replayed ones.

    Attributes:
        own: the user's training rows.
        replay: what is replayed beside them, if anything is.
        epoch: which one; each takes other rows of those that are replayed, as far as there are others.
    """

    own: Subset
    replay: Replay | None = None
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.own) + (self.replay.an_epoch if self.replay else 0)

    @overload
    def __getitem__(self, place: int) -> Prepared: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Prepared]: ...
    def __getitem__(self, place: int | slice) -> Prepared | Sequence[Prepared]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if place < 0:
            place += len(self)
        if place < len(self.own):
            return self.own[place]
        return self._replayed[place - len(self.own)]

    def __iter__(self) -> Iterator[Prepared]:
        yield from self.own
        yield from self._replayed

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.concatenate([self.own.lengths, self._replayed.lengths])

    @property
    def every_length(self) -> np.ndarray:
        """Tokens of each row of all epochs."""
        return np.concatenate([self.own.lengths, *([self.replay.rows.lengths] if self.replay else [])])

    @property
    def words(self) -> np.ndarray:
        """The token ids that occur, in all epochs and maybe beside these rows in their datasets, ascending."""
        return np.union1d(self.own.dataset.words, self.replay.rows.dataset.words if self.replay else ())

    @property
    def _replayed(self) -> Subset:
        """The replayed rows of this epoch."""
        if self.replay is None:
            return Subset(self.own.dataset, self.own.places[:0])
        count, first = len(self.replay.rows), self.epoch * self.replay.an_epoch
        turn = np.arange(first, first + self.replay.an_epoch) % count
        return replace(self.replay.rows, places=self.replay.rows.places[turn])


def in_epoch(rows: Sequence[Prepared], epoch: int) -> Sequence[Prepared]:
    """The rows as this epoch sees them: as many in each, and of a mixture some others."""
    return replace(rows, epoch=epoch) if isinstance(rows, Mixture) else rows


def load_replay(
    files: list[SourceFile],
    what: str,
    config: DataConfig,
    contract: Contract,
    max_length: int,
    own: Subset,
    held_out: Sequence[Subset],
    seed: int,
    reads: frozenset[str],
) -> Replay | None:
    """General rows, prepared, without those that would give a held-out row away.

    Args:
        files: where they are.
        what: what they are, for people.
        config: of the user's rows; says the share, and whether bad rows are dropped.
        contract: how rows are rendered.
        max_length: longest row in tokens; longer ones are left out.
        own: the user's training rows.
        held_out: the user's validation and test rows.
        seed: of the order in which epochs take them.
        reads: the kinds of rows that the objective reads.

    Returns:
        None where none are left, or so few rows are trained on that the share is less than one.

    Raises:
        DataError: rows that cannot be used.
    """
    reading = DataConfig(train=[file.name for file in files], bad_rows=config.bad_rows, near_duplicates="off")
    hashes = {file.name: sha256_of(file.path) for file in files}
    dataset = prepared_dataset(files, reading, contract, max_length, "drop", reads)
    ledgers = dataset.ledgers()
    whole = Subset(dataset, np.arange(dataset.meta["rows"]))
    left_out = dict(asked_by(own, whole))
    if config.near_duplicates != "off":
        left_out |= given_away(held_out, whole)
    for source, fault in left_out.items():
        ledgers[source.file].revise("dropped", source, fault)
    places = [i for i, row in enumerate(whole) if row.source not in left_out]
    random.Random(f"{seed}/replay").shuffle(places)
    an_epoch = min(len(places), round(len(own) * config.replay_share / (1 - config.replay_share)))
    if not an_epoch:
        return None
    return Replay(Subset(dataset, np.array(places)), an_epoch, what, hashes, list(ledgers.values()))


def asked_by(own: Subset, whole: Subset) -> Iterator[tuple[Source, RowFault]]:
    """Rows that ask, under the same system message, what the user's rows ask: these say how it is answered."""
    for index in np.flatnonzero(np.isin(whole.dataset.column("asked"), own.dataset.column("asked")[own.places])):
        yield whole[int(index)].source, RowFault("asked_by_you", "asks what one of your rows asks.", "It is left out.")


def given_away(held_out: Sequence[Subset], whole: Subset) -> Iterator[tuple[Source, RowFault]]:
    """Rows that ask what a held-out row asks, or are a near duplicate of one, whatever the system messages are."""
    asked: dict[int, Source] = {}
    near, seen = NearDuplicates(), set[bytes]()
    for prepared in islice(chain(*held_out), HELD_OUT_COMPARED):
        row = without_system(prepared.row.unprompted or prepared.row)
        asked[row.asked] = row.source
        near.add(row)
        seen.update(shingles(row.content.texts()))
    for prepared in whole:
        row = without_system(prepared.row)
        found = asked.get(row.asked)
        if found is None and not seen.isdisjoint(shingles(row.content.texts())):
            found = (near.find(row) or (0, None))[1]
        if found is not None:
            fault = RowFault("near_held_out", f"asks or says nearly what the held-out {found} does.", "It is left out.")
            yield row.source, fault


WITHOUT_SYSTEM = Edit(asked=lambda turns: tuple(message for message in turns if message.role != "system"))


def without_system(row: Row) -> Row:
    """The row as if it had no system message."""
    return replace(row, content=kind_of(row).edit(row.content, WITHOUT_SYSTEM))


def refuse_none(replay: Replay | None, name: str) -> Replay:
    """What somebody named, or an error that says that nothing of it can be replayed."""
    if replay is None:
        raise DataError(
            f"data.replay = {name!r}: no row is left to replay beside yours. Name other rows, or set data.replay=off."
        )
    return replay
