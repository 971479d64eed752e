"""Learning from pairs of answers, one of which people prefer: DPO and its kin, with a reference and without.

Both answers of a pair are sequences of one row, and lie in one batch. The reference is the model as training starts
from it, whatever the method makes of the base; its log probabilities are computed once, before the first step, and
saved with the run. `pair_losses` has the formulas. What was left out: f-divergences other than the reverse KL, mixtures
of several losses, weights of pairs (WPO), references that move.

Axes: P pairs, S sequences (chosen and rejected of each pair, in turn).
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
from tunesmith.train.objective import Columns, Draw, Loss, Models, Objective, Term
from tunesmith.train.objectives.answered import (
    Answers,
    answers_of,
    check_of,
    longest_first,
    parts_at_once,
    summed_logprobs,
)
from tunesmith.train.objectives.pair_losses import PairLoss, Side, Sides, pair_loss
from tunesmith.train.planning.plan import Plan

REFERENCE = "reference"  # of each row four sums: chosen up to the shorter length and beyond, rejected likewise
WATCHED = ("rewards/accuracies", "rewards/margins")


@dataclass(frozen=True)
class PairBatch:
    """One micro-batch of pairs.

    Attributes:
        answers: both sides.
        reference_S2: log probabilities of each by the reference; zeros while a plan is made.
        rows: the rows inside, for errors.
    """

    answers: Answers
    reference_S2: torch.Tensor
    rows: Sequence[Prepared]

    @property
    def tokens(self) -> int:
        """Tokens read, padding left out."""
        return self.answers.batch.tokens

    @property
    def units(self) -> dict[str, float]:
        """Pairs, trained tokens, and those of the chosen sides."""
        chosen = sum(row.sequences[0].trained for row in self.rows)
        return {"pairs": len(self.rows), "tokens": len(self.answers.part_N), "chosen tokens": chosen}

    @property
    def size(self) -> int:
        """Tokens that are computed, padding among them."""
        return self.answers.batch.size


def collate(rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns) -> PairBatch:
    """Both sides of each pair, one after the other."""
    shared = [min(one.trained for one in row.sequences) for row in rows for _ in row.sequences]
    answers = answers_of([(row, one) for row in rows for one in row.sequences], plan, shared)
    reference = columns.get(REFERENCE)
    if reference is None:
        reference = torch.zeros(len(rows), 4, dtype=torch.float64)
    return PairBatch(answers, sent(reference.view(-1, 2), plan.device), rows)


def precompute(models: Models, rows: Sequence[Prepared]) -> Columns:
    """The log probabilities of both sides of each pair."""
    found = torch.zeros(len(rows), 4, dtype=torch.float64)
    for places in parts_at_once(rows, models.plan):
        batch = collate([rows[place] for place in places], models.plan, Draw(), {})
        found[places] = summed_logprobs(models, batch.answers).view(-1, 4).cpu()
    return {REFERENCE: found}


def sides_of(logprob_S2: torch.Tensor, batch: PairBatch, beyond: float) -> Sides:
    """The sides of each pair, of which the tokens beyond the shorter one's length count less (Liu et al., 2024,
    arXiv 2409.06411)."""
    own_S, reference_S = (sums_S2[:, 0] + beyond * sums_S2[:, 1] for sums_S2 in (logprob_S2, batch.reference_S2))
    tokens_S = batch.answers.tokens_S
    chosen, rejected = (Side(own_S[side::2], reference_S[side::2], tokens_S[side::2]) for side in (0, 1))
    return Sides(chosen, rejected)


def loss(models: Models, batch: PairBatch, whole: None, config: Any, way: PairLoss) -> Loss:
    """The summed loss of the pairs; beside it that of the chosen answers, where they are learned too."""
    logprob_S2 = summed_logprobs(models, batch.answers)
    pairs = sides_of(logprob_S2, batch, getattr(config, "length_desensitised", 1.0))
    terms = [Term("preference", way.losses(pairs, config).sum(), "pairs")]
    weight = 1.0 if config.type == "orpo" else getattr(config, "sft_weight", 0.0)
    if weight:
        terms.append(Term("sft", -weight * logprob_S2[::2].sum(), "chosen tokens"))
    with torch.no_grad():
        chosen_P, rejected_P = (way.rewards(side, config) for side in (pairs.chosen, pairs.rejected))
        counts = {
            "right": (chosen_P > rejected_P).sum(),
            "chosen reward": chosen_P.sum(),
            "rejected reward": rejected_P.sum(),
            "chosen logp": logprob_S2[::2].sum(),
            "rejected logp": logprob_S2[1::2].sum(),
        }
    return Loss(terms, counts)


def curves(sums: Mapping[str, np.ndarray], scale: Mapping[str, float]) -> dict[str, float]:
    """Loss per pair, its parts where it has two, how often the chosen answer's reward is higher and by how much."""
    parts = {"loss/preference": "preference", "loss/sft": "sft"} if "sft" in sums else {}
    mean = {name: float(sums[name]) / scale["pairs"] for name in ("right", "chosen reward", "rejected reward",
                                                                  "chosen logp", "rejected logp")}  # fmt: skip
    return {
        "loss": float(sums["loss"]),
        **{shown: float(sums[name]) for shown, name in parts.items()},
        "rewards/accuracies": mean["right"],
        "rewards/margins": mean["chosen reward"] - mean["rejected reward"],
        "rewards/chosen": mean["chosen reward"],
        "rewards/rejected": mean["rejected reward"],
        "logps/chosen": mean["chosen logp"],
        "logps/rejected": mean["rejected logp"],
    }


def make_dpo(config: Any) -> Objective:
    """The objective of pairs that a recipe's section names."""
    way = pair_loss(config)

    return Objective(
        name=config.type,
        reads=frozenset({"preference"}),
        collate=collate,
        loss=partial(loss, config=config, way=way),
        curves=curves,
        metrics=("loss", *WATCHED),
        higher=frozenset(WATCHED),
        precompute=precompute if way.reference else None,
        rate=way.rate,
        widths=longest_first,
        check=check_of(collate),
    )
