"""Learning from single answers that people found good or bad: KTO and BCO.

Both hold a good answer's log ratio above a point, and a bad one's below it. KTO's point is how far the model has moved
from the reference, estimated on mismatched pairs: each prompt with another row's answer (Ethayarajh et al., 2024, arXiv
2402.01306). BCO's lies half way between the mean rewards of good and of bad answers (Jung et al., 2024, arXiv
2404.04656). Either is found over the whole step and all processes, without gradient. What was left out: BCO's running
mean, in whose place is the mean of the step, so that there is nothing to remember; and its weights for prompts of
another distribution.

Axes: R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from tunesmith.data.kinds.prepared import Prepared, Tokens
from tunesmith.model.device import sent
from tunesmith.train.objective import Columns, Draw, Loss, Models, Objective, Term
from tunesmith.train.objectives.answered import (
    Answers,
    answers_of,
    check_of,
    parts_at_once,
    summed_logprobs,
)
from tunesmith.train.objectives.dpo import WATCHED
from tunesmith.train.planning.compiled import as_they_are
from tunesmith.train.planning.packing_check import evaluating
from tunesmith.train.planning.plan import Plan
from tunesmith.train.weights.ranks import Ranks

REFERENCE = "reference"  # of each row the sums of its answer and, for KTO, of the mismatched one
Point = Callable[[Models, Sequence[Any], Ranks], float]


@dataclass(frozen=True)
class VerdictBatch:
    """One micro-batch of answers with verdicts.

    Attributes:
        answers: those that were judged.
        mismatched: each prompt with another row's answer; none while a plan is made, and of BCO.
        good_R: which were found good.
        reference_R: log probabilities of the answers by the reference.
        reference_mismatched_R: of the mismatched ones.
        rows: the rows inside, for errors.
    """

    answers: Answers
    mismatched: Answers | None
    good_R: torch.Tensor
    reference_R: torch.Tensor
    reference_mismatched_R: torch.Tensor
    rows: Sequence[Prepared]

    @property
    def tokens(self) -> int:
        """Tokens read, padding left out."""
        return sum(row.length for row in self.rows)

    @property
    def units(self) -> dict[str, float]:
        """Rows, and trained tokens of judged answers."""
        return {"rows": len(self.rows), "tokens": len(self.answers.part_N)}

    @property
    def size(self) -> int:
        """Tokens that are computed, padding among them."""
        return self.answers.batch.size + (0 if self.mismatched is None else self.mismatched.batch.size)


def collate(rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns) -> VerdictBatch:
    """The judged answers, and apart from them the mismatched ones."""
    judged = answers_of([(row, row.sequences[0]) for row in rows], plan)
    others = [(row, row.others[0]) for row in rows if row.others]
    contents: list[Any] = [row.row.content for row in rows]
    good_R = torch.tensor([content.good for content in contents])
    reference = columns.get(REFERENCE)
    if reference is None:
        reference = torch.zeros(len(rows), 2, dtype=torch.float64)
    own_R, other_R = sent(reference, plan.device).unbind(1)
    mismatched = answers_of(others, plan) if others else None
    return VerdictBatch(judged, mismatched, sent(good_R, plan.device), own_R, other_R, rows)


def precompute(models: Models, rows: Sequence[Prepared]) -> Columns:
    """The log probabilities of each row's answer, and of its mismatched one."""
    found = torch.zeros(len(rows), 2, dtype=torch.float64)
    for places in parts_at_once(rows, models.plan):
        batch = collate([rows[place] for place in places], models.plan, Draw(), {})
        for column, answers in enumerate((batch.answers, batch.mismatched)):
            if answers is not None:
                found[places, column] = summed_logprobs(models, answers).sum(1).cpu()
    return {REFERENCE: found}


def mismatched_pairs(rows: Sequence[Prepared]) -> list[Prepared]:
    """Each row with a sequence beside its own: its prompt, and the answer of the next row that asks something else.

    It is cut to the length of the longest row, so that whatever reads rows can read it.
    """
    longest, prompts = max(len(row.ids) for row in rows), [row.ids[: row.spans[0][0]].tobytes() for row in rows]
    found: list[Prepared] = []
    for row, at in zip(rows, next_others(prompts), strict=True):
        prompt, answer = row.ids[: row.spans[0][0]], rows[at].ids[rows[at].spans[0][0] :]
        ids = np.concatenate([prompt, answer])[:longest]
        begin, shift = len(prompt), len(prompt) - rows[at].spans[0][0]
        moved = ((one + shift, min(end + shift, len(ids))) for one, end in rows[at].spans)
        spans = tuple((one, end) for one, end in moved if one < end)
        assert spans[0][0] == begin
        found.append(Prepared(row.ids, row.spans, row.source, row.origin, row.cut, row.goes_on, (Tokens(ids, spans),)))
    return found


def next_others(values: Sequence[bytes]) -> list[int]:
    """Of each place the next one with another value, the first following the last; itself where all are the same."""
    found = list(range(len(values)))
    for place in reversed(range(2 * len(values) - 1)):  # twice round: the last ones have theirs among the first
        here, after = place % len(values), (place + 1) % len(values)
        if values[here] != values[after]:
            found[here] = after
        elif values[found[after]] != values[here]:
            found[here] = found[after]
    return found


def distance(models: Models, micro: Iterable[VerdictBatch], ranks: Ranks) -> float:
    """KTO's point: the mean log ratio of mismatched answers in nats, and at least 0."""
    total, count = 0.0, 0
    with torch.no_grad(), evaluating(models.policy), as_they_are():
        for batch in micro:
            if batch.mismatched is not None:
                ratio_R = summed_logprobs(models, batch.mismatched).sum(1) - batch.reference_mismatched_R
                total, count = total + ratio_R.sum().item(), count + len(ratio_R)
    sums = ranks.sum({"total": total, "count": count})
    return max(0.0, sums["total"] / sums["count"]) if sums["count"] else 0.0


def half_way(models: Models, micro: Iterable[VerdictBatch], ranks: Ranks) -> float:
    """BCO's point: half way between the mean log ratios of good and of bad answers, in nats.

    Where a step has answers of one sort alone, those of the other are taken to be as they were at the start: at 0.
    """
    sums = {"good": 0.0, "bad": 0.0, "goods": 0.0, "bads": 0.0}
    with torch.no_grad(), evaluating(models.policy), as_they_are():
        for batch in micro:
            ratio_R = summed_logprobs(models, batch.answers).sum(1) - batch.reference_R
            for name, chosen_R in (("good", batch.good_R), ("bad", ~batch.good_R)):
                sums[name] += ratio_R[chosen_R].sum().item()
                sums[f"{name}s"] += chosen_R.sum().item()
    sums = ranks.sum(sums)
    return sum(sums[name] / max(1.0, sums[f"{name}s"]) for name in ("good", "bad")) / 2


def kto_losses(above_R: torch.Tensor, good_R: torch.Tensor, config: Any) -> torch.Tensor:
    """weight (1 - sigmoid(beta (log ratio - point))), of a bad answer with the other sign."""
    weight_R = torch.where(good_R, config.desirable_weight, config.undesirable_weight)
    return weight_R * (1 - torch.sigmoid(config.beta * torch.where(good_R, above_R, -above_R)))


def bco_losses(above_R: torch.Tensor, good_R: torch.Tensor, config: Any) -> torch.Tensor:
    """-log sigmoid(beta (log ratio - point)), of a bad answer with the other sign."""
    return -logsigmoid(config.beta * torch.where(good_R, above_R, -above_R))


def loss(models: Models, batch: VerdictBatch, whole: float, config: Any, losses: Callable[..., torch.Tensor]) -> Loss:
    """The summed loss of the rows; `whole` is the point."""
    logprob_R = summed_logprobs(models, batch.answers).sum(1)
    ratio_R, good_R = logprob_R - batch.reference_R, batch.good_R
    term = Term("loss", losses(ratio_R - whole, good_R, config).sum(), "rows")
    with torch.no_grad():
        reward_R = config.beta * ratio_R
        counts: dict[str, Any] = {
            "right": ((ratio_R > whole) == good_R).sum(),
            "point": whole * len(batch.rows),
            "goods": good_R.sum(),
            "bads": (~good_R).sum(),
        }
        for name, chosen_R in (("good", good_R), ("bad", ~good_R)):
            counts |= {f"{name} reward": reward_R[chosen_R].sum(), f"{name} logp": logprob_R[chosen_R].sum()}
    return Loss([term], counts)


def curves(sums: Mapping[str, np.ndarray], scale: Mapping[str, float], point: str) -> dict[str, float]:
    """Loss per row, how many rewards lie on their side of the point, rewards of good and bad answers, the point."""
    found = {
        "loss": float(sums["loss"]),
        "rewards/accuracies": float(sums["right"]) / scale["rows"],
        point: float(sums["point"]) / scale["rows"],
    }
    shown = [("good", "chosen"), ("bad", "rejected")]
    for name, side in shown:
        if sums[f"{name}s"]:
            found[f"rewards/{side}"] = float(sums[f"{name} reward"] / sums[f"{name}s"])
            found[f"logps/{side}"] = float(sums[f"{name} logp"] / sums[f"{name}s"])
    if all(f"rewards/{side}" in found for _, side in shown):
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    return found


def make_unpaired(config: Any) -> Objective:
    """The objective of single answers that a recipe's section names."""

    kto = config.type == "kto"
    point: Point = distance if kto else half_way
    return Objective(
        name=config.type,
        reads=frozenset({"verdict"}),
        collate=collate,
        loss=partial(loss, config=config, losses=kto_losses if kto else bco_losses),
        curves=partial(curves, point="kl" if kto else "shift"),
        metrics=("loss", *WATCHED),
        higher=frozenset(WATCHED),
        before=point,
        beside=mismatched_pairs if kto else None,
        precompute=precompute,
        rate=0.1,
        widths=lambda row: tuple(len(one.ids) for one in row.sequences),
        check=check_of(collate),
    )
