"""Tokens of several sampled rows at once, by the arithmetic of one row (`sample.py`), with one wait for the device.

On a GPU each row alone would take a dozen launches and four waits. Axes: N rows, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunesmith.infer.generator import Options


def draw_rows(
    logits_NV: torch.Tensor, options: Sequence[Options], draws: Sequence[float], likeliest: int
) -> list[int | None]:
    """A token of each row by temperature and nucleus; None where the nucleus may be wider than was looked at.

    Args:
        logits_NV: any precision.
        options: of each row, none of them greedy.
        draws: for each row a number in [0, 1).
        likeliest: tokens of a row among which a nucleus is looked for.
    """
    settings = [[one.temperature for one in options], [one.top_p for one in options], list(draws)]
    heat_N1, nucleus_N1, draw_N1 = torch.tensor(settings, dtype=torch.float64).to(logits_NV.device)[..., None]
    probability_NV = (logits_NV.float() / heat_N1.float()).softmax(-1).double()
    tokens, known = [torch.zeros(len(options), dtype=torch.long, device=logits_NV.device)] * 2, nucleus_N1[:, 0] >= 1
    whole = [one.top_p >= 1 for one in options]
    if any(whole):
        until_NV = probability_NV.cumsum(-1)
        last_N1 = torch.full_like(tokens[0], until_NV.shape[1] - 1)[:, None]
        tokens[0] = _place(until_NV, last_N1, draw_N1)
    if not all(whole):
        probability_NK, token_NK = probability_NV.topk(min(likeliest, probability_NV.shape[1]))
        until_NK = probability_NK.cumsum(-1)
        last_N1 = ((until_NK - probability_NK) < nucleus_N1).sum(-1, keepdim=True).clamp(min=1) - 1
        tokens[1] = token_NK.gather(1, _place(until_NK, last_N1, draw_N1)[:, None])[:, 0]
        known = known | ~(probability_NK.sum(-1) < nucleus_N1[:, 0])
    chosen_N = torch.where(nucleus_N1[:, 0] >= 1, tokens[0], tokens[1])
    return [token if sure else None for token, sure in torch.stack([chosen_N, known.long()], 1).tolist()]


def _place(until_NK: torch.Tensor, last_N1: torch.Tensor, draw_N1: torch.Tensor) -> torch.Tensor:
    """Where `draw` of the weight up to a last place falls, from weights summed up to each place (N)."""
    goal_N1 = until_NK.gather(1, last_N1) * draw_N1
    return torch.minimum(torch.searchsorted(until_NK, goal_N1, right=True), last_N1)[:, 0]
