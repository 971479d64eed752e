"""Containers: a file becomes raw rows, each with its line. What a row means is the business of `formats`.

JSON lines, objects one after another, a JSON array, an object around one array, CSV and TSV with a
header, CSV without header whose cells are JSON chats, Parquet, Arrow, Excel, CoNLL's columns and plain text; text files
may be packed with gzip or Zstandard. The first bytes decide before the name does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from tunesmith.core.errors import DataError, MissingError
from tunesmith.core.names import counted
from tunesmith.data.quality.ledger import RowFault
from tunesmith.data.read.conll import holds_words, word_rows
from tunesmith.data.read.csv import csv_rows
from tunesmith.data.read.excel import excel_rows
from tunesmith.data.read.json import DECODER, RawRow, line_rows, sequence_rows
from tunesmith.data.read.parquet import column_rows
from tunesmith.data.read.sniff import (
    Beginning,
    beginning,
    holds_json,
    holds_table,
    looks_like_table,
    refuse_no_data,
    wrapper,
)
from tunesmith.data.read.squad import squad_prefix, squad_rows
from tunesmith.data.read.stream import LONGEST_ROW, chunks, kind_of
from tunesmith.data.read.text import Documents, text_rows

PACKED = (".gz", ".zst")
TABLES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
TEXTS = (".txt", ".md", ".text", ".markdown")
TAGGED = (".conll", ".conllu", ".bio", ".bioes", ".iob", ".iob2")
JSONS = (".jsonl", ".ndjson", ".json")


def read_rows(
    path: Path,
    notes: Counter[str] | None = None,
    name: str | None = None,
    known: Collection[str] = (),
    needs: Collection[str] = (),
    documents: Documents = "paragraphs",
) -> Iterator[RawRow]:
    """The rows of `path`, in order.

    Args:
        path: the file.
        notes: hears what was accepted though it is odd, such as a byte order mark.
        name: what the user calls the file.
        known: names that columns have in some format, by which a table in a text file is known.
        needs: keys of which a row has one, where the user has said so.
        documents: what a row of plain text is.

    Raises:
        MissingError: there is no such file.
        DataError: the file is empty, or not of a kind that is known.
    """
    notes = Counter() if notes is None else notes
    name = name or str(path)
    kind = kind_of(path)
    if kind in ("parquet", "arrow", "arrow-stream"):
        return column_rows(path, name, kind)
    if kind == "zip":
        return excel_rows(path, name, notes)
    if kind == "ole":
        raise DataError(f"{name}: an old Office file (.xls), or one with a password. Save it as .xlsx or .csv.")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = next((suffix for suffix in reversed(suffixes) if suffix not in PACKED), "")
    start = _beginning(path, name)
    known = {column.casefold() for column in (needs or known)}
    if suffix in TAGGED or (suffix not in JSONS and holds_words(start.lines)):
        notes["a word with its tag in each line"] += 1
        return word_rows(path, name, notes)
    if suffix in TABLES:
        if start.head[0] in "{[" and holds_json(start):
            return _json_rows(path, name, notes, start, f"rows of JSON in a {suffix} file")
        return csv_rows(path, name, notes, TABLES[suffix], known)
    if suffix in JSONS:
        return _json_rows(path, name, notes, start)
    if holds_json(start, needs):
        return _json_rows(path, name, notes, start, f"rows of JSON in {_a_file(suffix)}")
    if holds_table(start, known):
        notes[f"a table in {_a_file(suffix)}"] += 1
        return csv_rows(path, name, notes, ",", known)
    if suffix in TEXTS:
        if columns := looks_like_table(start, known):
            shown = ", ".join(map(repr, columns[:4]))
            notes[f"plain text that looks like a table with the columns {shown}: name it .csv if it is one"] += 1
        return text_rows(path, name, notes, documents)
    if start.rows[0] in "{[":
        return _json_rows(path, name, notes, start)
    raise DataError(
        f"{name}: not a data file that is known. Give .jsonl (one JSON object a line), .json (an array of objects), "
        ".csv or .tsv with a header, .parquet, .xlsx, .conll or .txt."
    )


def _a_file(suffix: str) -> str:
    return f"a {suffix} file" if suffix else "a file without a suffix"


def _json_rows(path: Path, name: str, notes: Counter[str], start: Beginning, note: str = "") -> Iterator[RawRow]:
    """Rows of JSON, in whichever way they follow one another."""
    if note:
        notes[note] += 1
    if start.comments:
        notes[f"{counted(start.comments, 'line')} before the first row passed over"] += 1
    head = start.rows
    if prefix := squad_prefix(head):
        return squad_rows(path, name, notes, prefix)
    if head[0] == "[":
        return sequence_rows(path, name, notes, "[", start.comments)
    if head[0] == "{" and (prefix := wrapper(head)):
        return sequence_rows(path, name, notes, prefix, start.comments)
    if head[0] == "{" and _is_spread_out(path, start):
        return sequence_rows(path, name, notes, "", start.comments)
    return line_rows(path, name, notes, start.comments)


def _beginning(path: Path, name: str) -> Beginning:
    """The first text of the file.

    Raises:
        DataError: there is none, or it is not text.
    """
    stream = chunks(path, Counter())
    for chunk in stream:
        if b"\x00" in chunk[:1024]:
            raise DataError(f"{name}: not a text file, and not Parquet or Excel either. Give rows as text in UTF-8.")
        text = chunk.decode("utf-8", "replace")
        if text.strip():
            refuse_no_data(text.lstrip(), name)
            return beginning(text, next(stream, None) is None)
    raise (
        MissingError(f"{name}: is a folder.")
        if path.is_dir()
        else DataError(f"{name}: the file is empty. Give at least one row.")
    )


def _is_spread_out(path: Path, start: Beginning) -> bool:
    """Whether an object covers several lines, as pretty-printers write it: the first line alone is not JSON."""
    first, _, rest = start.rows.partition("\n")
    if not rest.strip():
        return False
    try:
        json.loads(first.strip().rstrip(","))
    except (ValueError, RecursionError):
        pass
    else:
        return False
    text, comments = "", start.comments
    for chunk in chunks(path, Counter()):
        text += chunk.decode("utf-8", "replace")
        if comments:
            text, comments = text.split("\n", comments)[-1], 0
        text = text.lstrip()
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
