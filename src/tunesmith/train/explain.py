"""What every field of a recipe does, for people: read from the sections, and from the texts in `explained/`. No torch.

A field has a name of its own, with the alternative that it belongs to: `optim.layer_decay`, `method.lora.rank`,
`optim.optimizer.muon.momentum`; a recipe has it as it is `written`: `method.rank`. Its sentence, its limits and its
default stand in the code. What raising or lowering it does, what is usual, where that is from and what it interacts
with stand in `explained/*.yaml` by its name; what alternatives share stands once, as it is written, and whatever an
alternative has of its own goes before that.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from tunesmith.core.config import Section, read_yaml
from tunesmith.core.errors import ConfigError
from tunesmith.core.names import did_you_mean
from tunesmith.score.rewards.config import ScoreConfig
from tunesmith.train.recipe import Recipe

TEXTS = Path(__file__).parent / "explained"
LISTED: Mapping[str, Any] = {"objective.rewards": ScoreConfig}  # that several fields hold a list of: explained once
Role = Literal["section", "alternative", "field"]


@dataclass(frozen=True)
class Kind:
    """A kind of fields.

    Attributes:
        name: in an explanation.
        title: above a list of them.
        sentence: what makes them such.
        of: names that they are, or are below of; the longest one counts.
    """

    name: str
    title: str
    sentence: str
    of: tuple[str, ...]


MACHINE = ("precision", "compile", "checkpointing", "micro_tokens", "device", "processes", "sharding")
KINDS = (
    Kind(
        "hyperparameter",
        "Hyperparameters",
        "How learning goes: what is learned, how weights are updated, and chance. They shape the weights that come "
        "out, and no file of the model holds them.",
        ("objective", "optim", "seed"),
    ),
    Kind(
        "the model's own",
        "The model's own parameters",
        "Which network is trained: its weights, its words, its chat template and its dropout, whatever trains it.",
        ("model",),
    ),
    Kind(
        "of a technique",
        "Parameters of a technique",
        "They mean something only while the technique that they belong to is used: a method, with its ranks and sizes; "
        "perturbed embeddings; a quantised base; replay.",
        ("method", "perturb", "model.quantize", "data.replay", "data.replay_share"),
    ),
    Kind(
        "the run around it",
        "The run around it",
        "None of the three: which rows are read, what is measured and kept, and the machine. Rows decide what is "
        "learned; the rest decides what you know of it, and how fast it is done.",
        ("data", "evaluate", "output", "track", *MACHINE),
    ),
)


@dataclass(frozen=True)
class Explanation:
    """What is known of a field, of an alternative (`optim.optimizer.muon`) or of a section (`optim`).

    Attributes:
        name: its own.
        written: where a recipe has it.
        role: which of the three it is. Fields, and alternatives, have a text; sections have none.
        kind: the name of its kind.
        what: it is, in the sentence of the code.
        values: that it may have.
        default: where the recipe says nothing.
        effect: on training, or on the run.
        usual: values, or when it is taken.
        source: of these.
        with_: names of what it interacts with, and how.
        inside: names of what is directly below it.
    """

    name: str
    written: str
    role: Role
    kind: str
    what: str
    values: str = ""
    default: str = ""
    effect: str = ""
    usual: str = ""
    source: str = ""
    with_: Mapping[str, str] = field(default_factory=dict[str, str])
    inside: tuple[str, ...] = ()


@functools.cache
def everything() -> dict[str, Explanation]:
    """Every section, field and alternative of a recipe by its name, in the order of the recipe."""
    said = texts()
    found = [*_below(Recipe, "", "", said)]
    found += [one for place, union in LISTED.items() for one in _alternatives(sections_in(union), place, place, said)]
    return {one.name: one for one in found}


def fields() -> list[Explanation]:
    """The fields alone."""
    return [found for found in everything().values() if found.role == "field"]


def explain(name: str) -> Explanation:
    """What one name means.

    Raises:
        ConfigError: no name, or several, are meant.
    """
    found = named(name)
    if len(found) > 1:
        raise ConfigError(f"{name!r}: which one? There are {', '.join(one.name for one in found)}.")
    return found[0]


def named(name: str) -> list[Explanation]:
    """What a person means by a name: the one of that name, or what several alternatives have by it (`method.rank`).

    Args:
        name: a whole one, as a recipe writes it, or the end of one where only one is written so.

    Raises:
        ConfigError: nothing is called so, or what is called so is written in several places.
    """
    name = name.strip().removesuffix(".type")
    every = everything()
    if name in every:
        return [every[name]]
    if alike := [one for one in every.values() if one.written == name and one.role == "field"]:
        return alike
    ends = [one for one in every.values() if f".{one.name}".endswith(f".{name}") or one.written.endswith(f".{name}")]
    places = list(dict.fromkeys(one.written if one.role == "field" else one.name for one in ends))
    if len(places) > 1:
        raise ConfigError(f"{name!r}: which one? There are {', '.join(places)}.")
    if ends:
        return ends
    parent, _, last = name.rpartition(".")
    if parent in every and every[parent].inside:
        known = {one.rpartition(".")[2]: one for one in every[parent].inside}
        raise ConfigError(f"{name!r}: {parent} has no field {last!r}; {did_you_mean(last, known)}")
    known = {*every, *(one.written for one in every.values()), *(one.rpartition(".")[2] for one in every)}
    near = did_you_mean(name, known, otherwise="`tunesmith explain` lists all.")
    raise ConfigError(f"{name!r}: a recipe has no such field; {near}")


def kind_of(name: str) -> Kind:
    """The kind that a name is of."""
    of = {prefix: kind for kind in KINDS for prefix in kind.of}
    return of[max((one for one in of if f"{name}.".startswith(f"{one}.")), key=len)]


def texts() -> dict[str, dict[str, Any]]:
    """What stands in `explained/`, by name."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(TEXTS.glob("*.yaml")):
        more = read_yaml(path)
        assert not more.keys() & found.keys(), f"{path} says again: {more.keys() & found.keys()}"
        found |= more
    return found


def _below(
    section: type[Section], name: str, written: str, said: Mapping[str, dict[str, Any]]
) -> Iterator[Explanation]:
    """What is below a section, each before what is below it."""
    for part, info in section.model_fields.items():
        if part == "type":  # is said by the name
            continue
        own, place = f"{name}.{part}".lstrip("."), f"{written}.{part}".lstrip(".")
        below = sections_in(info.annotation)
        plain = len(below) == 1 and below[0] is info.annotation and "type" not in below[0].model_fields
        found = Explanation(own, place, "section" if plain else "field", kind_of(own).name, info.description or "")
        if plain:
            yield replace(found, what=words_of(below[0]), inside=_names(below[0], own))
            yield from _below(below[0], own, place, said)
            continue
        values, default = values_of(info), "required" if info.is_required() else shown(info.default)
        choices = [one for one in below if "type" in one.model_fields]
        listed = _listed(info.annotation, choices)
        inside = tuple(f"{listed or own}.{tag_of(one)}" for one in choices)
        inside = inside or tuple(name for one in below for name in _names(one, own))
        yield replace(found, values=values, default=default, inside=inside, **_text(own, place, said))
        if not listed:
            yield from _alternatives(choices, own, place, said)
        for one in below if not choices else []:
            yield from _below(one, own, place, said)


def _alternatives(
    choices: list[type[Section]], name: str, written: str, said: Mapping[str, dict[str, Any]]
) -> Iterator[Explanation]:
    """Each alternative of a field, before what is below it."""
    for one in choices:
        its = f"{name}.{tag_of(one)}"
        alternative = Explanation(its, written, "alternative", kind_of(name).name, words_of(one))
        yield replace(alternative, inside=_names(one, its), **_text(its, its, said))
        yield from _below(one, its, written, said)


def _listed(annotation: Any, choices: list[type[Section]]) -> str:
    """Where the sections that a list or a mapping holds are explained; empty where that is below it."""
    if get_origin(annotation) not in (list, dict):
        return ""
    return next((place for place, union in LISTED.items() if choices and set(choices) <= set(sections_in(union))), "")


def _names(section: type[Section], name: str) -> tuple[str, ...]:
    return tuple(f"{name}.{part}" for part in section.model_fields if part != "type")


def _text(name: str, written: str, said: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The text of a name over what is shared by all that are written so."""
    found = {**said.get(written, {}), **said.get(name, {})}
    return {{"with": "with_"}.get(part, part): value for part, value in found.items()}


def words_of(section: type[Section]) -> str:
    """What a section says of itself."""
    return " ".join((section.__doc__ or "").split())


def tag_of(section: type[Section]) -> str:
    """The `type` of an alternative."""
    return str(section.model_fields["type"].default)


def sections_in(annotation: Any) -> list[type[Section]]:
    """The sections that a value of a type may be, or hold."""
    if get_origin(annotation) is None:
        return [annotation] if isinstance(annotation, type) and issubclass(annotation, Section) else []
    return [one for inner in get_args(annotation) for one in sections_in(inner)]


def values_of(info: FieldInfo) -> str:
    """The values of a field and their limits, as people read them."""
    return ", ".join(filter(None, (type_name(info.annotation), limits(info.metadata))))


def type_name(annotation: Any) -> str:
    """A type as people read it: `int or null`, `fp32, bf16`, `list of str`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is Annotated:
        bounds = [item for one in inner[1:] for item in getattr(one, "metadata", [one])]
        return ", ".join(filter(None, (type_name(inner[0]), limits(bounds))))
    if origin is dict:
        return f"mapping of {type_name(inner[0])} to {type_name(inner[1])}"
    if origin is list:
        return f"list of {type_name(inner[0])}"
    if origin is tuple:
        return f"list of {len(inner)}: {type_name(inner[0])}"
    if origin in (Union, UnionType):
        if all(isinstance(one, type) and issubclass(one, Section) and "type" in one.model_fields for one in inner):
            return ", ".join(f"`{tag_of(one)}`" for one in inner)
        return " or ".join(map(type_name, inner))
    if issubclass(annotation, Section):
        if "type" in annotation.model_fields:
            return f"`{tag_of(annotation)}`"
        return f"`{{{', '.join(f'{name}: ...' for name in annotation.model_fields)}}}`"
    return annotation.__name__


def limits(metadata: list[Any]) -> str:
    """Bounds of numbers."""
    names = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return ", ".join(
        f"{sign} {getattr(item, name)}" for item in metadata for name, sign in names.items() if hasattr(item, name)
    )


def shown(default: Any) -> str:
    """A default as YAML has it."""
    if default is None:
        return "`null`"
    if isinstance(default, Section):
        return f"`{tag_of(type(default))}`"
    if isinstance(default, tuple):
        default = list(default)
    return f"`{str(default).lower()}`" if isinstance(default, bool) else f"`{default}`"
