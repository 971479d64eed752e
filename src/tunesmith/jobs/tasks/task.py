"""The seam for evaluating models that do not chat: how one is measured on rows, and what stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.core.errors import ConfigError
from tunesmith.core.events import Report
from tunesmith.core.names import look_up
from tunesmith.data.prepare import Prepared
from tunesmith.evaluate.report import Picture
from tunesmith.evaluate.suite import RowResults

NO_BASELINE, ALL_BASELINES = "none", "all"
Measured = tuple[RowResults, list[Picture]]


@dataclass(frozen=True)
class Asked:
    """What is evaluated, as baselines see it.

    Attributes:
        predictor: of the model; its names of classes are the baselines' too.
        rows: that are asked about.
        training: rows that the model and the baselines have learned from.
        base: a folder of the base model, for baselines that compute with it.
        device: where those compute.
    """

    predictor: Any
    rows: Sequence[Prepared]
    training: Sequence[Prepared]
    base: Any = None
    device: str = "auto"


Baseline = Callable[[Asked], tuple[str, RowResults]]  # what it is called, and what it says of the rows


@dataclass(frozen=True)
class TaskEvaluation:
    """How models of a task are evaluated.

    Attributes:
        reads: the kinds of rows.
        measure: what a predictor does on each row, and pictures of it. Args: the predictor, what it is called, the
            rows, the report.
        always: what stands beside every model, cheap and honest.
        wanted: further baselines, by the names that `evaluate.baseline` knows.
        base: whether the base has what the task needs, so that it is asked too.
        rows: most that are measured at the end of a run where its recipe does not say; all if None.
        general: whether general rows of its kinds can be asked too, so that it is seen what was forgotten.
        refuse_other: raises `ConfigError` where two predictors cannot be compared. Args: both, and their names.
    """

    reads: frozenset[str]
    measure: Callable[[Any, str, Sequence[Prepared], Report], Measured]
    always: Baseline | None = None
    wanted: Mapping[str, Baseline] = field(default_factory=dict[str, Baseline])
    base: bool = False
    general: bool = False
    refuse_other: Callable[[Any, Any, tuple[str, str]], None] = lambda one, other, names: None
    rows: int | None = None


def baselines_of(task: TaskEvaluation, wanted: str) -> list[Baseline]:
    """What stands beside a model: what always does, and what is wanted.

    Raises:
        ConfigError: the task does not know it.
    """
    always = [] if task.always is None else [task.always]
    if wanted == NO_BASELINE:
        return always
    if wanted == ALL_BASELINES:
        return [*always, *task.wanted.values()]
    if not task.wanted:
        raise ConfigError(
            f"baseline {wanted!r}: of this task there is none but what always stands beside it: take all."
        )
    return [*always, look_up(task.wanted, wanted, "baseline")]
