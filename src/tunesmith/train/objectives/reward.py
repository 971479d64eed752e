"""A reward model: a number for each answer, higher for those that people prefer (Bradley and Terry, 1952).

The head is that of transformers for sequence classification with a single number, so that what is exported loads
there. A pair's loss is -log sigmoid(difference - margin); rows may have a margin (Touvron et al., 2023, arXiv
2307.09288). Centring holds the mean of a pair's rewards at 0, which the loss leaves open (Eisenstein et al., 2023,
arXiv 2312.09244).

Axes: P pairs, S sequences (chosen and rejected of each pair, in turn).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from tunesmith.core.errors import DataError
from tunesmith.data.prepare import Prepared
from tunesmith.model.device import sent
from tunesmith.model.heads import class_logits, inputs_of
from tunesmith.train.objective import Check, Columns, Draw, Loss, Models, Objective, Term
from tunesmith.train.objectives.answered import longest_first
from tunesmith.train.objectives.dpo import WATCHED
from tunesmith.train.planning.plan import Plan
from tunesmith.train.preference_config import RewardConfig
from tunesmith.train.weights.shards import within

MARGIN = "margin"  # of a row's other keys, by how much the chosen answer's reward is to be higher


@dataclass(frozen=True)
class RewardBatch:
    """One micro-batch of pairs.

    Attributes:
        inputs: arguments of the forward pass.
        margin_P: by how much each chosen answer's reward is to be higher.
        rows: the rows inside, for errors.
        tokens: tokens read, padding left out.
    """

    inputs: dict[str, Any]
    margin_P: torch.Tensor
    rows: Sequence[Prepared]
    tokens: int

    @property
    def units(self) -> dict[str, float]:
        """Pairs."""
        return {"pairs": len(self.rows)}

    @property
    def size(self) -> int:
        """Tokens that are computed, padding among them."""
        return self.inputs["input_ids"].numel()


def margin_of(row: Prepared) -> float:
    """The margin of a row; 0 where it has none.

    Raises:
        DataError: it is no number.
    """
    given = row.row.labels.get(MARGIN)
    try:
        margin = 0.0 if given is None else float(given)
    except (TypeError, ValueError):
        margin = math.nan
    if isinstance(given, bool) or not math.isfinite(margin):
        raise DataError(f"{row.source}: 'margin' is {str(given)[:40]!r}. Give a number, or leave it out.")
    return margin


def refuse_margins(rows: Sequence[Prepared]) -> None:
    """Refuse margins that are no numbers, before anything is learned.

    Raises:
        DataError: with the first.
    """
    for row in rows:
        margin_of(row)


def collate(rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns) -> RewardBatch:
    """Both sides of each pair, in one sequence where the plan packs, else padded to the longest."""
    ids = [one.ids for row in rows for one in row.sequences]
    inputs = inputs_of(ids, list(map(len, ids)), plan.packing, plan.device)
    margin_P = torch.tensor([margin_of(row) for row in rows])
    return RewardBatch(inputs, sent(margin_P, plan.device), rows, sum(map(len, ids)))


def rewards_of(models: Models, batch: RewardBatch) -> torch.Tensor:
    """The reward of each sequence in fp32, (S,)."""
    model, count = models.policy, sum(len(row.sequences) for row in batch.rows)
    return within(model, lambda: class_logits(model, batch.inputs, count)).float()[:, 0]


def pair_losses(reward_S: torch.Tensor, margin_P: torch.Tensor, center: float) -> torch.Tensor:
    """The loss of each pair, (P,)."""
    chosen_P, rejected_P = reward_S[::2], reward_S[1::2]
    return -logsigmoid(chosen_P - rejected_P - margin_P) + center * (chosen_P + rejected_P).square()


def loss(models: Models, batch: RewardBatch, whole: None, center: float) -> Loss:
    """The summed loss of the pairs, and what people watch."""
    reward_S = rewards_of(models, batch)
    term = Term("loss", pair_losses(reward_S, batch.margin_P, center).sum(), "pairs")
    chosen_P, rejected_P = reward_S.detach()[::2], reward_S.detach()[1::2]
    counts = {"right": (chosen_P > rejected_P).sum(), "chosen": chosen_P.sum(), "rejected": rejected_P.sum()}
    return Loss([term], counts)


def curves(sums: Mapping[str, np.ndarray], scale: Mapping[str, float]) -> dict[str, float]:
    """Loss per pair, how often the chosen answer's reward is higher, by how much, and the rewards."""
    right, chosen, rejected = (float(sums[name]) / scale["pairs"] for name in ("right", "chosen", "rejected"))
    return {
        "loss": float(sums["loss"]),
        "rewards/accuracies": right,
        "rewards/margins": chosen - rejected,
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
    }


def make_reward(config: RewardConfig) -> Objective:
    """The objective."""

    def outputs(models: Models, batch: RewardBatch) -> list[torch.Tensor]:
        return list(rewards_of(models, batch)[:, None].split([len(row.sequences) for row in batch.rows]))

    def losses(models: Models, batch: RewardBatch) -> torch.Tensor:
        return pair_losses(rewards_of(models, batch), batch.margin_P, config.center_rewards)

    return Objective(
        name="reward",
        reads=frozenset({"preference"}),
        collate=collate,
        loss=partial(loss, center=config.center_rewards),
        curves=curves,
        task="reward",
        metrics=("loss", *WATCHED),
        higher=frozenset(WATCHED),
        rate=0.5,
        widths=longest_first,
        refuse=refuse_margins,
        check=Check(outputs, losses),
    )
