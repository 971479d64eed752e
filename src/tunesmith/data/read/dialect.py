"""How a table is written, found by trying: what parts its cells, what quotes them, and what stands before its header.

A way is right when the records of the file's beginning have as many cells as the header. Whatever is not
a comma, double quotes and nothing else is told to the ledger.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tunesmith.core.names import counted
from tunesmith.data.read.stream import LONGEST_ROW

DELIMITERS = ",;\t|"
DELIMITER_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
TOLD = re.compile(r'"?sep=(.)"?', re.I)  # Excel's own first line
ESCAPED = re.compile(r'\\(["\\])')
STAND_IN = {'"': "\ufdd0", "\\": "\ufdd1"}  # two characters that no text may hold
BEFORE_QUOTE = re.compile(r'\s+"(?:[^"]|"")*"\s*')


@dataclass(frozen=True)
class Dialect:
    """How a table is written.

    Attributes:
        delimiter: parts cells.
        quote: around cells that hold a delimiter or a line break; empty where quotes are text.
        spaced: whether a delimiter is followed by a space that belongs to no cell.
        backslash: whether a quote inside a quoted cell is written with a backslash, and not twice.
        before: lines before the header, or before empty ones that precede it.
        told: how many of them are not empty.
        hash: whether the header begins with # and a space.
    """

    delimiter: str = ","
    quote: str = '"'
    spaced: bool = False
    backslash: bool = False
    before: int = 0
    told: int = 0
    hash: bool = False

    def records(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """The cells of each record; raises csv.Error at one that is none, and goes on with the next line."""
        csv.field_size_limit(LONGEST_ROW)
        return csv.reader(
            (ESCAPED.sub(lambda found: STAND_IN[found[1]], line) for line in lines) if self.backslash else lines,
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            skipinitialspace=self.spaced,
            strict=True,
        )

    def text(self, cell: str) -> str:
        """A cell as it was meant."""
        if self.backslash:
            for mark, stand_in in STAND_IN.items():
                cell = cell.replace(stand_in, mark)
        return cell

    def half_quoted(self, cell: str) -> bool:
        """Whether quotes that were to surround the cell are a part of it, because a space stands before them."""
        return bool(self.quote) and cell[:1].isspace() and BEFORE_QUOTE.fullmatch(cell) is not None

    def notes(self, usual: str) -> Iterator[str]:
        """What is not as one expects of a file whose cells are parted by `usual`."""
        if self.delimiter != usual:
            yield f"cells parted by {DELIMITER_NAMES.get(self.delimiter, repr(self.delimiter))}"
        if self.told:
            yield f"{counted(self.told, 'line')} before the header passed over"
        if self.hash:
            yield "# before the header left out"
        if self.spaced:
            yield "spaces after delimiters left out"
        if self.backslash:
            yield 'quotes inside cells written as \\"'
        if self.quote == "'":
            yield "cells in single quotes"
        if not self.quote:
            yield "quotes read as text"


@dataclass(frozen=True)
class Trial:
    """The beginning of a file under a dialect: its records, and how many do not fit the header."""

    records: list[list[str]]
    bad: int

    @property
    def width(self) -> int:
        """Cells of the header."""
        return len(self.records[0]) if self.records else 0


def find_dialect(sample: Sequence[str], whole: bool, usual: str, known: Collection[str]) -> Dialect:
    """The dialect of a table.

    Args:
        sample: its first lines, without their ends.
        whole: whether these are all.
        usual: the delimiter that its name stands for.
        known: names that columns have in some format; they tell a header from a comment.
    """
    sample, start = _from_text(sample, Dialect(usual))
    if sample and (told := TOLD.fullmatch(sample[0].strip())):
        sample, start = _from_text(sample[1:], replace(start, before=start.before + 1, told=1))
        return _variant(replace(start, delimiter=told[1]), sample, whole)
    while len(sample) > 1 and sample[0].lstrip().startswith(("# ", "//")):
        names = {name.strip().casefold() for name in re.split(f"[{DELIMITERS}]", sample[0].lstrip("# "))}
        if names & set(known):
            return _variant(replace(_parted(start, sample, whole), hash=True), sample, whole)
        sample, start = _from_text(sample[1:], replace(start, before=start.before + 1, told=start.told + 1))
    return _variant(_parted(start, sample, whole), sample, whole)


def _from_text(sample: Sequence[str], start: Dialect) -> tuple[Sequence[str], Dialect]:
    """The sample from its first line that is not empty on."""
    first = next((number for number, line in enumerate(sample) if line.strip()), len(sample))
    return sample[first:], replace(start, before=start.before + first)


def _parted(start: Dialect, sample: Sequence[str], whole: bool) -> Dialect:
    """With the delimiter under which the most records fit the header; of several the one with most cells."""
    header = "".join(sample[0].split('"')[::2]) if sample else ""
    if header.lstrip().startswith("{"):
        return start
    there = [mark for mark in DELIMITERS if mark in header]
    trials = {mark: try_dialect(replace(start, delimiter=mark), sample, whole) for mark in there}
    chosen = min(
        there,
        key=lambda mark: (trials[mark].bad, -trials[mark].width, mark != start.delimiter),
        default=start.delimiter,
    )
    return replace(start, delimiter=chosen)


def _variant(start: Dialect, sample: Sequence[str], whole: bool) -> Dialect:
    """With quotes and spaces as the sample has them."""
    plain = try_dialect(start, sample, whole)
    if sample and sample[0].lstrip().startswith("'"):
        single = replace(start, quote="'")
        trial = try_dialect(single, sample, whole)
        if not trial.bad and not any(cell.startswith("'") for cell in trial.records[0]):
            return single
    choices = [start]
    if plain.bad and any('\\"' in line for line in sample):
        choices.append(replace(start, backslash=True))
    if plain.bad and start.delimiter == "\t":
        choices.append(replace(start, quote=""))
    if _has_spaces(plain, start, sample):
        choices += [replace(choice, spaced=True) for choice in choices if choice.quote]
    return min(choices, key=lambda choice: (try_dialect(choice, sample, whole).bad, not choice.spaced))


def _has_spaces(plain: Trial, start: Dialect, sample: Sequence[str]) -> bool:
    """Whether a space follows every delimiter, or a quote follows a delimiter and spaces."""
    cells = [cell for record in plain.records for cell in record[1:] if cell] if plain.width > 1 else []
    if cells and all(cell.startswith(" ") for cell in cells):
        return True
    quoted = re.compile(re.escape(start.delimiter) + ' +"')
    return plain.bad > 0 and any(quoted.search(line) for line in sample)


def try_dialect(dialect: Dialect, sample: Sequence[str], whole: bool) -> Trial:
    """The sample read so."""
    records, bad, reader = list[list[str]](), 0, dialect.records(f"{line}\n" for line in sample)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            bad += whole or "unexpected end" not in str(error)
            continue
        if any(dialect.half_quoted(cell) for cell in cells):
            bad += 1
        if any(cell.strip() for cell in cells):
            records.append(without_empty_end(cells, len(records[0]) if records else 0))
    return Trial(records, bad + sum(len(cells) != len(records[0]) for cells in records[1:]))


def without_empty_end(cells: list[str], width: int) -> list[str]:
    """The cells without empty ones beyond `width`, which a delimiter at the end of a line makes."""
    while len(cells) > width and not cells[-1].strip():
        cells.pop()
    return cells
