"""Calls of functions in what a model has written, found again as its template would have written them.

How a template frames a call is read off one that it renders: what stands before the call's JSON, what its keys are
called, what stands behind. Models that write calls in another form than JSON have none that can be found.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.core.errors import TunesmithError
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.messages import Message, ToolCall

NAME, ARGUMENT = "probe_of_a_name", "probe_of_a_value"
PROBE = ToolCall(NAME, {"x": ARGUMENT}, "call00000")
FUNCTION = {"name": NAME, "description": "d", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}
BETWEEN = " \t\r\n,;]"  # what may stand between two calls, beside what frames them


@dataclass(frozen=True)
class CallFormat:
    """How calls look.

    Attributes:
        before, behind: of the JSON of a call, without white space and the brackets of a list; may be empty.
        name, arguments: keys of the JSON.
    """

    before: str
    behind: str
    name: str
    arguments: str


def call_format(contract: Contract) -> CallFormat | None:
    """How a contract's template writes calls; None if it writes none, or not as JSON."""
    asked = Message("user", "q")
    try:
        start = contract.text([asked], ask=True, tools=({"type": "function", "function": FUNCTION},))
        whole = contract.text(
            [asked, Message("assistant", "", tool_calls=(PROBE,))], tools=({"type": "function", "function": FUNCTION},)
        )
    except TunesmithError:
        return None
    turn = whole.removeprefix(start) if whole.startswith(start) else whole[len(_common(start, whole)) :]
    for place in (index for index, letter in enumerate(turn) if letter == "{"):
        found = _read(turn, place)
        keys = found[0] if found else {}
        name = next((key for key, value in keys.items() if value == NAME), None)
        arguments = next((key for key, value in keys.items() if _object(value) == {"x": ARGUMENT}), None)
        if found and name and arguments:
            behind = turn[found[1] :]
            for token in contract.control_tokens:
                behind = behind.partition(token)[0]
            frame = turn[:place].rstrip("[{ \n\t").split()  # what a template puts before that is no part of it
            return CallFormat(frame[-1] if frame else "", behind.strip(), name, arguments)
    return None


def forced(form: CallFormat, functions: Sequence[Mapping[str, Any]]) -> tuple[CallFormat, str]:
    """How a call looks that must be made, and the JSON schema of it: the bare JSON, since nothing else can come."""
    calls = [
        {
            "type": "object",
            "properties": {
                form.name: {"const": function["name"]},
                form.arguments: function.get("parameters") or {"type": "object"},
            },
            "required": [form.name, form.arguments],
            "additionalProperties": False,
        }
        for function in functions
    ]
    return CallFormat("", "", form.name, form.arguments), json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls})


def _common(one: str, other: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _read(text: str, place: int) -> tuple[dict[str, Any], int] | None:
    """The JSON object at a place, and where it ends; None if there is none, or not all of it."""
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text, place)
    except (ValueError, RecursionError):
        return None
    return (value, end) if isinstance(value, dict) else None


def _object(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value


class CallStream:
    """Text and calls from the text of an answer, as it comes. What may become a call is held back until it is known."""

    def __init__(self, form: CallFormat, functions: Collection[str]) -> None:
        """Nothing has come yet; only calls of `functions` are calls."""
        self._form, self._functions = form, functions
        self._opens = form.before
        self._held = ""
        self._state: Literal["begin", "text", "called"] = "begin"

    def add(self, piece: str) -> tuple[str, list[ToolCall]]:
        """What can be shown now, and calls that are whole."""
        self._held += piece
        shown, calls, before = "", list[ToolCall](), None
        while before != (self._held, self._state):
            before = (self._held, self._state)
            if self._state == "called":
                self._skip_frame()
            elif self._state == "begin":
                self._begin()
            else:
                shown += self._text()
            if self._state != "called" and (place := self._json_place()) is not None:
                shown += self._try_call(place, calls)
        return shown, calls

    def end(self) -> tuple[str, list[ToolCall]]:
        """What is left when nothing will come any more: a call that is not whole is text."""
        rest, self._held = self._held, ""
        return ("" if self._state == "called" else rest), []

    def _skip_frame(self) -> None:
        """Behind a call: what frames it, and what stands between two."""
        held, behind = self._held.lstrip(BETWEEN), self._form.behind
        if behind and held.startswith(behind):
            self._held = held.removeprefix(behind)
        elif held and not behind.startswith(held):
            self._held, self._state = held, "begin"

    def _begin(self) -> None:
        """Before any text: a call may begin with its frame, or with its JSON."""
        start = self._held.lstrip()
        if start and start[0] not in "{[" and not self._opens.startswith(start) and not self._opening(start):
            self._state = "text"

    def _opening(self, text: str) -> bool:
        return bool(self._opens) and text.startswith(self._opens)

    def _text(self) -> str:
        """In text: all but what may be the beginning of a frame."""
        if not self._opens:
            text, self._held = self._held, ""
            return text
        place = self._held.find(self._opens)
        if place < 0:
            longest = min(len(self._opens) - 1, len(self._held))
            kept = next((n for n in range(longest, 0, -1) if self._opens.startswith(self._held[-n:])), 0)
            place = len(self._held) - kept
        text, self._held = self._held[:place], self._held[place:]
        return text

    def _json_place(self) -> int | None:
        """Where the JSON of a call would begin in what is held; None if none does, or not yet."""
        start = len(self._held) - len(self._held.lstrip())
        if self._opening(self._held[start:]):
            start += len(self._opens)
        elif self._state == "text" or self._opens.startswith(self._held[start:]):
            return None
        place = start + len(self._held[start:]) - len(self._held[start:].lstrip(" \n\t\r["))
        return place if place < len(self._held) else None

    def _try_call(self, place: int, calls: list[ToolCall]) -> str:
        """Take a call that is whole; what is none becomes text, which is returned."""
        if self._held[place] != "{":
            text, self._held, self._state = self._held[:place], self._held[place:], "text"
            return text
        found = _read(self._held, place)
        if found is None:
            return ""  # it may become one
        call = self._call(found[0])
        text, self._held = self._held[: found[1]], self._held[found[1] :]
        if call is None:
            self._state = "text"
            return text
        calls.append(call)
        self._state = "called"
        return ""

    def _call(self, value: dict[str, Any]) -> ToolCall | None:
        arguments = _object(value.get(self._form.arguments))
        name = value.get(self._form.name)
        if name not in self._functions or not isinstance(arguments, dict):
            return None
        return ToolCall(str(name), arguments)


def calls_in(form: CallFormat, functions: Collection[str], text: str) -> tuple[str, list[ToolCall]]:
    """The text of a whole answer without its calls, and these."""
    stream = CallStream(form, functions)
    first, calls = stream.add(text)
    rest, more = stream.end()
    return first + rest, calls + more
