"""Plain text as raw rows, one for each paragraph. Read in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.data.quality.ledger import RowFault, Source
from tunesmith.data.read.json import RawRow
from tunesmith.data.read.stream import LONGEST_ROW, lines


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
