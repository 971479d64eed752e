"""Config sections: frozen, typed, with no unknown key, and errors that teach.

A section is a pydantic model; a recipe is a section of sections read from YAML. Each field says
what it does (`description`) and, where it helps, what people usually take (`hint`, printed with an
error). Where alternatives exist (`method`, `objective`), a union on `type` makes a bad combination
impossible to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

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
        """An alternative may be written as its name, in a list too, and without one it is the default."""
        if not isinstance(values, Mapping):
            return values
        filled: dict[str, Any] = dict(cast(Mapping[str, Any], values))
        for name in alternatives(cls):
            given = filled.get(name)
            if isinstance(given, str):
                filled[name] = {"type": given}
            elif isinstance(given, Mapping):
                filled[name] = {"type": cls.model_fields[name].default.type, **given}
        for name, field in cls.model_fields.items():
            given = filled.get(name)
            if isinstance(given, list) and (inner := element_of(field)) is not None and is_tagged(inner):
                filled[name] = [{"type": one} if isinstance(one, str) else one for one in cast(list[Any], given)]
        return filled


def option(default: Any, description: str, hint: str = "", **limits: Any) -> Any:
    """A field with its sentence for the reference and its hint for errors."""
    extra: JsonDict | None = {"hint": hint} if hint else None
    return Field(default, description=description, json_schema_extra=extra, **limits)


def alternatives(section: type[Section]) -> list[str]:
    """The fields of a section that hold one of several sections, told apart by `type`, even where there is but one."""
    found: list[str] = []
    for name, field in section.model_fields.items():
        if is_tagged(field):
            found.append(name)
    return found


def is_tagged(field: FieldInfo) -> bool:
    """Whether a field holds one of several sections that are told apart by `type`, even where there is but one."""
    members, arms = union_members(field), get_args(field.annotation) or (field.annotation,)
    return bool(members) and len(members) == len(arms) and all("type" in one.model_fields for one in members)


def element_of(field: FieldInfo) -> FieldInfo | None:
    """What a list or a mapping holds, as a field of its own; None of any other."""
    inner = get_args(field.annotation)
    return FieldInfo.from_annotation(inner[-1]) if get_origin(field.annotation) in (list, dict) else None


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


def with_overrides(
    values: Mapping[str, Any], overrides: Mapping[str, Any], section: type[Section] | None = None
) -> dict[str, Any]:
    """`values` with some set otherwise: `{"optim.learning_rate": 1e-4}` or `{"optim": {"learning_rate": 1e-4}}`.

    The order of overrides does not matter. A section that changes its `type` starts from nothing, since
    the old type's fields mean nothing to the new.

    Args:
        values: as a file has them.
        overrides: dotted keys or nested mappings.
        section: what they are of; it knows where a name stands for a section of that type.

    Raises:
        ConfigError: a key names something inside a value that is no section.
    """
    changes: dict[str, Any] = {}
    for key, value in sorted(overrides.items(), key=lambda item: str(item[0]).count(".")):  # the whole before its parts
        nested: Any = value
        for part in reversed(str(key).split(".")):
            nested = {part: nested}
        changes = _merged(changes, nested, section, "")
    return _merged(values, changes, section, "", final=True)


def _merged(
    values: Mapping[str, Any], changes: Mapping[str, Any], section: type[Section] | None, before: str,
    final: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Values with changes made; `final`, where what neither says is the default."""
    result: dict[str, Any] = {str(key): value for key, value in values.items()}
    for key, change in changes.items():
        field = section.model_fields.get(str(key)) if section else None
        members, inner = union_members(field) if field else [], result.get(str(key))
        tagged = section is not None and key in alternatives(section)
        if tagged:
            change, inner = ({"type": one} if isinstance(one, str) else one for one in (change, inner))
        if not isinstance(change, dict) or (inner is not None and not isinstance(inner, dict) and members):
            result[str(key)] = change
            continue
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(f"{before}{key} = {inner!r}: it is a value, not a section.")
        known = cast(dict[str, Any], inner or {})
        new = cast(dict[str, Any], change)
        default = field.default.type if field and tagged and final and inner is not None else None
        type_before = known.get("type", default)
        retyped = "type" in new and type_before not in (None, new["type"])
        chosen = new.get("type", type_before)
        deeper = next((one for one in members if not tagged or one.model_fields["type"].default == chosen), None)
        result[str(key)] = _merged({} if retyped else known, new, deeper, f"{before}{key}.", final)
    return result


def parse_overrides(
    assignments: Iterable[str], form: str = "--set section.field=value, for example optim.learning_rate=1e-4"
) -> dict[str, Any]:
    """`["optim.epochs=3"]` as a mapping; values are read as YAML, but for a text that ends with a colon.

    Args:
        assignments: as they are written.
        form: says in errors how to write one.

    Raises:
        ConfigError: one is not so.
    """
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{assignment!r}: write {form}.")
        try:
            read = yaml.load(value, _Loader)
            overrides[key.strip()] = value if value.rstrip().endswith(":") else read  # "summarize: "
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
        told: dict[str, str] = {}  # the first of each field: of a union, each alternative has one of its own
        for fault in error.errors():
            told.setdefault(_place(section, [str(one) for one in fault["loc"]]).name, _sentence(section, fault))
        faults = list(told.values())
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise ConfigError(f"{where} " + " Also: ".join(faults[:3]) + more) from None


def _sentence(section: type[Section], fault: Any) -> str:
    """One fault of pydantic's, as a sentence: `optim.epochs = 0: must be ...`."""
    place = _place(section, [str(part) for part in fault["loc"]])
    if fault["type"] == "extra_forbidden":
        return f"{place.name}: unknown key; {did_you_mean(str(fault['loc'][-1]), place.owner.model_fields)}"
    no_section = fault["type"] in ("model_attributes_type", "model_type", "dict_type")
    if fault["type"] in ("union_tag_invalid", "union_tag_not_found") or (no_section and place.types):
        found = fault["input"] if no_section else fault.get("ctx", {}).get("tag")
        named = f"{place.name} = {found!r}" if no_section else f"{place.name}.type{f' = {found!r}' if found else ''}"
        return f"{named}: must be one of {', '.join(place.types)}{', or a section with a type' if no_section else ''}."
    message = str(fault["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    if fault["type"] == "string_pattern_mismatch":
        message = f"must match {fault['ctx']['pattern']}"
    message = message if message.startswith(("must", "give")) else f"must be {message}"
    if fault["type"] == "missing":
        return f"{place.name}: missing. {place.field.description if place.field else ''}".rstrip()
    extra = place.field.json_schema_extra if place.field else None
    hint = f" {extra['hint']}" if isinstance(extra, dict) and "hint" in extra else ""
    found = "" if isinstance(fault["input"], dict) else f" = {fault['input']!r}"
    return f"{place.name}{found}: {message}.{hint}"


@dataclass(frozen=True)
class _Place:
    """Where a fault is: its name as people write it, the section that it is in, and the field, if there is one."""

    name: str
    owner: type[Section]
    field: FieldInfo | None

    @property
    def types(self) -> list[str]:
        """Of the alternatives that the field holds; none if it holds something else."""
        members = union_members(self.field) if self.field else []
        tagged = all("type" in one.model_fields for one in members)
        return [str(one.model_fields["type"].default) for one in members] if tagged else []


def _place(section: type[Section], path: list[str]) -> _Place:
    """Walk along a path of pydantic's, which names the alternative that was tried after each union."""
    said: list[str] = []
    owner, field, tags, held = section, None, dict[str, type[Section] | None](), None
    for part in path:
        if tags:
            chosen = tags.get(part, tags.get(""))
            is_tag, tags = part in tags or "" in tags, {}
            owner = chosen or owner
            if is_tag:
                continue
        said.append(part)
        field = held or owner.model_fields.get(part)
        held = element_of(field) if field else None
        members = union_members(field) if field and not held else []
        arms = [one for one in get_args(field.annotation) if one is not type(None)] if field and not held else []
        if field is None or get_origin(field.annotation) not in (Union, UnionType) or len(arms) < 2:
            owner = members[0] if len(members) == 1 else owner
        elif len(members) == len(arms):
            tags = {str(one.model_fields["type"].default): one for one in members}
        else:  # an arm that is no section has a tag that only pydantic knows
            tags = {"": None, **{one.__name__: one for one in members}}
    return _Place(".".join(said), owner, field)


def union_members(field: FieldInfo) -> list[type[Section]]:
    """The sections that a field may hold: one, or the alternatives of a union on `type`."""
    candidates = getattr(field.annotation, "__args__", None) or [field.annotation]
    return [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, Section)]


def to_yaml(section: Section) -> str:
    """The section, complete and resolved, as YAML."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
