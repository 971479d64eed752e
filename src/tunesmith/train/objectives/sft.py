"""Supervised fine-tuning: the negative log likelihood of every trained token.

Axes: N trained positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from tunesmith.data.prepare import Prepared
from tunesmith.train.batch import TokenBatch, packed, padded
from tunesmith.train.config import SftConfig
from tunesmith.train.loss import hidden_at_trained, linear_cross_entropy, logits_at_trained, output_layer
from tunesmith.train.objective import Check, Columns, Draw, Loss, Models, Objective, Term
from tunesmith.train.planning.chunked_check import why_not_chunked
from tunesmith.train.planning.plan import Plan


def collate(rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns) -> TokenBatch:
    """Rows in one sequence where the plan packs, else padded to the longest."""
    return packed(rows, plan.device, plan.graphs is True) if plan.packing else padded(rows, plan.device)


def loss(models: Models, batch: TokenBatch, whole: None, smoothing: float = 0.0) -> Loss:
    """The summed loss over the batch's trained tokens, and how many were the model's first choice.

    With `smoothing` a share of each target is spread over all words (Szegedy et al., 2016, arXiv 1512.00567), while the
    model is trained: what is validated is likelihood.
    """
    smoothing = smoothing if models.policy.training else 0.0
    if models.plan.chunked:
        head, compiled = output_layer(models.policy), models.plan.compiled is True
        assert head is not None
        hidden_ND = hidden_at_trained(models.policy, batch)
        total, correct = linear_cross_entropy(hidden_ND, head, batch.target_N, compiled, smoothing, batch.weight_N)
    else:
        logits_NV = logits_at_trained(models.policy, batch)
        total = cross_entropy(logits_NV.float(), batch.target_N, reduction="sum", label_smoothing=smoothing)
        correct = (logits_NV.detach().argmax(-1) == batch.target_N).sum()
    return Loss([Term("loss", total, "tokens")], {"correct": correct})


def curves(sums: Mapping[str, np.ndarray], scale: Mapping[str, float]) -> dict[str, float]:
    """Loss per trained token in nats, and the share of first choices that are right."""
    return {"loss": float(sums["loss"]), "token_accuracy": float(sums["correct"]) / scale["tokens"]}


def outputs(models: Models, batch: TokenBatch) -> list[torch.Tensor]:
    """The logits at each row's trained positions."""
    logits_NV = logits_at_trained(models.policy, batch)
    return list(logits_NV.split([int(row.mask[1:].sum()) for row in batch.rows]))


def losses(models: Models, batch: TokenBatch) -> torch.Tensor:
    """The loss of each trained token, shape (N,)."""
    return cross_entropy(logits_at_trained(models.policy, batch).float(), batch.target_N, reduction="none")


def make_sft(config: SftConfig = SftConfig()) -> Objective:  # noqa: B008  frozen
    """The objective."""
    return Objective(
        name="sft",
        reads=frozenset({"chat", "text"}),
        collate=collate,
        loss=partial(loss, smoothing=config.label_smoothing),
        curves=curves,
        metrics=("loss", "token_accuracy"),
        higher=frozenset({"token_accuracy"}),
        recordable=not config.label_smoothing,
        check=Check(outputs, losses, lambda models, rows: why_not_chunked(models, rows, collate)),
    )
