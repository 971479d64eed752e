"""Several methods on the same rows, base and number of steps, one after the other, and what each cost and gave.

Each is a run of its own with a folder of its own: one that ended early goes on where it was, one that has finished is
not done again. So the whole goes on where it was when it is asked for again.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.config import validate
from tunesmith.core.errors import ConfigError, Stopped, TunesmithError
from tunesmith.core.events import METRICS, Report, read_events
from tunesmith.core.files import expanded, read_json, read_lines
from tunesmith.core.names import did_you_mean
from tunesmith.jobs.preflight import refuse_what_does_not_fit
from tunesmith.jobs.start import resume, start_run
from tunesmith.model.methods.table import METHODS
from tunesmith.registry.runs import is_run, read_run
from tunesmith.score.interval import Interval
from tunesmith.train.recipe import Recipe, read_recipe

PRESETS: dict[str, dict[str, Any]] = {  # what people call by a name of its own
    "qlora": {"method": {"type": "lora"}, "model": {"quantize": "nf4"}},
    "dora": {"method": {"type": "lora", "dora": True}},
}
FORGETTING = "general questions"  # of the embedded model; of others, the first file that the recipe names


@dataclass(frozen=True)
class Score:
    """A metric of the tuned model and of its base, and the difference."""

    metric: str
    score: Interval
    base: Interval | None
    difference: Interval | None
    verdict: str


@dataclass(frozen=True)
class Outcome:
    """What a method cost and gave. All but `name` and `trouble` is None where it did not come to its end.

    Attributes:
        name: as it was asked for.
        folder: of its run.
        trouble: why there is nothing, as a sentence; empty if there is.
        weights: that were trained.
        memory_bytes: of the process at most, or of the GPU.
        tokens_per_second: read in the median step.
        seconds: of all steps.
        read_tokens: in all steps, soft ones among them.
        trained_tokens: that losses were of.
        training_loss: of each of these, the mean.
        bytes_on_disk: of what was exported.
        scores: on the rows that were held out.
        general: on what has nothing to do with the rows: what was forgotten.
    """

    name: str
    folder: str = ""
    trouble: str = ""
    weights: int | None = None
    memory_bytes: int | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    read_tokens: int | None = None
    trained_tokens: int | None = None
    training_loss: float | None = None
    bytes_on_disk: int | None = None
    scores: tuple[Score, ...] = ()
    general: tuple[Score, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def recipe_for(recipe: Recipe, asked: str) -> Recipe:
    """The recipe with another method.

    Args:
        recipe: whose own method keeps its settings and its learning rate; others have their defaults.
        asked: a `method.type`, `qlora` or `dora`; and after `@`, where it is wanted, a learning rate.

    Raises:
        ConfigError: there is no such method, or it does not go with the recipe.
    """
    name, _, rate = asked.partition("@")
    if name not in METHODS and name not in PRESETS:
        raise ConfigError(f"no method is called {name!r}; {did_you_mean(name, [*METHODS, *PRESETS])}")
    values = recipe.model_dump(mode="json")
    own = name == recipe.method.type
    if not own:
        values["method"] = {"type": name}
        values["optim"]["learning_rate"] = None
    for section, fields in PRESETS.get(name, {}).items():
        values[section] = fields if section == "method" else {**values[section], **fields}
    if rate:
        values["optim"]["learning_rate"] = rate
    values["output"] |= {"name": f"{recipe.output.name}-{name}", "merge": False}
    made = validate(Recipe, values, f"--methods {asked}")
    refuse_what_does_not_fit(made)
    return made


def compare_methods(recipe: Recipe, asked: Sequence[str], report: Report) -> list[Outcome]:
    """Run each method, or what is left of it, and say how it came out.

    Args:
        recipe: what all share.
        asked: as `recipe_for` takes them.
        report: hears the events of all runs.

    Raises:
        ConfigError: a method is asked for twice, or cannot be run with this recipe: before any is run.
        Stopped: it was interrupted; asked for again, it goes on.
    """
    recipes = {name: recipe_for(recipe, name) for name in asked}
    folders = [one.output.name for one in recipes.values()]
    if len(set(folders)) < len(asked):
        raise ConfigError("--methods: name each method once.")
    return [outcome_of(name, one, report) for name, one in recipes.items()]


def outcome_of(name: str, recipe: Recipe, report: Report) -> Outcome:
    """Run a recipe, or what is left of it, and say how it came out.

    Raises:
        Stopped: it was interrupted; asked for again, it goes on.
    """
    folder = expanded(recipe.output.folder) / str(recipe.output.name)
    try:
        go_on(folder, recipe, report)
    except Stopped:
        raise
    except TunesmithError as error:
        return Outcome(name, str(folder), str(error))
    return outcome(name, folder)


def go_on(folder: Path, recipe: Recipe, report: Report) -> None:
    """Bring a run to its end, from wherever it is.

    Raises:
        ConfigError: another run is there.
    """
    if not folder.exists():
        start_run(recipe, report)
        return
    if not is_run(folder):
        raise ConfigError(f"{folder}: is there already, and is no run. Remove it, or set output.name to another.")
    if read_recipe(folder / "config.yaml") != recipe:
        raise ConfigError(
            f"{folder}: a run of another recipe is there. Remove it, or set output.name or output.folder to another."
        )
    if read_run(folder).status != "succeeded":
        resume(folder, report)


def outcome(name: str, folder: Path) -> Outcome:
    """What a finished run's folder tells."""
    steps = read_lines(folder / METRICS)
    plan = next(event for event in reversed(read_events(folder)) if event["kind"] == "plan")
    found = read_json(folder / "report" / "report.json") if (folder / "report" / "report.json").exists() else {}
    asked = found.get("general_ability", {})
    general = asked.get(FORGETTING) or next(iter(asked.values()), {})
    trained = sum(step["trained_tokens"] for step in steps)
    files = [*(folder / "model").glob("*.safetensors")]
    return Outcome(
        name=name,
        folder=str(folder),
        weights=plan["trainable"],
        memory_bytes=max(step["memory_bytes"] for step in steps),
        tokens_per_second=statistics.median(step["tokens_per_second"] for step in steps),
        seconds=sum(step["seconds"] for step in steps),
        read_tokens=round(sum(step["tokens_per_second"] * step["seconds"] for step in steps)),
        trained_tokens=trained,
        training_loss=sum(step["loss"] * step["trained_tokens"] for step in steps) / trained,
        bytes_on_disk=sum(file.stat().st_size for file in files),
        scores=tuple(map(_score, found.get("scores", ()))),
        general=tuple(map(_score, general.get("scores", ()))),
    )


def _score(found: Mapping[str, Any]) -> Score:
    score, base, difference = (found[key] and Interval(**found[key]) for key in ("score", "other", "difference"))
    return Score(found["metric"], score, base, difference, found["verdict"])
