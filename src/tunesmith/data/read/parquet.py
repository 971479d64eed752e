"""Parquet and Arrow files as raw rows. Read in bounded memory.

Their columns have one schema, so that a key which one row lacks is there all the same and null: inside
objects, at any depth, such nulls are left out, as in the JSON lines that the columns were made from.
(A null that stands in a list, or in a map, which has keys of its own, was really written.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tunesmith.core.errors import DataError
from tunesmith.data.quality.ledger import Source
from tunesmith.data.read.json import RawRow
from tunesmith.data.read.no_value import NoValue, no_number

ROWS_HELD = 256  # at once


class _Met:
    """Whether something that is no value was met in a row."""

    odd = False


Mend = Callable[[Any, _Met], Any]


def column_rows(path: Path, name: str, kind: str) -> Iterator[RawRow]:
    """The rows of a Parquet or Arrow file; their line is the row's number.

    Args:
        path: the file.
        name: as the user named it.
        kind: `parquet`, `arrow` or `arrow-stream`.

    Raises:
        DataError: it is not of that kind, or damaged.
    """
    import pyarrow

    number = 0
    try:
        for batch in _batches(path, kind):
            columns = zip(batch.schema.names, batch.columns, strict=True)
            mends = {column: mend for column, values in columns if (mend := _mend_of(values)) is not None}
            for value in batch.to_pylist():
                number += 1
                row, met = {key: item for key, item in value.items() if item is not None}, _Met()
                for key, mend in mends.items():
                    if key in row:
                        row[key] = mend(row[key], met)
                yield RawRow(Source(name, number), row, odd=met.odd)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        known = "a Parquet" if kind == "parquet" else "an Arrow"
        raise DataError(
            f"{name}: not {known} file that can be read, from row {number + 1} ({reason}). Copy or write it again."
        ) from None


def _batches(path: Path, kind: str) -> Iterator[Any]:
    import pyarrow
    from pyarrow import ipc, parquet

    if kind == "parquet":
        with parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=ROWS_HELD)
        return
    with pyarrow.memory_map(str(path)) as mapped:
        opened = ipc.open_file(mapped) if kind == "arrow" else ipc.open_stream(mapped)
        whole = (
            (opened.get_batch(i) for i in range(opened.num_record_batches)) if kind == "arrow" else iter(opened)  # pyright: ignore[reportAttributeAccessIssue]
        )
        for batch in whole:
            for begin in range(0, batch.num_rows, ROWS_HELD):
                yield batch.slice(begin, ROWS_HELD)


def _mend_of(column: Any) -> Mend | None:
    """What makes of a column's values those that were meant; None where all of them are already."""
    from pyarrow import compute, types

    type = column.type
    if types.is_floating(type):
        if types.is_float16(type):  # for which pyarrow has no such function
            return _number
        odd = compute.call_function("invert", [compute.call_function("is_finite", [column])])
        return _number if compute.call_function("any", [odd]).as_py() else None
    if types.is_struct(type):
        children = column.flatten()
        inner = {field.name: _mend_of(child) for field, child in zip(type, children, strict=True)}
        whole = not any(child.null_count for child in children) and not any(inner.values())
        return None if whole else _object_of(inner)
    if types.is_map(type):
        return _map_of(_mend_of(column.items))
    if types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type):
        inner = _mend_of(column.flatten())
        return None if inner is None else _list_of(inner)
    if types.is_binary(type) or types.is_large_binary(type) or types.is_fixed_size_binary(type):
        return _text
    if types.is_temporal(type) or types.is_decimal(type):
        return lambda value, met: str(value)
    return None


def _number(value: float, met: _Met) -> Any:
    odd = no_number(value)
    met.odd = met.odd or odd is not None
    return value if odd is None else odd


def _text(value: bytes, met: _Met) -> Any:
    """Text that was saved without being called so; other bytes are no value."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        met.odd = True
        return NoValue("binary data", "which no text is", "not_text", "Save the column as text.")


def _object_of(inner: dict[str, Mend | None]) -> Mend:
    def mend(value: dict[str, Any], met: _Met) -> Any:
        there = ((key, item, inner[key]) for key, item in value.items() if item is not None)
        return {key: item if mend is None else mend(item, met) for key, item, mend in there}

    return mend


def _map_of(inner: Mend | None) -> Mend:
    def mend(value: list[tuple[Any, Any]], met: _Met) -> Any:
        return {str(key): item if item is None or inner is None else inner(item, met) for key, item in value}

    return mend


def _list_of(inner: Mend) -> Mend:
    def mend(value: list[Any], met: _Met) -> Any:
        return [None if item is None else inner(item, met) for item in value]

    return mend
