"""The model that is trained, with its optimizer and schedule."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator
from typing import Any

import torch

from tunesmith.core.errors import TrainingError
from tunesmith.model.methods import trainable
from tunesmith.model.outline import Sources
from tunesmith.train.average import Average
from tunesmith.train.compiled import layers_of
from tunesmith.train.config import OptimConfig
from tunesmith.train.eight_bit import AdamW8bit
from tunesmith.train.master import Masters
from tunesmith.train.plan import Plan
from tunesmith.train.ranks import ALONE, Ranks
from tunesmith.train.shards import forget_gathered, shard, whole
from tunesmith.train.terms import total_units


class Policy:
    """A trainable model: forward passes in the plan's precision, backward, and the step.

    Attributes:
        model: as the method left it; in bf16 its trained weights are rounded copies of `weights`, or put together
            from them in bf16 where each process holds a part.
        weights: what is trained, by name, in fp32.
        step_number: optimizer steps taken.
        average: the moving average of the weights, where one is wanted.
        ranks: the processes that train together.
    """

    def __init__(
        self,
        model: Any,
        optim: OptimConfig,
        learning_rate: float,
        steps: int,
        plan: Plan,
        ranks: Ranks = ALONE,
        sources: Sources | None = None,
    ) -> None:
        """Bring the model to its device, whole or this process's part of it.

        Args:
            model: as the method left it.
            optim: the recipe's section.
            learning_rate: the highest of the run.
            steps: of the whole run.
            plan: device, precision, sharding.
            ranks: the processes that train together.
            sources: where the values of weights lie that have none themselves (see `load_outline`).
        """
        if plan.sharding == "full":
            shard(model, layers_of(model), ranks, plan.precision, sources or {})
        self.model = model if plan.sharding == "full" else model.to(plan.device)
        self.step_number = 0
        self.ranks = ranks
        self._clip = optim.clip
        self._plan = plan
        self._masters = None
        if plan.precision == "bf16" and plan.sharding == "none":
            self._masters = Masters(trainable(model))
        self.weights = trainable(model) if self._masters is None else self._masters.weights
        self.average = Average(self.weights, optim.ema) if optim.ema else None
        groups = decay_groups(self.weights, optim.weight_decay)
        self.optimizer = (
            torch.optim.AdamW(groups, lr=learning_rate, betas=optim.betas, fused=True)
            if optim.name == "adamw"
            else AdamW8bit(groups, learning_rate, optim.betas)
        )
        factor = schedule(optim.scheduler, optim.warmup, steps)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    @property
    def threads(self) -> int:
        """That products are computed with; on a GPU they do not matter."""
        return torch.get_num_threads() if self._plan.device == "cpu" else 1

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self._schedule.get_last_lr()[0])

    def go_on_from(self, step: int) -> None:
        """Stand where the policy stood after `step` optimizer steps; weights and moments are set elsewhere."""
        self.step_number = step
        self._schedule.last_epoch = step
        for group, rate, factor in zip(
            self.optimizer.param_groups, self._schedule.base_lrs, self._schedule.lr_lambdas, strict=True
        ):
            group["lr"] = rate * factor(step)
        self._schedule._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def weights_were_set(self) -> None:
        """Let the model compute with `weights` after they were changed by other means than a step."""
        if self._masters is not None:
            self._masters.copy_to_model()
        forget_gathered(self.model)

    @contextlib.contextmanager
    def averaged(self) -> Generator[None]:
        """The model computes with the averaged weights, where there are any, while the block lasts."""
        if self.average is None:
            yield
            return
        with self.average.in_place():
            self.weights_were_set()
            yield
        self.weights_were_set()

    def sum_over_ranks(self, units: list[dict[str, int]]) -> dict[str, float]:
        """Units of the whole step: summed over its micro-batches and over the processes."""
        return self.ranks.sum(total_units(units))

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss`."""
        loss.backward()

    def step(self) -> float:
        """Update the weights and return the gradient norm before clipping.

        Raises:
            TrainingError: the gradient is not finite; the weights are as before.
        """
        if self._plan.sharding == "none":
            self.ranks.sum_gradients(self.weights.values())
        limit = self._clip or math.inf
        norm = whole(torch.nn.utils.clip_grad_norm_(self.weights.values(), limit)).item()
        if not math.isfinite(norm):
            raise TrainingError(
                f"step {self.step_number + 1}: the gradient is {norm}. Lower optim.learning_rate "
                "or set precision=fp32. The weights of the last checkpoint are intact."
            )
        self.optimizer.step()
        self.weights_were_set()
        self._schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step_number += 1
        if self.average is not None:
            self.average.update(self.step_number)
        return norm

    def leave_out(self) -> float:
        """Count a step without an update, and return the norm of none."""
        self.optimizer.zero_grad(set_to_none=True)
        self.go_on_from(self.step_number + 1)
        return 0.0


def decay_groups(weights: dict[str, torch.nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases (one axis) do not."""
    return [
        {"params": [w for w in weights.values() if w.ndim >= 2], "weight_decay": weight_decay},
        {"params": [w for w in weights.values() if w.ndim < 2], "weight_decay": 0.0},
    ]


def schedule(kind: str, warmup: float, steps: int) -> Callable[[int], float]:
    """The factor on the peak learning rate for each step, counted from 0.

    The warm-up rises in a line; the fall reaches zero just after the last step.
    """
    rise = int(warmup) if warmup >= 1 else math.ceil(warmup * steps)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        done = (step - rise) / max(1, steps - rise)
        if kind == "linear":
            return max(0.0, 1 - done)
        if kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return 1.0

    return factor
