"""Answers that are JSON: whether they fit a schema, and which fields are those of the reference.

A small reader of JSON Schema (2020-12): the keywords that answers are asked for with, and a sentence for any other, so
that none is passed over in silence. `format` is a remark, as the standard has it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.core.files import expanded
from tunesmith.core.names import did_you_mean

Schema = Mapping[str, Any] | bool
LABEL = "label"  # the field of a class that is asked for as JSON


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("properties", "patternProperties", "$defs", "definitions"),
        (lambda value: isinstance(value, dict), "an object of schemas"),
    ),
    **dict.fromkeys(
        ("anyOf", "oneOf", "allOf", "prefixItems"), (lambda value: isinstance(value, list) and bool(value), "a list")
    ),
    **dict.fromkeys(("pattern", "$ref"), (lambda value: isinstance(value, str), "a text")),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), (_is_number, "a number")),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        (_is_count, "a whole number, 0 or more"),
    ),
    "enum": (lambda value: isinstance(value, list), "a list"),
    "required": (_are_names, "a list of names"),
    "type": (lambda value: isinstance(value, str) or (_are_names(value) and bool(value)), "a name or a list of names"),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),
}
REMARKS = frozenset(
    ("title", "description", "default", "examples", "format", "$schema", "$id", "$comment", "$defs", "definitions",
     "deprecated", "readOnly", "writeOnly")
)  # fmt: skip
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": _is_number,
    "integer": lambda value: _is_number(value) and value == int(value),
}


@dataclass(frozen=True)
class Place:
    """A value that is checked, with what a keyword may need of its surroundings.

    Attributes:
        value: of JSON.
        schema: that holds the keyword.
        root: the whole schema, for references.
    """

    value: Any
    schema: Mapping[str, Any]
    root: Mapping[str, Any]

    def fits(self, value: Any, schema: Schema) -> bool:
        """Whether a value inside fits a schema inside."""
        return _fits(value, schema, self.root)


def label_schema(labels: Sequence[str]) -> dict[str, Any]:
    """What asks for one of the classes as JSON."""
    field = {"type": "string", "enum": list(labels)}
    return {"type": "object", "properties": {LABEL: field}, "required": [LABEL], "additionalProperties": False}


def as_answer(label: str) -> str:
    """A class as it is written under that schema."""
    return json.dumps({LABEL: label}, ensure_ascii=False)


def label_in(answer: str) -> str:
    """The class that an answer in JSON names; the answer itself where it is none."""
    try:
        value = parsed(answer)
    except ValueError:
        return answer
    label = value.get(LABEL) if isinstance(value, dict) else None
    return label if isinstance(label, str) else answer


def parsed(text: str) -> Any:
    """The JSON value that a text is.

    Raises:
        ValueError: it is none.
    """

    def refuse(word: str) -> Any:
        raise ValueError(word)

    def finite(word: str) -> float:
        value = float(word)
        return value if math.isfinite(value) else refuse(word)

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except RecursionError:
        raise ValueError("too deeply nested") from None


def is_json(text: str) -> bool:
    """Whether a text is a JSON object or list."""
    try:
        return isinstance(parsed(text), dict | list)
    except ValueError:
        return False


def valid(text: str, schema: Mapping[str, Any]) -> bool:
    """Whether an answer is JSON that fits a schema, which `read_schema` or `refuse_unknown` has looked at."""
    try:
        return _fits(parsed(text), schema, schema)
    except (ValueError, RecursionError):
        return False


def equal_fields(answer: str, reference: str) -> tuple[int, int]:
    """How many fields of two JSON texts are equal, and how many there are in either; the order of keys is no matter.

    A field is a value that is neither object nor list, or an empty one, by its path. Of an answer that is no JSON none
    is equal.
    """
    wanted = dict(_leaves(parsed(reference)))
    try:
        said = dict(_leaves(parsed(answer)))
    except ValueError:
        said = {}
    equal = sum(path in said and same(said[path], value) for path, value in wanted.items())
    return equal, len(wanted.keys() | said.keys())


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    inside = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [])
    for key, one in inside:
        yield from _leaves(one, (*path, key))
    if not inside:
        yield path, value


def read_schema(name: str) -> dict[str, Any]:
    """The JSON schema in a file of the user's.

    Raises:
        MissingError: there is no such file.
        ConfigError: it holds none, or one with keywords that answers are not checked by.
    """
    path = expanded(name)
    try:
        value = parsed(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"--schema {name}: no such file.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"--schema {name}: not JSON ({error}).") from None
    if not isinstance(value, dict):
        raise ConfigError(f"--schema {name}: must hold a JSON schema, which is an object, such as {{...}}.")
    refuse_unknown(value, f"--schema {name}")
    return value


def refuse_unknown(schema: Any, where: str) -> None:
    """Refuse a schema with keywords that answers are not checked by, or whose values are none that a keyword may have.

    Args:
        schema: to look at.
        where: what a sentence calls it.

    Raises:
        ConfigError: the first one, with what there is.
    """
    _refuse_part(schema, where, schema, set())


def _refuse_part(schema: Any, where: str, root: Any, seen: set[str]) -> None:
    """The same of a part of the schema `root`; `seen`: references that were followed."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise ConfigError(f"{where}: {json.dumps(schema)[:60]} stands where a schema must. Write an object.")
    for key, value in schema.items():
        if key not in KEYWORDS and key not in REMARKS:
            known = [*KEYWORDS, *REMARKS]
            raise ConfigError(f"{where}: answers are not checked by {key!r}: {did_you_mean(key, known)}")
        if (shape := SHAPES.get(key)) is not None and not shape[0](value):
            raise ConfigError(f"{where}: {key!r} is {json.dumps(value)[:60]}, and must be {shape[1]}.")
        if key == "type" and (unknown := [one for one in _listed(value) if one not in TYPES]):
            raise ConfigError(f"{where}: type {unknown[0]!r}: {did_you_mean(unknown[0], TYPES)}")
        for pattern in [value] if key == "pattern" else value if key == "patternProperties" else ():
            _refuse_pattern(pattern, where)
        if key == "$ref" and value not in seen:
            if (found := _led_to(value, root)) is None:
                raise ConfigError(f"{where}: $ref {value!r} leads nowhere. Name a part of it, such as #/$defs/name.")
            seen.add(value)
            _refuse_part(found, where, root, seen)
        for part in _parts(key, value):
            _refuse_part(part, where, root, seen)


def _parts(key: str, value: Any) -> Iterable[Any]:
    """The schemas that a keyword's value is made of."""
    if key in ("$defs", "definitions", "properties", "patternProperties"):
        return value.values()
    if key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        return value
    return [value] if key in ("items", "additionalProperties", "not") else ()


def _refuse_pattern(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{where}: pattern {pattern!r} cannot be read ({error}).") from None


def _led_to(reference: str, root: Any) -> Any:
    """The part of a schema that a reference names (RFC 6901); None if there is none."""
    begin, *parts = unquote(reference).split("/")
    found = root if begin == "#" else None
    for part in parts:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            found = found[int(key)] if key.isdecimal() and int(key) < len(found) else None
        else:
            found = found.get(key) if isinstance(found, dict) else None
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are equal: 1 is 1.0, and true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def _fits(value: Any, schema: Schema, root: Mapping[str, Any]) -> bool:
    if isinstance(schema, bool):
        return schema
    place = Place(value, schema, root)
    return all(KEYWORDS[key](place, said) for key, said in schema.items() if key in KEYWORDS)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _number(test: Callable[[float, float], bool]) -> Callable[[Place, Any], bool]:
    return lambda place, said: not _is_number(place.value) or test(place.value, said)


def _size(kind: type, test: Callable[[int, int], bool]) -> Callable[[Place, Any], bool]:
    return lambda place, said: not isinstance(place.value, kind) or test(len(place.value), said)


def _properties(place: Place, said: Any) -> bool:
    value = place.value
    return not isinstance(value, dict) or all(place.fits(value[key], said[key]) for key in said if key in value)


def _by_pattern(place: Place, said: Any) -> bool:
    if not isinstance(place.value, dict):
        return True
    pairs = [(one, schema) for key, one in place.value.items() for word, schema in said.items() if re.search(word, key)]
    return all(place.fits(one, schema) for one, schema in pairs)


def _additional(place: Place, said: Any) -> bool:
    if not isinstance(place.value, dict):
        return True
    named, patterns = place.schema.get("properties", {}), place.schema.get("patternProperties", {})
    others = [key for key in place.value if key not in named and not any(re.search(word, key) for word in patterns)]
    return all(place.fits(place.value[key], said) for key in others)


def _items(place: Place, said: Any) -> bool:
    before = len(place.schema.get("prefixItems", []))
    return not isinstance(place.value, list) or all(place.fits(one, said) for one in place.value[before:])


def _prefix(place: Place, said: Any) -> bool:
    return not isinstance(place.value, list) or all(map(place.fits, place.value, said))


def _unique(place: Place, said: Any) -> bool:
    value = place.value
    if not said or not isinstance(value, list):
        return True
    return not any(same(one, other) for number, one in enumerate(value) for other in value[:number])


def _multiple(value: float, said: float) -> bool:
    return Fraction(repr(value)) % Fraction(repr(said)) == 0  # as they are written: 0.3 is a multiple of 0.1


def _reference(place: Place, said: Any) -> bool:
    return place.fits(place.value, _led_to(said, place.root))


KEYWORDS: dict[str, Callable[[Place, Any], bool]] = {
    "type": lambda place, said: any(TYPES[one](place.value) for one in _listed(said)),
    "enum": lambda place, said: any(same(place.value, one) for one in said),
    "const": lambda place, said: same(place.value, said),
    "properties": _properties,
    "patternProperties": _by_pattern,
    "additionalProperties": _additional,
    "required": lambda place, said: not isinstance(place.value, dict) or all(key in place.value for key in said),
    "minProperties": _size(dict, lambda size, said: size >= said),
    "maxProperties": _size(dict, lambda size, said: size <= said),
    "items": _items,
    "prefixItems": _prefix,
    "minItems": _size(list, lambda size, said: size >= said),
    "maxItems": _size(list, lambda size, said: size <= said),
    "uniqueItems": _unique,
    "minLength": _size(str, lambda size, said: size >= said),
    "maxLength": _size(str, lambda size, said: size <= said),
    "pattern": lambda place, said: not isinstance(place.value, str) or re.search(said, place.value) is not None,
    "minimum": _number(lambda value, said: value >= said),
    "maximum": _number(lambda value, said: value <= said),
    "exclusiveMinimum": _number(lambda value, said: value > said),
    "exclusiveMaximum": _number(lambda value, said: value < said),
    "multipleOf": _number(_multiple),
    "anyOf": lambda place, said: any(place.fits(place.value, one) for one in said),
    "oneOf": lambda place, said: sum(place.fits(place.value, one) for one in said) == 1,
    "allOf": lambda place, said: all(place.fits(place.value, one) for one in said),
    "not": lambda place, said: not place.fits(place.value, said),
    "$ref": _reference,
}
