"""Plain text as raw rows, one for each document: a paragraph, some that follow one another, or the file.

Read in bounded memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tunesmith.data.quality.ledger import RowFault, Source
from tunesmith.data.read.json import RawRow
from tunesmith.data.read.stream import LONGEST_ROW, lines

Documents = Literal["paragraphs", "sections", "files"]
SHORTEST_SECTION, LONGEST_SECTION = 1000, 4000  # characters from which a section is long enough
SECTIONS = 100  # of a file, about, within these lengths: enough to hold some out


def text_rows(path: Path, name: str, notes: Counter[str], documents: Documents = "paragraphs") -> Iterator[RawRow]:
    """Plain text as rows with the key `text`.

    Args:
        path: the file.
        name: what the user calls it.
        notes: hears what was accepted though it is odd.
        documents: what a row is: a paragraph, that is, text between empty lines; a section, that is, paragraphs that
            follow one another, together about a hundredth of the file; or the whole file.
    """
    section = min(LONGEST_SECTION, max(SHORTEST_SECTION, path.stat().st_size // SECTIONS))
    enough = {"paragraphs": 0, "sections": section, "files": LONGEST_ROW}[documents]
    start, joined, size = 0, list[str](), 0
    for row in _paragraphs(path, name, notes):
        if isinstance(row.value, RowFault):
            yield row
            continue
        text = row.value["text"]
        if joined and (size >= enough or size + len(text) > LONGEST_ROW):
            yield RawRow(Source(name, start), {"text": "\n\n".join(joined)})
            joined, size = [], 0
        start = start if joined else row.source.line
        joined.append(text)
        size += len(text)
    if joined:
        yield RawRow(Source(name, start), {"text": "\n\n".join(joined)})


def _paragraphs(path: Path, name: str, notes: Counter[str]) -> Iterator[RawRow]:
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
