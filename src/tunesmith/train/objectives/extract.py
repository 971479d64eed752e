"""Answers found in passages: where in a window one begins and ends, or that it holds none.

The loss is that of transformers: the mean of two cross-entropies over the tokens of a window, for the answer's first
token and for its last. A window without an answer points to its own first token, as SQuAD 2 is learned (Devlin et al.,
2019, arXiv 1810.04805). Padding is no place for an answer, so that windows count alike however they are put together.

Axes: S windows (sequences), T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from tunesmith.data.prepare import Prepared
from tunesmith.model.heads import inputs_of, token_logits
from tunesmith.prompt.passages import layout_of
from tunesmith.train.config import ExtractConfig
from tunesmith.train.objective import Check, Columns, Draw, Loss, Models, Objective, Term
from tunesmith.train.planning.plan import Plan
from tunesmith.train.weights.shards import within

NONE = (0, 0)  # where a window without an answer points


@dataclass(frozen=True)
class AnswerBatch:
    """One micro-batch of rows, each with its windows.

    Attributes:
        inputs: arguments of the forward pass.
        lengths: tokens of each window.
        target_S2: the first and the last token of the answer in each window.
        windows: of each row, how many are its own.
        rows: the rows inside.
        tokens: tokens read, padding left out.
    """

    inputs: dict[str, Any]
    lengths: Sequence[int]
    target_S2: torch.Tensor
    windows: Sequence[int]
    rows: Sequence[Prepared]
    tokens: int

    @property
    def units(self) -> dict[str, float]:
        """Windows, and rows."""
        return {"windows": len(self.lengths), "rows": len(self.rows)}

    @property
    def size(self) -> int:
        """Tokens that are computed, padding among them."""
        return self.inputs["input_ids"].numel()


def collate(rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns) -> AnswerBatch:
    """Windows in one sequence where the plan packs, else padded to the longest."""
    windows = [one for row in rows for one in row.sequences]
    layouts = [layout_of(one.spans) for one in windows]
    lengths = [len(one.ids) for one in windows]
    borders = [length if one.border is None else one.border for one, length in zip(layouts, lengths, strict=True)]
    target = [NONE if one.answer is None else (one.answer[0], one.answer[1] - 1) for one in layouts]
    inputs = inputs_of([one.ids for one in windows], borders, plan.packing, plan.device)
    counts = [len(row.sequences) for row in rows]
    return AnswerBatch(inputs, lengths, torch.tensor(target, device=plan.device), counts, rows, sum(lengths))


def logits_of(models: Models, batch: AnswerBatch) -> list[torch.Tensor]:
    """For each window, how much each token begins an answer, and how much it ends one, (T, 2), in fp32."""
    model = models.policy
    return [one.float() for one in within(model, lambda: token_logits(model, batch.inputs, batch.lengths))]


def window_losses(logits: Sequence[torch.Tensor], target_S2: torch.Tensor) -> torch.Tensor:
    """The loss of each window, (S,)."""
    return torch.stack([cross_entropy(one_T2.T, two) for one_T2, two in zip(logits, target_S2, strict=True)])


def loss(models: Models, batch: AnswerBatch, whole: None) -> Loss:
    """The summed loss of the windows, and in how many both ends are the first choice."""
    logits = logits_of(models, batch)
    term = Term("loss", window_losses(logits, batch.target_S2).sum(), "windows")
    said_S2 = torch.stack([one_T2.detach().argmax(0) for one_T2 in logits])
    return Loss([term], {"correct": (said_S2 == batch.target_S2).all(-1).sum()})


def curves(sums: Mapping[str, np.ndarray], scale: Mapping[str, float]) -> dict[str, float]:
    """Loss per window, and the share of windows whose both ends are right."""
    return {"loss": float(sums["loss"]), "accuracy": float(sums["correct"]) / scale["windows"]}


def outputs(models: Models, batch: AnswerBatch) -> list[torch.Tensor]:
    """The logits of each row's tokens."""
    found = iter(logits_of(models, batch))
    return [torch.cat([next(found) for _ in range(count)]) for count in batch.windows]


def losses(models: Models, batch: AnswerBatch) -> torch.Tensor:
    """The loss of each window, (S,)."""
    return window_losses(logits_of(models, batch), batch.target_S2)


def make_extract(config: ExtractConfig = ExtractConfig()) -> Objective:  # noqa: B008  frozen
    """The objective."""
    return Objective(
        name="extract",
        reads=frozenset({"passage"}),
        collate=collate,
        loss=loss,
        curves=curves,
        task="extract",
        metrics=("loss", "accuracy"),
        higher=frozenset({"accuracy"}),
        check=Check(outputs, losses),
    )
