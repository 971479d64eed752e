"""A model on its device, as it will be trained: whole or in parts, with fp32 masters where it computes in bf16."""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.model.dropout import seed_dropout
from tunesmith.model.layers import layers_of
from tunesmith.model.methods.method import trainable
from tunesmith.model.outline import Sources
from tunesmith.train.planning.plan import Plan
from tunesmith.train.weights.master import Masters
from tunesmith.train.weights.ranks import ALONE, Ranks
from tunesmith.train.weights.shards import forget_gathered, shard


class Placed:
    """A model with its trained weights, before anything is learned: what the planner looks at.

    Attributes:
        model: as the method left it; in bf16 its frozen weights are rounded, and its trained ones are rounded copies of
            `weights`, or put together from them in bf16 where each process holds a part.
        weights: what is trained, by name, in fp32.
        ranks: the processes that train together.
        plan: device, precision and sharding are decided; all else may not be yet.
        keeps_gradients: whether their tensors stay the same from step to step.
    """

    def __init__(self, model: Any, plan: Plan, ranks: Ranks = ALONE, sources: Sources | None = None) -> None:
        """Bring the model to its device, whole or this process's part of it.

        Args:
            model: as the method left it.
            plan: device, precision, sharding.
            ranks: the processes that train together.
            sources: where the values of weights lie that have none themselves (see `outline`).
        """
        if plan.device == "cpu":
            seed_dropout(model)
        if plan.sharding == "full":
            shard(model, layers_of(model), ranks, plan.precision, sources or {})
        self.model = model if plan.sharding == "full" else model.to(plan.device)
        self.plan, self.ranks, self.keeps_gradients = plan, ranks, False
        self._masters = None
        if plan.precision == "bf16" and plan.sharding == "none":
            for weight in model.parameters():
                if not weight.requires_grad and weight.is_floating_point():  # quantised ones are none
                    weight.data = weight.data.to(torch.bfloat16)
            self._masters = Masters(trainable(model))
        self.weights: dict[str, torch.nn.Parameter] = (
            trainable(model) if self._masters is None else self._masters.weights
        )

    def forget_gradients(self) -> None:
        """Begin a step anew; where recorded kernels add to gradients, these stay where they are."""
        for weight in self.weights.values():
            if not self.keeps_gradients or weight.grad is None:
                weight.grad = None
            else:
                weight.grad.zero_()

    def weights_were_set(self) -> None:
        """Let the model compute with `weights` after they were changed by other means than a step."""
        if self._masters is not None:
            self._masters.copy_to_model()
        forget_gathered(self.model)
