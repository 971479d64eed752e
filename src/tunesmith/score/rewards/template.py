"""Texts with places for a row's fields and for the answer, as OpenAI's graders write them.

`{{item.city}}`, `{{item.cities[0].name}}`, `{{sample.output_text}}`, `{{sample.output_json.city}}`, `{{prompt}}`.
Nothing is computed in them, and what is put in is never read as a template again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.core.errors import ConfigError
from tunesmith.core.names import did_you_mean
from tunesmith.data.prompting.schema import parsed
from tunesmith.prompt.messages import Conversation
from tunesmith.score.rewards.sample import Sample

PLACE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
PATH = re.compile(r"[^.\[\]{}]+(?:\.[^.\[\]{}]+|\[\d+\])*")
STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
OF_SAMPLE = ("output_text", "output_json", "finish_reason")
ALLOWED = (
    "{{item.FIELD}}, {{sample.output_text}}, {{sample.output_json.FIELD}}, {{sample.finish_reason}} and {{prompt}}"
)

Path = tuple[str | int, ...]


class Unscored(Exception):  # noqa: N818  nobody's mistake alone
    """There is no score, for this reason: a row, a judge or a function is at fault, not the answer.

    Attributes:
        kind: `field` (the row lacks one), `reference` (of no use), `judge` (it says no score), `server` (it says
            nothing), `model`, `function`, `formula` or `number` (not finite).
    """

    def __init__(self, reason: str, kind: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Worthless(Exception):  # noqa: N818  what it is
    """The answer lacks what was asked of it, and is worth as little as can be."""


@dataclass(frozen=True)
class Template:
    """A text with places.

    Attributes:
        text: as it was written.
        where: what sentences call it.
        places: what each place names.
    """

    text: str
    where: str
    places: tuple[Path, ...]

    def fill(self, sample: Sample) -> str:
        """The text for one answer.

        Raises:
            Unscored: the row has no such field.
            Worthless: the answer is no JSON, or lacks this.
        """
        values = iter(self.places)
        return PLACE.sub(lambda _: _written(_value(next(values), sample, self.where)), self.text)

    def refuse(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Refuse a template that names a field that none of these rows has.

        Raises:
            ConfigError: it does; with the fields that there are.
        """
        rows = list(items)
        for root, *path in self.places:
            if root == "item" and path and rows and not any(_has(one, path) for one in rows):
                known = {str(key) for one in rows for key in one}
                there = did_you_mean(str(path[0]), known) if known else "They have no fields."
                raise ConfigError(f"{self.where}: no row has the field {_spelled(path)!r}; {there}")


def template(text: str, where: str) -> Template:
    """A text, read.

    Args:
        text: with places in double braces.
        where: what sentences call it.

    Raises:
        ConfigError: a place names something that there is not.
    """
    return Template(text, where, tuple(_path(found[1].strip(), where) for found in PLACE.finditer(text)))


def _path(written: str, where: str) -> Path:
    path: Path = ()
    if PATH.fullmatch(written):
        path = tuple(int(number) if number else name for number, name in STEP.findall(written))
    match path:
        case ("prompt",) | ("sample", "output_text" | "finish_reason" | "output_json") | ("item", str(), *_):
            return path
        case ("sample", "output_json", *_):
            return path
        case ("sample", str(name), *_) if name not in OF_SAMPLE:
            raise ConfigError(f"{where}: {{{{{written}}}}}: an answer has no {name!r}; {did_you_mean(name, OF_SAMPLE)}")
        case _:
            raise ConfigError(f"{where}: {{{{{written}}}}} names nothing. There are {ALLOWED}.")


def _value(path: Path, sample: Sample, where: str) -> Any:
    match path:
        case ("prompt",):
            return question(sample.prompt)
        case ("sample", "output_text"):
            return sample.answer
        case ("sample", "finish_reason"):
            return sample.finish_reason
        case ("sample", "output_json", *steps):
            try:
                return _walk(parsed(sample.answer), steps)
            except ValueError:
                raise Worthless("the answer is no JSON") from None
            except LookupError:
                raise Worthless(f"the answer has no {_spelled(steps)!r}") from None
        case _:
            try:
                return _walk(sample.item, path[1:])
            except LookupError:
                raise Unscored(f"{where}: the row has no field {_spelled(path[1:])!r}", "field") from None


def _walk(value: Any, path: Iterable[str | int]) -> Any:
    """What a path leads to; an integer counts in lists, and so does a name of digits alone."""
    for step in path:
        if isinstance(value, list) and str(step).isdecimal():
            value = value[int(step)]
        elif isinstance(value, Mapping):
            value = value[str(step)]
        else:
            raise LookupError(step)
    return value


def _has(item: Mapping[str, Any], path: Iterable[str | int]) -> bool:
    try:
        _walk(item, path)
    except LookupError:
        return False
    return True


def _spelled(path: Iterable[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def question(prompt: Conversation) -> str:
    """What was asked, for people: the question alone, or all turns with who speaks."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in prompt)
