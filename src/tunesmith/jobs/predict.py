"""What a model says of each row of a file, line by line, so that it can be stopped and taken up again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tunesmith.core.errors import DataError
from tunesmith.core.files import expanded, make_folder
from tunesmith.data.formats.columns import Columns
from tunesmith.data.quality.ledger import RowFault
from tunesmith.data.read.files import read_rows
from tunesmith.data.read.json import RawRow
from tunesmith.data.source import find_files
from tunesmith.infer.predict.predictor import Predictor

ROWS_AT_ONCE = 256  # that are read together, and written


@dataclass(frozen=True)
class Done:
    """How a file was gone through: rows that are there already, rows written now, and those without an answer."""

    before: int
    written: int
    faulty: int


@dataclass(frozen=True)
class Line:
    """A row on its way: what is told of it, and what the model reads; nothing where it cannot be read."""

    told: dict[str, Any]
    read: Any


def predict_file(
    predictor: Predictor, name: str, columns: Mapping[str, str], write: Callable[[str], Any], skip: int = 0
) -> Done:
    """Write a line of JSON for each row of a file, in order.

    Args:
        predictor: says what they are.
        name: of the file.
        columns: the file's names for what the predictor reads.
        write: takes some lines.
        skip: rows that are done already.

    Raises:
        MissingError, DataError: it cannot be read, or none of its columns is a text.
    """
    rows = enumerate(lines_of(predictor, name, columns), start=1)
    for _ in islice(rows, skip):
        pass
    written = faulty = 0
    while some := list(islice(rows, ROWS_AT_ONCE)):
        reads = [line.read for _, line in some if line.read is not None]
        said = iter(predictor.answers(reads) if reads else ())
        found = [
            {"row": number, **line.told, **(next(said).to_json() if line.read is not None else {})}
            for number, line in some
        ]
        write("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in found))
        written += len(some)
        faulty += len(some) - len(reads)
    return Done(skip, written, faulty)


def lines_of(predictor: Predictor, name: str, columns: Mapping[str, str]) -> Iterator[Line]:
    """Each row of a file as the predictor reads it; a row that cannot be read says why.

    Raises:
        DataError: the first row of a file has nothing that could be read.
    """
    for file in find_files(name):
        known = {*predictor.keys, *columns.values()}
        names, raw = Columns(dict(columns)), read_rows(file.path, Counter(), file.name, known)
        first = next(raw, None)
        if first is None:
            raise DataError(f"{file.name}: no rows.")
        if isinstance(first.value, dict):
            names.refuse_absent([first.value], file.name, None)
            refuse_unreadable(predictor, names.renamed(first.value), file.name)
        yield line_of(predictor, first, names)
        for item in raw:
            yield line_of(predictor, item, names)


def refuse_unreadable(predictor: Predictor, values: Mapping[str, Any], file: str) -> None:
    """Refuse a file whose rows have nothing under a name that is known.

    Raises:
        DataError: with its columns.
    """
    if not predictor.keys & values.keys():
        shown = ", ".join(map(repr, values)) or "(none)"
        key = "text" if "text" in predictor.keys else min(predictor.keys)
        raise DataError(f"{file}: no column called {key!r}; it has {shown}. Name one with --column {key}=NAME.")


def line_of(predictor: Predictor, item: RawRow, columns: Columns) -> Line:
    """A row as the predictor reads it."""
    told: dict[str, Any] = {"line": item.source.line}
    try:
        if isinstance(item.value, RowFault):
            raise item.value
        given = predictor.given(columns.renamed(item.value))
        told |= given
        return Line(told, predictor.read(given))
    except RowFault as fault:
        return Line({**told, "error": f"{fault.found} {fault.advice}"}, None)
    except DataError as error:
        return Line({**told, "error": str(error)}, None)


def predict_to(predictor: Predictor, name: str, columns: Mapping[str, str], out: Path) -> Done:
    """Write predictions to a file; what an earlier, broken off call has written there is kept and gone on from.

    Raises:
        DataError: what lies there was not written for this file.
    """
    out = expanded(out)
    make_folder(out.parent, "predictions")
    skip = whole_lines(out)
    if skip:
        refuse_others(out, skip, lines_of(predictor, name, columns))
    with out.open("a", encoding="utf-8") as file:

        def write(lines: str) -> None:
            file.write(lines)
            file.flush()

        return predict_file(predictor, name, columns, write, skip)


def whole_lines(path: Path) -> int:
    """How many whole lines a file has; a last one that breaks off is cut away."""
    if not path.exists():
        return 0
    count = end = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                count, end = count + 1, end + len(line)
    if end < path.stat().st_size:
        with path.open("rb+") as file:
            file.truncate(end)
    return count


def refuse_others(out: Path, count: int, lines: Iterator[Line]) -> None:
    """Refuse to go on with a file whose first and last lines are of other rows.

    Raises:
        DataError: with what to do.
    """
    with out.open(encoding="utf-8") as file:
        for number, written in enumerate(file, start=1):
            line = next(lines, None)
            if number not in (1, count):
                continue
            try:
                there = json.loads(written)
                own = {} if line is None else {"row": number, **line.told}
                same = bool(own) and all(there[key] == value for key, value in own.items())
            except (ValueError, KeyError, TypeError):
                same = False
            if not same:
                raise DataError(f"{out}: its line {number} is not of this file's row {number}. Name another --out.")
