"""The seam for kinds of scores: what each is, once it is ready to score answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.score.rewards.sample import Sample
from tunesmith.score.rewards.template import Template, Unscored, Worthless

Value = float | Unscored
Items = Sequence[Mapping[str, Any]]


def nothing_to_refuse(items: Items) -> None:
    """Whatever the rows hold is good."""


@dataclass(frozen=True)
class Score:
    """What says what answers are worth.

    Attributes:
        values: of many answers, one number each, in order, or why there is none.
        templates: that it fills; a field that no row has is refused.
        refuse: refuses, by `TunesmithError`, what would fail for every answer, given the fields of all rows.
        made_of: the file or folder that it was read from, if there is one.
    """

    values: Callable[[Sequence[Sample]], list[Value]]
    templates: tuple[Template, ...] = ()
    refuse: Callable[[Items], None] = nothing_to_refuse
    made_of: tuple[Path, ...] = ()


def finite(value: Value) -> Value:
    """A score that is a number; NaN and infinities are none."""
    if isinstance(value, Unscored) or math.isfinite(value):
        return value
    return Unscored(f"{value} is no finite number", "number")


def one_by_one(score: Callable[[Sample], float], lowest: float = 0.0) -> Callable[[Sequence[Sample]], list[Value]]:
    """`values` of a score that looks at each answer alone.

    Args:
        score: of one answer; raises `Unscored` or `Worthless`.
        lowest: what a worthless answer gets.
    """

    def value(sample: Sample) -> Value:
        try:
            return score(sample)
        except Worthless:
            return lowest
        except Unscored as fault:
            return fault

    return lambda samples: [value(sample) for sample in samples]


def filled_reference(reference: Template, sample: Sample) -> str:
    """The reference for one answer.

    Raises:
        Unscored: its fields are empty, so that there is nothing to compare with.
        Worthless: the answer lacks a part that it names.
    """
    text = reference.fill(sample)
    if reference.places and not text.strip():
        raise Unscored(f"{reference.where}: {reference.text} is empty", "reference")
    return text
