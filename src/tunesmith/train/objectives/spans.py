"""Filling in stretches of text: what T5 and its kin learn of plain text (see `span_corruption`).

What is taken out is drawn anew in each epoch, and follows from the row alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from tunesmith.core.errors import ConfigError
from tunesmith.data.prepare import Prepared
from tunesmith.infer.predict.spans import Sentinels, sentinels_of
from tunesmith.model.seq2seq import pairs_of
from tunesmith.prompt.contract import Contract
from tunesmith.train.config import PretrainConfig
from tunesmith.train.objective import PADDED, Check, Columns, Draw, Objective
from tunesmith.train.objectives.seq2seq import (
    PairBatch,
    curves,
    hidden_of,
    logits_of,
    loss,
    losses,
    outputs,
)
from tunesmith.train.objectives.span_corruption import corrupted, counts
from tunesmith.train.planning.chunked_check import why_not_chunked
from tunesmith.train.planning.plan import Plan


def taken_out(row: Prepared, sentinels: Sentinels, config: PretrainConfig, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """The source and the target that a row's text becomes."""
    ids = text_of(row, sentinels)
    if len(ids) < 2:  # nothing could stay
        found = ([sentinels.ids[0], sentinels.end], [sentinels.ids[0], *ids, sentinels.end])
    else:
        chance = draw.of(row)
        found = corrupted(ids, sentinels.ids, sentinels.end, chance, config.masked, config.span_length)
    source, target = (np.array(one, np.int32) for one in found)
    return source, target


def text_of(row: Prepared, sentinels: Sentinels) -> list[int]:
    """A row's ids without the one that ends it."""
    ids: list[int] = row.ids.tolist()
    return ids[:-1] if ids[-1] == sentinels.end else ids


def widths(row: Prepared, sentinels: Sentinels, config: PretrainConfig) -> tuple[int, int]:
    """Tokens of a row's source and of its target."""
    length = max(len(text_of(row, sentinels)), 2)
    noise, count = counts(length, config.masked, config.span_length, len(sentinels.ids))
    return length - noise + count + 1, noise + count + 1


def collate(
    rows: Sequence[Prepared], plan: Plan, draw: Draw, columns: Columns, sentinels: Sentinels, config: PretrainConfig
) -> PairBatch:
    """Rows with stretches taken out, padded to the longest source and the longest target."""
    parts = [taken_out(row, sentinels, config, draw) for row in rows]
    pairs = pairs_of([source for source, _ in parts], [target for _, target in parts], plan.device)
    return PairBatch(pairs, pairs.picked_N, pairs.target_N, rows, sum(len(one) for part in parts for one in part))


def make_spans(config: PretrainConfig, contract: Contract | None = None) -> Objective:
    """The objective; it can be learned once it is known how texts become tokens.

    Raises:
        ConfigError: something is set that only encoders have.
        ModelError: the tokenizer has no sentinels.
    """
    if not config.whole_words:
        raise ConfigError("objective.whole_words is for encoders: T5 hides stretches of tokens. Leave it out.")
    whole = Objective(
        name="pretrain",
        reads=frozenset({"text"}),
        collate=partial(collate, sentinels=Sentinels((), 0), config=config),  # until the tokenizer is known
        loss=loss,
        curves=curves,
        task="spans",
        metrics=("loss", "token_accuracy"),
        higher=frozenset({"token_accuracy"}),
        padded=PADDED,
        invents=True,
        informed=lambda facts, contract: make_spans(config, contract),
    )
    if contract is None:
        return whole
    sentinels = sentinels_of(contract)
    make = partial(collate, sentinels=sentinels, config=config)
    return replace(
        whole,
        collate=make,
        widths=partial(widths, sentinels=sentinels, config=config),
        check=Check(outputs, losses, lambda models, rows: why_not_chunked(models, rows, make, logits_of, hidden_of)),
    )
