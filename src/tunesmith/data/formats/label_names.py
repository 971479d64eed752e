"""Names of labels: those that rows have as numbers get, and the order in which all of them stand."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.core.errors import DataError, MissingError
from tunesmith.core.files import expanded
from tunesmith.data.quality.ledger import RowFault

NUMBERED = re.compile(r"(\d+)\s*[,;:\t ]\s*(\S.*)")  # a line with a number and its name
PARTED = re.compile(r"[,;:\t]")


def read_label_names(given: str | Sequence[str]) -> list[str]:
    """The names, by number from 0 on.

    Args:
        given: they themselves, or a file: JSON (a list, an object of numbers or of names, a model's configuration),
            else one a line, all of them behind their numbers or none.

    Raises:
        MissingError: there is no such file.
        DataError: it holds something else, or a name twice.
    """
    if not isinstance(given, str):
        return _each_once(list(given), "data.label_names")
    path = expanded(given)
    if not path.is_file():
        raise MissingError(f"data.label_names = {given}: no such file. Give a file, or the names as a list.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{given}: is not UTF-8 (byte {error.start}). Save it as UTF-8.") from None
    names = _in_json(text, given) if text.lstrip().startswith(("[", "{")) else _in_lines(text, given)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{given}: is no list of names. Write one a line, in the order of their numbers from 0 on.")
    return _each_once(names, given)


def label_called(label: Any, names: Sequence[str], key: str) -> str:
    """The name of a label.

    Raises:
        RowFault: it is no number that has one.
    """
    text = str(label)
    if text.endswith(".0"):  # tables in which one number is missing write all of them so
        text = text[:-2]
    if not text.isdecimal() or int(text) >= len(names):
        found = f"{key!r} is {text!r}, and data.label_names has names for 0 to {len(names) - 1}."
        raise RowFault("bad_label", found, "Correct it, or give its name too.", (key,))
    return names[int(text)]


def _in_lines(text: str, file: str) -> list[str]:
    """A name a line; or a number and its name, in any order, below a header or without one."""
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    numbered = [NUMBERED.fullmatch(line) for line in lines]
    if len(lines) > 1 and not numbered[0] and PARTED.search(lines[0]) and all(numbered[1:]):  # a table with a header
        lines, numbered = lines[1:], numbered[1:]
    found = [one for one in numbered if one is not None]
    if not found or len(found) < len(lines):
        return lines
    names = {int(one[1]): one[2].strip('"') for one in found}
    by_numbers = sorted(names) == list(range(len(lines))) and len(set(names.values())) == len(names)
    if not by_numbers and not any(PARTED.search(line) for line in lines):
        return lines  # the names themselves begin with numbers, such as "5 stars"
    return _by_number(names, len(lines), file)


def _in_json(text: str, file: str) -> list[Any]:
    """A list; or an object that maps numbers to names, or names to numbers, as configurations of models do."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError(f"{file}: is no JSON ({error}). Write one name a line, or a list.") from None
    if isinstance(found, list):
        return found
    found = next((found[key] for key in ("id2label", "label2id") if isinstance(found.get(key), dict)), found)
    pairs = {str(number): name for name, number in found.items()} if _numbers(found.values()) else found
    return _by_number({int(number) if number.isdecimal() else -1: pairs[number] for number in pairs}, len(pairs), file)


def _by_number(names: Mapping[int, Any], count: int, file: str) -> list[Any]:
    if sorted(names) != list(range(count)):
        raise DataError(f"{file}: does not name the numbers from 0 to {count - 1}. Name each once.")
    return [names[number] for number in range(count)]


def _numbers(values: Any) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _each_once(names: list[str], file: str) -> list[str]:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{file}: {twice[0]!r} stands there twice. Give each label a name of its own.")
    return names


def label_names(facts: Mapping[str, Any]) -> list[str]:
    """The classes of rows, by their facts, in the order of their ids: numbers by size, names by the alphabet."""
    names = list(facts.get("labels", {}))
    whole = all(name.lstrip("-").isdecimal() for name in names)
    return sorted(names, key=int) if whole else sorted(names)
