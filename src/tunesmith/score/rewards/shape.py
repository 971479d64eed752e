"""Scores of the shape that an answer has: whether it is JSON, and how long it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.core.files import expanded
from tunesmith.data.prompting.schema import is_json, parsed, refuse_unknown, valid
from tunesmith.prompt.base import resolve
from tunesmith.score.rewards.config import JsonScore, LengthScore
from tunesmith.score.rewards.score import Score, one_by_one
from tunesmith.score.rewards.template import template


def make_json(config: JsonScore, where: str) -> Score:
    """Whether it is JSON, and fits a schema.

    Raises:
        MissingError: there is no file of that name.
        ConfigError: the schema is none, or has keywords that answers are not checked by.
    """
    given = template(config.input, f"{where}.input")
    if config.json_schema is None:
        return Score(one_by_one(lambda sample: float(is_json(given.fill(sample)))), (given,))
    schema = _schema(config.json_schema, f"{where}.json_schema")
    return Score(one_by_one(lambda sample: float(valid(given.fill(sample), schema))), (given,))


def _schema(given: dict[str, Any] | str, where: str) -> dict[str, Any]:
    schema = given if isinstance(given, dict) else _read(expanded(given), where)
    refuse_unknown(schema, where)
    return schema


def _read(path: Path, where: str) -> dict[str, Any]:
    try:
        value = parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"{where} = {str(path)!r}: no such file.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where} = {str(path)!r}: not JSON ({error}).") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{where} = {str(path)!r}: must hold a JSON schema, which is an object, such as {{...}}.")
    return value


def make_length(config: LengthScore, where: str) -> Score:
    """Whether it is as long as it should be.

    Raises:
        TunesmithError: there is no model of the name that `tokenizer` has.
    """
    given, count = template(config.input, f"{where}.input"), _counter(config, where)
    return Score(one_by_one(lambda sample: within(count(given.fill(sample)), config)), (given,))


def within(length: int, config: LengthScore) -> float:
    """What a length is worth: 1 within the limits, and outside by how far it is."""
    if length < config.least:
        return max(0.0, 1 - (config.least - length) / (config.fall or config.least))
    if config.most is not None and length > config.most:
        return max(0.0, 1 - (length - config.most) / (config.fall or max(config.most, 1)))
    return 1.0


def _counter(config: LengthScore, where: str) -> Callable[[str], int]:
    if config.unit == "characters":
        return len
    if config.tokenizer is None:
        return lambda text: len(text.split())
    from tokenizers import Tokenizer

    path = resolve(config.tokenizer).folder / "tokenizer.json"
    if not path.exists():
        raise ConfigError(f"{where}.tokenizer = {config.tokenizer!r}: holds no tokenizer.json. Name another model.")
    tokenizer = Tokenizer.from_file(str(path))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
