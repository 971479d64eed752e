"""Containers: a file becomes raw rows, each with its line. What a row means is the business of `formats`.

JSON lines, objects one after another, a JSON array, an object around one array, CSV and TSV with a
header, CSV without header whose cells are JSON chats, Parquet, Excel and plain text; text files may be
packed with gzip or Zstandard. The first bytes decide before the name does.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tunesmith.core.errors import DataError, MissingError
from tunesmith.data.ledger import RowFault
from tunesmith.data.read_json import DECODER, WRAPPERS, RawRow, line_rows, sequence_rows
from tunesmith.data.read_table import csv_rows, excel_rows, parquet_rows, text_rows
from tunesmith.data.stream import LONGEST_ROW, chunks, kind_of

PACKED = (".gz", ".zst")
TABLES = {".csv": None, ".tsv": "\t"}
TEXTS = (".txt", ".md", ".text")


def read_rows(path: Path, notes: Counter[str] | None = None, name: str | None = None) -> Iterator[RawRow]:
    """The rows of `path`, in order.

    Args:
        path: the file.
        notes: hears what was accepted though it is odd, such as a byte order mark.
        name: what the user calls the file.

    Raises:
        MissingError: there is no such file.
        DataError: the file is empty, or not of a kind that is known.
    """
    notes = Counter() if notes is None else notes
    name = name or str(path)
    kind = kind_of(path)
    if kind == "parquet":
        return parquet_rows(path, name)
    if kind == "zip":
        return excel_rows(path, name, notes)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = next((suffix for suffix in reversed(suffixes) if suffix not in PACKED), "")
    head = _head(path, name)
    if suffix in TABLES:
        return csv_rows(path, name, notes, TABLES[suffix])
    if suffix in TEXTS:
        return text_rows(path, name, notes)
    if head[0] == "[":
        return sequence_rows(path, name, notes, "[")
    if head[0] == "{" and (prefix := _wrapper(head)):
        return sequence_rows(path, name, notes, prefix)
    if head[0] == "{" and _is_spread_out(path, head):
        return sequence_rows(path, name, notes, "")
    if head[0] == "{" or suffix in (".json", ".jsonl", ".ndjson"):
        return line_rows(path, name, notes)
    raise DataError(
        f"{name}: not a data file that is known. Give .jsonl (one JSON object a line), .json (an array of objects), "
        ".csv or .tsv with a header, .parquet, .xlsx or .txt."
    )


def _head(path: Path, name: str) -> str:
    """The first text of the file, white space left out.

    Raises:
        DataError: there is none, or it is not text.
    """
    for chunk in chunks(path, Counter()):
        if b"\x00" in chunk[:1024]:
            raise DataError(f"{name}: not a text file, and not Parquet or Excel either. Give rows as text in UTF-8.")
        if text := chunk.decode("utf-8", "replace").lstrip():
            return text
    raise (
        MissingError(f"{name}: is a folder.")
        if path.is_dir()
        else DataError(f"{name}: the file is empty. Give at least one row.")
    )


def _wrapper(head: str) -> str:
    """What stands before the first row in `{"data": [...]}`; empty when the text is no such wrapper."""
    found = re.match(r'\{\s*"(\w+)"\s*:\s*\[', head)
    if found is None or found[1] not in WRAPPERS:
        return ""
    if found[1] == "conversations" and not head[found.end() :].lstrip().startswith('{"conversations'):
        return ""  # a ShareGPT row, not a file around rows
    return found[0]


def _is_spread_out(path: Path, head: str) -> bool:
    """Whether an object covers several lines, as pretty-printers write it: the first line alone is not JSON."""
    first, _, rest = head.partition("\n")
    if not rest.strip():
        return False
    try:
        json.loads(first.strip().rstrip(","))
    except (ValueError, RecursionError):
        pass
    else:
        return False
    text = ""
    for chunk in chunks(path, Counter()):
        text = (text + chunk.decode("utf-8", "replace")).lstrip()
        try:
            DECODER.raw_decode(text)
        except (ValueError, RecursionError):
            if len(text) > LONGEST_ROW:
                break
        except RowFault:
            return True  # an object all the same
        else:
            return True
    return False
