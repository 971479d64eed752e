"""PPO: a policy that learns token by token how much better than expected an answer went.

Schulman et al., 2017, arXiv 1707.06347, as it is used on language models: Stiennon et al., 2020, arXiv 2009.01325;
Ouyang et al., 2022, arXiv 2203.02155. Each token costs what it moves the policy from the start; the score comes with
the last one. The value is a head beside the output layer, on the same body (the value model of its own that some have
would double the memory). Left out: a bonus for entropy, the mix of pretraining gradients (PPO-ptx).

Axes: S answers, N tokens of all of them, T tokens of one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from tunesmith.model.value_head import values
from tunesmith.train.logprobs import logprobs_and_hidden
from tunesmith.train.objective import Loss, Models, Objective, Term
from tunesmith.train.objectives.advantages import adapted, generalised_advantages, whitened
from tunesmith.train.objectives.policy import PolicyBatch, clipped, given, needs_of, rewarded, told_of
from tunesmith.train.rollouts import Collected, Rollouts


def seen(models: Models, batch: PolicyBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The log probability of each token and what was expected before it was drawn, (N,) each."""
    logprob_N, hidden_ND = logprobs_and_hidden(models, batch.answers.batch, temperature)
    return logprob_N, values(models.policy, hidden_ND)


def look(models: Models, batch: PolicyBatch, temperature: float) -> dict[str, torch.Tensor]:
    """Both, as the policy gives them when it has drawn."""
    logprob_N, value_N = seen(models, batch, temperature)
    return {"old": logprob_N, "value": value_N}


def learn(collected: Collected, beta: float, config: Any) -> dict[str, list[np.ndarray]]:
    """Advantages and returns of each token: of rewards less the KL penalty, by GAE, whitened over the step."""
    views, known = collected.views, np.flatnonzero(~np.isnan(collected.reward_S))
    rewards: list[np.ndarray] = []
    for sample in known:
        old_T = views["old"][sample].astype(np.float64)
        moved_T = old_T - views["reference"][sample] if "reference" in views else np.zeros_like(old_T)
        rewards.append(-beta * moved_T)
        rewards[-1][-1] += collected.reward_S[sample]
    if config.whiten_rewards:
        rewards = whitened(rewards, keep_mean=True)
    expected = [views["value"][sample].astype(np.float64) for sample in known]
    way = (config.value.gamma, config.value.lam)
    advantages = [generalised_advantages(one, value, *way) for one, value in zip(rewards, expected, strict=True)]
    nothing = [np.full(row.trained, np.nan, np.float32) for row in collected.rows]
    found = {"advantage": list(nothing), "return": list(nothing)}
    whole = whitened(advantages)
    for place, sample in enumerate(known):
        found["advantage"][sample] = whole[place].astype(np.float32)
        found["return"][sample] = (advantages[place] + expected[place]).astype(np.float32)
    return found


def ppo_loss(models: Models, batch: PolicyBatch, whole: None, config: Any) -> Loss:
    """Summed losses of the policy and of the values, of each token."""
    logprob_N, value_N = seen(models, batch, config.sampling.temperature)
    zeros_N = torch.zeros_like(logprob_N)
    log_ratio_N = logprob_N - given(batch, "old", logprob_N.detach())
    loss_N, bound_N = clipped(log_ratio_N, given(batch, "advantage", zeros_N), config.clip, config.clip)
    before_N, return_N = given(batch, "value", value_N.detach()), given(batch, "return", zeros_N)
    total = value_losses(value_N, before_N, return_N, config.value.clip).double().sum()
    counts = {**told_of(batch, logprob_N, log_ratio_N.detach()), "bound": bound_N.sum()}
    return Loss([Term("policy", loss_N.double().sum(), "tokens"),
                 Term("value", config.value.weight * total, "tokens")], counts)  # fmt: skip


def value_losses(
    value_N: torch.Tensor, before_N: torch.Tensor, return_N: torch.Tensor, clip: float
) -> torch.Tensor:  # fmt: skip
    """Half the squared error of each value, or of the value held near what it was, whichever is more."""
    held_N = before_N + (value_N - before_N).clamp(-clip, clip)
    return 0.5 * torch.max((value_N - return_N).square(), (held_N - return_N).square())


def make_ppo(config: Any) -> Objective:
    """PPO, as a recipe's section says."""
    temperature = config.sampling.temperature
    rollouts = Rollouts(
        config,
        needs_of(config, values=True),
        partial(look, temperature=temperature),
        partial(learn, config=config),
        (lambda beta, kl: beta) if config.target_kl is None else partial(adapted, target=config.target_kl),
    )
    return rewarded("ppo", partial(ppo_loss, config=config), rollouts)


def needs_value(objective: Objective) -> bool:
    """Whether the model is given a value head."""
    rollouts = objective.rollouts
    return rollouts is not None and "value" in rollouts.needs
