"""The card that lies beside every exported model: `tunesmith.json`, enough to trace it and to make it again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import EVENTS
from tunesmith.core.files import read_lines, read_object, sha256_of
from tunesmith.data.config import DataConfig
from tunesmith.data.source import SourceFile, find_files
from tunesmith.data.split import Splits
from tunesmith.model.layout import CARD, WEIGHTS, adapter_folder
from tunesmith.model.load import read_config
from tunesmith.prompt.base import Base
from tunesmith.prompt.bases.record import RECORD, read_source
from tunesmith.prompt.contract import Contract
from tunesmith.train.objectives.table import objective_for
from tunesmith.train.planning.plan import Plan
from tunesmith.train.recipe import Recipe

OF_ITS_OWN = ("reasons", "versions")  # of the plan: for people, and under a key of its own


def make_card(
    recipe: Recipe, base: Base, contract: Contract, splits: Splits, plan: Plan, steps: int, folder: Path
) -> dict[str, Any]:
    """What `tunesmith.json` says.

    Args:
        recipe: of the run.
        base: what the run starts from; its own card, if it has one, is in `parent`.
        contract: how the model was trained to be prompted.
        splits: the rows; `data` is about the training part.
        plan: how the run used the machine.
        steps: optimizer steps taken.
        folder: the run's; its ledger.json was written when the rows were read.
    """
    sha256 = base.fingerprint()
    return {
        "base": {"name": base.name, "commit": base.commit, "sha256": sha256, **_unpacked_from(base)},
        "parent": _origin(recipe.model.base, base.folder, sha256),
        "continue_from": _start(recipe),
        "method": recipe.method.model_dump(mode="json"),
        "task": objective_for(recipe.objective, read_config(base.folder)).task,
        "new_tokens": list(recipe.model.add_tokens),
        "facts": splits.train.dataset.facts,
        "contract": {
            "id": contract.id,
            "train_on": contract.train_on,
            "stop_ids": list(contract.stop_ids),
            "prefix": contract.prefix,
        },
        "asked_with": splits.around.to_card() if splits.around else None,
        "data": {
            "id": splits.train.dataset.id,
            "rows": len(splits.train),
            "files": _files(recipe.data, splits, (folder / "ledger.json").stat().st_mtime),
        },
        "replay": splits.replay.to_json() if splits.replay else None,
        "seed": recipe.seed,
        "steps": steps,
        "versions": plan.versions,
        "plan": {name: value for name, value in plan.to_json().items() if name not in OF_ITS_OWN},
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "directory": str(Path.cwd()),
        "resumed": _resumed(folder),
        "recipe": recipe.model_dump(mode="json"),
    }


def _unpacked_from(base: Base) -> dict[str, Any]:
    """The hash of the GGUF file that a base was unpacked from, and by what; nothing of another."""
    found = read_source(base.folder / RECORD)
    return {"gguf": {"sha256": found.sha256, "versions": found.versions}} if found else {}


def _resumed(folder: Path) -> list[dict[str, Any]]:
    """What was another when the run went on after a stop: it cannot be made again in one go."""
    return [
        {name: event.get(name, []) for name in ("step", "changes", "inexact")}
        for event in read_lines(folder / EVENTS)
        if event["kind"] == "resumed" and (event.get("changes") or event.get("inexact"))
    ]


def _origin(name: str, folder: Path, sha256: str) -> dict[str, Any] | None:
    """A model that the run starts from, with its card; None for one that was not exported by tunesmith."""
    path = folder / CARD
    return {"name": name, "sha256": sha256, "card": read_object(path)} if path.exists() else None


def _start(recipe: Recipe) -> dict[str, Any] | None:
    """The adapter that training went on from; None if it began with a fresh one, or with none."""
    name = getattr(recipe.method, "continue_from", None)
    if name is None:
        return None
    folder = adapter_folder(name)
    sha256 = sha256_of(folder / WEIGHTS)
    return _origin(name, folder, sha256) or {"name": name, "sha256": sha256, "card": None}


def _files(config: DataConfig, splits: Splits, read_at: float) -> list[dict[str, Any]]:
    """Each file with its hash and the counts of its ledger.

    A file that was changed after it was read (Unix time `read_at`) has no hash: it is not what was trained on.
    """
    paths = {file.name: file.path for file in named_files(config)}
    found: list[dict[str, Any]] = []
    for ledger in splits.ledgers:
        path = paths.get(ledger.file)
        known = path is not None and path.exists() and path.stat().st_ctime <= read_at
        counts = {"read": 0, "kept": 0, **ledger.counts()}
        found.append({"file": ledger.file, "sha256": sha256_of(path) if path and known else None, **counts})
    return found


def named_files(config: DataConfig) -> Iterator[SourceFile]:
    """The files that a recipe's data section names, as far as they are found."""
    for names in (config.train, config.validation, config.test):
        if not isinstance(names, int | float):
            try:
                yield from find_files(names)
            except TunesmithError:  # gone since it was read
                continue
