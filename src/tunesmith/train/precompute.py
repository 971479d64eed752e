"""What an objective computes of rows beforehand: once, kept in the run's folder, bound to what it was computed of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tunesmith.data.prepare import Prepared
from tunesmith.train.objective import Columns, Draw, Models, Objective
from tunesmith.train.planning.plan import Plan


@dataclass(frozen=True)
class Precomputed:
    """Values of rows, found by what the rows are: in whatever epoch, order or part they come.

    Attributes:
        places: of each row's values, by its key.
        columns: the values.
    """

    places: dict[bytes, int]
    columns: Columns

    def of(self, rows: Sequence[Prepared]) -> Columns:
        """The values of some of the rows, in their order."""
        places = [self.places[row.key] for row in rows]
        return {name: column[places] for name, column in self.columns.items()}


def precomputed(objective: Objective, models: Models, rows: Sequence[Prepared], folder: Path, base: str) -> Objective:
    """The objective whose `collate` is given what it computes beforehand; as it is where it computes nothing.

    Nothing is learned, and no random number of the run is drawn. The file is named by base and rows: another base, or
    other rows, have another one.

    Args:
        objective: what will be learned.
        models: that it asks; the policy as training starts from it.
        rows: all that will ever be collated: training rows of every epoch, and validation rows.
        folder: the run's.
        base: the fingerprint of the base model.
    """
    if objective.precompute is None:
        return objective
    unique = list({row.key: row for row in rows}.values())
    named = hashlib.sha256(base.encode() + b"".join(row.key for row in unique)).hexdigest()[:16]
    path = folder / f"columns-{named}.safetensors"
    if not path.exists():
        training = models.policy.training
        plain = replace(models, plan=replace(models.plan, packing=False, chunked=False, compiled=False))
        models.policy.eval()
        with torch.no_grad(), torch.random.fork_rng():
            found = objective.precompute(plain, unique)
        models.policy.train(training)
        temporary = folder / f".{path.name}.tmp"
        save_file({name: column.cpu().contiguous() for name, column in found.items()}, temporary)
        temporary.replace(path)
    values = Precomputed({row.key: place for place, row in enumerate(unique)}, load_file(path))
    collate = objective.collate

    def with_values(rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns) -> Any:
        return collate(rows, plan, draw, values.of(rows))

    return replace(objective, collate=with_values)
