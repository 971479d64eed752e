"""What an objective computes of rows beforehand: once, kept in the run's folder, bound to what it was computed of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tunesmith.core.errors import TrainingError
from tunesmith.data.prepare import Prepared
from tunesmith.train.objective import Columns, Draw, Models, Objective
from tunesmith.train.planning.compiled import as_they_are
from tunesmith.train.planning.plan import Plan
from tunesmith.train.weights.ranks import ALONE, Ranks


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


def precomputed(
    objective: Objective, models: Models, rows: Sequence[Prepared], folder: Path, start: str, ranks: Ranks = ALONE
) -> Objective:
    """The objective whose `collate` is given what it computes beforehand; as it is where it computes nothing.

    Nothing is learned, and no random number of the run is drawn. The file is named by the start and the rows: another
    start, or other rows, have another one.

    Args:
        objective: what will be learned.
        models: that it asks, by the whole plan; the policy as training starts from it.
        rows: all that will ever be collated: training rows of every epoch, and validation rows.
        folder: the run's.
        start: what the policy starts from: a fingerprint of the base, and whatever was put on it.
        ranks: the processes that train together; each computes a share, unless all are needed for each row.

    Raises:
        TrainingError: a value is not finite.
    """
    if objective.precompute is None and objective.beside is None:
        return objective
    unique = list({row.key: row for row in rows}.values())
    if objective.beside is not None:
        wide = list(objective.beside(unique))
        objective = _arranged(objective, {row.key: other for row, other in zip(unique, wide, strict=True)})
        unique = wide
    if objective.precompute is None:
        return objective
    named = hashlib.sha256(start.encode() + b"".join(row.key for row in unique)).hexdigest()[:16]
    path = folder / f"columns-{named}.safetensors"
    if not ranks.gather(path.exists())[0]:
        found = _computed(objective, models, unique, ranks)
        if ranks.leads:
            temporary = folder / f".{path.name}.tmp"
            save_file({name: column.cpu().contiguous() for name, column in found.items()}, temporary)
            temporary.replace(path)
        ranks.wait()
    values = Precomputed({row.key: place for place, row in enumerate(unique)}, load_file(path))
    _refuse_not_finite(values.columns, unique)
    collate = objective.collate

    def with_values(rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns) -> Any:
        return collate(rows, plan, draw, values.of(rows))

    return replace(objective, collate=with_values)


def _arranged(objective: Objective, wide: dict[bytes, Prepared]) -> Objective:
    """The objective, each of whose steps is of rows with what stands beside them; rows of the same ids may differ in
    what people said of them."""
    arrange = objective.arrange

    def with_others(rows: Sequence[Prepared], draw: Draw) -> Sequence[Prepared]:
        return arrange([replace(row, others=wide[row.key].others) for row in rows], draw)

    return replace(objective, arrange=with_others)


def _computed(objective: Objective, models: Models, rows: Sequence[Prepared], ranks: Ranks) -> Columns:
    """The values of all rows, in every process."""
    assert objective.precompute is not None
    parted = ranks.count > 1 and models.plan.sharding == "none" and len(rows) >= ranks.count
    mine = range(ranks.rank, len(rows), ranks.count) if parted else range(len(rows))
    training = models.policy.training
    models.policy.eval()
    with torch.no_grad(), torch.random.fork_rng(), as_they_are():
        found = objective.precompute(models, [rows[place] for place in mine])
    models.policy.train(training)
    if not parted:
        return found
    whole = {name: column.new_zeros(len(rows), *column.shape[1:]).cpu() for name, column in found.items()}
    for name, column in found.items():
        whole[name][list(mine)] = column.cpu()
    summed = ranks.sum_vectors({name: column.double().numpy() for name, column in whole.items()})
    return {name: torch.from_numpy(summed[name]).to(column.dtype) for name, column in whole.items()}


def _refuse_not_finite(columns: Columns, rows: Sequence[Prepared]) -> None:
    """Refuse values that no loss survives.

    Raises:
        TrainingError: with the first row.
    """
    for name, column in columns.items():
        bad = (~column.reshape(len(rows), -1).isfinite().all(1)).nonzero()[:, 0]
        if len(bad):
            raise TrainingError(
                f"{rows[int(bad[0])].source}: what was computed of it before training ({name}) is not finite, as of "
                f"{len(bad)} of {len(rows)} rows. Set precision=fp32; if it stays, look at these rows."
            )
