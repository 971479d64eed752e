"""Tracking: a run's metrics go to TensorBoard, MLflow and Weights & Biases while it trains.

What is sent is chosen here, by name: numbers of steps, validations and final scores, the recipe and the plan.
Rows, answers and samples never are.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tunesmith.core import events
from tunesmith.core.config import Section, option
from tunesmith.core.errors import Stopped
from tunesmith.core.events import Report
from tunesmith.core.files import read_json, write_json
from tunesmith.track import mlflow as track_mlflow
from tunesmith.track import wandb as track_wandb
from tunesmith.track.sink import PATIENCE, Ending, Note, Sender, Sink, environment, without_password
from tunesmith.track.tensorboard import open_tensorboard

NOT_VALUES = ("step", "steps", "time")  # of an event: where it stands, and nothing to draw
NOT_SENT = ("track.", "data.system")  # of the recipe: addresses may hold passwords, and a system message is the user's


class TrackConfig(Section):
    """The recipe's `track` section: where metrics go besides the run's folder."""

    tensorboard: bool = option(False, "Write event files for TensorBoard into `tensorboard/` of the run's folder.")
    mlflow: str | None = option(
        None,
        "Tracking URI of an MLflow server or database, such as `http://127.0.0.1:5000` or `sqlite:///mlflow.db`.",
        "Write the scheme too, as in http://127.0.0.1:5000.",
        pattern=r"^(databricks$|[a-z][a-z0-9+.-]*://.+)",
    )
    wandb: str | None = option(
        None,
        "Project on Weights & Biases, or ENTITY/PROJECT; nothing leaves the machine under WANDB_MODE=offline.",
        pattern=r"^[^/]+(/[^/]+)?$",
    )
    experiment: str | None = option(
        None, "MLflow's experiment, `tunesmith` if absent; the runs' group on Weights & Biases.", min_length=1
    )
    name: str | None = option(None, "Name shown for the run; the run folder's if absent.", min_length=1)
    tags: list[str] = option([], "Tags of the run on Weights & Biases.")


class Trackers:
    """The sinks of one run: hears its events like any `Report`, and ends with the `with` block."""

    def __init__(self, sinks: list[Sink], warn: Report, settings: contextlib.ExitStack) -> None:
        self._senders = [Sender(sink) for sink in sinks]
        self._warn = warn
        self._settings = settings
        self._step = 0

    def __enter__(self) -> Trackers:
        return self

    def __call__(self, event: events.Event) -> None:
        """Take from an event what is tracked; returns at once and never raises."""
        if (note := self._note(event)) is not None:
            for sender in self._senders:
                sender.put(note)
        self._tell_trouble()

    def beside(self, report: Report) -> Report:
        """A report that tells the sinks and then `report`, which may end the work."""

        def tell(event: events.Event) -> None:
            self(event)
            report(event)

        return tell

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending: Ending = "finished" if error is None else "stopped" if isinstance(error, Stopped) else "failed"
        for sender in self._senders:
            sender.end(ending)
        until = time.monotonic() + PATIENCE
        for sender in self._senders:
            sender.wait(until)
        self._settings.close()
        self._tell_trouble()

    def _note(self, event: events.Event) -> Note | None:
        match event:
            case events.Resumed() | events.RolledBack():
                self._step = event.step
                return Note(self._step, resumed=True)
            case events.Plan():
                rest = {"trainable": event.trainable, "learning_rate": event.learning_rate}
                return Note(self._step, facts=dict(flat({**event.plan, **rest}, "plan")))
            case events.Step() | events.Validation():
                self._step = event.step
                room = "train" if isinstance(event, events.Step) else "validation"
                return Note(self._step, {f"{room}/{name}": value for name, value in numbers(event.to_json())})
            case events.Scores():
                return Note(self._step, dict(compared(event.scores)))
            case _:
                return None

    def _tell_trouble(self) -> None:
        for sender in self._senders:
            if sentence := sender.trouble():
                self._warn(events.Warning(sentence))


def open_trackers(config: TrackConfig, folder: Path, recipe: Mapping[str, Any], warn: Report) -> Trackers:
    """The sinks that the recipe names, ready; a run that is gone on with goes on in its remote runs too.

    Args:
        config: the recipe's `track` section.
        folder: the run's; ids of remote runs are kept in `track.json` there.
        recipe: the whole recipe as plain values.
        warn: hears, once, of a sink that failed while the run went on.

    Raises:
        TunesmithError: a package is not installed, or a server does not take the run.
    """
    facts = {name: value for name, value in flat(recipe) if not name.startswith(NOT_SENT)}
    sinks: list[Sink] = []
    settings = contextlib.ExitStack()
    try:
        if config.tensorboard:
            sinks.append(open_tensorboard(folder / "tensorboard", facts))
        if config.mlflow is not None:
            settings.enter_context(environment(track_mlflow.ALWAYS, track_mlflow.UNLESS_SET))
            sinks.append(_mlflow(config, config.mlflow, folder, facts))
        if config.wandb is not None:
            settings.enter_context(environment(track_wandb.ALWAYS, {}))
            sinks.append(_wandb(config, config.wandb, folder, facts))
    except BaseException:
        for sink in sinks:
            with contextlib.suppress(Exception):
                sink.close("failed")
        settings.close()
        raise
    return Trackers(sinks, warn, settings)


def _mlflow(config: TrackConfig, uri: str, folder: Path, facts: Mapping[str, Any]) -> Sink:
    place = {"uri": without_password(uri), "experiment": config.experiment or "tunesmith"}
    run = _kept(folder, "mlflow", place)
    sink = track_mlflow.open_mlflow(uri, place["experiment"], config.name or folder.name, facts, run)
    _keep(folder, "mlflow", {**place, "run": sink.run})
    return sink


def _wandb(config: TrackConfig, project: str, folder: Path, facts: Mapping[str, Any]) -> Sink:
    place = {"project": project}
    run = _kept(folder, "wandb", place)
    sink = track_wandb.open_wandb(
        project, config.experiment, config.name or folder.name, folder, facts, run, config.tags
    )
    _keep(folder, "wandb", {**place, "run": sink.run})
    return sink


def _kept(folder: Path, tool: str, place: Mapping[str, str]) -> str | None:
    """The id of the remote run that an earlier attempt left, if it is in the same place."""
    path = folder / "track.json"
    kept = read_json(path).get(tool, {}) if path.exists() else {}
    return kept["run"] if all(kept.get(name) == value for name, value in place.items()) else None


def _keep(folder: Path, tool: str, values: Mapping[str, str]) -> None:
    path = folder / "track.json"
    write_json(path, {**(read_json(path) if path.exists() else {}), tool: values})


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values with dotted names; a mapping whose keys are not plain names stays one value."""
    for name, value in values.items():
        dotted = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping) and value and all(str(key).isidentifier() for key in value):
            yield from flat(value, dotted)
        else:
            yield dotted, value


def numbers(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of an event that can be drawn over its step."""
    for name, value in event.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in NOT_VALUES:
            yield name, value


def compared(scores: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """The final comparison: each metric of the tuned model, of the base, and their difference."""
    for score in scores:
        metric = score["metric"].replace(" ", "_")
        for name, key in (("tuned", "score"), ("base", "other"), ("difference", "difference")):
            if score[key] is not None:
                yield f"score/{metric}/{name}", score[key]["value"]
