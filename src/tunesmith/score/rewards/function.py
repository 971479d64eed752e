"""The score that a Python function of the user's gives.

The file is run as any program of the user's is, with all that the user may do: so it must be allowed by name from
outside of the recipe, which others may have written. That is no sandbox.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Collection
from numbers import Real
from pathlib import Path
from typing import Any

from tunesmith.core.errors import ConfigError, MissingError
from tunesmith.core.files import expanded
from tunesmith.core.names import did_you_mean
from tunesmith.data.prompting.schema import parsed
from tunesmith.prompt.messages import plain
from tunesmith.score.rewards.config import FunctionScore
from tunesmith.score.rewards.sample import Sample
from tunesmith.score.rewards.score import Score, one_by_one
from tunesmith.score.rewards.template import Unscored


def make_function(config: FunctionScore, where: str, allowed: Collection[str | Path] = ()) -> Score:
    """What a function returns: it is given `sample` and `item`, both plain values, as OpenAI's Python graders are.

    Args:
        config: which one.
        where: what sentences call it.
        allowed: files that may be run.

    Raises:
        MissingError: there is no such file.
        ConfigError: the file is not allowed, cannot be run, or has no such function.
    """
    grade = load_function(config, where, allowed)

    def score(sample: Sample) -> float:
        try:
            value: Any = grade(plain_sample(sample), dict(sample.item))
        except Exception as error:  # noqa: BLE001  whatever it raises is data
            raise Unscored(
                f"{config.function}() raises {type(error).__name__}: {str(error)[:200]}", "function"
            ) from None
        if isinstance(value, Real):
            try:
                return float(value)
            except OverflowError:
                raise Unscored(f"{config.function}() returns a number without end", "function") from None
        raise Unscored(f"{config.function}() returns {str(value)[:60]!r}, and not a number", "function")

    return Score(one_by_one(score), made_of=(expanded(config.file),))


def load_function(config: FunctionScore, where: str, allowed: Collection[str | Path]) -> Callable[..., Any]:
    """The function, from its file."""
    path = expanded(config.file)
    if not path.is_file():
        raise MissingError(f"{where}.file = {config.file!r}: no such file.")
    if path.resolve() not in {expanded(one).resolve() for one in allowed}:
        raise ConfigError(
            f"{where}.file = {config.file!r}: a recipe alone never runs code. Read the file, and if you trust it, "
            f"allow it: --allow-function {config.file}"
        )
    try:
        names = runpy.run_path(str(path))
    except Exception as error:  # noqa: BLE001  whatever it raises
        raise ConfigError(
            f"{where}.file = {config.file!r}: cannot be run ({type(error).__name__}: {str(error)[:200]})."
        ) from None
    functions = {name for name, value in names.items() if callable(value) and not name.startswith("__")}
    if config.function not in functions:
        there = did_you_mean(config.function, functions) if functions else "it has none."
        raise ConfigError(f"{where}.function: {config.file} has no function {config.function!r}; {there}")
    return names[config.function]


def plain_sample(sample: Sample) -> dict[str, Any]:
    """An answer as functions get it; `output_json` is None where it is no JSON."""
    try:
        value = parsed(sample.answer)
    except ValueError:
        value = None
    return {
        "output_text": sample.answer, "output_json": value, "finish_reason": sample.finish_reason,
        "messages": plain(sample.prompt),
    }  # fmt: skip
