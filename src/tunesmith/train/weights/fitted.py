"""A checkpoint's weights where rows with other words have come since: a table with other rows than the checkpoint's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.errors import TrainingError
from tunesmith.train.learner import Learner


def fitted(
    learner: Learner, state: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor], where: Path
) -> Mapping[str, Any]:
    """Saved weights as the learner's model has them, which has learned nothing yet if it has others.

    Args:
        learner: whose weights they become.
        state: what the method has kept beside them.
        saved: weights, or their average, by name.
        where: they come from.

    Raises:
        TrainingError: it has learned since it got others, so rows that were not saved are the base's no more.
    """
    if learner.method is None:
        return saved
    found = learner.method.fitted(learner.model, state, saved, learner.weights)
    if learner.step_number and any(found[name].shape != saved[name].shape for name in saved):
        raise TrainingError(
            f"{where}: the run cannot go back to it, since rows with other words came in after it. Resume the run with "
            "a lower optim.learning_rate, or with optim.spikes=skip."
        )
    return found
