"""JSON of every shape: one object a line, one after another, or in an array, read in bounded memory."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tunesmith.core.errors import DataError
from tunesmith.data.quality.ledger import RowFault, Source
from tunesmith.data.read.no_value import NoValue, refuse_halves
from tunesmith.data.read.stream import LONGEST_ROW, MARK, chunks, lines, too_big, undecodable

WRAPPERS = ("data", "rows", "examples", "train", "items", "conversations")  # keys of files around one array of rows
NEAR = 20  # an error this near to the end of what was read may only mean that more must be read
ESCAPED = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of bytes that are not UTF-8
# What matters when a bad row is passed over, outside of its strings and inside.
IN_ROW, IN_STRING = re.compile(r'"|[{\[]+|[}\]]+'), re.compile(r'\\.|["\n]', re.S)
WORD_END = re.compile(r"[,\]}\n]")


@dataclass(frozen=True)
class RawRow:
    """A row as the file has it: keys and values, or the fault that stands in its place.

    Attributes:
        source: where it begins.
        value: keys and values, or a fault.
        text: its JSON, to find a value's column by; empty where it has none.
        column: where in its line it begins, from 1.
        odd: whether there is a `NoValue` in it.
        find: where the value stands that a path leads to (line from 0, column from 1), of a row that is no JSON.
    """

    source: Source
    value: dict[str, Any] | RowFault
    text: str = ""
    column: int = 1
    odd: bool = False
    find: Callable[[tuple[str | int, ...]], tuple[int, int]] | None = None

    @property
    def place(self) -> Source:
        """Line and column at once: no two rows of a file have the same."""
        return self.source if self.column == 1 else replace(self.source, column=self.column)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise RowFault("twin_key", f"the key {twin!r} is there twice.", "Keep one of them.")
    return value


def _constant(name: str) -> Any:
    raise RowFault("bad_json", f"{name} is not JSON.", "Write a number, or null.")


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


class RowDecoder(json.JSONDecoder):
    """Reads rows: numbers that are none stand in their values as `NoValue`, since they may be in a column that
    nobody reads.

    Attributes:
        met: how many there were in all that was read.
    """

    def __init__(self) -> None:
        self.met = 0
        super().__init__(
            object_pairs_hook=_object, parse_constant=self._odd, parse_float=self._float, parse_int=self._int
        )

    def _odd(self, text: str) -> NoValue:
        self.met += 1
        return NoValue(text)

    def _float(self, text: str) -> float | NoValue:
        value = float(text)
        return self._odd(text) if math.isinf(value) else value

    def _int(self, text: str) -> int | NoValue:
        try:
            return int(text)
        except ValueError:  # more digits than Python takes
            return self._odd(text)


def parse_json(text: str, decoder: json.JSONDecoder = DECODER) -> Any:
    """The JSON value of `text`.

    Raises:
        RowFault: it is not JSON, or more than can be held: nested too deeply, a number without end.
    """
    try:
        value = decoder.decode(text)
        refuse_halves(value, text)
        return value
    except json.JSONDecodeError as error:
        raise _not_json(error, error.colno) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise _cannot_hold(error) from None


def _not_json(error: json.JSONDecodeError, column: int, line: int = 0) -> RowFault:
    where = f"line {line}, column {column}" if line else f"column {column}"
    found = f"not JSON at {where} ({error.msg[0].lower() + error.msg[1:].removesuffix(' starting at')})."
    hint = "Mend the line or delete it."
    wanted = error.msg.startswith(("Expecting property name", "Expecting value"))
    if wanted and error.doc[error.pos : error.pos + 1] == "'":
        hint = "JSON wants double quotes: write it with json.dumps, not with str."
    elif error.msg == "Extra data":
        hint = "Write one object a line."
    elif error.msg.startswith("Unterminated string"):
        hint = "The row is cut off, or a line break stands in a string: write it as \\n."
    elif error.msg.startswith("Invalid control character"):
        hint = "Write a line break inside a string as \\n, and a tab as \\t."
    elif not error.doc[error.pos :].strip():
        hint = "The row is cut off. Complete or delete it."
    return RowFault("bad_json", found, hint, column=column, line=line)


def _too_deep() -> RowFault:
    return RowFault("too_deep", "JSON nested too deeply.", "Flatten or delete the row.")


def _cannot_hold(error: ValueError) -> RowFault:
    return RowFault("bad_json", f"JSON that cannot be held ({error}).", "Mend the line or delete it.")


def _row(source: Source, value: Any, text: str, column: int = 1, odd: bool = False) -> RawRow:
    if isinstance(value, dict):
        return RawRow(source, value, text, column, odd)
    if isinstance(value, NoValue):
        return RawRow(source, RowFault("bad_json", f"{value} is not JSON.", "Write {...} with keys."), column=column)
    kind = {"list": "a list", "str": "text", "NoneType": "null"}.get(type(value).__name__, "a single value")
    fault = RowFault("not_an_object", f"a row is {kind}, not a JSON object.", "Write {...} with keys.")
    return RawRow(source, fault, column=column)


def parsed_row(source: Source, text: str, decoder: RowDecoder) -> RawRow:
    """The row that is written in `text`."""
    before = decoder.met
    try:
        return _row(source, parse_json(text, decoder), text, odd=decoder.met > before)
    except RowFault as fault:
        return RawRow(source, fault, text)


def line_rows(path: Path, name: str, notes: Counter[str], comments: int = 0) -> Iterator[RawRow]:
    """One JSON object a line, after so many lines of `comments`; empty lines are passed over."""
    decoder = RowDecoder()
    for line in islice(lines(path, notes), comments, None):
        source = Source(name, line.number)
        try:
            text = line.text()
        except RowFault as fault:
            yield RawRow(source, fault)
            continue
        text = text.rstrip()
        if text.endswith(","):
            text = text.rstrip(",")
            notes["trailing comma"] += 1
        if text:
            yield parsed_row(source, text, decoder)


class _Window:
    """A piece of a long text that moves forward: what is behind is let go, what is ahead is read when asked for."""

    def __init__(self, path: Path, notes: Counter[str]) -> None:
        self.chunks = chunks(path, notes)
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.rows = RowDecoder()
        self.text, self.position, self.ended = "", 0, False
        self.notes = notes
        self.line, self.column, self.offset = 1, 1, 0  # of `position`

    def more(self) -> bool:
        """Read on, at least as much again as is in hand; False when there is no more."""
        pieces, wanted = [self.text], max(len(self.text), 1)
        while wanted > 0 and not self.ended:
            chunk = next(self.chunks, None)
            if not self.offset and self.notes[MARK]:
                self.offset = len(codecs.BOM_UTF8)
            piece = self.decoder.decode(chunk or b"", final=chunk is None)
            self.ended = chunk is None
            pieces.append(piece)
            wanted -= len(piece)
        grown = "".join(pieces)
        read = len(grown) > len(self.text)
        self.text = grown
        return read

    def skip(self, characters: str) -> str:
        """Pass over `characters`; the next one, or the empty string at the end."""
        while True:
            place = self.position
            while place < len(self.text) and self.text[place] in characters:
                place += 1
            self.move(place)
            if place < len(self.text):
                return self.text[place]
            if not self.more():
                return ""

    def pass_line(self) -> None:
        """Go on to the beginning of the next line."""
        while (end := self.text.find("\n", self.position)) < 0 and self.more():
            pass
        self.move(end + 1 if end >= 0 else len(self.text))

    def move(self, place: int) -> None:
        """Go on to `place`, and let go of what is far behind."""
        passed = self.text[self.position : place]
        breaks = passed.count("\n")
        self.line += breaks
        self.column = len(passed) - passed.rfind("\n") if breaks else self.column + len(passed)
        self.offset += len(passed) if passed.isascii() else len(passed.encode("utf-8", "surrogateescape"))
        self.position = place
        if place > 1 << 20:
            self.text, self.position = self.text[place:], 0


def sequence_rows(
    path: Path, name: str, notes: Counter[str], prefix: str, comments: int = 0, whole: bool = True
) -> Iterator[RawRow]:
    """Objects one after another, after `prefix`: up to the closing bracket of an array, or to the end.

    Args:
        path: the file.
        name: as the user named it.
        notes: hears what was accepted though it is odd.
        prefix: what stands before the first object, such as `[` or `{"data": [`; empty for no array.
        comments: lines before all of this that are passed over.
        whole: whether nothing but closing brackets may follow the array.

    Raises:
        DataError: the array is not closed, or text follows it.
    """
    window = _Window(path, notes)
    for _ in range(comments):
        window.pass_line()
    window.skip(" \t\r\n")
    while len(window.text) < window.position + len(prefix) and window.more():
        pass
    window.move(window.position + len(prefix))
    row_line = window.line
    while True:
        before = window.position
        character = window.skip(" \t\r\n,")
        if character == "]" and prefix:
            if "," in window.text[before : window.position]:
                notes["trailing comma"] += 1
            window.move(window.position + 1)
            rest = window.skip(" \t\r\n}")
            if rest and whole:
                shown = window.text[window.position : window.position + 30]
                raise DataError(
                    f"{name}:{window.line}: more text after the JSON array ({shown!r}). Join the arrays, or write one "
                    "object a line."
                )
            return
        if not character:
            if prefix:
                raise DataError(f"{name}:{row_line}: the JSON array is not closed. The file is cut off; add ].")
            return
        row_line = window.line
        yield _next_row(window, name)


def _next_row(window: _Window, name: str) -> RawRow:
    """The value that begins at the window's position, which moves behind it."""
    source, column, met = Source(name, window.line), window.column, window.rows.met
    try:
        value, text = _value(window)
    except RowFault as fault:
        if not _pass_over(window):
            if fault.code != "bad_json":
                raise DataError(f"{source}:{column}: {fault.found} The row is never closed. {fault.advice}") from None
            raise DataError(
                f"{name}:{fault.line or source.line}:{fault.column}: {fault.found} The row that begins on line "
                f"{source.line} is not closed: the JSON array is not closed, or the file is cut off. Close it, or "
                "write one object a line."
            ) from None
        return RawRow(source, fault, column=column)
    bad = None if text.isascii() else ESCAPED.search(text)
    if bad:
        before = text[: bad.start()]
        offset = window.offset + len(before.encode("utf-8", "surrogateescape"))
        line, place = _place(window, window.position + bad.start())
        window.move(window.position + len(text))
        return RawRow(source, undecodable(ord(bad.group()) - 0xDC00, offset, place, line))
    window.move(window.position + len(text))
    try:
        refuse_halves(value, text)
    except RowFault as fault:
        return RawRow(source, fault, column=column)
    return _row(source, value, text, column, window.rows.met > met)


def _place(window: _Window, place: int) -> tuple[int, int]:
    """Line and column of a place in the window, at or after its position."""
    breaks = window.text.count("\n", window.position, place)
    if not breaks:
        return window.line, window.column + place - window.position
    return window.line + breaks, place - window.text.rfind("\n", 0, place)


def _value(window: _Window) -> tuple[Any, str]:
    """The value at the window's position and its text; as much is read as that takes.

    Raises:
        RowFault: there is none, or it is more than can be held.
    """
    while True:
        start = window.position
        try:
            value, end = window.rows.raw_decode(window.text, start)
        except json.JSONDecodeError as error:
            near = error.pos >= len(window.text) - NEAR or error.msg.startswith("Unterminated string")
            if near and len(window.text) - start > LONGEST_ROW:
                raise too_big("the row", "Split the row, or delete it.") from None
            if near and window.more():
                continue
            line, column = _place(window, error.pos)
            raise _not_json(error, column, line if line != window.line else 0) from None
        except RecursionError:
            raise _too_deep() from None
        except ValueError as error:
            raise _cannot_hold(error) from None
        if end == len(window.text) and not isinstance(value, dict) and window.more():
            continue  # a number may go on
        return value, window.text[start:end]


def _pass_over(window: _Window) -> bool:
    """Move behind the bad value that begins here, judged by brackets and quotes alone; False if it never ends.

    A line break ends a string, as JSON has it: a quote that was forgotten spoils one line and not the file.
    """
    if window.text[window.position] not in '{["':
        return _pass_word(window)
    depth, string, opening = 0, False, -1
    while True:
        place = window.position
        while hit := (IN_STRING if string else IN_ROW).search(window.text, place):
            mark, place = hit.group(), hit.end()
            if mark == "\n" and opening >= 0:  # that quote opened nothing: look again at what followed it
                string, place = False, opening
            elif mark in '"\n':
                string, opening = not string, place
            elif mark[0] in "{[":
                depth += len(mark)
            elif mark[0] in "}]":
                depth -= len(mark)
            if depth < 0:  # it closes more than this row opened: that is the array's
                place += depth
            if depth < 0 or (depth == 0 and mark[0] in '"}]' and not string):
                window.move(place)
                return True
        half_escape = string and window.text.endswith("\\", place)
        window.move(len(window.text) - half_escape)
        opening = -1
        if not window.more():
            return False


def _pass_word(window: _Window) -> bool:
    """Move behind a bare word such as None: to the next comma, bracket or line."""
    window.move(window.position + 1)
    while not (end := WORD_END.search(window.text, window.position)):
        window.move(len(window.text))
        if not window.more():
            return True
    window.move(end.start())
    return True
