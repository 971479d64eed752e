"""Excel workbooks as raw rows: the first visible sheet that holds something, its cells as a CSV's text would be."""

from __future__ import annotations

import datetime
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith.core.errors import DataError
from tunesmith.core.names import counted
from tunesmith.data.quality.ledger import Source
from tunesmith.data.read.csv import header_of, wrong_cells
from tunesmith.data.read.json import RawRow
from tunesmith.data.read.no_value import NoValue

LARGEST_BOOK = 1 << 28  # bytes of an unpacked workbook: its library holds much of it in memory
ERRORS = {
    "#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A", "#SPILL!", "#CALC!", "#FIELD!", "#GETTING_DATA",
    "#BLOCKED!", "#CONNECT!", "#UNKNOWN!",
}  # fmt: skip
FORMULA, MERGED = re.compile(rb"<(?:\w+:)?f[ >/]"), re.compile(rb"<(?:\w+:)?mergeCell ")
Cells = list[Any]


def excel_rows(path: Path, name: str, notes: Counter[str]) -> Iterator[RawRow]:
    """The rows of a workbook's first visible sheet under its header; their line is the sheet's row.

    Args:
        path: the file.
        name: as the user named it.
        notes: hears which sheet is read, which are not, and of cells that were merged.

    Raises:
        DataError: openpyxl is not installed, or the file is not a workbook that can be read.
    """
    with path.open("rb") as file:
        book = _workbook(file, name, data_only=True)
        try:
            header: list[str] | None = None
            for number, cells in _first_table(book, file, name, notes):
                if header is None:
                    header = header_of(Source(name, number), list(map(str, cells)))
                else:
                    yield _sheet_row(Source(name, number), header, cells)
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001  a broken workbook raises whatever its first broken part does
            raise DataError(f"{name}: the workbook is damaged ({error}). Save it as CSV.") from None
        finally:
            book.close()


def _workbook(file: BinaryIO, name: str, *, data_only: bool) -> Any:
    try:
        import openpyxl
    except ImportError:
        raise DataError(f"{name}: Excel files need an extra: pip install 'tunesmith[excel]', or save as CSV.") from None
    try:
        with zipfile.ZipFile(file) as packed:
            size = sum(item.file_size for item in packed.infolist())
        if size > LARGEST_BOOK:
            raise DataError(f"{name}: unpacks to more than {LARGEST_BOOK >> 20} MiB. Save it as CSV.")
        return openpyxl.load_workbook(file, read_only=True, data_only=data_only)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  as in `excel_rows`
        raise DataError(
            f"{name}: not an Excel workbook that can be read ({str(error).strip('.')}). Save it as CSV. Unpack it "
            "first if it is an archive."
        ) from None


def _first_table(book: Any, file: BinaryIO, name: str, notes: Counter[str]) -> Iterator[tuple[int, Cells]]:
    """The rows, with their numbers, of the first visible sheet that has any."""
    hidden = [repr(sheet.title) for sheet in book.worksheets if sheet.sheet_state != "visible"]
    for sheet in book.worksheets:
        if sheet.sheet_state != "visible":
            continue
        rows = _rows_of(sheet, file, name, notes)
        first = next(rows, None)
        if first is not None:
            _note_sheets(book, sheet, notes)
            yield first
            yield from rows
            return
    advice = f"Hidden: {', '.join(hidden)}. Show the one that holds the rows." if hidden else "Give at least one row."
    raise DataError(f"{name}: no sheet that is visible holds anything. {advice}")


def _note_sheets(book: Any, read: Any, notes: Counter[str]) -> None:
    """Say which sheet is read, where there are others, and which are not."""
    others = [sheet for sheet in book.worksheets if sheet is not read]
    shown = [repr(sheet.title) + (" (hidden)" if sheet.sheet_state != "visible" else "") for sheet in others]
    shown += [f"{sheet.title!r} (a chart)" for sheet in book.chartsheets]
    if shown:
        notes[f"sheet {read.title!r} is read, {counted(len(shown), 'other')} not: {', '.join(shown)}"] += 1


def _rows_of(sheet: Any, file: BinaryIO, name: str, notes: Counter[str]) -> Iterator[tuple[int, Cells]]:
    """The sheet's rows that are not empty, as text, each with its number."""
    formulas, merged = _seen_in(sheet)
    sheet.reset_dimensions()  # what a file says of its own size may be wrong, and rows would be lost
    written: Iterator[Any] = repeat(())
    if formulas:
        twin = _workbook(file, name, data_only=False)[sheet.title]
        twin.reset_dimensions()
        written = twin.iter_rows(values_only=True)
    if merged:
        notes["merged ranges of cells, of which only the first cell has the value"] += merged
    for number, (values, meant) in enumerate(zip(sheet.iter_rows(values_only=True), written, strict=False), start=1):
        cells = [_text(value) for value in values]
        cells += [""] * (len(meant) - len(cells))
        for column, formula in enumerate(meant):
            if not cells[column] and isinstance(formula, str) and formula.startswith("="):
                cells[column] = NoValue(formula, "a formula whose result was never saved", "bad_cell",
                                        "Open the workbook in Excel or LibreOffice and save it.")  # fmt: skip
        if any(isinstance(cell, NoValue) or cell.strip() for cell in cells):
            yield number, cells


def _seen_in(sheet: Any) -> tuple[bool, int]:
    """Whether there are formulas in the sheet, and how many ranges of merged cells."""
    formulas, merged, rest = False, 0, b""
    with sheet._get_source() as source:
        while piece := source.read(1 << 20):
            text = rest + piece
            cut = text.rfind(b"<")  # what begins there may not be whole
            text, rest = text[:cut], text[cut:]
            formulas = formulas or FORMULA.search(text) is not None
            merged += len(MERGED.findall(text))
    return formulas, merged


def _text(value: Any) -> Any:
    """A cell as a CSV file would have it: dates in ISO form, whole numbers without a point, TRUE and FALSE."""
    match value:
        case None:
            return ""
        case str():
            error = value in ERRORS
            return NoValue(value, "an error of the workbook", "bad_cell", "Mend the cell.") if error else value
        case bool():
            return str(value).upper()
        case float():
            return format(value, ".15g") if abs(value) < 1e15 else str(value)
        case datetime.datetime():
            midnight = value.time() == datetime.time()
            return value.date().isoformat() if midnight else value.isoformat(" ", "seconds")
        case datetime.timedelta():
            minutes, seconds = divmod(round(value.total_seconds()), 60)
            return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        case datetime.date() | datetime.time():
            return value.isoformat()
        case _:
            return str(value)


def _sheet_row(source: Source, header: list[str], cells: Cells) -> RawRow:
    while len(cells) > len(header) and cells[-1] == "":
        cells.pop()
    if len(cells) > len(header):
        return RawRow(source, wrong_cells(len(cells), len(header), "Name the columns."))
    cells += [""] * (len(header) - len(cells))
    odd = any(isinstance(cell, NoValue) for cell in cells)
    return RawRow(source, dict(zip(header, cells, strict=True)), odd=odd)
