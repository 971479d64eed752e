"""AdaLoRA: an addition P diag(E) Q to each linear layer, whose ranks are given to the layers that need them.

Zhang et al., 2023, arXiv 2303.10512. P and Q are kept near orthonormal by a penalty. The importance of a direction is
that of its entries: a moving average of |weight x gradient| times a moving average of how much that varies. Between two
points of the run the budget falls, by a cubic schedule, from the first rank to the last; of all layers' directions the
least important have their E set to zero, and may come back while the budget falls.

All of it is done on the fp32 weights with the gradients of whole steps, and what it remembers is in the checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import model_validator

from tunesmith.core.config import Section, option
from tunesmith.model.methods.added import CONTINUE_FROM, TARGETS, TRAIN_ALSO, Targets, add, has_turned_weights
from tunesmith.model.methods.method import Method, State, Tensors

A, B, E = ".lora_A.", ".lora_B.", ".lora_E."


class AdaloraConfig(Section):
    """Train low-rank additions whose ranks move to the layers that need them (Zhang et al., 2023)."""

    type: Literal["adalora"] = "adalora"
    first_rank: int = option(12, "Rank of each addition at first.", "1.5 times the last one.", ge=1)
    rank: int = option(8, "Rank of each addition in the end, on average.", ge=1)
    alpha: float = option(32.0, "Scale: the addition is multiplied by alpha / first_rank.", gt=0)
    dropout: float = option(0.0, "Dropout on the input of each addition.", ge=0, lt=1)
    warmup: float = option(0.1, "Share of the steps before the budget falls.", ge=0, lt=1)
    settle: float = option(0.3, "Share of the steps after it has fallen.", ge=0, lt=1)
    every: int = option(1, "Steps between two choices.", "1 to 10; rarely in long runs.", ge=1)
    smoothing: float = option(0.85, "Of both moving averages.", gt=0, lt=1)
    orthogonality: float = option(0.5, "Weight of the penalty.", ge=0)
    targets: Targets = TARGETS
    train_also: list[str] = TRAIN_ALSO
    continue_from: str | None = CONTINUE_FROM

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.rank > self.first_rank:
            raise ValueError("rank is what first_rank falls to: it cannot be the larger one")
        if self.warmup + self.settle >= 1:
            raise ValueError("warmup and settle are shares of the run: together they must be less than 1")
        return self


@dataclass
class Budget:
    """How many directions there may be at each step, and what is known of their importance.

    Attributes:
        config: the recipe's section.
        steps: of the run.
        importance: moving average of |weight x gradient|, by the weight's name.
        variation: moving average of how far that is from its average.
    """

    config: AdaloraConfig
    steps: int
    importance: dict[str, Any] = field(default_factory=dict[str, Any])
    variation: dict[str, Any] = field(default_factory=dict[str, Any])

    def at(self, step: int, layers: int) -> int | None:
        """Directions of all layers together after this step (from 1); None where nothing is to be chosen."""
        config = self.config
        first, last = config.first_rank * layers, config.rank * layers
        begin, end = math.ceil(config.warmup * self.steps), self.steps - math.ceil(config.settle * self.steps)
        if step <= begin:
            return None
        if step > end:
            return last
        if step % config.every:
            return None
        return int(last + (first - last) * (1 - (step - begin) / (end - begin)) ** 3)

    def settled(self, step: int) -> bool:
        """Whether importance is no longer measured."""
        return step >= self.steps - math.ceil(self.config.settle * self.steps)

    def measure(self, weights: Mapping[str, Any]) -> None:
        """Take the gradients of a step into account."""
        import torch

        smoothing = self.config.smoothing
        for name, weight in _additions(weights).items():
            now = (weight * weight.grad).abs().detach()
            before = self.importance.get(name, torch.zeros_like(now))
            self.importance[name] = smoothing * before + (1 - smoothing) * now
            off = (now - self.importance[name]).abs()
            varied = self.variation.get(name, torch.zeros_like(now))
            self.variation[name] = smoothing * varied + (1 - smoothing) * off

    def choose(self, weights: Mapping[str, Any], directions: int) -> None:
        """Set E to zero in all but so many directions."""
        import torch

        def scores(name: str) -> Any:
            return self.importance[name] * self.variation[name]

        found = {
            name: scores(name).view(-1)
            + scores(name.replace(E, A)).mean(1)
            + scores(name.replace(E, B)).mean(0)
            for name in weights if E in name
        }  # fmt: skip
        every = torch.cat(list(found.values()))
        if directions >= len(every):
            return
        least = every.kthvalue(len(every) - directions).values
        with torch.no_grad():
            for name, score_R in found.items():
                weights[name].masked_fill_((score_R <= least)[:, None], 0.0)


def _additions(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {name: weight for name, weight in weights.items() if A in name or B in name or E in name}


def apply(model: Any, config: AdaloraConfig) -> Any:
    """The model with P, E and Q beside its layers, E starting at zero."""
    from peft import AdaLoraConfig as PeftAdalora

    def make(common: dict[str, Any]) -> Any:
        return PeftAdalora(
            init_r=config.first_rank,
            target_r=config.rank,
            lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]  peft takes any number
            lora_dropout=config.dropout,
            total_step=1,  # the schedule is ours
            fan_in_fan_out=has_turned_weights(model),
            **common,
        )

    same = {"first_rank": "init_r", "rank": "target_r", "alpha": "lora_alpha"}
    changed = add(model, config, "AdaLoRA", make, same, "lora_dropout")
    for name, weight in changed.named_parameters():
        if ".ranknum." in name:  # a count, which peft lets train where the base is in bf16
            weight.requires_grad_(False)
    changed._budget = Budget(config, 0)
    return changed


def prepare(model: Any, config: AdaloraConfig, rows: Sequence[Any], steps: int) -> None:
    """The schedule is that of the run."""
    model._budget.steps = steps


def extra_loss(model: Any, weights: Mapping[str, Any]) -> Any:
    """How far P and Q are from orthonormal: Frobenius norms, on average."""
    import torch

    norms = []
    for name, weight in weights.items():
        if A in name or B in name:
            square_RR = weight @ weight.T if A in name else weight.T @ weight
            norms.append((square_RR - torch.eye(len(square_RR), device=weight.device)).norm())
    return model._budget.config.orthogonality * torch.stack(norms).mean()


def after_step(model: Any, weights: Mapping[str, Any], step: int) -> None:
    """Measure importance, and choose the directions that stay."""
    budget = model._budget
    if not budget.settled(step):
        budget.measure(weights)
    directions = budget.at(step, sum(E in name for name in weights))
    if directions is not None and budget.importance:
        budget.choose(weights, directions)


def state(model: Any) -> State:
    """What is known of importance."""
    kinds = {"importance": model._budget.importance, "variation": model._budget.variation}
    return {f"{kind} {name}": tensor for kind, known in kinds.items() for name, tensor in known.items()}, {}


def restore(model: Any, tensors: Tensors, values: Mapping[str, Any]) -> None:
    """Know that again."""
    budget = model._budget
    device = next(model.parameters()).device
    for kind, known in (("importance ", budget.importance), ("variation ", budget.variation)):
        known.clear()
        known.update({
            key.removeprefix(kind): tensor.to(device) for key, tensor in tensors.items() if key.startswith(kind)
        })  # fmt: skip


ADALORA = Method(
    AdaloraConfig,
    apply,
    learning_rate=1e-3,
    can=frozenset({"base_untouched", "merge", "continue", "quantize"}),
    prepare=prepare,
    extra_loss=extra_loss,
    after_step=after_step,
    state=state,
    restore=restore,
    label="AdaLoRA",
    source="Zhang et al., 2023, arXiv 2303.10512",
    whole=lambda config: True,
)
