"""The model that is trained, with its optimizer and schedule."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator
from typing import Any

import torch

from tunesmith.core.errors import TrainingError
from tunesmith.model.methods.method import Method
from tunesmith.train.config import OptimConfig
from tunesmith.train.weights.eight_bit import AdamW8bit
from tunesmith.train.weights.ema import Ema
from tunesmith.train.weights.placed import Placed
from tunesmith.train.weights.shards import whole


class Learner:
    """A trainable model: forward passes in the plan's precision, backward, and the step.

    Attributes:
        placed: the model on its device, with its weights.
        model: the same, as losses ask it.
        weights: what is trained, by name, in fp32.
        ranks: the processes that train together.
        method: how the model was changed.
        step_number: optimizer steps taken.
        ema: the moving average of the weights, where one is wanted.
    """

    def __init__(
        self,
        placed: Placed,
        optim: OptimConfig,
        learning_rate: float,
        steps: int,
        method: Method | None = None,
        rate: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        """Nothing is learned yet.

        Args:
            placed: the model.
            optim: the recipe's section.
            learning_rate: the highest of the run.
            steps: of the whole run.
            method: whose hooks are called; none if absent.
            rate: the learning rate of a weight by its name, as a factor of the run's.
        """
        self.placed, self.method = placed, method
        self.model, self.weights, self.ranks = placed.model, placed.weights, placed.ranks
        self.step_number = 0
        self._clip = optim.clip
        self.ema = Ema(self.weights, optim.ema) if optim.ema else None
        groups = rate_groups(self.weights, optim.weight_decay, learning_rate, rate)
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
        return torch.get_num_threads() if self.placed.plan.device == "cpu" else 1

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self._schedule.get_last_lr()[0])

    def go_on_from(self, step: int) -> None:
        """Stand where the learner stood after `step` optimizer steps; weights and moments are set elsewhere."""
        self.step_number = step
        self._schedule.last_epoch = step
        for group, rate, factor in zip(
            self.optimizer.param_groups, self._schedule.base_lrs, self._schedule.lr_lambdas, strict=True
        ):
            group["lr"] = rate * factor(step)
        self._schedule._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    @contextlib.contextmanager
    def with_ema(self) -> Generator[None]:
        """The model computes with the averaged weights, where there are any, while the block lasts."""
        if self.ema is None:
            yield
            return
        with self.ema.in_place():
            self.placed.weights_were_set()
            yield
        self.placed.weights_were_set()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss`."""
        loss.backward()

    def step(self) -> float:
        """Update the weights and return the gradient norm before clipping.

        Raises:
            TrainingError: the gradient is not finite; the weights are as before.
        """
        if self.placed.plan.sharding == "none":
            self.ranks.sum_gradients(self.weights.values())
        limit = self._clip or math.inf
        norm = whole(torch.nn.utils.clip_grad_norm_(self.weights.values(), limit)).item()
        if not math.isfinite(norm):
            raise TrainingError(
                f"step {self.step_number + 1}: the gradient is {norm}. Lower optim.learning_rate "
                "or set precision=fp32. The weights of the last checkpoint are intact."
            )
        self.optimizer.step()
        if self.method is not None:
            self.method.after_step(self.model, self.weights, self.step_number + 1)
        self.placed.weights_were_set()
        self._schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step_number += 1
        if self.ema is not None:
            self.ema.update(self.step_number)
        return norm

    def leave_out(self) -> float:
        """Count a step without an update, and return the norm of none."""
        self.optimizer.zero_grad(set_to_none=True)
        self.go_on_from(self.step_number + 1)
        return 0.0


def rate_groups(
    weights: dict[str, torch.nn.Parameter], weight_decay: float, learning_rate: float, rate: Callable[[str], float]
) -> list[dict[str, Any]]:
    """Groups of one learning rate each, those with the run's own first, and of these by what decays."""
    factors = sorted({rate(name) for name in weights} or {1.0}, key=lambda factor: (factor != 1, factor))
    return [
        {**group, "lr": factor * learning_rate}
        for factor in factors
        for group in decay_groups({name: w for name, w in weights.items() if rate(name) == factor}, weight_decay)
    ]


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
