"""How likely given rows are to a model, through the library's own forward pass.

Axes: B rows, T tokens, K positions that are marked in any row, V vocabulary, N marked tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tunesmith.infer.engine.plain import pad
from tunesmith.infer.generator import RowScore

ENOUGH_TOKENS = 1024  # of a pass, beyond which padding is worth a pass of its own
MOST_PADDING = 1.2  # tokens that are computed for each that is read


@torch.inference_mode()
def score_rows(model: Any, rows: Sequence[tuple[list[int], list[bool]]], most_tokens: int) -> list[RowScore]:
    """Log likelihoods and hits over the marked tokens of each row.

    Args:
        model: a causal language model, in evaluation mode.
        rows: ids and mask of each; the first token of a row has no prediction.
        most_tokens: padding included, in one pass.
    """
    scores: dict[int, RowScore] = {}
    for chosen in batches([len(ids) for ids, _ in rows], most_tokens):
        ids_BT, seen_BT = pad([rows[i][0] for i in chosen], left=False)
        ids_BT, seen_BT = ids_BT.to(model.device), seen_BT.to(model.device)
        until = max(ids_BT.shape[1] - 1, 1)  # the last token is only predicted, and may have no position of its own
        seen = {"input_ids": ids_BT[:, :until], "attention_mask": seen_BT[:, :until]}
        marked_BT = torch.zeros(len(chosen), until, dtype=torch.bool)
        for row, index in enumerate(chosen):
            mask = rows[index][1][1:]
            marked_BT[row, : len(mask)] = torch.tensor(mask, dtype=torch.bool)
        kept_K = marked_BT.any(0).nonzero()[:, 0]  # of other positions no logits are built
        marked_BK = marked_BT[:, kept_K].to(model.device)
        kept_K = kept_K.to(model.device)
        logits_BKV = model(**seen, use_cache=False, logits_to_keep=kept_K).logits
        for row, index in enumerate(chosen):
            logits_NV = logits_BKV[row][marked_BK[row]].float()
            target_N = ids_BT[row, kept_K + 1][marked_BK[row]]
            loss_N = torch.nn.functional.cross_entropy(logits_NV, target_N, reduction="none")
            correct = (logits_NV.argmax(-1) == target_N).sum()
            scores[index] = RowScore((-loss_N).tolist(), int(correct))
    return [scores[i] for i in range(len(rows))]


def batches(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Indices of near-equal lengths, as many together as `most_tokens` allows and little is padding."""
    batch: list[int] = []
    real = 0
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        computed = lengths[index] * (len(batch) + 1)
        wasteful = real >= ENOUGH_TOKENS and computed > MOST_PADDING * (real + lengths[index])
        if batch and (computed > most_tokens or wasteful):
            yield batch
            batch, real = [], 0
        batch.append(index)
        real += lengths[index]
    if batch:
        yield batch
