"""Prepared rows made into a dataset on disk, once, and used again by the next run.

A folder `<home>/data/<data id>-<key>` holds what `dataset` reads. The data id is a hash of the rows after cleaning; the
key one of all that made them so: the files' bytes, the recipe's cleaning, the prompt contract and the length. A folder
appears whole, by a rename, or not at all; the hash of its rows is verified whenever it is opened, and a damaged one is
made again. The oldest go when all together grow beyond `LARGEST_CACHE`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from filelock import FileLock

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import home, make_folder, read_json, sha256_of, write_json
from tunesmith.data.config import DataConfig
from tunesmith.data.dataset import META, ROWS, SCHEMA, Dataset
from tunesmith.data.formats.label_names import read_label_names
from tunesmith.data.kinds.kind import Facts
from tunesmith.data.kinds.prepared import Prepared, joined
from tunesmith.data.kinds.row import Row
from tunesmith.data.kinds.table import FORMATS, kind_of
from tunesmith.data.load import Reading, require_rows
from tunesmith.data.prepare import prepare, refuse_kind
from tunesmith.data.prompting.around import MAKES, READS, Around
from tunesmith.data.quality.ledger import RowFault
from tunesmith.data.quality.near_duplicates import UNASKED_ROWS, NearDuplicates
from tunesmith.data.source import SourceFile
from tunesmith.prompt.contract import Contract

LAYOUT = 4  # of the folder; another number makes every folder new
LARGEST_CACHE = 50 << 30  # bytes
BATCH_ROWS = 1024  # rows in a record batch


def prepared_dataset(
    files: list[SourceFile],
    config: DataConfig,
    contract: Contract,
    max_length: int,
    over_long: str,
    reads: frozenset[str],
    around: Around | None = None,
) -> Dataset:
    """The files' rows, prepared: found in the cache, or made now.

    Args:
        files: where rows come from; weights do not matter here.
        config: how they are read and cleaned.
        contract: how they are rendered.
        max_length: longest row in tokens.
        over_long: `fail`, `drop`, `truncate` or `split`.
        reads: the kinds of rows that whoever asks can use.
        around: a prompt that is put around each row, which then is a chat.

    Raises:
        DataError: rows that cannot be used, unless the recipe lets them be dropped, or of a kind that is not read.
        TunesmithError: the disk is full.
    """
    key = _key(files, config, contract, max_length, over_long, reads, around)
    parent = make_folder(home() / "data", "prepared data")
    damaged: set[tuple[Path, int]] = set()
    # Many processes verify at once: only what makes or removes a folder is done under the lock.
    while (dataset := _find(parent, key, damaged)) is None:
        with FileLock(parent / f".{key}.lock"):
            if any(_identity(folder) not in damaged for folder in parent.glob(f"*-{key}")):
                continue  # another process made it while this one waited
            for folder, _ in damaged:
                shutil.rmtree(folder, ignore_errors=True)
            dataset = _make(parent, key, files, config, contract, max_length, over_long, reads, around)
        _make_room(parent, dataset.folder)
        return dataset
    remarks = [remark for ledger in dataset.ledgers().values() for remark in ledger.remarks]
    refuse_kind(dataset.kind.name, ", ".join(dataset.files), remarks, contract, reads)
    return dataset


# Settings that decide what the prepared rows are, beside names of labels.
DECIDE = {"stride", "format", "columns", "system", "clean", "bad_rows", "duplicates", "near_duplicates", "documents"}


def _key(
    files: list[SourceFile], config: DataConfig, contract: Contract, max_length: int, over_long: str,
    reads: frozenset[str], around: Around | None,
) -> str:  # fmt: skip
    """16 digits that stand for everything that decides what the prepared rows are."""
    read = config.model_dump(include=DECIDE)
    names = None if config.label_names is None else read_label_names(config.label_names)
    read |= {} if names is None else {"label_names": names}
    parts = [LAYOUT, [(file.name, sha256_of(file.path)) for file in files], read, contract.id, max_length, over_long]
    if asked := sorted(name for name, entry in FORMATS.items() if entry.on_request and entry.kind in reads):
        parts.append(asked)
    if around is not None:
        parts.append({"prompt": around.id})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _find(parent: Path, key: str, damaged: set[tuple[Path, int]]) -> Dataset | None:
    """The folder of this key, if there is one and it is whole; others are noted in `damaged`."""
    for folder in parent.glob(f"*-{key}"):
        found = _identity(folder)
        try:
            meta = read_json(folder / META)
            if meta["layout"] == LAYOUT and meta["sha256"] == sha256_of(folder / ROWS):
                os.utime(folder)
                return Dataset(folder, meta)
        except (TunesmithError, OSError, KeyError, TypeError):
            pass
        damaged.add(found)
    return None


def _identity(folder: Path) -> tuple[Path, int]:
    """Which folder it is, even if another has been given its name since."""
    try:
        return folder, (folder / ROWS).stat().st_mtime_ns
    except OSError:
        return folder, 0


def _make(
    parent: Path, key: str, files: list[SourceFile], config: DataConfig, contract: Contract, max_length: int,
    over_long: str, reads: frozenset[str], around: Around | None,
) -> Dataset:  # fmt: skip
    """Prepare the rows into a folder that appears whole."""
    temporary = parent / f".{key}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        meta = _write(temporary, files, config, contract, max_length, over_long, reads, around)
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
    return Dataset(target, meta)


def _write(
    folder: Path, files: list[SourceFile], config: DataConfig, contract: Contract, max_length: int, over_long: str,
    reads: frozenset[str], around: Around | None,
) -> dict[str, Any]:  # fmt: skip
    """Write rows.arrow and meta.json; return what the latter says."""
    reading = Reading(files, config, reads=reads if around is None else reads | READS)
    numbers = {file.name: number for number, file in enumerate(files)}
    grouping = _Grouping(config.near_duplicates, reading)
    digest = hashlib.sha256()
    rows = prepare(grouping.rows(), reading.ledgers, contract, max_length, reads, over_long, config.bad_rows,
                   config.stride, around)  # fmt: skip
    count, facts, last = 0, Facts(), None
    with pyarrow.OSFile(str(folder / ROWS), "wb") as file, pyarrow.ipc.new_file(file, SCHEMA) as writer:
        while batch := list(islice(rows, BATCH_ROWS)):
            whole = [prepared.row for prepared in batch]
            for row in whole:
                digest.update(row.key)
                if (own := row.whole or row) is not last:  # of a row in several parts, once
                    kind_of(own).gather(own.content, facts)
                    last = own
            writer.write_batch(_batch(batch, whole, numbers, grouping.founders))
            count += len(batch)
    require_rows(reading.ledgers, config.bad_rows, over_long)
    with (folder / ROWS).open("rb") as written:
        os.fsync(written.fileno())
    meta = {
        "layout": LAYOUT,
        "id": digest.hexdigest(),
        "rows": count,
        "files": [file.name for file in files],
        "kind": next(iter(reading.formats.values())).kind if around is None else MAKES,
        "formats": {name: format.name for name, format in reading.formats.items()},
        "facts": facts,
        "grouped": grouping.kept,
        "ledgers": [ledger.to_json() for ledger in reading.ledgers.values()],
        "sha256": sha256_of(folder / ROWS),
    }
    write_json(folder / META, meta)
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
            if self.wanted == "auto" and number == UNASKED_ROWS:
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
        f'{{"row": {row.json}, "labels": '
        f"{json.dumps(dict(row.labels), ensure_ascii=False, default=str) if row.labels else '{}'}{_unprompted(row)}}}"
        for row in rows
    ]
    ids, sequences, spans = zip(*map(joined, batch), strict=True)
    asked = [row.asked for row in rows]
    wholes = [row.whole.asked if row.whole else row.asked for row in rows]
    return pyarrow.record_batch(
        [
            _list_array(ids),
            _list_array([np.array(one, np.int32).ravel() for one in spans]),
            _list_array([np.array(one, np.int32) for one in sequences]),
            pyarrow.array([one.trained for one in batch], pyarrow.int32()),
            pyarrow.array([numbers[one.source.file] for one in batch], pyarrow.int32()),
            pyarrow.array([one.source.line for one in batch], pyarrow.int64()),
            pyarrow.array([one.source.column for one in batch], pyarrow.int64()),
            pyarrow.array([founders.get(hash, hash) for hash in wholes], pyarrow.uint64()),
            pyarrow.array(asked, pyarrow.uint64()),
            pyarrow.array([one.cut for one in batch], pyarrow.bool_()),
            pyarrow.array([one.goes_on for one in batch], pyarrow.bool_()),
            _text_array(texts),
        ],
        schema=SCHEMA,
    )


def _unprompted(row: Row) -> str:
    """The end of a row's JSON: what it was before a prompt was put around it, if one was."""
    plain = row.unprompted
    return "" if plain is None else f', "unprompted": {{"kind": "{plain.content.kind}", "row": {plain.json}}}'


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
