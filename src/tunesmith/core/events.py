"""What a piece of work says while it runs: one frozen dataclass for each kind of event.

A job reports through one function, `Report`; who listens (a file, the parent process, a screen, a test) is not the
job's business. Between processes and on disk an event is a JSON object: its fields, and its `kind`, which is the name
of its class in snake case. Nobody decides anything by reading a sentence.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from tunesmith.core.files import append_line, read_lines

Json = dict[str, Any]
METRICS, EVENTS, ATTEMPTS = "metrics.jsonl", "events.jsonl", "attempts.jsonl"


class Event:
    """What all kinds have in common. A subclass is a kind, and is known by its name from then on.

    Attributes:
        kind: the name in files and between processes.
        file: of a run's folder, that keeps it; empty for what only watchers need.
        beside: the field, a dict, whose items stand beside the other fields in JSON; empty if there is none.
    """

    kind: ClassVar[str]
    file: ClassVar[str] = EVENTS
    beside: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        cls.kind = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        KINDS[cls.kind] = cls

    def to_json(self) -> Json:
        """Plain values, `kind` first."""
        values: Json = {"kind": self.kind}
        names = [one.name for one in fields(self)]  # pyright: ignore
        for name in names:
            value = getattr(self, name)
            assert name != self.beside or not value.keys() & {"kind", *names}
            values |= value if name == self.beside else {name: value}
        return values

    @classmethod
    def read(cls, values: Json) -> Self:
        """The event whose fields these are."""
        if not cls.beside:
            return cls(**values)
        names = {one.name for one in fields(cls)}  # pyright: ignore
        own = {name: value for name, value in values.items() if name in names}
        return cls(**own, **{cls.beside: {name: value for name, value in values.items() if name not in names}})


KINDS: dict[str, type[Event]] = {}
Report = Callable[[Event], None]


def from_json(values: Mapping[str, Any]) -> Event:
    """The event that `to_json` wrote, wherever it was kept in between."""
    return KINDS[values["kind"]].read({name: value for name, value in values.items() if name not in ("kind", "time")})


def silent(event: Event) -> None:
    """Hear nothing."""


def to_folder(folder: Path, forward: Report = silent) -> Report:
    """Write each event into its file of a run's folder, and pass it on: what the child of a run does."""

    def report(event: Event) -> None:
        if event.file:
            append_line(folder / event.file, with_time(event))
        forward(event)

    return report


def to_attempts(folder: Path) -> Report:
    """Write each event into the file of the parent: no two processes write to one file."""
    return lambda event: append_line(folder / ATTEMPTS, with_time(event))


def with_time(event: Event) -> Json:
    """What a line of a file says, with the Unix time."""
    return {"time": round(time.time(), 3), **event.to_json()}


def read_events(folder: Path) -> list[Json]:
    """What a run's folder has of child and parent, but for its steps, in the order of their times."""
    lines = [*read_lines(folder / EVENTS), *read_lines(folder / ATTEMPTS)]
    return sorted(lines, key=lambda line: line.get("time", 0.0))


# How a piece of work goes.


@dataclass(frozen=True)
class Phase(Event):
    """Something begins that takes a while."""

    name: str


@dataclass(frozen=True)
class Pulse(Event):
    """How far something is that takes a while. Kept nowhere."""

    file = ""
    doing: str
    done: int
    of: int


@dataclass(frozen=True)
class Warning(Event):
    """What a user should know, though the work goes on."""

    sentence: str


@dataclass(frozen=True)
class Done(Event):
    """It is done, and this is what it made: plain values."""

    file = ""
    result: Json


@dataclass(frozen=True)
class Stopped(Event):
    """It was asked to stop, and did so where it can be gone on with."""

    sentence: str


@dataclass(frozen=True)
class Failed(Event):
    """It failed. The sentence is empty where the mistake is ours; `error` says what it was.

    `reason` is the name of the class of a mistake that the user can mend.
    """

    sentence: str
    error: str = ""
    reason: str = ""


@dataclass(frozen=True)
class OutOfMemory(Event):
    """There was no room for it."""

    sentence: str


@dataclass(frozen=True)
class Interrupted(Event):
    """It was ended at once."""


@dataclass(frozen=True)
class Folder(Event):
    """Where the run is written."""

    folder: str


@dataclass(frozen=True)
class Stopping(Event):
    """Somebody has asked the run to stop. Kept nowhere."""

    file = ""


@dataclass(frozen=True)
class Resumed(Event):
    """The run goes on after `step`; `changes` and `inexact` are differences that were accepted, as plain values."""

    step: int
    changes: list[Json] = field(default_factory=list[Json])
    inexact: list[Json] = field(default_factory=list[Json])


@dataclass(frozen=True)
class Data(Event):
    """What is trained on.

    Attributes:
        format: of the training rows.
        ledgers: `file` and `sentence` of each file's account.
        rows: of each part, by its name.
        tokens, trained_tokens: how the lengths of the training rows are spread; of all of them.
        id: of the dataset.
        replay: what is replayed beside it, if anything is.
    """

    format: str
    ledgers: list[Json]
    rows: Json
    tokens: Json
    trained_tokens: int
    id: str
    replay: Json | None


@dataclass(frozen=True)
class Replay(Event):
    """What is replayed beside the user's rows, or why nothing is."""

    sentence: str


@dataclass(frozen=True)
class ValidationPlan(Event):
    """The run is validated every so many steps, on `rows` of the `of` validation rows: a `share` of all the work."""

    every: int
    rows: int
    of: int
    share: float


@dataclass(frozen=True)
class Plan(Event):
    """Every automatic decision (as plan.json has it), the weights that are trained, and the peak learning rate."""

    beside = "plan"
    plan: Json
    trainable: int
    learning_rate: float


@dataclass(frozen=True)
class Rates(Event):
    """Which weights learn how fast: groups of `what` they are, peak `rate`, `weight_decay`, number of `weights`."""

    groups: list[Json]


def watched(steps: Iterable[Mapping[str, Any]]) -> str:
    """The curve that a run is watched by: the reward where it learns from that, since its loss says nothing then."""
    return "reward" if any("reward" in step for step in steps) else "loss"


@dataclass(frozen=True)
class Step(Event):
    """An optimizer step.

    Attributes:
        step, steps: its number, and how many there are.
        curves: the loss, and whatever else the objective watches, by name.
        learning_rate, gradient_norm: that it was taken with; before clipping.
        trained_tokens: that the loss was of.
        tokens_per_second: read, padding left out.
        seconds: that it took.
        memory_bytes: of the process, or the peak on the GPU.
    """

    file, beside = METRICS, "curves"
    step: int
    steps: int
    curves: dict[str, float]
    learning_rate: float
    gradient_norm: float
    trained_tokens: int
    tokens_per_second: float
    seconds: float
    memory_bytes: int

    @property
    def loss(self) -> float:
        """What is minimised."""
        return self.curves["loss"]


@dataclass(frozen=True)
class Validation(Event):
    """What validation rows gave after a step, and whether that was the best so far."""

    beside = "curves"
    step: int
    curves: dict[str, float]
    best: bool

    @property
    def loss(self) -> float:
        """What is minimised."""
        return self.curves["loss"]


@dataclass(frozen=True)
class Checkpoint(Event):
    """A checkpoint was written."""

    step: int
    folder: str


@dataclass(frozen=True)
class Early(Event):
    """The run ends before its last step: nothing was better than `best_step`."""

    step: int
    best_step: int | None


@dataclass(frozen=True)
class RolledBack(Event):
    """The run is back at an earlier step; what was learned since is forgotten."""

    step: int


@dataclass(frozen=True)
class Exported(Event):
    """A model was written, verified; of a run, from the checkpoint of `step`."""

    folder: str
    step: int | None = None


@dataclass(frozen=True)
class Ended(Event):
    """The run went as far as it was to go: `trained` or `exported`."""

    until: str


@dataclass(frozen=True)
class Finished(Event):
    """The run went all its way."""


# What an evaluation finds.


@dataclass(frozen=True)
class Comparison(Event):
    """How many rows of each set both models answer (`rows` and `of`, by its name), and what that takes in seconds."""

    sets: dict[str, Json]
    seconds: float


@dataclass(frozen=True)
class Scores(Event):
    """One entry a metric of `model`, on so many rows, beside those of `against` if there is one; speeds by model."""

    model: str
    rows: int
    against: str | None
    scores: list[Json]
    speed: Json = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class GeneralAbility(Event):
    """The same on rows that the run is not about: what was forgotten."""

    what: str
    model: str
    rows: int
    against: str | None
    scores: list[Json]


@dataclass(frozen=True)
class Samples(Event):
    """A few questions with the answers of `model` and, if there is one, of the model beside."""

    model: str
    against: str | None
    samples: list[Json]


@dataclass(frozen=True)
class Harness(Event):
    """What tasks of lm_eval found."""

    found: Json
