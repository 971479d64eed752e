"""Learning from rewards of a model's own answers, without a value model: GRPO and its kin, RLOO.

GRPO: Shao et al., 2024, arXiv 2402.03300, with outcome rewards. Dr. GRPO: Liu et al., 2025, arXiv 2503.20783. DAPO: Yu
et al., 2025, arXiv 2503.14476, without its dynamic sampling. GSPO: Zheng et al., 2025, arXiv 2507.18071. RLOO: Ahmadian
et al., 2024, arXiv 2402.14740. Left out: rewards of steps within an answer, corrections for answers that another engine
has drawn (here the same weights draw and learn), a bonus for entropy.

Axes: S answers, N tokens of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from tunesmith.data.prepare import Prepared
from tunesmith.model.device import sent
from tunesmith.train.logprobs import logprobs_at_trained
from tunesmith.train.objective import Columns, Draw, Loss, Models, Objective, Term
from tunesmith.train.objectives.advantages import group_advantages, leave_one_out
from tunesmith.train.objectives.answered import Answers, answers_of, check_of
from tunesmith.train.planning.plan import Plan
from tunesmith.train.rollouts import LEFT_OUT, Collected, Rollouts, View

READS = frozenset({"reinforcement", "chat", "preference"})
CLIP = 0.2
CLIPS = {"gspo": (3e-4, 4e-4), "dapo": (0.2, 0.28)}  # of the papers; all others take the same both ways


@dataclass(frozen=True)
class PolicyBatch:
    """Some answers of a step.

    Attributes:
        answers: prompts and answers.
        sample_N: of each token, the number of its answer.
        token: by name, numbers of each token (N,): `advantage`, `old`, `reference`, `value`, `return`.
        told: by name, numbers of each answer (S,), for people.
        rows: the rows inside, for errors.
    """

    answers: Answers
    sample_N: torch.Tensor
    token: Mapping[str, torch.Tensor]
    told: Mapping[str, torch.Tensor]
    rows: Sequence[Prepared]

    @property
    def tokens(self) -> int:
        """Tokens read, padding left out."""
        return self.answers.batch.tokens

    @property
    def units(self) -> dict[str, float]:
        """Answers, and their tokens."""
        return {"samples": len(self.rows), "tokens": len(self.sample_N)}

    @property
    def size(self) -> int:
        """Tokens that are computed, padding among them."""
        return self.answers.batch.size


def collate(rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns) -> PolicyBatch:
    """Answers with what is known of them: columns of shape (S, T) are of their tokens, those of (S,) of themselves."""
    answers = answers_of([(row, row.sequences[0]) for row in rows], plan)
    counts = [row.trained for row in rows]
    token = {
        name: sent(torch.cat([line[:count] for line, count in zip(column, counts, strict=True)]).float(), plan.device)
        for name, column in columns.items()
        if column.ndim == 2
    }
    told = {name: sent(column, plan.device) for name, column in columns.items() if column.ndim == 1}
    return PolicyBatch(answers, answers.part_N // 2, token, told, rows)


def look(models: Models, batch: PolicyBatch, temperature: float) -> dict[str, torch.Tensor]:
    """The log probability of each token, as it was drawn."""
    return {"old": logprobs(models, batch, temperature)}


def logprobs(models: Models, batch: PolicyBatch, temperature: float) -> torch.Tensor:
    """The log probability of each token, (N,), of the distribution that answers are drawn from."""
    return logprobs_at_trained(models, batch.answers.batch, temperature)


def given(batch: PolicyBatch, name: str, absent: torch.Tensor) -> torch.Tensor:
    """Numbers of each token; while a plan is made, or where none are needed, there are none."""
    return batch.token.get(name, absent)


def clipped(
    log_ratio: torch.Tensor, advantage: torch.Tensor, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """PPO's loss of a change of probability, and where it binds (Schulman et al., 2017, arXiv 1707.06347, 3)."""
    ratio = log_ratio.exp()
    free, bound = ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage
    return -torch.min(free, bound), (bound < free).detach()


def by_answer(values_N: torch.Tensor, batch: PolicyBatch) -> torch.Tensor:
    """Sums over the tokens of each answer, (S,), in double precision."""
    sums_S = values_N.new_zeros(len(batch.rows), dtype=torch.float64)
    return sums_S.index_add(0, batch.sample_N, values_N.double())


def distance(logprob_N: torch.Tensor, reference_N: torch.Tensor) -> torch.Tensor:
    """An estimate of the KL divergence from the start that is never negative (Schulman, 2020: k3), (N,)."""
    log_ratio_N = reference_N - logprob_N
    return log_ratio_N.exp() - log_ratio_N - 1


def told_of(batch: PolicyBatch, logprob_N: torch.Tensor, log_ratio_N: torch.Tensor) -> dict[str, Any]:
    """What people watch: sums over answers and tokens."""
    with torch.no_grad():
        found = {name: values_S.sum() for name, values_S in batch.told.items()}
        squares = {"reward squared": batch.told["reward"].square().sum()} if "reward" in batch.told else {}
        moved = (log_ratio_N.exp() - 1 - log_ratio_N).sum()  # k3 of the policy as it drew and as it is
        return {**found, **squares, "surprise": -logprob_N.detach().sum(), "moved": moved}


def grpo_loss(models: Models, batch: PolicyBatch, whole: None, config: Any) -> Loss:
    """Summed loss of the answers, each token weighed as the loss says; without views, one step is on policy."""
    logprob_N = logprobs(models, batch, config.sampling.temperature)
    zeros_N = torch.zeros_like(logprob_N)
    advantage_N = given(batch, "advantage", zeros_N)
    log_ratio_N = logprob_N - given(batch, "old", logprob_N.detach())
    tokens_N = batch.answers.tokens_S[batch.sample_N]
    low, high = clips(config)
    if config.loss == "gspo":
        mean_N = (by_answer(log_ratio_N, batch) / batch.answers.tokens_S)[batch.sample_N].float()
        loss_N, bound_N = clipped(mean_N, advantage_N, low, high)
    else:
        loss_N, bound_N = clipped(log_ratio_N, advantage_N, low, high)
    if config.beta and "reference" in batch.token:
        loss_N = loss_N + config.beta * distance(logprob_N, batch.token["reference"])
    weight_N = {"dapo": torch.ones_like(tokens_N), "dr_grpo": torch.full_like(tokens_N, config.sampling.max_new_tokens)}
    total = (loss_N.double() / weight_N.get(config.loss, tokens_N)).sum()
    counts = {**told_of(batch, logprob_N, log_ratio_N.detach()), "bound": bound_N.sum()}
    return Loss([Term("loss", total, "tokens" if config.loss == "dapo" else "samples")], counts)


def clips(config: Any) -> tuple[float, float]:
    """How far probabilities may fall and rise at once."""
    if config.loss not in CLIPS:
        low = config.clip or CLIP
        return low, config.clip_high or low
    low, high = CLIPS[config.loss]
    return config.clip or low, config.clip_high or max(high, config.clip or 0.0)


def rloo_loss(models: Models, batch: PolicyBatch, whole: None, config: Any) -> Loss:
    """Summed loss of the answers, of each of which the whole is weighed."""
    logprob_N = logprobs(models, batch, config.sampling.temperature)
    log_ratio_N = logprob_N - given(batch, "old", logprob_N.detach())
    advantage_N = given(batch, "advantage", torch.zeros_like(logprob_N))
    advantage_S = by_answer(advantage_N, batch) / batch.answers.tokens_S
    loss_S, bound_S = clipped(by_answer(log_ratio_N, batch), advantage_S, config.clip, config.clip)
    bound = (bound_S * batch.answers.tokens_S).sum()
    return Loss([Term("loss", loss_S.sum(), "samples")],
                {**told_of(batch, logprob_N, log_ratio_N.detach()), "bound": bound})  # fmt: skip


def spread_out(collected: Collected, advantage_S: np.ndarray) -> dict[str, list[np.ndarray]]:
    """The same advantage for each token of an answer."""
    pairs = zip(collected.rows, advantage_S, strict=True)
    return {"advantage": [np.full(row.trained, advantage, np.float32) for row, advantage in pairs]}


def learn_grpo(collected: Collected, beta: float, config: Any) -> dict[str, list[np.ndarray]]:
    """Advantages within groups."""
    scale = config.scale or ("none" if config.loss == "dr_grpo" else "group")
    return spread_out(collected, group_advantages(collected.by_prompt, scale).ravel())


def learn_rloo(collected: Collected, beta: float, config: Any) -> dict[str, list[np.ndarray]]:
    """Advantages over the others of the group, what an answer has moved from the start being taken from its reward."""
    reward_S, kl_S = collected.reward_S, collected.kl
    if beta:
        assert kl_S is not None
        reward_S = reward_S - beta * kl_S
    advantage_PG = leave_one_out(reward_S.reshape(-1, collected.samples), config.normalize)
    return spread_out(collected, advantage_PG.ravel())


def curves(sums: Mapping[str, np.ndarray], scale: Mapping[str, float]) -> dict[str, float]:
    """Loss, reward and its spread, KL from the start a reply, entropy, lengths, and how much of a step was bound."""
    samples, tokens = max(scale["samples"], 1.0), max(scale["tokens"], 1.0)
    mean = {name: float(total) / samples for name, total in sums.items()}
    found = {"loss": float(sums["loss"])}
    found |= {f"loss/{name}": float(sums[name]) for name in ("policy", "value") if name in sums}
    if "reward" in mean and scale["samples"]:  # nothing that could be scored is worth nothing, and not 0
        found["reward"] = mean["reward"]
        found["reward/spread"] = max(mean["reward squared"] - mean["reward"] ** 2, 0.0) ** 0.5
    found |= {name: value for name, value in mean.items() if name.startswith("rewards/")}
    found |= {"kl": mean["kl"]} if "kl" in mean else {}
    found |= {name: mean[name] for name in TOLD if name in mean and (mean[name] or name != LEFT_OUT)}
    found |= {"entropy": float(sums["surprise"]) / tokens, "length": tokens / samples}
    if "bound" in sums:
        found |= {"clipped": float(sums["bound"]) / tokens, "kl/step": float(sums["moved"]) / tokens}
    return found


TOLD = ("ended", LEFT_OUT, "beta")  # means that are told by the names that they have


def needs_of(config: Any, values: bool = False) -> frozenset[View]:
    """Which views a step needs, with a value head or without.

    Those of the start, to be held near it. Those of the policy as it drew, where it is learned from more than once, or
    where what the engine tells of each token is of another temperature.
    """
    needs: set[View] = {"value", "old"} if values else set()
    if config.beta > 0 or config.max_kl is not None:
        needs.add("reference")
    if config.passes * config.parts > 1 or config.sampling.temperature != 1.0:
        needs.add("old")
    return frozenset(needs)


def make_policy(config: Any) -> Objective:
    """GRPO or RLOO, as a recipe's section says."""
    grpo = config.type == "grpo"
    learn = partial(learn_grpo if grpo else learn_rloo, config=config)
    seen = partial(look, temperature=config.sampling.temperature)
    rollouts = Rollouts(config, needs_of(config), seen, learn)
    return rewarded(config.type, partial(grpo_loss if grpo else rloo_loss, config=config), rollouts)


def rewarded(name: str, loss: Any, rollouts: Rollouts) -> Objective:
    """An objective that learns from rewards of answers."""

    return Objective(
        name=name,
        reads=READS,
        collate=collate,
        loss=loss,
        curves=curves,
        metrics=("reward",),
        higher=frozenset({"reward"}),
        rate=0.1,
        rollouts=rollouts,
        check=check_of(collate),
    )
