"""Before a run is a success: weights finite and changed, and the published folder, read back, computes the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.errors import TrainingError
from tunesmith.data.prepare import Prepared
from tunesmith.infer.engine import Sampling
from tunesmith.infer.local import LocalEngine
from tunesmith.model.methods import trainable
from tunesmith.model.publish import find_published
from tunesmith.prompt.contract import Contract

ROWS = 4  # training rows that are scored before and after publishing
CLOSE = 0.02  # largest relative difference of their losses: a merge, or another precision, may round


def refuse_unchanged(model: torch.nn.Module, changed: bool) -> None:
    """A run that changed nothing, or left weights that are not finite, has not succeeded.

    Raises:
        TrainingError: it has not.
    """
    if not changed:
        raise TrainingError("training changed no weight. Raise optim.learning_rate.")
    for name, weight in trainable(model).items():
        if not torch.isfinite(weight).all():
            raise TrainingError(
                f"training left weights that are not finite ({name}). Lower optim.learning_rate or set precision=fp32."
            )


def losses_of(model: Any, rows: Sequence[Prepared]) -> list[float]:
    """The summed loss of each of the first few rows."""
    scores = LocalEngine(model.eval(), ()).score([(row.ids.tolist(), row.mask.tolist()) for row in islice(rows, ROWS)])
    return [score.loss for score in scores]


def prove(
    folder: Path, contract: Contract, rows: Sequence[Prepared], wanted: Sequence[float], device: str = "auto"
) -> None:
    """Load what was published as anybody would, and let it compute and answer.

    Args:
        folder: the published model.
        contract: how it is prompted.
        rows: some that it was trained on.
        wanted: what `losses_of` gave for them before it was published.
        device: where it answers.

    Raises:
        TrainingError: it computes something else, or cannot answer.
    """
    published = find_published(str(folder))
    model = published.load(device)
    for row, before, after in zip(rows, wanted, losses_of(model, rows), strict=False):
        if not math.isclose(before, after, rel_tol=CLOSE, abs_tol=CLOSE * row.trained):
            raise TrainingError(
                f"{folder}: read back, the model has a loss of {after:.4g} on {row.source} where the trained one had "
                f"{before:.4g}. It is not what was trained; please report this."
            )
    if rows[0].row.content.kind == "chat":
        prompts = [row.ids[: max(1, int(row.mask.argmax()))].tolist() for row in islice(rows, ROWS)]
        answers = LocalEngine(model, contract.stop_ids).generate(prompts, Sampling(max_new_tokens=8))
        if not any(answer.ids for answer in answers):
            raise TrainingError(
                f"{folder}: read back, the model says nothing to any of {len(prompts)} training rows. Look at the "
                "answers that it was trained on, and at optim.learning_rate."
            )
