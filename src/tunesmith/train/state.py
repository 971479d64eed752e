"""What the loop remembers from one step to the next, beside weights and moments: saved in each checkpoint."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

WINDOW = 16  # losses that a spike is judged by
FEWEST = 8  # of them, before anything is judged
TIMES = 8.0  # as far above the median loss as losses usually are away from it: a spike
LEAST = 1.25  # and at least so many times the median loss
RISE = 0.25  # nats per token above it: the noise of a loss that is nearly nothing is no spike


@dataclass
class TrainerState:
    """Where a run stands.

    Attributes:
        losses: of the last steps, without spikes.
        best: the best validation value so far.
        best_step: the step at which it was.
        waited: validations since then.
        rollbacks: times that the run went back to a checkpoint.
        last_checkpoint: the step of the last one that was due; one that somebody's stop left does not count, or a run
            that was stopped would go back to another place than one that was not.
        early: whether waiting ended the run before its last step.
    """

    losses: list[float] = field(default_factory=list[float])
    best: float | None = None
    best_step: int | None = None
    waited: int = 0
    rollbacks: int = 0
    last_checkpoint: int | None = None
    early: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def spikes(self, loss: float) -> bool:
        """Whether a loss stands far out of the last ones: eight times their mean distance from their median."""
        if len(self.losses) < FEWEST:
            return False
        median = statistics.median(self.losses)
        spread = statistics.fmean(abs(one - median) for one in self.losses)
        return loss > max(median + TIMES * spread, LEAST * median, median + RISE)

    def note(self, loss: float) -> None:
        """Remember the loss of a step."""
        self.losses = [*self.losses, loss][-WINDOW:]

    def take_validation(self, value: float, step: int, higher_is_better: bool) -> bool:
        """Take in a validation value; whether it is the best so far."""
        sign = -1 if higher_is_better else 1
        if not math.isfinite(value) or (self.best is not None and sign * value >= sign * self.best):
            self.waited += 1
            return False
        self.best, self.best_step, self.waited = value, step, 0
        return True
