"""Config sections: frozen, typed, with no unknown key, and errors that teach.

A section is a pydantic model; a recipe is a section of sections read from YAML. Each field says
what it does (`description`) and, where it helps, what people usually take (`hint`, printed with an
error). Where alternatives exist (`method`, `objective`), a union on `type` makes a bad combination
impossible to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.core.names import did_you_mean


class Section(BaseModel):
    """Base of every config section."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _alternatives_by_name(cls, values: Any) -> Any:
        """An alternative may be written as its name, and without one it is the default."""
        if not isinstance(values, Mapping):
            return values
        filled: dict[str, Any] = dict(cast(Mapping[str, Any], values))
        for name in alternatives(cls):
            given = filled.get(name)
            if isinstance(given, str):
                filled[name] = {"type": given}
            elif isinstance(given, Mapping):
                filled[name] = {"type": cls.model_fields[name].default.type, **given}
        return filled


def option(default: Any, description: str, hint: str = "", **limits: Any) -> Any:
    """A field with its sentence for the reference and its hint for errors."""
    extra: JsonDict | None = {"hint": hint} if hint else None
    return Field(default, description=description, json_schema_extra=extra, **limits)


def alternatives(section: type[Section]) -> list[str]:
    """The fields of a section that hold one of several sections, told apart by their `type`."""
    return [
        name
        for name, field in section.model_fields.items()
        if len(union_members(field)) > 1 and len(union_members(field)) == len(get_args(field.annotation))
    ]


SectionType = TypeVar("SectionType", bound=Section)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's booleans: `on`, `off`, `yes` and `no` are words, as the options that are called so need them."""


_BOOL = "tag:yaml.org,2002:bool"
_TRUE_OR_FALSE = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, _TRUE_OR_FALSE if tag == _BOOL else pattern) for tag, pattern in known]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        MissingError: there is no such file.
        ConfigError: it is not YAML, or not a mapping.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise MissingError(f"{path}: no such recipe. `recipes/` holds examples.") from None
    except (IsADirectoryError, PermissionError) as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not YAML ({getattr(error, 'problem', error)}).") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a recipe is a mapping with sections such as `model:` and `data:`.")
    return value  # pyright: ignore[reportUnknownVariableType]


def with_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with some set otherwise: `{"optim.learning_rate": 1e-4}` or `{"optim": {"learning_rate": 1e-4}}`.

    The order of overrides does not matter. A section that changes its `type` starts from nothing, since
    the old type's fields mean nothing to the new.

    Raises:
        ConfigError: a key names something inside a value that is no section.
    """
    changes: dict[str, Any] = {}
    for key, value in sorted(overrides.items(), key=lambda item: str(item[0]).count(".")):  # the whole before its parts
        nested: Any = value
        for part in reversed(str(key).split(".")):
            nested = {part: nested}
        changes = _merged(changes, nested)
    return _merged(values, changes)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {str(key): value for key, value in values.items()}
    for key, change in changes.items():
        inner: Any = result.get(str(key))
        if not isinstance(change, dict):
            result[str(key)] = change
        elif inner is not None and not isinstance(inner, dict):
            raise ConfigError(f"{key} = {inner!r}: it is a value, not a section. A section is {key}: {{...}}.")
        else:
            known = cast(dict[str, Any], inner or {})
            new = cast(dict[str, Any], change)
            retyped = "type" in new and known.get("type") not in (None, new["type"])
            result[str(key)] = _merged({} if retyped else known, new)
    return result


def parse_overrides(
    assignments: Iterable[str], form: str = "--set section.field=value, for example optim.learning_rate=1e-4"
) -> dict[str, Any]:
    """`["optim.epochs=3"]` as a mapping; values are read as YAML. `form` says in errors how to write one."""
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{assignment!r}: write {form}.")
        try:
            overrides[key.strip()] = yaml.load(value, _Loader)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise ConfigError(f"{assignment!r}: the value is not YAML.") from None
    return overrides


def validate(section: type[SectionType], values: Mapping[str, Any], where: str) -> SectionType:
    """A section made of plain values.

    Args:
        section: the class to make.
        values: plain data, as YAML gives it.
        where: the file's name, for errors.

    Raises:
        ConfigError: with the first few faults, each naming its field.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        faults = [_sentence(section, fault) for fault in error.errors()]
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise ConfigError(f"{where} " + " Also: ".join(faults[:3]) + more) from None


def _sentence(section: type[Section], fault: Any) -> str:
    """One fault of pydantic's, as a sentence: `optim.epochs = 0: must be ...`."""
    path = [str(part) for part in fault["loc"]]
    parents = list(_sections_along(section, path))
    if fault["type"] == "extra_forbidden":
        owner = parents[-1] if parents else section
        return f"{_dotted(section, path)}: unknown key; {did_you_mean(path[-1], owner.model_fields)}"
    if fault["type"] in ("union_tag_invalid", "union_tag_not_found"):
        field = _field(section, path)
        members = union_members(field) if field else []
        allowed = ", ".join(str(member.model_fields["type"].default) for member in members)
        found = fault.get("ctx", {}).get("tag")
        return f"{_dotted(section, path)}.type{f' = {found!r}' if found else ''}: must be one of {allowed}."
    field = _field(section, path)
    message = str(fault["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    if fault["type"] == "string_pattern_mismatch":
        message = f"must match {fault['ctx']['pattern']}"
    message = message if message.startswith(("must", "give")) else f"must be {message}"
    if fault["type"] == "missing":
        return f"{_dotted(section, path)}: missing. {field.description if field else ''}".rstrip()
    extra = field.json_schema_extra if field else None
    hint = f" {extra['hint']}" if isinstance(extra, dict) and "hint" in extra else ""
    found = fault["input"] if not isinstance(fault["input"], dict) else "a section"
    return f"{_dotted(section, path)} = {found!r}: {message}.{hint}"


def union_members(field: FieldInfo) -> list[type[Section]]:
    """The sections that a field may hold: one, or the alternatives of a union on `type`."""
    candidates = getattr(field.annotation, "__args__", None) or [field.annotation]
    return [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, Section)]


def _sections_along(section: type[Section], path: list[str]) -> Iterable[type[Section]]:
    """The section classes that the path of a fault walks through; a union adds its tag to the path."""
    yield section
    members: list[type[Section]] = []
    for part in path:
        if tagged := [kind for kind in members if kind.model_fields["type"].default == part]:
            section, members = tagged[0], []
            yield section
        elif part in section.model_fields:
            members = union_members(section.model_fields[part])
            if len(members) == 1:
                section, members = members[0], []
                yield section


def _field(section: type[Section], path: list[str]) -> FieldInfo | None:
    return next(
        (
            kind.model_fields[path[-1]]
            for kind in reversed(list(_sections_along(section, path)))
            if path[-1] in kind.model_fields
        ),
        None,
    )


def _dotted(section: type[Section], path: list[str]) -> str:
    """The path as people write it: without the tags that unions put in."""
    said: list[str] = []
    members: list[type[Section]] = []
    for part in path:
        tagged = [kind for kind in members if kind.model_fields["type"].default == part]
        members = []
        if tagged:
            section = tagged[0]
            continue
        said.append(part)
        if part in section.model_fields:
            found = union_members(section.model_fields[part])
            members, section = (found, section) if len(found) > 1 else ([], found[0] if found else section)
    return ".".join(said)


def to_yaml(section: Section) -> str:
    """The section, complete and resolved, as YAML."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
