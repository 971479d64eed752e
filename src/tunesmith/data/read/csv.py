"""Tables in text files as raw rows: CSV, TSV and their kin. Read in bounded memory."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from tunesmith.core.errors import DataError
from tunesmith.core.names import counted
from tunesmith.data.quality.ledger import RowFault, Source
from tunesmith.data.read.dialect import Dialect, find_dialect, without_empty_end
from tunesmith.data.read.json import RawRow, RowDecoder, parsed_row
from tunesmith.data.read.stream import CHUNK, Line, lines

DIALECT_LINES = 200  # lines from which the dialect is found
AS_MEANT = 'Write a quote inside a quoted cell as "", and nothing between a closing quote and the delimiter.'


class _TextLines:
    """The lines of a file as the csv module wants them, and which of those not yet taken were not UTF-8.

    Attributes:
        number: of the line that was taken last.
        faults: of the lines that were taken since this was emptied.
    """

    def __init__(self, stream: Iterator[Line]) -> None:
        self.stream = stream
        self.number = 0
        self.faults: list[RowFault] = []

    def __iter__(self) -> _TextLines:
        return self

    def __next__(self) -> str:
        line = next(self.stream)
        self.number = line.number
        try:
            return line.text() + "\n"
        except RowFault as fault:
            self.faults.append(fault)
            return (line.data or b"").decode("utf-8", "replace") + "\n"


def csv_rows(path: Path, name: str, notes: Counter[str], usual: str, known: Collection[str]) -> Iterator[RawRow]:
    """Rows under a header, or JSON chats in the first cell of each line when there is no header.

    Args:
        path: the file.
        name: as the user named it.
        notes: hears how the table is written, when that is unusual.
        usual: the delimiter that one expects.
        known: names that columns have in some format, in lower case.

    Raises:
        DataError: a quote is never closed, or the header names a column twice.
    """
    dialect = find_dialect(*_sample(path), usual, known)
    notes.update(dialect.notes(usual))
    header: list[str] | None = None
    decoder = RowDecoder()
    for source, cells in _records(path, name, notes, dialect):
        if isinstance(cells, RowFault):
            if header is None and cells.code == "undecodable":
                raise DataError(f"{source}: {cells.found} {cells.advice}")
            yield RawRow(source, cells)
        elif not any(cell.strip() for cell in cells):  # an empty line
            continue
        elif header is None and not cells[0].lstrip().startswith("{"):
            header = header_of(source, [cells[0].lstrip("# "), *cells[1:]] if dialect.hash else cells)
        elif header:
            yield _csv_row(source, header, cells, dialect)
        else:  # no header: the first cell of each line is a JSON chat
            header = []
            yield _json_cell(source, cells[0], decoder)


def _sample(path: Path) -> tuple[list[str], bool]:
    """The first lines of the file, and whether these are all."""
    sample, size = list[str](), 0
    for line in lines(path, Counter()):
        if len(sample) == DIALECT_LINES or size > CHUNK:
            return sample, False
        sample.append((line.data or b"").decode("utf-8", "replace"))
        size += len(line.data or b"")
    return sample, True


def _records(
    path: Path, name: str, notes: Counter[str], dialect: Dialect
) -> Iterator[tuple[Source, list[str] | RowFault]]:
    """Where each record begins, and its cells or the fault that stands in their place."""
    text = _TextLines(islice(lines(path, notes), dialect.before, None))
    reader = dialect.records(text)
    text.number = dialect.before
    while True:
        source = Source(name, text.number + 1)
        text.faults.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "expected after" not in str(error):
                raise DataError(
                    f"{source}: the row that begins here is not CSV ({error}). Close its quotes; a quote inside "
                    'a quoted cell is written "".'
                ) from None
            where = f" on line {text.number}" if text.number > source.line else ""
            yield source, RowFault("bad_quotes", f"not CSV ({error}{where}).", AS_MEANT)
            continue
        yield source, text.faults[0] if text.faults else [dialect.text(cell) for cell in cells]


def header_of(source: Source, cells: list[str]) -> list[str]:
    """The names of a table's columns.

    Raises:
        DataError: two columns have the same name, or none.
    """
    names = [cell.strip().strip("\ufeff") for cell in cells]
    while names and not names[-1]:  # a delimiter at the end of the line
        names.pop()
    twice = sorted(column for column, count in Counter(names).items() if count > 1)
    if twice and not twice[0]:
        without = ", ".join(str(place) for place, column in enumerate(names, start=1) if not column)
        raise DataError(f"{source}: the header leaves columns {without} without a name. Give each column its own name.")
    if twice:
        raise DataError(f"{source}: the header names {twice[0]!r} twice. Give each column its own name.")
    return names


def _json_cell(source: Source, cell: str, decoder: RowDecoder) -> RawRow:
    """The row in a cell: places in its text are none of the file's, where quotes are doubled."""
    row = parsed_row(source, cell, decoder)
    if isinstance(row.value, RowFault):
        return RawRow(source, RowFault(row.value.code, f"the cell is {row.value.found}", row.value.advice))
    return RawRow(source, row.value, odd=row.odd)


def _csv_row(source: Source, header: list[str], cells: list[str], dialect: Dialect) -> RawRow:
    cells = without_empty_end(cells, len(header))
    if len(cells) != len(header):
        advice = "Quote cells that contain the delimiter." if len(cells) > len(header) else "Add the missing cells."
        return RawRow(source, wrong_cells(len(cells), len(header), advice))
    if column := next((name for name, cell in zip(header, cells, strict=True) if dialect.half_quoted(cell)), None):
        found = f"a space stands before the quotes of {column!r}, so that they would be part of its text."
        return RawRow(source, RowFault("bad_quotes", found, "Take the space out."))
    if len(header) > 1 and [cell.strip() for cell in cells] == header:
        return RawRow(source, RowFault("header_again", "the header once more.", "Delete the line."))
    return RawRow(source, dict(zip(header, cells, strict=True)))


def wrong_cells(there: int, named: int, advice: str) -> RowFault:
    """The fault of a table's row that has more or fewer cells than the header."""
    return RowFault("wrong_cells", f"{counted(there, 'cell')} where the header has {named}.", advice)
