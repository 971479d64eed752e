"""Words with tags as CoNLL's files have them: a word a line with its columns, an empty line between sentences.

The word is the first column and the tag the last, unless the file is CoNLL-U, where they are FORM and UPOS. Columns are
parted by tabs where the first line has one, else by white space. Lines of `-DOCSTART-` and comments are passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.core.names import counted
from tunesmith.data.quality.ledger import RowFault, Source
from tunesmith.data.read.json import RawRow
from tunesmith.data.read.stream import LONGEST_ROW, Line, lines

DOCUMENT = "-DOCSTART-"
TAG = re.compile(r"O|[BIESLU][-_]\S+")
COMMENT = re.compile(r"#\s*(?:(?:id|text|sent_id|newdoc|newpar)\b|[\w.]+ ?=)", re.I)
UNIVERSAL = 10  # columns of CoNLL-U
ID = re.compile(r"\d+([-.]\d+)?")
LEAST_LINES = 3  # by which a text file is known to hold words with tags


@dataclass(frozen=True)
class Layout:
    """How a file's lines are parted.

    Attributes:
        width: columns of a line.
        tabs: whether tabs part them; else white space.
        word, tag: which of them are those, from 0.
    """

    width: int
    tabs: bool
    word: int = 0
    tag: int = -1

    def cells(self, text: str) -> list[tuple[int, str]]:
        """The columns of a line, each with where it begins, from 0."""
        if not self.tabs:
            return [(found.start(), found.group()) for found in re.finditer(r"\S+", text)]
        cells, place = list[tuple[int, str]](), 0
        for cell in text.rstrip().split("\t"):
            cells.append((place, cell.strip()))
            place += len(cell) + 1
        return cells

    @property
    def names(self) -> dict[int, str]:
        """What a row calls the columns."""
        names = {place: f"column {place + 1}" for place in range(self.width)}
        return {**names, self.word: "tokens", self.tag % self.width: "tags"}


def layout_of(text: str) -> Layout:
    """How a file is parted, by its first line."""
    tabs = "\t" in text.strip()
    cells = Layout(0, tabs).cells(text)
    if len(cells) == UNIVERSAL and ID.fullmatch(cells[0][1]):
        return Layout(UNIVERSAL, tabs, 1, 3)
    return Layout(len(cells), tabs)


def is_comment(text: str, width: int | None = None) -> bool:
    """Whether a line at the beginning of a sentence is a comment, and no word `#`."""
    if not text.startswith("#"):
        return False
    return COMMENT.match(text) is not None or width not in (None, len(text.split()), text.count("\t") + 1)


def holds_words(some: Sequence[str]) -> bool:
    """Whether lines of text are words with tags, by the last of their columns: prose and tables are not."""
    given = [line for line in some if line.strip() and not line.startswith(DOCUMENT) and not is_comment(line)]
    if len(given) < LEAST_LINES:
        return False
    layout = layout_of(given[0])
    cells = [layout.cells(line) for line in given]
    alike = all(len(one) == layout.width > 1 for one in cells)
    return alike and all(TAG.fullmatch(one[layout.tag][1]) for one in cells)


@dataclass
class _Sentence:
    """A sentence as it comes: its lines with their numbers, and what is wrong with it."""

    layout: Layout
    numbers: list[int] = field(default_factory=list[int])
    cells: list[list[tuple[int, str]]] = field(default_factory=list[list[tuple[int, str]]])
    begins: int = 0
    size: int = 0
    fault: RowFault | None = None

    def take(self, line: Line, text: str) -> None:
        """A further line."""
        self.begins = self.begins or line.number
        self.size += len(text)
        if self.fault is not None:
            return
        if self.size > LONGEST_ROW:
            advice = "Put empty lines between sentences."
            self.fault = RowFault("too_big", f"a sentence longer than {LONGEST_ROW >> 20} MiB.", advice)
            self.numbers, self.cells = [], []
            return
        cells, width = self.layout.cells(text), self.layout.width
        if len(cells) != width or width < 2 or not all(cell for _, cell in cells):
            found = f"line {line.number} has {counted(len(cells), 'column')}, and the file's first has {width}."
            column = cells[width][0] + 1 if len(cells) > width else len(text.rstrip()) + 1
            if width < 2:
                found, column = f"line {line.number} is a word without a tag.", len(text.rstrip()) + 1
            elif len(cells) == width:
                found, column = f"line {line.number} has an empty column.", next(p for p, c in cells if not c) + 1
            parted = "a tab" if self.layout.tabs else "white space"
            advice = f"Give each word its columns, with {parted} between them, and an empty line behind a sentence."
            self.fault = RowFault("bad_columns", found, advice, column=column, line=line.number)
            return
        if self.layout.width == UNIVERSAL and self.layout.word and not cells[0][1].isdecimal():
            return  # a word of several, or one that is not written
        self.numbers.append(line.number)
        self.cells.append(cells)

    def row(self, name: str) -> RawRow | None:
        """What it is as a row; nothing where no line came."""
        source = Source(name, self.begins)
        if self.fault is not None:
            return RawRow(source, self.fault)
        if not self.cells:
            return None
        names = self.layout.names
        value = {names[place]: [one[place][1] for one in self.cells] for place in names}
        return RawRow(source, value, find=self.place_of)

    def place_of(self, path: tuple[str | int, ...]) -> tuple[int, int]:
        """Line (from 0 in the sentence) and column (from 1) of a value."""
        column = next((place for place, name in self.layout.names.items() if name == path[0]), 0)
        word = path[1] if len(path) > 1 and isinstance(path[1], int) else 0
        return self.numbers[word] - self.begins, self.cells[word][column][0] + 1


def word_rows(path: Path, name: str, notes: Counter[str]) -> Iterator[RawRow]:
    """A row for each sentence: `tokens`, `tags`, and the columns between them as `column 2`, ...

    A sentence with a line that has other columns than the file's first is a fault, at that line and column.
    """
    layout: Layout | None = None
    sentence: _Sentence | None = None
    for line in lines(path, notes):
        try:
            text = line.text()
        except RowFault as fault:
            sentence = sentence or _Sentence(layout or Layout(2, False))
            sentence.begins, sentence.fault = sentence.begins or line.number, sentence.fault or fault
            continue
        if not text.strip() or text.startswith(DOCUMENT):
            if sentence is not None and (row := sentence.row(name)) is not None:
                yield row
            if text.startswith(DOCUMENT):
                notes["lines of -DOCSTART- passed over"] += 1
            sentence = None
            continue
        if (sentence is None or not sentence.begins) and is_comment(text, layout and layout.width):
            notes["lines of comment passed over"] += 1
            continue
        layout = layout or layout_of(text)
        sentence = sentence or _Sentence(layout)
        sentence.take(line, text)
    if sentence is not None and (row := sentence.row(name)) is not None:
        yield row
