"""One text made of another by an encoder with a decoder: the negative log likelihood of every target token.

The loss is that of transformers: cross-entropy over the targets as the library shifts them for its decoder.

Axes: R rows, N target tokens, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from tunesmith.data.prepare import Prepared
from tunesmith.model.seq2seq import NO_TARGET, Pairs, pairs_of, read_by_head, target_logits
from tunesmith.train.config import Seq2SeqConfig
from tunesmith.train.loss import linear_cross_entropy, output_layer
from tunesmith.train.objective import PADDED, Check, Columns, Draw, Loss, Models, Objective, Term
from tunesmith.train.planning.chunked_check import why_not_chunked
from tunesmith.train.planning.plan import Plan


@dataclass(frozen=True)
class PairBatch:
    """One micro-batch of sources and targets.

    Attributes:
        pairs: what the model reads and should write.
        picked_N: where target tokens stand among all positions of the decoder.
        target_N: the target tokens.
        rows: the rows inside, for errors.
        tokens: tokens of sources and targets, padding left out.
    """

    pairs: Pairs
    picked_N: torch.Tensor
    target_N: torch.Tensor
    rows: Sequence[Prepared]
    tokens: int

    @property
    def units(self) -> dict[str, float]:
        """Target tokens, and rows."""
        return {"tokens": len(self.target_N), "rows": len(self.rows)}

    @property
    def size(self) -> int:
        """Tokens that are computed, padding among them."""
        return self.pairs.size


def collate(rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns) -> PairBatch:
    """Rows padded to the longest source and the longest target."""
    pairs = pairs_of([row.ids for row in rows], [row.others[0].ids for row in rows], plan.device)
    return PairBatch(pairs, pairs.picked_N, pairs.target_N, rows, sum(row.length for row in rows))


def widths(row: Prepared) -> tuple[int, int]:
    """Tokens of a row's source and of its target."""
    return len(row.ids), len(row.others[0].ids)


def logits_of(model: object, batch: PairBatch) -> torch.Tensor:
    """The logits at a batch's target tokens, (N, V)."""
    return target_logits(model, batch.pairs)


def hidden_of(model: object, batch: PairBatch) -> torch.Tensor:
    """What the output layer would read there, (N, D)."""
    return read_by_head(model, batch.pairs)


def loss(models: Models, batch: PairBatch, whole: None, smoothing: float = 0.0) -> Loss:
    """The summed loss over the batch's target tokens, and how many were the model's first choice.

    With `smoothing` a share of each target is spread over all words while the model is trained.
    """
    smoothing = smoothing if models.policy.training else 0.0
    if models.plan.chunked:
        head = output_layer(models.policy)
        assert head is not None
        hidden_ND = hidden_of(models.policy, batch)
        total, correct = linear_cross_entropy(hidden_ND, head, batch.target_N, smoothing=smoothing)
    else:
        logits_NV = logits_of(models.policy, batch)
        total = cross_entropy(logits_NV.float(), batch.target_N, reduction="sum", label_smoothing=smoothing)
        correct = (logits_NV.detach().argmax(-1) == batch.target_N).sum()
    return Loss([Term("loss", total, "tokens")], {"correct": correct})


def curves(sums: Mapping[str, np.ndarray], scale: Mapping[str, float]) -> dict[str, float]:
    """Loss per target token in nats, and the share of first choices that are right."""
    return {"loss": float(sums["loss"]), "token_accuracy": float(sums["correct"]) / scale["tokens"]}


def outputs(models: Models, batch: PairBatch) -> list[torch.Tensor]:
    """The logits at each row's target tokens."""
    return list(logits_of(models.policy, batch).split((batch.pairs.labels_BT != NO_TARGET).sum(1).tolist()))


def losses(models: Models, batch: PairBatch) -> torch.Tensor:
    """The loss of each target token, shape (N,)."""
    return cross_entropy(logits_of(models.policy, batch).float(), batch.target_N, reduction="none")


def make_seq2seq(config: Seq2SeqConfig) -> Objective:
    """The objective."""
    return Objective(
        name="seq2seq",
        reads=frozenset({"source-target"}),
        collate=collate,
        loss=partial(loss, smoothing=config.label_smoothing),
        curves=curves,
        task="seq2seq",
        metrics=("loss", "token_accuracy"),
        higher=frozenset({"token_accuracy"}),
        padded=PADDED,
        widths=widths,
        check=Check(outputs, losses, lambda models, rows: why_not_chunked(models, rows, collate, logits_of, hidden_of)),
    )
