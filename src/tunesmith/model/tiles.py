"""Attention of short rows together: some of them in a tile of fixed size, in which each sees itself alone.

Row by row, rows of a dozen tokens cost more in calls than in products. A tile holds whole rows, up to 64 tokens; all
tiles go through one product, and a mask keeps their rows apart. What is computed in vain is less than what calls cost,
and shapes are few, for each of which oneDNN makes kernels once.

Axes: H heads, K key-value heads, G = H / K query heads that share one, T tokens, D width of a head, N tiles,
M tokens of a tile (64), S tokens of short rows, B = N K, L = G M.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

TILE = 64  # tokens of a tile, and of the longest row that shares one
TILES = 4  # their number is a multiple of it


@dataclass(frozen=True)
class Tiles:
    """Where the tokens of short rows stand in tiles.

    Attributes:
        tokens_NM: the token at each place; at places that are filled up, any.
        filled_NM: whether a place is filled up, so that nothing is wanted of it.
        own_S: the tokens of short rows, in the order of their places.
        places_S: their places, counted over all tiles.
        mask_NMM: zero where one place sees another, else minus infinity.
    """

    tokens_NM: torch.Tensor
    filled_NM: torch.Tensor
    own_S: torch.Tensor
    places_S: torch.Tensor
    mask_NMM: torch.Tensor


def parted(ends: tuple[int, ...]) -> tuple[list[slice], list[slice]]:
    """The rows that share tiles, and those that are too long for it; a single short one has nobody to share with."""
    rows = [slice(begin, end) for begin, end in pairwise(ends) if end > begin]
    short = [row for row in rows if row.stop - row.start <= TILE]
    if len(short) < 2:
        return [], rows
    return short, [row for row in rows if row.stop - row.start > TILE]


@functools.lru_cache(maxsize=64)  # asked by each layer, on its way forth and back
def tiles_of(ends: tuple[int, ...], causal: bool, dtype: torch.dtype) -> tuple[Tiles | None, tuple[slice, ...]]:
    """The tiles of the short rows of a packed sequence, and the rows that are too long.

    Args:
        ends: R + 1 offsets.
        causal: whether a token sees only itself and those before it.
        dtype: of the mask.
    """
    short, long = parted(ends)
    if not short:
        return None, tuple(long)
    tiles: list[list[slice]] = [[]]
    room = TILE
    for row in short:
        length = row.stop - row.start
        if length > room:
            tiles.append([])
            room = TILE
        tiles[-1].append(row)
        room -= length
    count = -(-len(tiles) // TILES) * TILES
    tokens_NM, row_NM = np.zeros((count, TILE), np.int64), np.zeros((count, TILE), np.int32)
    for tile, rows in enumerate(tiles):
        lengths = [row.stop - row.start for row in rows]
        used = sum(lengths)
        tokens_NM[tile, :used] = np.concatenate([np.arange(row.start, row.stop) for row in rows])
        row_NM[tile, :used] = np.repeat(np.arange(1, len(rows) + 1), lengths)  # 0: filled up, which sees its like
    seen_NMM = row_NM[:, :, None] == row_NM[:, None, :]
    if causal:
        seen_NMM &= np.tri(TILE, dtype=bool)
    mask_NMM = torch.zeros(seen_NMM.shape, dtype=dtype).masked_fill_(torch.from_numpy(~seen_NMM), -torch.inf)
    places_S = np.flatnonzero(row_NM)
    return Tiles(
        torch.from_numpy(tokens_NM),
        torch.from_numpy(row_NM == 0),
        torch.from_numpy(tokens_NM.reshape(-1)[places_S]),
        torch.from_numpy(places_S),
        mask_NMM,
    ), tuple(long)


def forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, tiles: Tiles, output_THD: torch.Tensor
) -> None:
    """Write the attention of all short rows into `output_THD`.

    Args:
        query: (1, H, T, D).
        key: (1, K, T, D).
        value: (1, K, T, D).
        scale: factor on the scores.
        tiles: where their tokens stand.
        output_THD: of all tokens.
    """
    q_BLD, k_BMD, v_BMD = (_in_tiles(tensor, tiles, key.shape[1]) for tensor in (query, key, value))
    found_BLD = torch.bmm(_probabilities(q_BLD, k_BMD, scale, tiles), v_BMD)
    output_THD[tiles.own_S] = _out_of_tiles(found_BLD, tiles, *output_THD.shape[1:])


def backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, tiles: Tiles,
    by_query: torch.Tensor, by_key: torch.Tensor, by_value: torch.Tensor,
) -> None:  # fmt: skip
    """Write the gradients of all short rows into `by_query`, `by_key` and `by_value`.

    Args:
        gradient: (1, T, H, D).
        query: (1, H, T, D).
        key: (1, K, T, D).
        value: (1, K, T, D).
        scale: factor on the scores.
        tiles: where their tokens stand.
        by_query: shaped as `query`.
        by_key: shaped as `key`.
        by_value: shaped as `value`.
    """
    heads = key.shape[1]
    q_BLD, k_BMD, v_BMD = (_in_tiles(tensor, tiles, heads) for tensor in (query, key, value))
    g_BLD = _in_tiles(gradient.transpose(1, 2), tiles, heads, filled=0.0)
    p_BLM = _probabilities(q_BLD, k_BMD, scale, tiles)
    by_p_BLM = torch.bmm(g_BLD, v_BMD.transpose(1, 2))
    by_score_BLM = torch._softmax_backward_data(by_p_BLM, p_BLM, -1, p_BLM.dtype).mul_(scale)
    for into, found_BLD in (
        (by_query, torch.bmm(by_score_BLM, k_BMD)),
        (by_key, torch.bmm(by_score_BLM.transpose(1, 2), q_BLD)),
        (by_value, torch.bmm(p_BLM.transpose(1, 2), g_BLD)),
    ):
        _, count, _, width = into.shape
        into[0].transpose(0, 1)[tiles.own_S] = _out_of_tiles(found_BLD, tiles, count, width)


def _in_tiles(tensor: torch.Tensor, tiles: Tiles, heads: int, filled: float | None = None) -> torch.Tensor:
    """(1, H, T, D) as (N K, G M, D): what each key-value head is asked in each tile."""
    count, width = tensor.shape[1], tensor.shape[3]
    found_NMHD = tensor[0].transpose(0, 1).index_select(0, tiles.tokens_NM.flatten()).unflatten(0, (-1, TILE))
    if filled is not None:
        found_NMHD = found_NMHD.masked_fill_(tiles.filled_NM[:, :, None, None], filled)
    return found_NMHD.transpose(1, 2).reshape(-1, count // heads * TILE, width)


def _out_of_tiles(found_BLD: torch.Tensor, tiles: Tiles, count: int, width: int) -> torch.Tensor:
    """(N K, G M, D) as (S, H, D): what was found for each token of a short row."""
    found_NHMD = found_BLD.reshape(-1, count, TILE, width)
    return found_NHMD.transpose(1, 2).reshape(-1, count, width).index_select(0, tiles.places_S)


def _probabilities(q_BLD: torch.Tensor, k_BMD: torch.Tensor, scale: float, tiles: Tiles) -> torch.Tensor:
    """Softmax of the scores, (N K, G M, M)."""
    count, groups = tiles.mask_NMM.shape[0], q_BLD.shape[1] // TILE
    heads = len(k_BMD) // count
    score_BLM = tiles.mask_NMM[:, None, None].expand(-1, heads, groups, -1, -1).reshape(-1, groups * TILE, TILE)
    return torch.baddbmm(score_BLM, q_BLD, k_BMD.transpose(1, 2), alpha=scale).softmax(-1)
