"""Tables and plain text as raw rows: CSV and its kin, Parquet, Excel, paragraphs. Read in bounded memory."""

from __future__ import annotations

import csv
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith.core.errors import DataError
from tunesmith.data.ledger import RowFault, Source
from tunesmith.data.read_json import RawRow, parsed_row
from tunesmith.data.stream import LONGEST_ROW, Line, lines

DELIMITERS = ",;\t|"
LARGEST_BOOK = 1 << 28  # bytes of an unpacked workbook: its library holds much of it in memory


class _TextLines:
    """The lines of a file as the csv module wants them, and which of those not yet taken were not UTF-8."""

    def __init__(self, stream: Iterator[Line]) -> None:
        self.stream = stream
        self.faults: list[RowFault] = []

    def __iter__(self) -> _TextLines:
        return self

    def __next__(self) -> str:
        line = next(self.stream)
        try:
            return line.text() + "\n"
        except RowFault as fault:
            self.faults.append(fault)
            return (line.data or b"").decode("utf-8", "replace") + "\n"


def csv_rows(path: Path, name: str, notes: Counter[str], delimiter: str | None) -> Iterator[RawRow]:
    """Rows under a header, or JSON chats in the first cell of each line when there is no header.

    Args:
        path: the file.
        name: as the user named it.
        notes: hears which delimiter was found, when it is not a comma.
        delimiter: of the cells; the most frequent of `DELIMITERS` in the header if None.

    Raises:
        DataError: a quote is never closed, or the header names a column twice.
    """
    first = next(lines(path, Counter()), None)
    head = (first.data or b"").decode("utf-8", "replace") if first else ""
    if delimiter is None and not head.lstrip('" ').startswith("{"):
        delimiter = max(DELIMITERS, key=lambda mark: (_outside_quotes(head).count(mark), mark == ","))
        if delimiter != ",":
            notes[f"cells parted by {delimiter!r}"] += 1
    csv.field_size_limit(LONGEST_ROW)
    text = _TextLines(lines(path, notes))
    reader = csv.reader(text, delimiter=delimiter or ",", strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        source = Source(name, line)
        text.faults.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "expected after" not in str(error):
                raise DataError(
                    f"{name}:{line}: the row that begins here is not CSV ({error}). Close its quotes; a quote inside "
                    'a quoted cell is written "".'
                ) from None
            where = f" on line {reader.line_num}" if reader.line_num > line else ""
            fault = RowFault("bad_quotes", f"not CSV ({error}{where}).", 'Write a quote inside a quoted cell as "".')
            yield RawRow(source, fault)
            continue
        if text.faults and header is None:
            raise DataError(f"{source}: {text.faults[0].found} {text.faults[0].advice}")
        if text.faults:
            yield RawRow(source, text.faults[0])
            continue
        if not any(cell.strip() for cell in cells):  # an empty line
            continue
        if header is None and cells[0].lstrip().startswith("{"):
            header = []  # no header: the first cell of each line is a JSON chat
        elif header is None:
            header = _header(name, cells)
            continue
        if not header:
            yield _json_cell(source, cells[0])
        else:
            yield _csv_row(source, header, cells)


def _outside_quotes(line: str) -> str:
    return "".join(line.split('"')[::2])


def _header(name: str, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:  # a delimiter at the end of the line
        names.pop()
    if twice := sorted(column for column in names if names.count(column) > 1):
        raise DataError(f"{name}:1: the header names {twice[0]!r} twice. Give each column its own name.")
    return names


def _json_cell(source: Source, cell: str) -> RawRow:
    """The row in a cell: places in its text are none of the file's, where quotes are doubled."""
    row = parsed_row(source, cell)
    if isinstance(row.value, RowFault):
        return RawRow(source, RowFault(row.value.code, f"the cell is {row.value.found}", row.value.advice))
    return RawRow(source, row.value)


def _csv_row(source: Source, header: list[str], cells: list[str]) -> RawRow:
    while len(cells) > len(header) and not cells[-1]:
        cells.pop()
    if len(cells) != len(header):
        advice = "Quote cells that contain the delimiter." if len(cells) > len(header) else "Add the missing cells."
        return RawRow(source, _wrong_cells(len(cells), len(header), advice))
    return RawRow(source, dict(zip(header, cells, strict=True)))


def _wrong_cells(there: int, named: int, advice: str) -> RowFault:
    return RowFault("wrong_cells", f"{there} cells where the header has {named}.", advice)


def parquet_rows(path: Path, name: str) -> Iterator[RawRow]:
    """The rows of a Parquet file; their line is the row's number.

    Raises:
        DataError: it is not Parquet, or damaged.
    """
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for value in batch.to_pylist():
                    number += 1
                    yield RawRow(Source(name, number), {key: item for key, item in value.items() if item is not None})
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"{name}: not a Parquet file that can be read, from row {number + 1} ({reason}). Copy or write it again."
        ) from None


def excel_rows(path: Path, name: str, notes: Counter[str]) -> Iterator[RawRow]:
    """The rows of a workbook's first sheet under its header; their line is the sheet's row.

    Raises:
        DataError: openpyxl is not installed, or the file is not a workbook that can be read.
    """
    with path.open("rb") as file:
        book = _workbook(file, name)
        if len(book.sheetnames) > 1:
            notes[f"only the first sheet, {book.sheetnames[0]!r}, is read"] += 1
        header: list[str] | None = None
        try:
            for number, cells in enumerate(book.worksheets[0].iter_rows(values_only=True), start=1):
                values = ["" if cell is None else cell for cell in cells]
                if not any(str(value).strip() for value in values):
                    continue
                if header is None:
                    header = _header(name, [str(value) for value in values])
                else:
                    yield _sheet_row(Source(name, number), header, values)
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001  a broken workbook raises whatever its first broken part does
            raise DataError(f"{name}: the workbook is damaged ({error}). Save it as CSV.") from None
        finally:
            book.close()


def _workbook(file: BinaryIO, name: str) -> Any:
    try:
        import openpyxl
    except ImportError:
        raise DataError(f"{name}: Excel files need an extra: pip install 'tunesmith[excel]', or save as CSV.") from None
    try:
        with zipfile.ZipFile(file) as packed:
            size = sum(item.file_size for item in packed.infolist())
        if size > LARGEST_BOOK:
            raise DataError(f"{name}: unpacks to more than {LARGEST_BOOK >> 20} MiB. Save it as CSV.")
        return openpyxl.load_workbook(file, read_only=True, data_only=True)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  as in `excel_rows`
        raise DataError(
            f"{name}: not an Excel workbook that can be read ({str(error).strip('.')}). Save it as CSV. Unpack it "
            "first if it is an archive."
        ) from None


def _sheet_row(source: Source, header: list[str], values: list[Any]) -> RawRow:
    while len(values) > len(header) and values[-1] == "":
        values.pop()
    if len(values) > len(header):
        return RawRow(source, _wrong_cells(len(values), len(header), "Name the columns."))
    texts = [value if isinstance(value, str | int | float) else str(value) for value in values]
    return RawRow(source, dict(zip(header, texts, strict=False)))


def text_rows(path: Path, name: str, notes: Counter[str]) -> Iterator[RawRow]:
    """Plain text as rows with the key `text`: one for each paragraph, that is, text between empty lines."""
    start, paragraph, size = 1, list[str](), 0
    fault: RowFault | None = None

    def finish() -> Iterator[RawRow]:
        value: Any = fault or {"text": "\n".join(paragraph)}
        if fault or paragraph:
            yield RawRow(Source(name, start), value)

    for line in lines(path, notes):
        try:
            text = line.text()
        except RowFault as found:
            text, fault = "?", fault or found
        if not text.strip():
            yield from finish()
            start, paragraph, size, fault = line.number + 1, [], 0, None
            continue
        if not paragraph:
            start = line.number
        size += len(text)
        if size > LONGEST_ROW:
            fault = RowFault("too_big", f"a paragraph longer than {LONGEST_ROW >> 20} MiB.", "Put empty lines in it.")
            paragraph = ["?"]
        else:
            paragraph.append(text)
    yield from finish()
