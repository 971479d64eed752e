"""Runs as their folders tell them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tunesmith.core.errors import MissingError
from tunesmith.core.events import METRICS, read_events
from tunesmith.core.files import read_json, read_lines

ENDINGS = {"finished": "succeeded", "failed": "failed", "interrupted": "interrupted", "stopped": "stopped"}
UNTIL = ("trained", "exported", "evaluated")  # how far a run can be asked to go


@dataclass(frozen=True)
class RunSummary:
    """One run at a glance.

    Attributes:
        folder: where it is.
        status: `succeeded`, `failed`, `stopped` (with a checkpoint), `interrupted`, `unfinished` (running, or
            killed), or `trained` or `exported` where it was to go no further.
        base: the base model's name.
        method: the method's name.
        steps: optimizer steps taken, and how many were planned.
        loss: of the last step, or None before the first.
        reward: the last one of a run that learns from rewards, or None.
        scores: the comparison with the base model.
        recipe: the whole recipe.
        trouble: the sentence of a failure, and warnings.
    """

    folder: Path
    status: str
    base: str
    method: str
    steps: tuple[int, int]
    loss: float | None
    reward: float | None
    scores: list[dict[str, Any]]
    recipe: dict[str, Any]
    trouble: list[str]


def list_runs(parent: Path) -> list[RunSummary]:
    """Every run below `parent`, the latest last."""
    folders = sorted(parent.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime)
    return [read_run(path.parent) for path in folders if is_run(path.parent)]


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's: its config.yaml is a recipe."""
    try:
        recipe = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(recipe, dict) and {"model", "method", "data", "optim"} <= recipe.keys()


def read_run(folder: Path) -> RunSummary:
    """The run in `folder`.

    Raises:
        MissingError: it is no run folder.
    """
    if not is_run(folder):
        raise MissingError(f"{folder}: not a run folder (no recipe in config.yaml). `tunesmith runs` lists the runs.")
    recipe = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    events, steps = read_events(folder), read_lines(folder / METRICS)
    report = folder / "report" / "report.json"
    last = events[-1] if events else {"kind": ""}
    return RunSummary(
        folder=folder,
        status=last["until"] if last["kind"] == "ended" else ENDINGS.get(last["kind"], "unfinished"),
        base=recipe["model"]["base"],
        method=recipe["method"]["type"],
        steps=(steps[-1]["step"], steps[-1]["steps"]) if steps else (0, 0),
        loss=steps[-1]["loss"] if steps else None,
        reward=next((step["reward"] for step in reversed(steps) if "reward" in step), None),
        scores=read_json(report)["scores"] if report.exists() else [],
        recipe=recipe,
        trouble=[event["sentence"] for event in events if event["kind"] in ("failed", "warning")],
    )
