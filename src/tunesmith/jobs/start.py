"""Start a job from Python or the command line: `tunesmith.finetune("recipe.yaml")`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.config import to_yaml
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Report, silent, to_folder
from tunesmith.core.files import home, make_folder, read_json, write_text
from tunesmith.data.read import read_rows
from tunesmith.data.source import find_files
from tunesmith.exec.local import Job, run_child
from tunesmith.jobs.recipe import Recipe, read_recipe
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


def finetune(recipe: str | Path, report: Report = silent, **overrides: Any) -> Run:
    """Fine-tune as a recipe says and return the run.

    Args:
        recipe: path of a YAML recipe.
        report: hears every event; the command line draws its progress bar from these.
        **overrides: sections with fields to set otherwise, such as `optim={"epochs": 1}`.

    Raises:
        TunesmithError: anything that the user can mend, as one sentence.
    """
    return start_run(read_recipe(Path(recipe), overrides), report)


def start_run(recipe: Recipe, report: Report = silent) -> Run:
    """Make the run's folder, run the child in it, and note how it ended."""
    refuse_missing(recipe)
    folder = claim_folder(recipe)
    write_text(folder / "config.yaml", to_yaml(recipe))
    report({"kind": "folder", "folder": str(folder)})
    try:
        run_child(Job("finetune", {"folder": str(folder)}), folder / "child.log", report)
    except TunesmithError as error:
        to_folder(folder)({"kind": "failed", "sentence": str(error)})
        raise
    except KeyboardInterrupt:
        to_folder(folder)({"kind": "interrupted"})
        raise
    return Run(folder)


def refuse_missing(recipe: Recipe) -> None:
    """Find what the recipe names before anything is written: files, and the base model (downloaded here)."""
    for names in (recipe.data.train, recipe.data.validation, recipe.data.test):
        if not isinstance(names, int | float):
            for file in find_files(names):
                read_rows(file.path, name=file.name)
    resolve(recipe.model.base, recipe.model.revision)


def claim_folder(recipe: Recipe) -> Path:
    """The run's folder, made here: the recipe's name, or the next free one with a number."""
    parent = make_folder(Path(recipe.output.folder).expanduser(), "runs")
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


def load(name: str | Path, template: str | None = None) -> Any:
    """A model ready to answer: `tunesmith.load("runs/demo").generate("What time is breakfast?")`.

    Args:
        name: a run folder, a published model's folder, or a base model.
        template: name of a chat template, for a base model that has none.

    Returns:
        A `tunesmith.infer.chat.Chat`. torch is imported here, not before.
    """
    from tunesmith.infer.chat import Chat
    from tunesmith.infer.local import LocalEngine
    from tunesmith.model.publish import find_published

    published = find_published(str(name))
    contract = published.contract(template)
    return Chat(LocalEngine(published.load(), contract.stop_ids), contract)
