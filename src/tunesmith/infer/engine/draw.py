"""Tokens of sampled rows by temperature and nucleus (Holtzman et al., 2020, arXiv 1904.09751), several rows at once.

Each row uses one number, by which it is looked up in the cumulated distribution: so its token depends on no other row.
Of a whole vocabulary first the block is looked up and then the token in it, which leaves most of it unsummed.

Axes: N rows, V vocabulary, K likeliest tokens, B blocks, W words of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from tunesmith.infer.generator import Options

NUCLEUS_TOKENS = 512  # likeliest ones that a nucleus is looked for among before all are sorted
BLOCK = 128  # words
LOGITS_AT_ONCE = 2**20  # on a CPU, where more leave its cache; a GPU takes all rows in one launch


def draw_rows(logits_NV: torch.Tensor, options: Sequence[Options], draws: Sequence[float]) -> list[int]:
    """A token of each row, with one wait for the device where no nucleus is wide.

    Args:
        logits_NV: any precision.
        options: of each row, none of them greedy.
        draws: for each row a number in [0, 1).
    """
    on_cpu = logits_NV.device.type == "cpu"
    length = max(1, LOGITS_AT_ONCE // logits_NV.shape[1]) if on_cpu else len(options)
    parts = [slice(start, start + length) for start in range(0, len(options), length)]
    return [token for part in parts for token in _drawn(logits_NV[part], options[part], draws[part])]


def _drawn(logits_NV: torch.Tensor, options: Sequence[Options], draws: Sequence[float]) -> list[int]:
    settings = [[one.temperature for one in options], [one.top_p for one in options], list(draws)]
    heat_N1, nucleus_N1, draw_N1 = torch.tensor(settings, dtype=torch.float64).to(logits_NV.device)[..., None]
    even = all(one.temperature == 1 for one in options)
    share_NV = (logits_NV.float() if even else logits_NV / heat_N1.float()).softmax(-1)
    tokens, known = [torch.zeros(len(options), dtype=torch.long, device=logits_NV.device)] * 2, nucleus_N1[:, 0] >= 1
    whole = [one.top_p >= 1 for one in options]
    if any(whole):
        tokens[0] = of_all(share_NV, draw_N1)
    if not all(whole):
        tokens[1], sure = of_nucleus(share_NV, nucleus_N1, draw_N1, NUCLEUS_TOKENS)
        known = known | sure
    chosen_N = torch.where(nucleus_N1[:, 0] >= 1, tokens[0], tokens[1])
    found: list[int] = []
    for row, (token, sure) in enumerate(torch.stack([chosen_N, known.long()], 1).tolist()):
        if not sure:
            one = slice(row, row + 1)
            token = int(of_nucleus(share_NV[one], nucleus_N1[one], draw_N1[one], share_NV.shape[1])[0])
        found.append(token)
    return found


def of_all(share_NV: torch.Tensor, draw_N1: torch.Tensor) -> torch.Tensor:
    """Tokens (N) of the whole distribution; none without weight."""
    words = share_NV.shape[1]
    missing = -words % BLOCK
    share_NBW = (pad(share_NV, (0, missing)) if missing else share_NV).unflatten(1, (-1, BLOCK))
    until_NB = share_NBW.sum(-1).double().cumsum(-1)
    total_N1 = until_NB[:, -1:]
    goal_N1 = torch.minimum(total_N1 * draw_N1, torch.nextafter(total_N1, torch.zeros_like(total_N1)))
    block_N1 = torch.searchsorted(until_NB, goal_N1, right=True).clamp(max=until_NB.shape[1] - 1)
    before_N1 = pad(until_NB, (1, 0)).gather(1, block_N1)
    share_NW = share_NBW.gather(1, block_N1[:, :, None].expand(-1, -1, BLOCK))[:, 0]
    until_NW = before_N1 + share_NW.double().cumsum(-1)
    number_W = torch.arange(BLOCK, device=share_NV.device)
    last_N1 = torch.where(share_NW > 0, number_W, 0).amax(-1, keepdim=True)
    place_N1 = torch.minimum(torch.searchsorted(until_NW, goal_N1, right=True), last_N1)
    return (block_N1 * BLOCK + place_N1)[:, 0].clamp(max=words - 1)


def of_nucleus(
    share_NV: torch.Tensor, nucleus_N1: torch.Tensor, draw_N1: torch.Tensor, likeliest: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (N) of the fewest that hold so much, or of the likeliest one; and whether so many hold it (N)."""
    count = min(likeliest, share_NV.shape[1])
    share_NK, token_NK = share_NV.topk(count) if count < share_NV.shape[1] else share_NV.sort(descending=True)
    until_NK = share_NK.double().cumsum(-1)
    last_N1 = ((until_NK - share_NK) < nucleus_N1).sum(-1, keepdim=True).clamp(min=1) - 1
    goal_N1 = until_NK.gather(1, last_N1) * draw_N1
    place_N1 = torch.minimum(torch.searchsorted(until_NK, goal_N1, right=True), last_N1)
    return token_NK.gather(1, place_N1)[:, 0], until_NK[:, -1] >= nucleus_N1[:, 0]
