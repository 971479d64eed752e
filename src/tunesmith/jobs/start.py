"""Start a job from Python or the command line: `tunesmith.finetune("recipe.yaml")`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tunesmith.core.config import to_yaml
from tunesmith.core.errors import ConfigError, JobError, OutOfMemory, Stopped, TunesmithError
from tunesmith.core.events import Report, silent, to_folder
from tunesmith.core.files import expanded, home, make_folder, read_json, read_lines, write_text
from tunesmith.core.names import did_you_mean
from tunesmith.data.config import OwnAnswers
from tunesmith.data.read import read_rows
from tunesmith.data.source import find_files
from tunesmith.exec.local import Job, run_child
from tunesmith.jobs.recipe import Recipe, read_recipe
from tunesmith.jobs.runs import UNTIL, read_run
from tunesmith.prompt.base import resolve


@dataclass(frozen=True)
class Run:
    """A finished run: a folder and what it holds."""

    folder: Path

    @property
    def model(self) -> Path:
        """The published model, for `tunesmith.load`, transformers or peft."""
        return self.folder / "model"

    @property
    def page(self) -> Path:
        """The report, to open in a browser."""
        return self.folder / "report" / "report.html"

    @property
    def scores(self) -> list[dict[str, Any]]:
        """The comparison with the base model, one entry a metric; empty when no rows were held out."""
        path = self.folder / "report" / "report.json"
        return read_json(path)["scores"] if path.exists() else []


def finetune(recipe: str | Path, report: Report = silent, until: str = "evaluated", **overrides: Any) -> Run:
    """Fine-tune as a recipe says and return the run.

    Args:
        recipe: path of a YAML recipe.
        report: hears every event; the command line draws its progress bar from these.
        until: `trained` ends the run with its last checkpoint, `published` with its model, `evaluated` with its
            report. `resume` takes it further.
        **overrides: sections with fields to set otherwise, such as `optim={"epochs": 1}`.

    Raises:
        TunesmithError: anything that the user can mend, as one sentence.
    """
    return start_run(read_recipe(Path(recipe), overrides), report, until)


def start_run(recipe: Recipe, report: Report = silent, until: str = "evaluated") -> Run:
    """Make the run's folder, run the child in it, and note how it ended.

    Raises:
        Stopped: it was interrupted and has a checkpoint; `resume` goes on.
    """
    refuse_unknown_end(until)
    refuse_missing(recipe)
    folder = claim_folder(recipe)
    write_text(folder / "config.yaml", to_yaml(recipe))
    return _run(folder, {"until": until}, report)


def resume(
    folder: str | Path, report: Report = silent, *, accept_change: bool = False, allow_inexact: bool = False,
    until: str = "evaluated",
) -> Run:  # fmt: skip
    """Go on with a run that ended early, from its last whole checkpoint.

    Args:
        folder: the run's.
        report: hears every event.
        accept_change: go on although recipe, rows, tokenizer or base model are not what they were.
        allow_inexact: go on although machine or library versions are not what they were.
        until: as `finetune` takes it.

    Raises:
        MissingError: it is no run folder.
        TunesmithError: it is finished already, another process works on it, or something is not what it was.
    """
    refuse_unknown_end(until)
    folder = Path(folder)
    if read_run(folder).status == "succeeded":
        raise ConfigError(f"{folder}: this run is finished. To train further, start a run from its model.")
    refuse_missing(read_recipe(folder / "config.yaml"))
    wanted = {"accept_change": accept_change, "allow_inexact": allow_inexact, "until": until}
    return _run(folder, {"resume": True, **wanted}, report)


def _run(folder: Path, options: dict[str, Any], report: Report) -> Run:
    """Run the children in `folder`, alone, and note how it ended; with smaller micro-batches where there is no room."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise JobError(f"{folder}: another process works on this run. Wait for it, or stop it first.") from None
    report({"kind": "folder", "folder": str(folder)})
    processes = read_recipe(folder / "config.yaml").processes
    try:
        while True:
            job = Job("finetune", {"folder": str(folder), **options}, stoppable=True, processes=processes)
            try:
                run_child(job, folder / "child.log", report)
                break
            except OutOfMemory as error:
                refuse_out_of_memory_elsewhere(folder, error)
                sentence = f"{error} The run goes on from its last checkpoint with smaller micro-batches."
                to_folder(folder, report)({"kind": "warning", "sentence": sentence})
                options = {**options, "resume": True, "smaller": True}
    except Stopped as end:
        to_folder(folder)({"kind": "stopped", "sentence": str(end)})
        raise Stopped(f"{end} Go on with: tunesmith train --resume {folder}") from None
    except TunesmithError as error:
        with contextlib.suppress(TunesmithError):  # on a full disk
            to_folder(folder)({"kind": "failed", "sentence": str(error)})
        raise
    except KeyboardInterrupt:
        to_folder(folder)({"kind": "interrupted"})
        raise
    finally:
        lock.release()
    return Run(folder)


def refuse_out_of_memory_elsewhere(folder: Path, error: OutOfMemory) -> None:
    """Smaller micro-batches help where training itself had no room, and nowhere else.

    Raises:
        JobError: it was loading the model, or something after training.
    """
    events = read_lines(folder / "events.jsonl")
    doing = next((event for event in reversed(events) if event["kind"] in ("phase", "plan")), {})
    if doing.get("kind") != "plan":
        raise JobError(
            f"{error} It was {doing.get('name', 'starting')}. Take a smaller base model, lower evaluate.rows or "
            "data.max_length, or close what else runs here."
        )


def refuse_unknown_end(until: str) -> None:
    """A run that shall go on until nobody knows what is not begun."""
    if until not in UNTIL:
        raise ConfigError(f"a run cannot go until {until!r}: {did_you_mean(until, UNTIL)}")


def refuse_missing(recipe: Recipe) -> None:
    """Find what the recipe names before anything is written: files, and the base model (downloaded here)."""
    probe, replay = recipe.evaluate.probe, recipe.data.replay
    replay = replay.prompts if isinstance(replay, OwnAnswers) else [] if replay in ("auto", "off") else replay
    probe = [] if isinstance(probe, str) else probe
    for names in (recipe.data.train, recipe.data.validation, recipe.data.test, probe, replay):
        if names and not isinstance(names, int | float):
            for file in find_files(names):
                read_rows(file.path, name=file.name)
    resolve(recipe.model.base, recipe.model.revision)


def claim_folder(recipe: Recipe) -> Path:
    """The run's folder, made here: the recipe's name, or the next free one with a number."""
    parent = make_folder(expanded(recipe.output.folder), "runs")
    name = recipe.output.name or "run"
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def evaluate_file(options: Mapping[str, Any], report: Report = silent) -> dict[str, Any]:
    """Run an evaluation in a child process and return its report as plain values."""
    log = make_folder(home() / "logs", "logs") / f"evaluate-{os.getpid()}.log"
    done = run_child(Job("evaluate", dict(options)), log, report)
    log.unlink(missing_ok=True)  # it stays only when something went wrong
    return done["report"]


def load(name: str | Path, template: str | None = None, device: str = "auto") -> Any:
    """A model ready to answer: `tunesmith.load("runs/demo").generate("What time is breakfast?")`.

    Args:
        name: a run folder, a published model's folder, or a base model.
        template: name of a chat template, for a base model that has none.
        device: `auto` (a CUDA device if there is one), `cpu` or `cuda`.

    Raises:
        TunesmithError: there is no such model or device, or it cannot be used.

    Returns:
        A `tunesmith.infer.chat.Chat`. torch is imported here, not before.
    """
    from tunesmith.infer.chat import Chat
    from tunesmith.infer.local import LocalEngine
    from tunesmith.model.publish import find_published

    published = find_published(str(name))
    contract = published.contract(template)
    return Chat(LocalEngine(published.load(device), contract.stop_ids), contract)


def merge_run(options: Mapping[str, Any], report: Report = silent) -> dict[str, Any]:
    """Fold a run's adapter into its base in a child process.

    Args:
        options: what `jobs.merge.merge` takes.
        report: hears every event.

    Returns:
        `folder` of the full model, and its `certificate`.
    """
    log = make_folder(home() / "logs", "logs") / f"merge-{os.getpid()}.log"
    try:
        done = run_child(Job("merge", dict(options), stoppable=True), log, report)
    except Stopped:  # it had time to take away what it had written; there is nothing to resume
        raise KeyboardInterrupt from None
    log.unlink(missing_ok=True)  # it stays only when something went wrong
    return {"folder": done["folder"], "certificate": done["certificate"]}
