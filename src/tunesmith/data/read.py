"""Containers: a file's bytes, packed with gzip or not, become raw rows, each with its line.

JSON lines, a JSON array, an object around one array, CSV and TSV with a header, and CSV without
header whose cells are JSON chats. A byte order mark, CRLF and a trailing comma are accepted. What a
row means is the business of `formats`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.errors import DataError, MissingError
from tunesmith.data.ledger import RowFault, Source

LARGEST = 4 << 30  # bytes of an unpacked file
WRAPPERS = ("data", "rows", "examples", "train", "items")  # keys under which files keep their array of rows


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
    suffix = path.with_suffix("").suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _csv_rows(path, text, "\t" if suffix == ".tsv" else ",")
    first = text.lstrip()[0]
    if first == "[":
        return _array_rows(path, text, text.index("["))
    if first == "{" and (wrapped := _wrapped_array(text)) is not None:
        return _array_rows(path, text, wrapped)
    if first == "{" and _is_one_object(text):
        return iter([_parsed(path, 1, text)])
    if first == "{" or suffix in (".json", ".jsonl"):
        return _line_rows(path, text)
    raise DataError(
        f"{path}: not a data file that is known. Give .jsonl (one JSON object a line), .json (an array of objects) "
        "or .csv with a header."
    )


def _text(path: Path) -> str:
    try:
        data = _unpacked(path) if path.suffix.lower() == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8 text. Save the file as UTF-8.") from None
    if not text.strip():
        raise DataError(f"{path}: the file is empty. Give at least one row.")
    return text


def _unpacked(path: Path) -> bytes:
    """The bytes inside a .gz file, refused when they are more than any data file should be."""
    with gzip.open(path) as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise DataError(f"{path}: more than {LARGEST >> 30} GiB when unpacked. Split it into several files.")
    return data


def parse_json(text: str) -> Any:
    """The JSON value of `text`.

    Raises:
        RowFault: it is not JSON, or more than can be held: nested too deeply, a number without end.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        found = f"not JSON at column {error.colno} ({error.msg})."
        raise RowFault("bad_json", found, "Mend the line or delete it.") from None
    except RecursionError:
        raise RowFault("too_deep", "JSON nested too deeply.", "Flatten or delete the row.") from None
    except ValueError as error:
        raise RowFault("bad_json", f"JSON that cannot be held ({error}).", "Mend the line or delete it.") from None


def _row(path: Path, line: int, value: Any) -> RawRow:
    if isinstance(value, dict):
        return RawRow(Source(path, line), value)
    found = f"a row is {type(value).__name__}, not a JSON object."
    return RawRow(Source(path, line), RowFault("not_an_object", found, "Write {...} with keys."))


def _parsed(path: Path, line: int, text: str) -> RawRow:
    try:
        return _row(path, line, parse_json(text))
    except RowFault as fault:
        return RawRow(Source(path, line), fault)


def _line_rows(path: Path, text: str) -> Iterator[RawRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if stripped := line.strip().rstrip(","):
            yield _parsed(path, number, stripped)


def _wrapped_array(text: str) -> int | None:
    """Where the array begins in `{"data": [...]}`; None when the text is no such wrapper."""
    decoder = json.JSONDecoder()
    start = text.index("{") + 1
    start += len(text[start:]) - len(text[start:].lstrip())
    try:
        key, end = decoder.raw_decode(text, start)
    except ValueError:
        return None
    rest = text[end:].lstrip()
    if key not in WRAPPERS or not rest.startswith(":") or not rest[1:].lstrip().startswith("["):
        return None
    return text.index("[", end)


def _is_one_object(text: str) -> bool:
    """Whether the text is a single pretty-printed object: its first line alone is not JSON, the whole is."""
    if "\n" not in text.strip():
        return False
    try:
        parse_json(text.strip().split("\n", 1)[0].strip().rstrip(","))
    except RowFault:
        try:
            parse_json(text)
        except RowFault:
            return False
        return True
    return False


def _array_rows(path: Path, text: str, start: int) -> Iterator[RawRow]:
    """The items of the JSON array that begins at `start`, each with the line it starts on."""
    decoder = json.JSONDecoder()
    position, line, counted = start + 1, 1, 0
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        line += text.count("\n", counted, position)
        counted = position
        if position < len(text) and text[position] == "]":
            if rest := text[position + 1 :].strip().lstrip("}").strip():
                raise DataError(
                    f"{path}:{line}: more text after the JSON array ({rest[:30]!r}). Join the arrays, or write one "
                    "object a line."
                )
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            if not text[position:].strip() or error.pos >= len(text.rstrip()):
                raise DataError(f"{path}:{line}: the JSON array is not closed. The file is cut off; add ].") from None
            raise DataError(f"{path}:{error.lineno}:{error.colno}: not JSON ({error.msg}).") from None
        except (RecursionError, ValueError) as error:
            raise DataError(f"{path}:{line}: JSON that cannot be held ({error}). Delete the row.") from None
        yield _row(path, line, value)


def _csv_rows(path: Path, text: str, delimiter: str) -> Iterator[RawRow]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}:{line}: the row that begins here is not CSV ({error}). Close its quotes; a quote inside a "
                'quoted cell is written "".'
            ) from None
        if not cells:  # an empty line
            continue
        if header is None and cells[0].lstrip().startswith("{"):
            header = []  # no header: the first cell of each line is a JSON chat
        elif header is None:
            header = _header(path, cells)
            continue
        yield _csv_row(path, line, header, cells)


def _header(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"{path}:1: the header names {sorted(twice)[0]!r} twice. Give each column its own name.")
    return names


def _csv_row(path: Path, line: int, header: list[str], cells: list[str]) -> RawRow:
    source = Source(path, line)
    if not header:
        return _parsed(path, line, cells[0])
    if len(cells) != len(header):
        found = f"{len(cells)} cells where the header has {len(header)}."
        return RawRow(source, RowFault("wrong_cells", found, "Quote cells that contain the delimiter."))
    return RawRow(source, dict(zip(header, cells, strict=True)))
