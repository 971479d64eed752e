"""Values as rows hold them: texts, lists that may be JSON in a table's cell, and the many ways to write nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tunesmith.data.quality.ledger import RowFault
from tunesmith.data.read.json import parse_json

Values = Mapping[str, Any]
Warn = Callable[[RowFault], None]
Path = tuple[str | int, ...]

SHOWN_CHARACTERS = 60  # of a value in a sentence
NOTHING = frozenset(("", "null", "none", "nan", "[]", "{}", "[{}]", "[null]"))


def holds_nothing(value: Any) -> bool:
    """Whether a value, down to the last one inside it, says that there is nothing: null, empty, or the text of that."""
    if value is None or value is False:
        return True
    if isinstance(value, str):
        return "".join(value.split()).lower() in NOTHING
    if isinstance(value, Mapping):
        return all(map(holds_nothing, value.values()))
    return isinstance(value, list | tuple) and all(map(holds_nothing, value))


def kind_of(value: Any) -> str:
    """What JSON calls a value, with its article."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), "a number")


def text_of(row: Values, key: str, required: bool = True) -> str:
    """The text under `key`; empty if it is absent and not required.

    Raises:
        RowFault: it is no text, or empty though required.
    """
    value = row.get(key)
    if value is None and not required:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise RowFault("not_text", f"{key!r} is a number, not text.", f'Give {key!r} as a string: "{value}".', (key,))
    if not isinstance(value, str):
        found = f"{key!r} is missing." if value is None else f"{key!r} is {kind_of(value)}, not text."
        raise RowFault("not_text", found, f"Give {key!r} as a string.", (key,))
    if required and not value.strip():
        raise RowFault("empty_text", f"{key!r} is empty.", "Fill it in or delete the row.", (key,))
    return value


def list_of(row: Values, key: str, what: str = "turns") -> list[Any]:
    """The list under `key`; in a table's cell it is JSON.

    Raises:
        RowFault: it is no list, or empty.
    """
    value = row.get(key)
    if isinstance(value, str):
        value = list_in_text(value, key)
    if value == []:
        raise RowFault("not_a_list", f"{key!r} is empty.", f"Give at least one of its {what}.", (key,))
    if not isinstance(value, list):
        found = f"{key!r} is {kind_of(value)}, not a list." if key in row else f"{key!r} is missing."
        raise RowFault("not_a_list", found, f"Give a list of {what}.", (key,))
    return value


def list_in_text(text: str, key: str) -> Any:
    """The JSON that a table's cell holds under `key`, which is to be a list.

    Raises:
        RowFault: it is not JSON.
    """
    try:
        return parse_json(text)
    except RowFault as fault:
        advice = fault.advice if "json.dumps" in fault.advice else f"Give {key!r} as a list."
        raise RowFault(fault.code, f"{key!r} is text and {fault.found}", advice, (key,)) from None


def shown(value: object) -> str:
    """A value as sentences show it: its beginning, if it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
