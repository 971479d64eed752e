"""The index of runs in the records: made from the run folders, which stay the truth, and made again at any time."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_object
from tunesmith.model.layout import CARD
from tunesmith.registry.runs import list_runs
from tunesmith.store.records import Records
from tunesmith.store.schema import runs


@dataclass(frozen=True)
class IndexedRun:
    """A run as the index has it; what its model's card says is None where it has no model.

    Attributes:
        folder, name, status, base, method, step, steps, loss, scores: as `read_run` finds them.
        dataset: the id of what it was trained on.
        base_sha256: of the base model.
        parent: name and hash of the tuned model that it started from, if it was one.
        changed: Unix time of its config.yaml.
    """

    folder: str
    name: str
    status: str
    base: str
    method: str
    step: int
    steps: int
    loss: float | None
    scores: list[dict[str, Any]]
    dataset: str | None
    base_sha256: str | None
    parent: dict[str, Any] | None
    changed: float


def rebuild(records: Records, parent: Path) -> list[IndexedRun]:
    """Index every run below `parent`; what the index had there before is forgotten."""
    parent = parent.resolve()
    found = [_indexed(run) for run in list_runs(parent)]
    with records.write() as connection:
        connection.execute(delete(runs).where(runs.c.folder.startswith(f"{parent}/", autoescape=True)))
        if found:
            connection.execute(insert(runs), [vars(run) for run in found])
    return found


def indexed_runs(records: Records) -> list[IndexedRun]:
    """What the index has, the latest last."""
    with records.read() as connection:
        return [IndexedRun(**row._mapping) for row in connection.execute(select(runs).order_by(runs.c.changed))]


def _indexed(run: Any) -> IndexedRun:
    card: dict[str, Any] = {}
    with contextlib.suppress(TunesmithError):  # it has no model, or somebody has edited its card: the run is there
        card = read_object(run.folder / "model" / CARD)
    origin = card.get("parent")
    return IndexedRun(
        folder=str(run.folder),
        name=run.folder.name,
        status=run.status,
        base=run.base,
        method=run.method,
        step=run.steps[0],
        steps=run.steps[1],
        loss=run.loss,
        scores=run.scores,
        dataset=card.get("data", {}).get("id"),
        base_sha256=card.get("base", {}).get("sha256"),
        parent=origin and {"name": origin["name"], "sha256": origin["sha256"]},
        changed=(run.folder / "config.yaml").stat().st_mtime,
    )
