"""Run folders beside one another: what was set otherwise, how each went, and what their scores show.

Nothing is run here: all is read from the folders, of finished runs and of others as far as they came.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.errors import ConfigError
from tunesmith.core.events import METRICS, read_events, watched
from tunesmith.core.files import read_json, read_lines
from tunesmith.core.names import shortest_ends
from tunesmith.evaluate.report import median_speed
from tunesmith.registry.run_scores import MetricScores, Scored, compare_scores
from tunesmith.registry.runs import RunSummary, read_run

FEWEST, MOST = 2, 10
PLACES = ("output.name", "output.folder")  # where a run lies says nothing about how it was made
VALIDATED_ON = ("dataset.id", "dataset.rows.validation", "data.validation", "data.test")  # what these rows hang on
LONGEST_ANSWER = "evaluate.max_new_tokens"
MANY = 20  # differences at 95% among which one is expected to be shown by chance


@dataclass(frozen=True)
class Setting:
    """A setting or fact by its dotted name.

    Attributes:
        name: as `--set` takes it; `plan.`, `dataset.` and `report.` begin facts that nobody sets.
        values: one for each run that has it, by the run's name.
    """

    name: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One run: how it went. None stands for what it has not come to.

    Attributes:
        name: the folder's, with those above it where two runs are called the same.
        folder: where it is.
        status: as `RunSummary` has it.
        steps: optimizer steps taken, and how many were planned.
        watched: what the run is watched by, `loss` or `reward`; the following are of that.
        last_loss: of the last step.
        last_validation: of the last validation.
        best_validation: the lowest loss of all, or the highest reward.
        best_step: when that was.
        tokens_per_second: of the median step.
        memory_bytes: the most seen.
        seconds: from its beginning to its last sign of life, without pauses between its attempts.
        losses: step and value of each step.
        validations: step and value of each validation.
    """

    name: str
    folder: str
    status: str
    steps: tuple[int, int]
    watched: str
    last_loss: float | None
    last_validation: float | None
    best_validation: float | None
    best_step: int | None
    tokens_per_second: float | None
    memory_bytes: int | None
    seconds: float | None
    losses: list[tuple[int, float]]
    validations: list[tuple[int, float]]


@dataclass(frozen=True)
class RunComparison:
    """All that is to be shown.

    Attributes:
        runs: in the order given; differences are to the first.
        settings: those that differ.
        equal: how many do not.
        scores: one entry a metric.
        notes: sentences that a reader should know before believing a number.
    """

    runs: list[Entry]
    settings: list[Setting]
    equal: int
    scores: list[MetricScores]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain values; a number that is not finite becomes None."""
        return _finite(asdict(self))


@dataclass(frozen=True)
class _Folder:
    """A run folder, read. `plan`, `dataset` and `report` are empty where the run has not come to them."""

    name: str
    summary: RunSummary
    events: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    plan: dict[str, Any]
    dataset: dict[str, Any]
    report: dict[str, Any]


def compare_runs(folders: Sequence[Path]) -> RunComparison:
    """Put two to ten runs beside one another.

    Args:
        folders: of the runs; differences of scores are to the first.

    Raises:
        ConfigError: too few or too many runs, or one of them twice.
        MissingError: a folder is no run's.
    """
    refuse_unfit(folders)
    names = shortest_ends([folder.resolve().as_posix() for folder in folders])
    found = [_read(name, folder) for name, folder in zip(names, folders, strict=True)]
    settings, equal = _compare_settings(found)
    entries = [_entry(one) for one in found]
    scores, unpaired = compare_scores(
        [Scored(one.name, one.report, one.summary.folder / "report" / "rows.jsonl") for one in found]
    )
    notes = [*_shortfalls(found), *unpaired, *_cautions(entries, settings, scores)]
    return RunComparison(entries, settings, equal, scores, notes)


def refuse_unfit(folders: Sequence[Path]) -> None:
    """Two to ten runs, each once.

    Raises:
        ConfigError: they are not.
    """
    if not FEWEST <= len(folders) <= MOST:
        raise ConfigError(
            f"compare takes {FEWEST} to {MOST} run folders, and {len(folders)} "
            f"{'was' if len(folders) == 1 else 'were'} given. `tunesmith runs` lists the runs."
        )
    seen: dict[Path, Path] = {}
    for folder in folders:
        if (place := folder.resolve()) in seen:
            raise ConfigError(f"{folder}: the same run as {seen[place]}. Name each run once.")
        seen[place] = folder


def _read(name: str, folder: Path) -> _Folder:
    summary = read_run(folder)
    events, steps = read_events(folder), read_lines(folder / METRICS)
    report, written = folder / "report" / "report.json", folder / "plan.json"
    told = _last(events, "plan")  # it says more than plan.json: the learning rate, and how many weights are trained
    plan = {**told, **(read_json(written) if written.exists() else {})}
    data = _last(events, "data")
    return _Folder(
        name=name,
        summary=summary,
        events=events,
        steps=steps,
        plan={key: value for key, value in plan.items() if key not in ("time", "kind", "reasons")},
        dataset={key: data[key] for key in ("id", "rows") if key in data},
        report=read_json(report) if report.exists() else {},
    )


def _last(events: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next((event for event in reversed(events) if event["kind"] == kind), {})


def _compare_settings(found: Sequence[_Folder]) -> tuple[list[Setting], int]:
    """Those that differ, and how many do not. A run without a plan, data or report has no say in their facts."""
    recipes = {one.name: one.summary.recipe for one in found}
    plans = {one.name: one.plan for one in found if one.plan}
    datasets = {one.name: one.dataset for one in found if one.dataset}
    reports = {one.name: {key: one.report[key] for key in ("data", "rows")} for one in found if one.report}
    chosen = [setting for setting in _leaves(recipes, "") if setting.name not in PLACES]
    taken = [fact for fact in _leaves(plans, "plan") if not any(_repeats(fact, setting) for setting in chosen)]
    differing: list[Setting] = []
    equal = 0
    for settings, runs in (
        (chosen, len(recipes)),
        (taken, len(plans)),
        (_leaves(datasets, "dataset"), len(datasets)),
        (_leaves(reports, "report"), len(reports)),
    ):
        for setting in settings:
            first, *others = setting.values.values()
            if len(setting.values) == runs and all(value == first for value in others):
                equal += 1
            else:
                differing.append(setting)
    return differing, equal


def _leaves(values: dict[str, Any], name: str) -> Iterator[Setting]:
    """What lies below sections: every value that any run has."""
    empty = bool(name) and bool(values) and not any(values.values())  # a mapping in which nobody has set anything
    if all(isinstance(value, dict) for value in values.values()) and not empty:
        for key in dict.fromkeys(key for value in values.values() for key in value):
            inner = {run: value[key] for run, value in values.items() if key in value}
            yield from _leaves(inner, f"{name}.{key}".removeprefix("."))
    else:
        yield Setting(name, values)


def _repeats(fact: Setting, setting: Setting) -> bool:
    """Whether a fact of the plan only says what the recipe says, such as `plan.precision` of a given `precision`."""
    same_word = fact.name.rpartition(".")[2] == setting.name.rpartition(".")[2]
    return same_word and all(setting.values.get(run) == value for run, value in fact.values.items())


def _entry(one: _Folder) -> Entry:
    name = watched(one.steps)
    validated = [event for event in one.events if event["kind"] == "validation" and name in event]
    validations = [(event["step"], event[name]) for event in validated]
    best_step, best = (min if name == "loss" else max)(validations, key=lambda one: one[1], default=(None, None))
    losses = [(step["step"], step[name]) for step in one.steps if name in step]
    return Entry(
        name=one.name,
        folder=str(one.summary.folder),
        status=one.summary.status,
        steps=one.summary.steps,
        watched=name,
        last_loss=losses[-1][1] if losses else None,
        last_validation=validations[-1][1] if validations else None,
        best_validation=best,
        best_step=best_step,
        tokens_per_second=median_speed(one.steps) if one.steps else None,
        memory_bytes=max((step["memory_bytes"] for step in one.steps), default=None),
        seconds=_seconds(one.events, one.steps),
        losses=losses,
        validations=validations,
    )


def _seconds(events: Sequence[dict[str, Any]], steps: Sequence[dict[str, Any]]) -> float | None:
    """How long a run was at work. Every attempt begins with the same event as the first one."""
    if not events:
        return None
    begins = [event["time"] for event in events if _what(event) == _what(events[0])]
    times = sorted(event["time"] for event in (*events, *steps))
    ends = [*begins[1:], math.inf]
    attempts = ([time for time in times if begin <= time < end] for begin, end in zip(begins, ends, strict=True))
    return round(sum(attempt[-1] - attempt[0] for attempt in attempts), 3)


def _what(event: dict[str, Any]) -> tuple[str, str | None]:
    return event["kind"], event.get("name")


def _shortfalls(found: Sequence[_Folder]) -> Iterator[str]:
    """Runs that did not come to their end, and those without scores."""
    for one in found:
        status, (taken, planned) = one.summary.status, one.summary.steps
        if status != "succeeded":
            place = f"after {taken} of {planned} steps" if taken else "before its first step"
            why = f": {one.summary.trouble[-1]}" if status == "failed" and one.summary.trouble else "."
            yield f"{one.name}: {status}, {place}{why}"
        elif not one.report:
            yield f"{one.name} has no scores: no rows were held out."


def _cautions(entries: Sequence[Entry], settings: Sequence[Setting], scores: Sequence[MetricScores]) -> Iterator[str]:
    """Where numbers that stand beside one another mean different things, or less than they seem to."""
    differing = {setting.name for setting in settings}
    if len(steps := {entry.steps[0] for entry in entries if entry.losses}) > 1:
        taken = ", ".join(map(str, sorted(steps)))
        yield f"the runs took different numbers of steps ({taken}); curves are drawn over steps, not over rows or time."
    if moved := [name for name in VALIDATED_ON if name in differing]:
        yield f"validation losses may be of other rows or tokens in each run ({', '.join(moved)})."
    paired = [cell for metric in scores for cell in metric.runs if cell.difference is not None]
    if paired and LONGEST_ANSWER in differing:
        yield f"the answers were cut at different lengths ({LONGEST_ANSWER}), which moves scores of answers."
    if len(paired) >= MANY:
        chance = len(paired) / MANY
        yield f"{len(paired)} differences at 95% each: about {chance:.0f} would be shown by chance if none was real."


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
