"""Prepared rows on disk: sealed under their hash, read through the page cache, made once and used again.

A folder `<home>/data/<data id>-<key>` holds `rows.arrow` and `meta.json`. The data id is a hash of the
rows after cleaning; the key one of all that made them so: the files' bytes, the recipe's cleaning, the
prompt contract and the length. A folder appears whole, by a rename, or not at all; the hash of its rows
is verified whenever it is opened, and a damaged one is made again. The oldest go when all together
grow beyond `LARGEST_CACHE`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow
from filelock import FileLock

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import home, make_folder, read_json, sha256_of, write_json
from tunesmith.data.config import DataConfig
from tunesmith.data.formats import FORMATS, canonical
from tunesmith.data.ledger import Ledger, RowFault, Source, ledger_from
from tunesmith.data.load import Reading, require_rows
from tunesmith.data.near import MOST_ROWS, NearDuplicates
from tunesmith.data.prepare import Prepared, prepare
from tunesmith.data.rows import Row, Text
from tunesmith.data.source import SourceFile
from tunesmith.prompt.contract import Contract

LAYOUT = 2  # of the folder; another number makes every folder new
LARGEST_CACHE = 50 << 30  # bytes
TOGETHER = 1024  # rows in a record batch
SCHEMA = pyarrow.schema(
    [
        ("ids", pyarrow.list_(pyarrow.int32())),
        ("spans", pyarrow.list_(pyarrow.int32())),
        ("trained", pyarrow.int32()),
        ("file", pyarrow.int32()),
        ("line", pyarrow.int64()),
        ("group", pyarrow.uint64()),  # what the whole row asks, by the first row of the group of near duplicates
        ("asked", pyarrow.uint64()),
        ("cut", pyarrow.bool_()),
        ("goes_on", pyarrow.bool_()),
        ("row", pyarrow.string()),  # JSON, in the canonical format of its kind
    ]
)


@dataclass(frozen=True)
class Shelf:
    """A sealed folder, open.

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

    def ledgers(self) -> dict[str, Ledger]:
        """The account of each file."""
        return {values["file"]: ledger_from(values) for values in self.meta["ledgers"]}

    def column(self, name: str) -> np.ndarray:
        """A column of numbers."""
        return self._table.column(name).to_numpy()

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.concatenate([np.diff(offsets) for offsets, _ in self._lists("ids")] or [np.zeros(0, np.int32)])

    @cached_property
    def largest_id(self) -> int:
        """The largest token id of all rows."""
        return max((int(values.max()) for _, values in self._ids if len(values)), default=-1)

    @cached_property
    def _table(self) -> pyarrow.Table:
        return pyarrow.ipc.open_file(pyarrow.memory_map(str(self.folder / "rows.arrow"))).read_all()

    @cached_property
    def _starts(self) -> list[int]:
        return list(np.cumsum([0, *(len(chunk) for chunk in self._table.column("ids").chunks)]))

    def _lists(self, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each record batch, the offsets and values of a column of lists, without a copy."""
        return [
            (chunk.offsets.to_numpy(), chunk.values.to_numpy(zero_copy_only=True))
            for chunk in self._table.column(name).chunks
        ]

    @cached_property
    def _ids(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return self._lists("ids")

    @cached_property
    def _spans(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return self._lists("spans")

    def prepared(self, index: int) -> Prepared:
        """The row at `index`; its text is read only when asked for."""
        chunk = bisect_right(self._starts, index) - 1
        place = index - self._starts[chunk]

        def part(lists: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
            offsets, values = lists[chunk]
            return values[offsets[place] : offsets[place + 1]]

        spans = part(self._spans).reshape(-1, 2).tolist()
        file, line, cut, goes_on = (
            self._table.column(name).chunk(chunk)[place].as_py() for name in ("file", "line", "cut", "goes_on")
        )
        source = Source(self.files[file], line)
        return Prepared(
            part(self._ids), tuple(map(tuple, spans)), source, lambda: self.row(index, source), cut, goes_on
        )

    def row(self, index: int, source: Source) -> Row:
        """The row's text, read back."""
        chunk = bisect_right(self._starts, index) - 1
        values = json.loads(self._table.column("row").chunk(chunk)[index - self._starts[chunk]].as_py())
        format = FORMATS[values["format"]]
        if format.kind == Text.kind:  # a piece of a text may be blank, which the converter refuses
            return Row(Text(**values["row"]), source, values["labels"])
        return Row(format.convert(values["row"], lambda fault: None), source, values["labels"])


@dataclass(frozen=True)
class Rows(Sequence[Prepared]):
    """Rows of a shelf, in an order: one part of a split. A row may stand in it several times."""

    shelf: Shelf
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> Prepared: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Prepared]: ...
    def __getitem__(self, place: int | slice) -> Prepared | Sequence[Prepared]:
        if isinstance(place, slice):
            return Rows(self.shelf, self.places[place])
        return self.shelf.prepared(int(self.places[place]))

    def __iter__(self) -> Iterator[Prepared]:
        return (self.shelf.prepared(int(index)) for index in self.places)

    def at(self, places: np.ndarray) -> Rows:
        """Those of these rows, in this order."""
        return Rows(self.shelf, self.places[places])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return self.shelf.lengths[self.places]

    @property
    def trained(self) -> np.ndarray:
        """Trained tokens of each row."""
        return self.shelf.column("trained")[self.places]


def seal(files: list[SourceFile], config: DataConfig, contract: Contract, max_length: int, over_long: str) -> Shelf:
    """The files' rows, prepared: found in the cache, or made now.

    Args:
        files: where rows come from; weights do not matter here.
        config: how they are read and cleaned.
        contract: how they are rendered.
        max_length: longest row in tokens.
        over_long: `fail`, `drop`, `truncate` or `split`.

    Raises:
        DataError: rows that cannot be used, unless the recipe lets them be dropped.
        TunesmithError: the disk is full.
    """
    key = _key(files, config, contract, max_length, over_long)
    parent = make_folder(home() / "data", "prepared data")
    damaged: set[tuple[Path, int]] = set()
    # Many processes verify at once: only what makes or removes a folder is done under the lock.
    while (shelf := _find(parent, key, damaged)) is None:
        with FileLock(parent / f".{key}.lock"):
            if any(_identity(folder) not in damaged for folder in parent.glob(f"*-{key}")):
                continue  # another process made it while this one waited
            for folder, _ in damaged:
                shutil.rmtree(folder, ignore_errors=True)
            shelf = _make(parent, key, files, config, contract, max_length, over_long)
        _make_room(parent, shelf.folder)
        return shelf
    return shelf


def _key(files: list[SourceFile], config: DataConfig, contract: Contract, max_length: int, over_long: str) -> str:
    """16 digits that stand for everything that decides what the prepared rows are."""
    read = config.model_dump(
        include={"format", "columns", "system", "clean", "bad_rows", "duplicates", "near_duplicates"}
    )
    parts = [LAYOUT, [(file.name, sha256_of(file.path)) for file in files], read, contract.id, max_length, over_long]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _find(parent: Path, key: str, damaged: set[tuple[Path, int]]) -> Shelf | None:
    """The sealed folder of this key, if there is one and it is whole; others are noted in `damaged`."""
    for folder in parent.glob(f"*-{key}"):
        found = _identity(folder)
        try:
            meta = read_json(folder / "meta.json")
            if meta["layout"] == LAYOUT and meta["sha256"] == sha256_of(folder / "rows.arrow"):
                os.utime(folder)
                return Shelf(folder, meta)
        except (TunesmithError, OSError, KeyError, TypeError):
            pass
        damaged.add(found)
    return None


def _identity(folder: Path) -> tuple[Path, int]:
    """Which folder it is, even if another has been given its name since."""
    try:
        return folder, (folder / "rows.arrow").stat().st_mtime_ns
    except OSError:
        return folder, 0


def _make(
    parent: Path, key: str, files: list[SourceFile], config: DataConfig, contract: Contract, max_length: int,
    over_long: str,
) -> Shelf:  # fmt: skip
    """Prepare the rows into a folder that appears whole."""
    temporary = parent / f".{key}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        meta = _write(temporary, files, config, contract, max_length, over_long)
        target = parent / f"{meta['id'][:16]}-{key}"
        temporary.rename(target)
    except OSError as error:
        written, free = _size(temporary.glob("*")), shutil.disk_usage(parent).free
        raise TunesmithError(
            f"{temporary}: prepared rows cannot be written ({error.strerror or error}); {written:,} bytes were, "
            f"and {free:,} are free. Make room, or set TUNESMITH_HOME to a folder on another disk."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Shelf(target, meta)


def _write(
    folder: Path, files: list[SourceFile], config: DataConfig, contract: Contract, max_length: int, over_long: str
) -> dict[str, Any]:
    """Write rows.arrow and meta.json; return what the latter says."""
    reading = Reading(files, config)
    numbers = {file.name: number for number, file in enumerate(files)}
    grouping = _Grouping(config.near_duplicates, reading)
    digest = hashlib.sha256()
    rows = prepare(grouping.rows(), reading.ledgers, contract, max_length, over_long, config.bad_rows)
    count = 0
    with pyarrow.OSFile(str(folder / "rows.arrow"), "wb") as file, pyarrow.ipc.new_file(file, SCHEMA) as writer:
        while batch := list(islice(rows, TOGETHER)):
            whole = [prepared.row for prepared in batch]
            for row in whole:
                digest.update(row.key)
            writer.write_batch(_batch(batch, whole, numbers, grouping.founders))
            count += len(batch)
    require_rows(reading.ledgers, config.bad_rows, over_long)
    with (folder / "rows.arrow").open("rb") as written:
        os.fsync(written.fileno())
    meta = {
        "layout": LAYOUT,
        "id": digest.hexdigest(),
        "rows": count,
        "files": [file.name for file in files],
        "formats": {name: format.name for name, format in reading.formats.items()},
        "grouped": grouping.kept,
        "ledgers": [ledger.to_json() for ledger in reading.ledgers.values()],
        "sha256": sha256_of(folder / "rows.arrow"),
    }
    write_json(folder / "meta.json", meta)
    return meta


class _Grouping:
    """Near duplicates among the rows as they pass: who founded each row's group, as far as one looks."""

    def __init__(self, wanted: str, reading: Reading) -> None:
        self.wanted, self.reading = wanted, reading
        self.near = None if wanted == "off" else NearDuplicates()
        self.founders: dict[int, int] = {}  # what a row asks -> what its group's first row asks

    @property
    def kept(self) -> bool:
        """Whether the groups count: they do not when `auto` met more rows than it looks at."""
        return self.near is not None

    def rows(self) -> Iterator[Row]:
        """The rows, without near duplicates where they are to be dropped."""
        for number, row in enumerate(self.reading):
            if self.wanted == "auto" and number == MOST_ROWS:
                self.near, self.founders = None, {}
            founder = self.near.add(row) if self.near is not None else None
            if founder is not None and self.wanted == "drop":
                fault = RowFault("near_duplicate", f"nearly equal to {founder[1]}.", "It is left out.")
                self.reading.ledgers[row.source.file].revise("duplicate", row.source, fault, was=row.outcome)
                continue
            if founder is not None:  # a first row may itself ask what an earlier group asks
                self.founders.setdefault(row.asked, self.founders.get(founder[0], founder[0]))
            yield row


def _batch(
    batch: list[Prepared], rows: list[Row], numbers: dict[str, int], founders: dict[int, int]
) -> pyarrow.RecordBatch:
    texts = [
        f'{{"format": "{canonical(row.content).name}", "row": {row.json}, "labels": '
        f"{json.dumps(dict(row.labels), ensure_ascii=False, default=str) if row.labels else '{}'}}}"
        for row in rows
    ]
    spans = [np.array(one.spans, dtype=np.int32).ravel() for one in batch]
    asked = [row.asked for row in rows]
    wholes = [row.whole.asked if row.whole else row.asked for row in rows]
    return pyarrow.record_batch(
        [
            _list_array([one.ids for one in batch]),
            _list_array(spans),
            pyarrow.array([one.trained for one in batch], pyarrow.int32()),
            pyarrow.array([numbers[one.source.file] for one in batch], pyarrow.int32()),
            pyarrow.array([one.source.line for one in batch], pyarrow.int64()),
            pyarrow.array([founders.get(hash, hash) for hash in wholes], pyarrow.uint64()),
            pyarrow.array(asked, pyarrow.uint64()),
            pyarrow.array([one.cut for one in batch], pyarrow.bool_()),
            pyarrow.array([one.goes_on for one in batch], pyarrow.bool_()),
            _text_array(texts),
        ],
        schema=SCHEMA,
    )


def _list_array(lists: Sequence[np.ndarray]) -> pyarrow.ListArray:
    """A column of lists of int32, many times faster than pyarrow's own way."""
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    values = np.concatenate(lists)
    return pyarrow.ListArray.from_arrays(pyarrow.array(offsets), pyarrow.array(values))


def _text_array(texts: Sequence[str]) -> pyarrow.StringArray:
    """A column of texts; pyarrow's own way takes as long as a seventh of all preparing."""
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pyarrow.StringArray.from_buffers(
        len(texts), pyarrow.py_buffer(offsets), pyarrow.py_buffer(b"".join(encoded))
    )


def _make_room(parent: Path, newest: Path) -> None:
    """Remove the folders that were used longest ago while all together are too large."""
    folders = sorted(
        (folder for folder in parent.iterdir() if folder.is_dir() and not folder.name.startswith(".")),
        key=lambda folder: folder.stat().st_mtime,
    )
    sizes = {folder: _size(folder.iterdir()) for folder in folders}
    for folder in folders:
        if sum(sizes.values()) <= LARGEST_CACHE:
            return
        if folder != newest:
            shutil.rmtree(folder, ignore_errors=True)
            del sizes[folder]


def _size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)
