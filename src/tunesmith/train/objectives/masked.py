"""Filling in hidden words: the negative log likelihood of each token that was hidden, of models that read both sides.

Logits are made at the hidden positions alone.

Axes: R rows, T tokens, N hidden positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from tunesmith.core.errors import DataError, ModelError
from tunesmith.data.prepare import Prepared
from tunesmith.model.masked import masked_logits
from tunesmith.model.packed import packed_inputs, padded_inputs
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.whole_words import Words, words_of
from tunesmith.train.config import PretrainConfig
from tunesmith.train.objective import Check, Columns, Draw, Loss, Models, Objective, Term
from tunesmith.train.objectives.masking import hide
from tunesmith.train.objectives.sft import curves
from tunesmith.train.planning.plan import Plan
from tunesmith.train.weights.shards import within


@dataclass(frozen=True)
class MaskedBatch:
    """One micro-batch of rows, some of whose tokens are hidden.

    Attributes:
        inputs: arguments of the forward pass.
        picked_N: where the hidden tokens stand among all positions, flattened.
        target_N: what they are.
        counts: how many each row has.
        rows: the rows inside, for errors.
        tokens: tokens read, padding left out.
    """

    inputs: dict[str, Any]
    picked_N: torch.Tensor
    target_N: torch.Tensor
    counts: list[int]
    rows: Sequence[Prepared]
    tokens: int

    @property
    def units(self) -> dict[str, float]:
        """Hidden tokens, and rows."""
        return {"tokens": len(self.target_N), "rows": len(self.rows)}

    @property
    def size(self) -> int:
        """Tokens that are computed, padding among them."""
        return self.inputs["input_ids"].numel()


def collate(
    rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns, words: Words | None = None,
    config: PretrainConfig = PretrainConfig(),  # noqa: B008  frozen
) -> MaskedBatch:  # fmt: skip
    """Rows in one sequence where the plan packs, else padded to the longest; what is hidden, the row alone decides."""
    assert words is not None, "the objective was not told how texts become tokens"
    hidden = [hide(row.ids, words, config.masked, config.whole_words, draw.of(row)) for row in rows]
    lengths = [len(row.ids) for row in rows]
    starts = np.cumsum([0, *lengths]) if plan.packing else np.arange(len(rows)) * max(lengths)
    picked_N = np.concatenate([start + one.places for start, one in zip(starts, hidden, strict=False)])
    inputs = (packed_inputs if plan.packing else padded_inputs)([one.ids for one in hidden], plan.device)
    target_N = np.concatenate([one.targets for one in hidden]).astype(np.int64)
    return MaskedBatch(
        inputs,
        torch.from_numpy(picked_N).to(plan.device),
        torch.from_numpy(target_N).to(plan.device),
        [len(one.places) for one in hidden],
        rows,
        sum(lengths),
    )


def logits_of(models: Models, batch: MaskedBatch) -> torch.Tensor:
    """The logits of the hidden tokens, (N, V)."""
    model = models.policy
    return within(model, lambda: masked_logits(model, batch.inputs, batch.picked_N))


def loss(models: Models, batch: MaskedBatch, whole: None) -> Loss:
    """The summed loss of the hidden tokens, and how many were the model's first choice."""
    logits_NV = logits_of(models, batch)
    total = cross_entropy(logits_NV.float(), batch.target_N, reduction="sum")
    correct = (logits_NV.detach().argmax(-1) == batch.target_N).sum()
    return Loss([Term("loss", total, "tokens")], {"correct": correct})


def outputs(models: Models, batch: MaskedBatch) -> list[torch.Tensor]:
    """The logits of each row's hidden tokens."""
    return list(logits_of(models, batch).split(batch.counts))


def losses(models: Models, batch: MaskedBatch) -> torch.Tensor:
    """The loss of each hidden token, shape (N,)."""
    return cross_entropy(logits_of(models, batch).float(), batch.target_N, reduction="none")


def refuse_nothing_hidden(rows: Sequence[Prepared], words: Words) -> None:
    """Refuse rows that are made of special tokens alone.

    Raises:
        DataError: none holds another.
    """
    if not any(len(words.words_in(row.ids)) for row in rows):
        raise DataError(
            f"none of {len(rows)} training rows holds a token that could be hidden: the model's tokenizer knows none "
            "of their words. Take a base whose tokenizer knows the language."
        )


def words_with_mask(contract: Contract) -> Words:
    """The words of a tokenizer that can hide some.

    Raises:
        ModelError: it has no mask token.
    """
    words = words_of(contract.tokenizer)
    if words.mask is None:
        raise ModelError(
            "the base's tokenizer has no mask token, so nothing can be hidden: name the one that it was trained with "
            "as mask_token in its tokenizer_config.json, or take another base."
        )
    return words


def make_masked(config: PretrainConfig, contract: Contract | None = None) -> Objective:
    """The objective; it can be learned once it is known how texts become tokens.

    Raises:
        ModelError: the tokenizer has no mask token.
    """
    bare = Objective(
        name="pretrain",
        reads=frozenset({"text"}),
        collate=collate,
        loss=loss,
        curves=curves,
        task="masked",
        metrics=("loss", "token_accuracy"),
        higher=frozenset({"token_accuracy"}),
        invents=True,
        check=Check(outputs, losses),
        informed=lambda facts, contract: make_masked(config, contract),
    )
    if contract is None:
        return bare
    words = words_with_mask(contract)
    return replace(
        bare,
        collate=partial(collate, words=words, config=config),
        refuse=partial(refuse_nothing_hidden, words=words),
    )
