"""The model that is trained, with its optimizer and schedule."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Mapping
from typing import Any

import torch

from tunesmith.core.errors import TrainingError
from tunesmith.model.methods.method import Method
from tunesmith.train.config import OptimConfig
from tunesmith.train.optimizers import ScheduleFree, kind_of, make_optimizers
from tunesmith.train.rates import parameter_groups
from tunesmith.train.schedules import schedule
from tunesmith.train.weights.average import Average, Ema, ScheduleFreeAverage
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
        groups: which of them learn how fast.
        optimizers: that update them, one after another.
        average: of the weights, where one is wanted: what is validated and exported.
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
        self._clip, self._peak = optim.clip, learning_rate
        self._factor = schedule(optim.scheduler, optim.warmup, steps)
        self.groups = parameter_groups(self.model, self.weights, optim, learning_rate, rate)
        groups = [
            {
                "params": [self.weights[name] for name in group.names],
                "lr": group.rate,
                "peak": group.rate,
                "weight_decay": group.weight_decay,
                "matrix": group.matrix,
            }
            for group in self.groups
        ]
        self.optimizers = make_optimizers(optim.optimizer, groups, placed.plan.sharding == "full")
        self.kind, self.optimizer_type = kind_of(optim.optimizer), optim.optimizer.type
        self.average: Average | None = None
        if isinstance(optim.optimizer, ScheduleFree):
            self.average = ScheduleFreeAverage(self.weights, self.optimizers[0])
        elif optim.ema:
            self.average = Ema(self.weights, optim.ema)
        self._set_rates()

    @property
    def threads(self) -> int:
        """That products are computed with; on a GPU they do not matter."""
        return torch.get_num_threads() if self.placed.plan.device == "cpu" else 1

    @property
    def learning_rate(self) -> float:
        """The run's rate at the next step; groups have factors of their own on it."""
        return self._peak * self._factor(self.step_number)

    def _set_rates(self) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * self._factor(self.step_number)

    def go_on_from(self, step: int) -> None:
        """Stand where the learner stood after `step` optimizer steps; weights and moments are set elsewhere."""
        self.step_number = step
        self._set_rates()

    def optimizer_of(self, weight: torch.nn.Parameter) -> torch.optim.Optimizer:
        """The optimizer that updates a weight."""
        groups = ((optimizer, group) for optimizer in self.optimizers for group in optimizer.param_groups)
        return next(optimizer for optimizer, group in groups if any(weight is one for one in group["params"]))

    def counted(self) -> dict[str, Any]:
        """What the optimizer counts beside the state of weights, by weight: groups may be others when it goes on."""
        counted: dict[str, dict[str, Any]] = {}
        if self.kind.counters:
            names = {id(weight): name for name, weight in self.weights.items()}
            for group in (group for one in self.optimizers for group in one.param_groups):
                values = {name: group[name] for name in self.kind.counters}
                counted |= {names[id(weight)]: values for weight in group["params"]}
        return {"type": self.optimizer_type, "counted": counted}

    def go_on_counting(self, counted: Mapping[str, Mapping[str, Any]]) -> None:
        """Count on from what `counted` gave; of weights that were in several groups, from the first one's."""
        names = {id(weight): name for name, weight in self.weights.items()}
        for group in (group for one in self.optimizers for group in one.param_groups):
            group.update(counted.get(names[id(group["params"][0])], {}))

    def forget_gradients(self) -> None:
        """Begin a step anew."""
        self.placed.forget_gradients()

    @contextlib.contextmanager
    def with_average(self) -> Generator[None]:
        """The model computes with the averaged weights, where there are any, while the block lasts."""
        if self.average is None:
            yield
            return
        with self.average.in_place():
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
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        total = torch.nn.utils.get_total_norm(gradients)
        norm = whole(total).item()
        if not math.isfinite(norm):
            raise TrainingError(
                f"step {self.step_number + 1}: the gradient is {norm}. Lower optim.learning_rate "
                "or set precision=fp32. The weights of the last checkpoint are intact."
            )
        if self._clip and norm > self._clip:
            torch.nn.utils.clip_grads_with_norm_(self.weights.values(), self._clip, total)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.method is not None:
            self.method.after_step(self.model, self.weights, self.step_number + 1)
        self.placed.weights_were_set()
        self.forget_gradients()
        self.go_on_from(self.step_number + 1)
        if self.average is not None:
            self.average.update(self.step_number)
        return norm

    def leave_out(self) -> float:
        """Count a step without an update, and return the norm of none."""
        self.forget_gradients()
        self.go_on_from(self.step_number + 1)
        return 0.0
