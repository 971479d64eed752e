"""Attention of short rows together: in tiles of fixed sizes, in which each sees itself alone.

Row by row, short rows cost more in calls than in products. A tile of 64 tokens holds whole rows, as many as fit; longer
rows have a tile each, of the next size. Several tiles go through one product, and a mask keeps rows apart. What is
computed in vain is less than what calls cost, and shapes are few, for each of which oneDNN makes kernels once. A tensor
is copied once into tiles, and once out of them, all sizes together.

Axes: H heads (of queries, or of keys and values), K key-value heads, G = H / K query heads that share one, T tokens,
D width of a head, N tiles, M tokens of a tile, S tokens of the rows in tiles, B = N K, L = G M.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

SIZES = (64, 96, 128)  # tokens of a tile; rows longer than the last are computed one by one
TILES = 2  # tiles of a size go through products in multiples of it
AT_ONCE = 2**19  # most probabilities that are there at once, if TILES have no more: beyond, they leave a core's cache


@dataclass(frozen=True)
class Tiles:
    """Tiles of one size that go through products together.

    Attributes:
        tokens_NM: the token at each place; at places that are filled up, any: they see one another alone.
        mask_NMM: zero where one place sees another, else minus infinity.
        lines: which line of (T H) stands at each place of each head (N H M), by the number of heads.
    """

    tokens_NM: torch.Tensor
    mask_NMM: torch.Tensor
    lines: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Short:
    """The short rows of a packed sequence.

    Attributes:
        tiles: of each size that there is, some at once.
        runs: their tokens, neighbours together.
        places_S: of each token the first place of its tile, counted over all tiles, its place there, and the tile's
            size: (3, S).
        lines: at which line of all tiles each head of each token stands (S H), by the number of heads.
    """

    tiles: tuple[Tiles, ...]
    runs: tuple[slice, ...]
    places_S: np.ndarray
    lines: dict[int, torch.Tensor] = field(default_factory=dict)


def parted(ends: tuple[int, ...]) -> tuple[dict[int, list[slice]], list[slice]]:
    """The rows in tiles of each size, and those that are computed one by one: long ones, and the only one of a size."""
    in_tiles: dict[int, list[slice]] = {size: [] for size in SIZES}
    alone: list[slice] = []
    for row in (slice(begin, end) for begin, end in pairwise(ends) if end > begin):
        size = next((size for size in SIZES if row.stop - row.start <= size), None)
        (alone if size is None else in_tiles[size]).append(row)
    for size in SIZES:
        if len(in_tiles[size]) < 2:
            alone += in_tiles.pop(size)
    return in_tiles, alone


@functools.lru_cache(maxsize=16)  # asked by each layer, on its way forth and back
def short_of(
    ends: tuple[int, ...], causal: bool, dtype: torch.dtype, heads: int
) -> tuple[Short | None, tuple[slice, ...]]:
    """The short rows of a packed sequence, and those that are computed one by one.

    Args:
        ends: R + 1 offsets.
        causal: whether a token sees only itself and those before it.
        dtype: of the mask.
        heads: of queries.
    """
    in_tiles, alone = parted(ends)
    if not in_tiles:
        return None, tuple(alone)
    made: list[Tiles] = []
    places_T = np.full((3, ends[-1]), -1)
    before = 0
    for size, rows in in_tiles.items():
        tokens_NM, row_NM = laid(rows, size)
        seen_NMM = row_NM[:, :, None] == row_NM[:, None, :]
        if causal:
            seen_NMM &= np.tri(size, dtype=bool)
        mask_NMM = torch.zeros(seen_NMM.shape, dtype=dtype).masked_fill_(torch.from_numpy(~seen_NMM), -torch.inf)
        at_once = max(AT_ONCE // (heads * size**2) // TILES, 1) * TILES
        parts = (torch.from_numpy(tokens_NM).split(at_once), mask_NMM.split(at_once))
        made += [Tiles(*part) for part in zip(*parts, strict=True)]
        tile, place = np.nonzero(row_NM)
        places_T[:, tokens_NM[tile, place]] = before + tile * size, place, np.full_like(tile, size)
        before += row_NM.size
    inside = np.concatenate([[False], places_T[0] >= 0, [False]])
    begins, stops = (np.flatnonzero(edge) for edge in (inside[1:] & ~inside[:-1], ~inside[1:] & inside[:-1]))
    runs = tuple(slice(int(begin), int(stop)) for begin, stop in zip(begins, stops, strict=True))
    return Short(tuple(made), runs, places_T[:, inside[1:-1]]), tuple(alone)


def laid(rows: Sequence[slice], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows in tiles, one after another: the token at each place (N, M), and the number of its row, 0 if filled up."""
    tiles: list[list[slice]] = [[]]
    room = size
    for row in rows:
        length = row.stop - row.start
        if length > room:
            tiles.append([])
            room = size
        tiles[-1].append(row)
        room -= length
    count = -(-len(tiles) // TILES) * TILES
    tokens_NM, row_NM = np.zeros((count, size), np.int64), np.zeros((count, size), np.int32)
    for tile, inside in enumerate(tiles):
        lengths = [row.stop - row.start for row in inside]
        used = sum(lengths)
        tokens_NM[tile, :used] = np.concatenate([np.arange(row.start, row.stop) for row in inside])
        row_NM[tile, :used] = np.repeat(np.arange(1, len(inside) + 1), lengths)
    return tokens_NM, row_NM


def forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, short: Short, output_THD: torch.Tensor
) -> None:
    """Write the attention of the short rows into `output_THD`.

    Args:
        query: (1, H, T, D).
        key: (1, K, T, D).
        value: (1, K, T, D).
        scale: factor on the scores.
        short: where their tokens stand in tiles.
        output_THD: of all tokens.
    """
    found: list[torch.Tensor] = []
    for tiles in short.tiles:
        q_BLD, k_BMD, v_BMD = (_in_tiles(tensor, tiles, key.shape[1]) for tensor in (query, key, value))
        found.append(torch.bmm(_probabilities(q_BLD, k_BMD, scale, tiles), v_BMD))
    _out_of_tiles(found, short, output_THD)


def backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, short: Short,
    by_query: torch.Tensor, by_key: torch.Tensor, by_value: torch.Tensor,
) -> None:  # fmt: skip
    """Write the gradients of the short rows into `by_query`, `by_key` and `by_value`.

    Args:
        gradient: (1, T, H, D).
        query: (1, H, T, D).
        key: (1, K, T, D).
        value: (1, K, T, D).
        scale: factor on the scores.
        short: where their tokens stand in tiles.
        by_query: shaped as `query`, its memory in the order of (1, T, H, D).
        by_key: shaped as `key`, so too.
        by_value: shaped as `value`, so too.
    """
    heads = key.shape[1]
    found: list[tuple[torch.Tensor, ...]] = []
    for tiles in short.tiles:
        q_BLD, k_BMD, v_BMD, g_BLD = (
            _in_tiles(tensor, tiles, heads) for tensor in (query, key, value, gradient.transpose(1, 2))
        )
        p_BLM = _probabilities(q_BLD, k_BMD, scale, tiles)
        by_p_BLM = torch.bmm(g_BLD, v_BMD.transpose(1, 2))
        by_score_BLM = torch._softmax_backward_data(by_p_BLM, p_BLM, -1, p_BLM.dtype).mul_(scale)
        by_k_BMD, by_v_BMD = (
            torch.bmm(left.transpose(1, 2), right) for left, right in ((by_score_BLM, q_BLD), (p_BLM, g_BLD))
        )
        found.append((torch.bmm(by_score_BLM, k_BMD), by_k_BMD, by_v_BMD))
    for into, parts in zip((by_query, by_key, by_value), zip(*found, strict=True), strict=True):
        _out_of_tiles(parts, short, into[0].transpose(0, 1))


def _in_tiles(tensor: torch.Tensor, tiles: Tiles, groups: int) -> torch.Tensor:
    """(1, H, T, D) as (N K, G M, D): what each key-value head is asked in each tile."""
    heads, width = tensor.shape[1], tensor.shape[3]
    if heads not in tiles.lines:
        tiles.lines[heads] = (tiles.tokens_NM[:, None] * heads + torch.arange(heads)[:, None]).flatten()
    by_line = tensor[0].transpose(0, 1).reshape(-1, width)  # a copy where memory has another order
    return by_line.index_select(0, tiles.lines[heads]).view(-1, heads // groups * tiles.tokens_NM.shape[1], width)


def _out_of_tiles(found: Sequence[torch.Tensor], short: Short, into_THD: torch.Tensor) -> None:
    """Write (N K, G M, D) of all tiles where its tokens belong, in a (T, H, D) whose memory has that order."""
    _, heads, width = into_THD.shape
    if heads not in short.lines:
        tile_S, place_S, size_S = torch.from_numpy(short.places_S)[..., None]
        short.lines[heads] = (tile_S * heads + place_S + torch.arange(heads) * size_S).flatten()
    by_line = torch.cat([one.reshape(-1, width) for one in found]) if len(found) > 1 else found[0].reshape(-1, width)
    begin = 0
    for run in short.runs:
        end = begin + (run.stop - run.start) * heads
        torch.index_select(by_line, 0, short.lines[heads][begin:end], out=into_THD[run].view(-1, width))
        begin = end


def _probabilities(q_BLD: torch.Tensor, k_BMD: torch.Tensor, scale: float, tiles: Tiles) -> torch.Tensor:
    """Softmax of the scores, (N K, G M, M)."""
    count, size, _ = tiles.mask_NMM.shape
    groups = q_BLD.shape[1] // size
    heads = len(k_BMD) // count
    score_BLM = tiles.mask_NMM[:, None, None].expand(-1, heads, groups, -1, -1).reshape(-1, groups * size, size)
    return torch.baddbmm(score_BLM, q_BLD, k_BMD.transpose(1, 2), alpha=scale).softmax(-1)
