"""What is made of a pair's log probabilities: each loss a small function in a table.

Axes: P pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid, relu

Losses = Callable[["Sides", Any], torch.Tensor]
Rewards = Callable[["Side", Any], torch.Tensor]


@dataclass(frozen=True)
class Side:
    """The chosen answers of some pairs, or the rejected ones, in double precision.

    Attributes:
        logprob_P: log probability of each, in nats.
        reference_P: the same by the model that training started from; zeros where there is no reference.
        tokens_P: how many tokens each has.
    """

    logprob_P: torch.Tensor
    reference_P: torch.Tensor
    tokens_P: torch.Tensor

    @property
    def ratio(self) -> torch.Tensor:
        """How much likelier each has become, in nats, (P,)."""
        return self.logprob_P - self.reference_P

    @property
    def mean(self) -> torch.Tensor:
        """The log probability of a token, on average, (P,)."""
        return self.logprob_P / self.tokens_P


@dataclass(frozen=True)
class Sides:
    """Both sides of some pairs."""

    chosen: Side
    rejected: Side

    @property
    def gap(self) -> torch.Tensor:
        """By how much more the chosen answer has become likelier than the rejected one, in nats, (P,)."""
        return self.chosen.ratio - self.rejected.ratio


def sigmoid(pairs: Sides, config: Any) -> torch.Tensor:
    """-log sigmoid(beta gap) (Rafailov et al., 2023, arXiv 2305.18290); with label smoothing cDPO (Mitchell, 2023).

    CPO's preference (Xu et al., 2024, arXiv 2401.08417) is the same without a reference.
    """
    scaled_P, noise = config.beta * pairs.gap, config.label_smoothing
    return -(1 - noise) * logsigmoid(scaled_P) - noise * logsigmoid(-scaled_P)


def hinge(pairs: Sides, config: Any) -> torch.Tensor:
    """max(0, 1 - beta gap) (SLiC; Zhao et al., 2023, arXiv 2305.10425), of log ratios as in RSO (Liu et al., 2023,
    arXiv 2309.06657)."""
    return relu(1 - config.beta * pairs.gap)


def ipo(pairs: Sides, config: Any) -> torch.Tensor:
    """(mean gap - 1 / (2 beta))^2 (Azar et al., 2023, arXiv 2310.12036), of log ratios for each token.

    The authors have said that their results are of this form, which does not hang on how long answers are.
    """
    chosen, rejected = pairs.chosen, pairs.rejected
    gap_P = chosen.ratio / chosen.tokens_P - rejected.ratio / rejected.tokens_P
    return (gap_P - 1 / (2 * config.beta)).square()


def robust(pairs: Sides, config: Any) -> torch.Tensor:
    """DPO whose mean over noisy pairs is that over true ones (Chowdhury et al., 2024, arXiv 2403.00409)."""
    scaled_P, noise = config.beta * pairs.gap, config.label_smoothing
    return (-(1 - noise) * logsigmoid(scaled_P) + noise * logsigmoid(-scaled_P)) / (1 - 2 * noise)


def simpo(pairs: Sides, config: Any) -> torch.Tensor:
    """-log sigmoid(beta mean gap - gamma) (Meng et al., 2024, arXiv 2405.14734)."""
    return -logsigmoid(config.beta * (pairs.chosen.mean - pairs.rejected.mean) - config.gamma)


def orpo(pairs: Sides, config: Any) -> torch.Tensor:
    """-weight log sigmoid(log odds ratio) (Hong et al., 2024, arXiv 2403.07691), of mean log probabilities."""
    return -config.weight * logsigmoid(log_odds(pairs.chosen.mean) - log_odds(pairs.rejected.mean))


def log_odds(mean_P: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) of log p, which is below zero."""
    mean_P = mean_P.clamp(max=-1e-12)  # of a token that is certain there are no odds
    return mean_P - torch.log(-torch.expm1(mean_P))


def by_ratio(side: Side, config: Any) -> torch.Tensor:
    """beta x log ratio; without a reference beta x log probability."""
    return config.beta * side.ratio


def by_mean(side: Side, config: Any) -> torch.Tensor:
    """beta, or ORPO's weight, x mean log probability."""
    return getattr(config, "beta", getattr(config, "weight", 1.0)) * side.mean


@dataclass(frozen=True)
class PairLoss:
    """A way to learn from pairs.

    Attributes:
        losses: of each pair.
        rewards: what people watch of each side.
        reference: whether answers are held against the model that training started from.
        rate: usual learning rate, as a multiple of the method's.
    """

    losses: Losses
    rewards: Rewards = by_ratio
    reference: bool = True
    rate: float = 0.1


DPO: dict[str, PairLoss] = {
    "sigmoid": PairLoss(sigmoid), "hinge": PairLoss(hinge), "ipo": PairLoss(ipo), "robust": PairLoss(robust),
}  # fmt: skip
WITHOUT: dict[str, PairLoss] = {  # a reference
    "simpo": PairLoss(simpo, by_mean, reference=False, rate=0.05),
    "orpo": PairLoss(orpo, by_mean, reference=False, rate=0.4),
    "cpo": PairLoss(sigmoid, by_ratio, reference=False),
}  # fmt: skip


def pair_loss(config: Any) -> PairLoss:
    """What a recipe's section says is made of pairs."""
    return WITHOUT[config.type] if config.type in WITHOUT else DPO[config.loss]
