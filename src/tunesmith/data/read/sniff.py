"""What a text file holds, told by how it begins: rows of JSON, a table, or plain text.

Its name is believed where it says json or csv and the text does not contradict; `.txt`, `.md`, `.log` and
the like say nothing, and people keep rows of every kind in them. Prose stays prose: JSON has to be
objects, and a table a header whose names are a format's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from tunesmith.core.errors import DataError
from tunesmith.data.quality.ledger import RowFault
from tunesmith.data.read.dialect import DELIMITERS, find_dialect, try_dialect
from tunesmith.data.read.json import NEAR, WRAPPERS, RowDecoder

BEGINNING_LINES = 200  # lines of the beginning
OBJECT = re.compile(r"\{\s*(?:[\"'].*[}\]\"'\w]\s*)?\},?\s*")  # a line that was to be an object, well written or not
COMMENT = re.compile(r"#|//")
POINTER = "version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Beginning:
    """The first text of a file.

    Attributes:
        text: as it stands.
        whole: whether this is all of it.
        comments: lines of comment (and empty ones) before the first row, where JSON is what follows.
    """

    text: str
    whole: bool
    comments: int = 0

    @property
    def rows(self) -> str:
        """The text without comments and white space before the first row."""
        return "".join(self.text.splitlines(keepends=True)[self.comments :]).lstrip() if self.comments else self.head

    @property
    def head(self) -> str:
        """The text without white space before it."""
        return self.text.lstrip()

    @property
    def lines(self) -> list[str]:
        """Its first lines; the last one, which may be cut, only where it is all there is."""
        found = self.text.split("\n", BEGINNING_LINES)[:BEGINNING_LINES]
        cut = not self.whole and len(found) > 1 and self.text.count("\n") < BEGINNING_LINES
        return [line.removesuffix("\r") for line in (found[:-1] if cut else found)]


def beginning(text: str, whole: bool) -> Beginning:
    """The beginning of a file, with the comments before its JSON counted."""
    comments = 0
    lines = text.split("\n", BEGINNING_LINES)
    for number, line in enumerate(lines, start=1):
        if COMMENT.match(line.strip()):
            comments = number
        elif line.strip():
            return Beginning(text, whole, comments if line.strip()[0] in "{[" else 0)
    return Beginning(text, whole)


def refuse_no_data(head: str, name: str) -> None:
    """Refuse what stands in the place of a file: a pointer to it, or a page about it.

    Raises:
        DataError: with what to do.
    """
    if head.startswith(POINTER):
        size = re.search(r"^size (\d+)", head, re.M)
        there = f" of {int(size[1]):,} bytes" if size else ""
        raise DataError(
            f"{name}: only a git-lfs pointer to the file{there}, which was not downloaded. Run `git lfs pull` in its "
            "folder (git-lfs must be installed), or download the file itself."
        )
    if re.match(r"<!doctype html|<html", head, re.I):
        raise DataError(f"{name}: a web page, not data. Download the file itself, not the page that shows it.")


def wrapper(head: str) -> str:
    """What stands before the first row in `{"data": [...]}`; empty when the text is no such wrapper."""
    found = re.match(r'\{\s*"(\w+)"\s*:\s*\[', head)
    if found is None or found[1] not in WRAPPERS:
        return ""
    if found[1] == "conversations" and not head[found.end() :].lstrip().startswith('{"conversations'):
        return ""  # a ShareGPT row, not a file around rows
    return found[0]


def holds_json(start: Beginning, needs: Collection[str] = ()) -> bool:
    """Whether the text is rows of JSON: objects, alone or in an array, and no prose that begins with a bracket.

    Args:
        start: of the file.
        needs: keys one of which the first object must have; any will do if there are none.
    """
    head = start.rows
    if head.startswith("["):
        return _begins_with_object(head[1:].lstrip(), needs, start.whole)
    if not head.startswith("{"):
        return False
    if prefix := wrapper(head):
        return _begins_with_object(head[len(prefix) :].lstrip(), needs, start.whole)
    if _begins_with_object(head, needs, start.whole):
        return True
    lines = [line.strip() for line in start.lines[start.comments :] if line.strip()]
    alike = sum(OBJECT.fullmatch(line) is not None for line in lines)
    return not needs and alike > len(lines) / 2


def _begins_with_object(text: str, needs: Collection[str], whole: bool) -> bool:
    """Whether an object with keys stands here, with nothing behind it that JSON would not have."""
    value: Any = None
    try:
        value, end = RowDecoder().raw_decode(text)
    except RowFault:
        return True  # an object, with something else wrong
    except json.JSONDecodeError as error:  # it may go on behind what was read
        cut = error.pos > len(text) - NEAR or error.msg.startswith("Unterminated string")
        return not whole and cut and re.match(r'\{\s*"', text) is not None
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict) or not value or re.match(r"[ \t]*,?[ \t]*($|[\r\n{\]}])", text[end:]) is None:
        return False
    return not needs or any(key in value for key in needs)


def holds_table(start: Beginning, known: Collection[str]) -> bool:
    """Whether the text is a table: its header has two known names or more, and its rows as many cells.

    Args:
        start: of the file.
        known: names of columns, in lower case.
    """
    records, _ = _table(start, known)
    names = [cell.strip("# ").casefold() for cell in records[0]] if records else []
    return sum(name in known for name in names) > 1 and len(records) > 1


def looks_like_table(start: Beginning, known: Collection[str]) -> list[str]:
    """The names in what would be the header, if every line has the same number of cells: it may be a table."""
    records, delimiter = _table(start, known)
    alike = len(records) > 3 and all(len(record) == len(records[0]) for record in records)
    named = alike and all(re.fullmatch(r"[^\W\d][\w .\-]{0,30}", cell.strip()) for cell in records[0])
    return [cell.strip() for cell in records[0]] if named and (delimiter != "," or len(records) > 9) else []


def _table(start: Beginning, known: Collection[str]) -> tuple[list[list[str]], str]:
    """The records of what would be a table, none if it is not one, and what parts their cells."""
    lines = start.lines
    if not any(mark in line for line in lines[:3] for mark in DELIMITERS):
        return [], ""
    dialect = find_dialect(lines, start.whole, ",", known)
    trial = try_dialect(dialect, lines[dialect.before :], start.whole)
    fits = trial.width > 1 and trial.bad <= len(trial.records) / 10
    return (trial.records, dialect.delimiter) if fits else ([], "")
