"""Whole answers as one batch, and the log probability of each: what learning from preferences is made of.

Sums over tokens are taken in double precision: two of them are some thousand nats apart from nothing, and what is
learned from is how they differ.

Axes: S sequences, N trained positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from tunesmith.data.kinds.prepared import Prepared, Tokens
from tunesmith.data.pack import micro_batches, padded_batches
from tunesmith.model.device import sent
from tunesmith.train.batch import TokenBatch, packed, padded
from tunesmith.train.logprobs import logprobs_at_trained
from tunesmith.train.loss import logits_at_trained
from tunesmith.train.objective import Check, Columns, Draw, Models
from tunesmith.train.planning.chunked_check import why_not_chunked
from tunesmith.train.planning.plan import Plan


@dataclass(frozen=True)
class Answers:
    """Sequences of which the trained tokens are answers.

    Attributes:
        batch: all of them.
        part_N: of each trained token twice the number of its sequence, and 1 more where it lies beyond `shared`.
        tokens_S: trained tokens of each sequence.
    """

    batch: TokenBatch
    part_N: torch.Tensor
    tokens_S: torch.Tensor


def answers_of(
    sequences: Sequence[tuple[Prepared, Tokens]], plan: Plan, shared: Sequence[int] | None = None
) -> Answers:
    """Sequences in one where the plan packs, else padded to the longest.

    Args:
        sequences: each with the row that it is of.
        plan: how the run uses the machine.
        shared: of each, the trained tokens from which on the others are summed apart; none are if absent.
    """
    alone = [replace(row, ids=one.ids, spans=one.spans, others=()) for row, one in sequences]
    batch = packed(alone, plan.device) if plan.packing else padded(alone, plan.device)
    counts = [one.trained for _, one in sequences]
    part_N = np.repeat(2 * np.arange(len(counts)), counts)
    if shared is not None:
        place_N = np.arange(len(part_N)) - np.repeat(np.cumsum([0, *counts[:-1]]), counts)
        part_N = part_N + (place_N >= np.repeat(np.asarray(shared), counts))
    tokens_S = torch.tensor(counts, dtype=torch.float64)
    return Answers(batch, sent(torch.from_numpy(part_N), plan.device), sent(tokens_S, plan.device))


def summed_logprobs(models: Models, answers: Answers) -> torch.Tensor:
    """The log probability of each answer in nats, in double precision: (S, 2), up to `shared` tokens and beyond."""
    logprob_N = logprobs_at_trained(models, answers.batch)
    sums = logprob_N.new_zeros(2 * len(answers.tokens_S), dtype=torch.float64)
    return sums.index_add(0, answers.part_N, logprob_N.double()).view(-1, 2)


def longest_first(row: Prepared) -> tuple[int]:
    """Tokens that a row takes where all its sequences are padded together."""
    return (len(row.sequences) * max(len(one.ids) for one in row.sequences),)


def parts_at_once(rows: Sequence[Prepared], plan: Plan) -> list[list[int]]:
    """Places of rows that go through the model together, outside of training."""
    if plan.packing:
        return micro_batches([row.length for row in rows], None, plan.micro_tokens, packed=True)
    return padded_batches([longest_first(row) for row in rows], plan.micro_tokens)


def row_logits(models: Models, answers: Answers, rows: int) -> list[torch.Tensor]:
    """The logits at the trained positions of each row's sequences, for the check of packing."""
    logits_NV = logits_at_trained(models.policy, answers.batch)
    counts = answers.tokens_S.view(rows, -1).sum(1).long().tolist()
    return list(logits_NV.split(counts))


def token_losses(models: Models, answers: Answers) -> torch.Tensor:
    """The loss of each trained token, (N,)."""
    logits_NV: Any = logits_at_trained(models.policy, answers.batch)
    return cross_entropy(logits_NV.float(), answers.batch.target_N, reduction="none")


def check_of(collate: Callable[[Sequence[Prepared], Plan, Draw, Columns], Any]) -> Check:
    """How the planner tries packing and the chunked loss on batches that hold `answers` and their `rows`."""

    def tokens_alone(rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns) -> TokenBatch:
        return collate(rows, plan, draw, columns).answers.batch

    return Check(
        lambda models, batch: row_logits(models, batch.answers, len(batch.rows)),
        lambda models, batch: token_losses(models, batch.answers),
        lambda models, rows: why_not_chunked(models, rows, tokens_alone),
    )
