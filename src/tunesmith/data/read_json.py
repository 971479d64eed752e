"""JSON of every shape: one object a line, one after another, or in an array, read in bounded memory."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.errors import DataError
from tunesmith.data.ledger import RowFault, Source
from tunesmith.data.stream import LONGEST_ROW, chunks, lines, undecodable

WRAPPERS = ("data", "rows", "examples", "train", "items", "conversations")  # keys of files around one array of rows
NEAR = 20  # an error this near to the end of what was read may only mean that more must be read
ESCAPED = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of bytes that are not UTF-8
BRACES = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.S)


@dataclass(frozen=True)
class RawRow:
    """A row as the file has it: keys and values, or the fault that stands in its place.

    Attributes:
        source: where it begins.
        value: keys and values, or a fault.
        text: its JSON, to find a value's column by; empty where it has none.
    """

    source: Source
    value: dict[str, Any] | RowFault
    text: str = ""


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


def parse_json(text: str) -> Any:
    """The JSON value of `text`.

    Raises:
        RowFault: it is not JSON, or more than can be held: nested too deeply, a number without end.
    """
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _not_json(error, error.colno) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise _cannot_hold(error) from None


def _not_json(error: json.JSONDecodeError, column: int) -> RowFault:
    found = f"not JSON at column {column} ({error.msg[0].lower() + error.msg[1:]})."
    hint = "Mend the line or delete it."
    if error.msg.startswith("Expecting property name") and error.doc[error.pos : error.pos + 1] == "'":
        hint = "JSON wants double quotes: write it with json.dumps, not with str."
    elif error.msg == "Extra data":
        hint = "Write one object a line."
    elif error.msg.startswith(("Invalid control character", "Unterminated string")):
        hint = "Write a line break inside a string as \\n."
    return RowFault("bad_json", found, hint, column=column)


def _too_deep() -> RowFault:
    return RowFault("too_deep", "JSON nested too deeply.", "Flatten or delete the row.")


def _cannot_hold(error: ValueError) -> RowFault:
    return RowFault("bad_json", f"JSON that cannot be held ({error}).", "Mend the line or delete it.")


def _row(source: Source, value: Any, text: str) -> RawRow:
    if isinstance(value, dict):
        return RawRow(source, value, text)
    kind = {"list": "a list", "str": "text", "NoneType": "null"}.get(type(value).__name__, "a single value")
    return RawRow(source, RowFault("not_an_object", f"a row is {kind}, not a JSON object.", "Write {...} with keys."))


def parsed_row(source: Source, text: str) -> RawRow:
    """The row that is written in `text`."""
    try:
        return _row(source, parse_json(text), text)
    except RowFault as fault:
        return RawRow(source, fault, text)


def line_rows(path: Path, name: str, notes: Counter[str]) -> Iterator[RawRow]:
    """One JSON object a line; empty lines are passed over."""
    for line in lines(path, notes):
        source = Source(name, line.number)
        try:
            text = line.text()
        except RowFault as fault:
            yield RawRow(source, fault)
            continue
        stripped = text.strip()
        if stripped.endswith(","):
            stripped = stripped.rstrip(",")
            notes["trailing comma"] += 1
        if stripped:
            yield parsed_row(source, stripped)


class _Window:
    """A piece of a long text that moves forward: what is behind is let go, what is ahead is read when asked for."""

    def __init__(self, path: Path, notes: Counter[str]) -> None:
        self.chunks = chunks(path, notes)
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text, self.position, self.ended = "", 0, False
        self.line, self.offset = 1, 0  # of `position`

    def more(self) -> bool:
        """Read on, at least as much again as is in hand; False when there is no more."""
        pieces, wanted = [self.text], max(len(self.text), 1)
        while wanted > 0 and not self.ended:
            chunk = next(self.chunks, None)
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

    def move(self, place: int) -> None:
        """Go on to `place`, and let go of what is far behind."""
        passed = self.text[self.position : place]
        self.line += passed.count("\n")
        self.offset += len(passed) if passed.isascii() else len(passed.encode("utf-8", "surrogateescape"))
        self.position = place
        if place > 1 << 20:
            self.text, self.position = self.text[place:], 0


def sequence_rows(path: Path, name: str, notes: Counter[str], prefix: str) -> Iterator[RawRow]:
    """Objects one after another, after `prefix`: up to the closing bracket of an array, or to the end.

    Args:
        path: the file.
        name: as the user named it.
        notes: hears what was accepted though it is odd.
        prefix: what stands before the first object, such as `[` or `{"data": [`; empty for no array.

    Raises:
        DataError: the array is not closed, or text follows it.
    """
    window = _Window(path, notes)
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
            if rest:
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
    source = Source(name, window.line)
    while True:
        start = window.position
        try:
            value, end = DECODER.raw_decode(window.text, start)
        except json.JSONDecodeError as error:
            near = error.pos >= len(window.text) - NEAR or error.msg.startswith("Unterminated string")
            if near and len(window.text) - start <= LONGEST_ROW and window.more():
                continue
            column = error.pos - window.text.rfind("\n", 0, error.pos)
            line = window.line + window.text.count("\n", start, error.pos)
            where = f" of line {line}" if line != window.line else ""
            hint = _not_json(error, column)
            fault = RowFault("bad_json", hint.found.replace("column", f"line {line}, column") if where else hint.found,
                             hint.advice, column=column if not where else 1)  # fmt: skip
            end = _after_bad_row(window, name, line, column, fault)
        except RecursionError:
            fault, end = _too_deep(), _after_bad_row(window, name, window.line, 1, _too_deep())
        except RowFault as found:
            fault, end = found, _after_bad_row(window, name, window.line, 1, found)
        except ValueError as error:
            fault = _cannot_hold(error)
            end = _after_bad_row(window, name, window.line, 1, fault)
        else:
            if end == len(window.text) and not isinstance(value, dict) and window.more():
                continue  # a number may go on
            text = window.text[start:end]
            bad = None if text.isascii() else ESCAPED.search(text)
            if bad:
                before = text[: bad.start()]
                offset = window.offset + len(before.encode("utf-8", "surrogateescape"))
                fault = undecodable(ord(bad.group()) - 0xDC00, offset, len(before) - before.rfind("\n"))
                window.move(end)
                return RawRow(source, fault)
            window.move(end)
            return _row(source, value, text)
        window.move(end)
        return RawRow(source, fault)


def _after_bad_row(window: _Window, name: str, line: int, column: int, fault: RowFault) -> int:
    """Where the bad object that begins at the window's position ends, by its braces.

    Raises:
        DataError: it is never closed, so that the rows behind it cannot be told apart.
    """
    while True:
        depth = 0
        for hit in BRACES.finditer(window.text, window.position):
            depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(hit.group(), 0)
            if depth <= 0 and hit.group() in "}]":
                # A bracket that closes more than this row opened belongs to the array.
                return hit.end() if depth == 0 else max(hit.start(), window.position + 1)
            if depth == 0 and hit.start() == window.position:
                return hit.end()  # a bare string
        if len(window.text) - window.position > LONGEST_ROW or not window.more():
            if not window.text[window.position :].strip("[{ \t\r\n") or fault.code == "too_deep":
                raise DataError(f"{name}:{line}:{column}: JSON that cannot be held. Delete the row.")
            raise DataError(
                f"{name}:{line}:{column}: {fault.found} The row that begins on line {window.line} is not closed: "
                "the JSON array is not closed, or the file is cut off. Close it, or write one object a line."
            )


def column_of(text: str, path: tuple[str | int, ...]) -> tuple[int, int]:
    """Line (from 0) and column (from 1) in `text`, which is JSON, of the value that `path` leads to.

    As far as the path leads: where a key is missing it is the place of the object that lacks it.
    """
    place = 0
    for step in path:
        found = _step(text, place, step)
        if found is None:
            break
        place = found
    return text.count("\n", 0, place), place - text.rfind("\n", 0, place)


def _step(text: str, place: int, step: str | int) -> int | None:
    space = json.decoder.WHITESPACE  # pyright: ignore[reportAttributeAccessIssue]  the library's own pattern
    opening = text[place : place + 1]
    if opening not in ("{", "["):
        return None
    place, index = space.match(text, place + 1).end(), 0
    while place < len(text) and text[place] not in "}]":
        key: str | int = index
        if opening == "{":
            key, place = DECODER.raw_decode(text, place)
            place = space.match(text, text.index(":", place) + 1).end()
        if key == step:
            return place
        _, place = DECODER.raw_decode(text, place)
        place = space.match(text, place).end()
        if text[place : place + 1] == ",":
            place = space.match(text, place + 1).end()
        index += 1
    return None
