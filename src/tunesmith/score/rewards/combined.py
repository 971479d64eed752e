"""Scores put together by a formula, as OpenAI's multi graders are. A formula is arithmetic: it is read, never run."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunesmith.core.errors import ConfigError
from tunesmith.core.names import did_you_mean
from tunesmith.score.rewards.config import CombinedScore
from tunesmith.score.rewards.sample import Sample
from tunesmith.score.rewards.score import Items, Score, Value, finite
from tunesmith.score.rewards.template import Unscored

Formula = Callable[[Mapping[str, float]], float]

OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: math.pow,
}  # fmt: skip
SIGNS: dict[type, Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
FUNCTIONS: dict[str, tuple[Callable[..., float], int, int]] = {  # with how many arguments each takes
    "min": (lambda *some: min(some), 1, 100), "max": (lambda *some: max(some), 1, 100), "abs": (math.fabs, 1, 1),
    "floor": (math.floor, 1, 1), "ceil": (math.ceil, 1, 1), "exp": (math.exp, 1, 1), "sqrt": (math.sqrt, 1, 1),
    "log": (math.log, 1, 1),
}  # fmt: skip
MOST_PARTS = 500  # of a formula
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def make_combined(config: CombinedScore, where: str, scores: Mapping[str, Score]) -> Score:
    """A number made of others.

    Args:
        config: with the formula.
        where: what sentences call it.
        scores: that the formula names.

    Raises:
        ConfigError: the formula is none, or names something else.
    """
    formula, names = read_formula(config.formula, scores, f"{where}.formula")

    def values(samples: Sequence[Sample]) -> list[Value]:
        columns = {name: score.values(samples) for name, score in scores.items() if name in names}
        return [combine(formula, {name: some[i] for name, some in columns.items()}) for i in range(len(samples))]

    def refuse(items: Items) -> None:
        for score in scores.values():
            score.refuse(items)

    templates = tuple(one for score in scores.values() for one in score.templates)
    return Score(values, templates, refuse, tuple(file for score in scores.values() for file in score.made_of))


def combine(formula: Formula, parts: Mapping[str, Value]) -> Value:
    """What a formula makes of scores; none if one of them failed."""
    parts = {name: finite(value) for name, value in parts.items()}
    failed = {name: value for name, value in parts.items() if isinstance(value, Unscored)}
    if failed:
        kind = next(iter(failed.values())).kind
        return Unscored("; ".join(f"{name}: {value}" for name, value in failed.items()), kind)
    try:
        return formula({name: float(value) for name, value in parts.items() if not isinstance(value, Unscored)})
    except (ArithmeticError, ValueError) as error:
        return Unscored(f"the formula gives no number ({error})", "formula")


def read_formula(text: str, names: Mapping[str, Any], where: str) -> tuple[Formula, frozenset[str]]:
    """A formula, and the names that it uses.

    Args:
        text: numbers, names, + - * / **, parentheses, and the functions of `FUNCTIONS`.
        names: that there are; any text may be one.
        where: what sentences call it.

    Raises:
        ConfigError: it is none.
    """
    written, aliases = _plain_names(text, names)
    try:
        tree = ast.parse(written.strip().replace("^", "**"), mode="eval")
        small = sum(1 for _ in ast.walk(tree)) <= MOST_PARTS
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConfigError(
            f"{where} = {text[:200]!r}: is no arithmetic. Write such as 0.8 * right + 0.2 * short."
        ) from None
    if not small:
        raise ConfigError(f"{where}: has more than {MOST_PARTS} parts. Write a shorter one.")
    used: set[str] = set()
    return _read(tree.body, aliases, used, where), frozenset(used)


def _plain_names(text: str, names: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The text with each name that Python would not read as one replaced by one that it does."""
    aliases = {name: name for name in names if PLAIN.fullmatch(name)}
    odd = sorted((name for name in names if name not in aliases), key=len, reverse=True)
    for number, name in enumerate(odd):
        alias = next(
            one
            for one in (f"n{number}{'_' * i}" for i in range(len(text) + 2))
            if one not in aliases and one not in text
        )
        aliases[alias] = name
        text = text.replace(name, alias)
    return text, aliases


def _read(node: ast.expr, names: Mapping[str, str], used: set[str], where: str) -> Formula:
    def inside(one: ast.expr) -> Formula:
        return _read(one, names, used, where)

    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return lambda values: float(number)
        case ast.Name(id=name) if name in names:
            used.add(names[name])
            return lambda values: values[names[name]]
        case ast.Name(id=name):
            raise ConfigError(f"{where}: there is no score {name!r}; {did_you_mean(name, names.values())}")
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            of, one, other = OPERATORS[type(op)], inside(left), inside(right)
            return lambda values: of(one(values), other(values))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in SIGNS:
            sign, one = SIGNS[type(op)], inside(operand)
            return lambda values: sign(one(values))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS and not _starred(args):
            function, least, most = FUNCTIONS[name]
            if not least <= len(args) <= most:
                raise ConfigError(f"{where}: {name}() takes {least if least == most else 'at least 1'} number.")
            given = [inside(one) for one in args]
            return lambda values: float(function(*(one(values) for one in given)))
        case _:
            shown = ast.unparse(node)[:60]
            raise ConfigError(
                f"{where}: {shown!r} is no arithmetic. There are numbers, names, + - * / **, {', '.join(FUNCTIONS)}."
            )


def _starred(args: Sequence[ast.expr]) -> bool:
    return any(isinstance(one, ast.Starred) for one in args)
