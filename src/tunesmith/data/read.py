"""Containers: a file's bytes become raw rows, each with its line.

JSON lines, a JSON array, CSV and TSV with a header, and CSV without header whose cells are JSON
chats. A byte order mark, CRLF and a trailing comma are accepted. What a row means is the business
of `formats`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.errors import DataError, MissingError
from tunesmith.data.ledger import RowFault, Source


@dataclass(frozen=True)
class RawRow:
    """A row as the file has it: a JSON object's keys and values, or the fault that stands in its place."""

    source: Source
    value: dict[str, Any] | RowFault


def read_rows(path: Path) -> Iterator[RawRow]:
    """The rows of `path`, in order.

    Raises:
        MissingError: there is no such file.
        DataError: the file is empty, not text, or not of a kind that is known.
    """
    text = _text(path)
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _csv_rows(path, text, "\t" if suffix == ".tsv" else ",")
    first = text.lstrip()[0]
    if first == "[":
        return _array_rows(path, text)
    if first == "{":
        return _object_rows(path, text) if _is_one_object(text) else _line_rows(path, text)
    if suffix in (".json", ".jsonl"):
        return _line_rows(path, text)
    raise DataError(
        f"{path}: not a data file that is known. Give .jsonl (one JSON object a line), .json (an array of objects) "
        "or .csv with a header."
    )


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8 text. Save the file as UTF-8.") from None
    if not text.strip():
        raise DataError(f"{path}: the file is empty. Give at least one row.")
    return text


def _row(path: Path, line: int, value: Any) -> RawRow:
    source = Source(path, line)
    if isinstance(value, dict):
        return RawRow(source, value)
    return RawRow(source, _not_an_object(value))


def _not_an_object(value: Any) -> RowFault:
    return RowFault("not_an_object", f"a row is {type(value).__name__}, not a JSON object.", "Write {...} with keys.")


def _bad_json(error: json.JSONDecodeError) -> RowFault:
    return RowFault("bad_json", f"not JSON at column {error.colno} ({error.msg}).", "Mend the line or delete it.")


def _parsed(path: Path, line: int, text: str) -> RawRow:
    try:
        return _row(path, line, json.loads(text))
    except json.JSONDecodeError as error:
        return RawRow(Source(path, line), _bad_json(error))
    except RecursionError:
        return RawRow(Source(path, line), RowFault("too_deep", "JSON nested too deeply.", "Flatten or delete the row."))


def _line_rows(path: Path, text: str) -> Iterator[RawRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if stripped := line.strip().rstrip(","):
            yield _parsed(path, number, stripped)


def _is_one_object(text: str) -> bool:
    """A pretty-printed object, as some tools write a single row or a wrapper around rows."""
    first_line = text.strip().split("\n", 1)[0].strip()
    try:
        json.loads(first_line.rstrip(","))
    except (json.JSONDecodeError, RecursionError):
        try:
            json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            return False
        return True
    return False


def _object_rows(path: Path, text: str) -> Iterator[RawRow]:
    """One object: a row, or a wrapper such as {"data": [rows]}."""
    value = json.loads(text)
    lists = [inner for inner in value.values() if isinstance(inner, list) and inner and isinstance(inner[0], dict)]
    if len(value) == 1 and lists:
        yield from (_row(path, 1, item) for item in lists[0])
    else:
        yield _row(path, 1, value)


def _array_rows(path: Path, text: str) -> Iterator[RawRow]:
    """The items of a JSON array, each with the line it starts on."""
    decoder = json.JSONDecoder()
    position, line, counted = text.index("[") + 1, 1, 0
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        line += text.count("\n", counted, position)
        counted = position
        if position < len(text) and text[position] == "]":
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            if position >= len(text):
                raise DataError(f"{path}:{line}: the JSON array is not closed. The file is cut off; add ].") from None
            raise DataError(f"{path}:{error.lineno}:{error.colno}: not JSON ({error.msg}).") from None
        yield _row(path, line, value)


def _csv_rows(path: Path, text: str, delimiter: str) -> Iterator[RawRow]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header: list[str] | None = None
    before = 0
    for cells in reader:
        line, before = before + 1, reader.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            if cells[0].lstrip().startswith("{"):
                header = []  # no header: the first cell of each line is a JSON chat
            else:
                header = [cell.strip() for cell in cells]
                continue
        if not header:
            yield _parsed(path, line, cells[0])
        elif len(cells) != len(header):
            found = f"{len(cells)} cells where the header has {len(header)}."
            yield RawRow(Source(path, line), RowFault("wrong_cells", found, "Quote cells that contain the delimiter."))
        else:
            yield RawRow(Source(path, line), dict(zip(header, cells, strict=True)))
