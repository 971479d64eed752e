"""Attention of packed rows in bf16 on a CPU (`cpp/row_attention.cpp`): each row sees itself alone.

Through torch's products the rows of a pack are copied into tiles and out of them, and what stands between two products
goes through memory. In C++ of our own a row and head is one piece of work, and stays in a core's caches.

Axes: H heads, K key-value heads, T tokens, D width of a head, R rows.
"""

from __future__ import annotations

import functools
from ctypes import Structure, byref, c_float, c_long, c_uint32, c_void_p
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from tunesmith.model.dropout import MOST_SHARE, SEEDS
from tunesmith.model.native import library

WIDTH_MULTIPLE = 16  # heads of such widths it can read
LONGEST = 2048  # tokens of a row: longer ones gain nothing


class Drop(NamedTuple):
    """Which probabilities are left out at random: what share of them, and the seed, of 32 bits."""

    share: float
    seed: int


NONE = Drop(0.0, 0)


class Laid(Structure):
    """How far tokens and heads of a tensor lie apart, in numbers."""

    _fields_ = (("token", c_long), ("head", c_long))


class Packed(Structure):
    """Queries, keys, values, and which rows of them."""

    _fields_ = (
        *((name, c_void_p) for name in ("query", "key", "value")),
        *((f"of_{name}", Laid) for name in ("query", "key", "value")),
        ("rows", c_void_p),
        *((name, c_long) for name in ("count", "heads", "groups", "width")),
        *((name, c_float) for name in ("scale", "dropout")),
        ("seed", c_uint32),
        ("causal", c_long),
    )


def can_attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether these heads can be read here: (1, H, T, D), and (1, K, T, D) twice."""
    if any(one.device.type != "cpu" or one.dtype != torch.bfloat16 for one in (query, key, value)):
        return False
    tokens, widths = ({one.shape[axis] for one in (query, key, value)} for axis in (2, 3))
    alike = len(tokens) == len(widths) == 1 and key.shape[1] == value.shape[1] and query.shape[1] % key.shape[1] == 0
    return alike and widths.pop() % WIDTH_MULTIPLE == 0 and library() is not None


@functools.lru_cache(maxsize=16)  # asked by each layer, on its way forth and back
def rows_of(ends: tuple[int, ...], tokens: int) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """First token of each row that is computed here and the one behind its last (R, 2), the longest first; other rows.

    Args:
        ends: offsets of the rows, one more than there are.
        tokens: that there are.

    Raises:
        ValueError: they do not begin at 0, or go back, or end elsewhere.
    """
    if ends[-1] != tokens:
        raise ValueError(f"the rows end at {ends[-1]}, and there are {tokens} tokens")
    if ends[0] != 0 or any(end < begin for begin, end in pairwise(ends)):
        raise ValueError(f"rows begin at 0, and one behind the other, not at {ends[:8]}")
    rows = [(begin, end) for begin, end in pairwise(ends) if end > begin]
    here = sorted((row for row in rows if row[1] - row[0] <= LONGEST), key=lambda row: row[0] - row[1])
    others = tuple(slice(begin, end) for begin, end in rows if end - begin > LONGEST)
    return torch.tensor(here, dtype=torch.int64, device="cpu").view(-1, 2), others


def forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows_R2: torch.Tensor, scale: float, causal: bool,
    output: torch.Tensor, drop: Drop = NONE,
) -> None:  # fmt: skip
    """Write the attention of some rows into `output`.

    Args:
        query: (1, H, T, D).
        key: (1, K, T, D).
        value: (1, K, T, D).
        rows_R2: as `rows_of` tells them.
        scale: factor on the scores.
        causal: whether a token sees only itself and those before it.
        output: (1, T, H, D), contiguous.
        drop: which probabilities are left out.
    """
    heads = [_together(one) for one in (query, key, value)]
    _functions().rows_forward(
        byref(_packed(heads, rows_R2, scale, causal, drop)), output.data_ptr(), torch.get_num_threads()
    )  # fmt: skip


def backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows_R2: torch.Tensor,
    scale: float, causal: bool, by_query: torch.Tensor, by_key: torch.Tensor, by_value: torch.Tensor,
    drop: Drop = NONE,
) -> None:  # fmt: skip
    """Write the gradients of some rows into `by_query`, `by_key` and `by_value`.

    Args:
        gradient: (1, T, H, D).
        query: (1, H, T, D).
        key: (1, K, T, D).
        value: (1, K, T, D).
        rows_R2: as `rows_of` tells them.
        scale: factor on the scores.
        causal: whether a token sees only itself and those before it.
        by_query: shaped as `query`, its memory in the order of (1, T, H, D).
        by_key: shaped as `key`, so too.
        by_value: shaped as `value`, so too.
        drop: which probabilities were left out.
    """
    gradient, heads = gradient.contiguous(), [_together(one) for one in (query, key, value)]
    _functions().rows_backward(
        byref(_packed(heads, rows_R2, scale, causal, drop)), gradient.data_ptr(),
        by_query.data_ptr(), by_key.data_ptr(), by_value.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip


class DroppingAttention(torch.autograd.Function):
    """Attention with dropout on its probabilities, which are left out again by the same seed on the way back."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows_R2: torch.Tensor, scale: float,
        causal: bool, drop: Drop,
    ) -> torch.Tensor:  # fmt: skip
        """Output (1, T, H, D)."""
        ctx.save_for_backward(query, key, value, rows_R2)
        ctx.given = scale, causal, drop
        output = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
        forward(query, key, value, rows_R2, scale, causal, output, drop)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore
        """Gradients by query, key and value."""
        query, key, value, rows_R2 = ctx.saved_tensors
        scale, causal, drop = ctx.given
        empty = (one.new_empty(1, one.shape[2], one.shape[1], one.shape[3]) for one in (query, key, value))
        by_query, by_key, by_value = (one.transpose(1, 2) for one in empty)  # in the order that layers want
        backward(gradient, query, key, value, rows_R2, scale, causal, by_query, by_key, by_value, drop)
        return by_query, by_key, by_value, None, None, None, None


def dropping(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, offsets: torch.Tensor, scale: float, causal: bool,
    share: float,
) -> torch.Tensor | None:  # fmt: skip
    """Attention within rows with dropout, (1, T, H, D); None where it cannot be computed here.

    Args:
        query: (1, H, T, D).
        key: (1, K, T, D).
        value: (1, K, T, D).
        offsets: R + 1, of the rows.
        scale: factor on the scores.
        causal: whether a token sees only itself and those before it.
        share: of the probabilities, which is left out; the seed is of torch's own generator.
    """
    if torch.compiler.is_compiling() or share > MOST_SHARE or not can_attend(query, key, value):
        return None
    rows_R2, others = rows_of(tuple(offsets.tolist()), query.shape[2])
    if others:
        return None
    drop = Drop(share, int(torch.randint(SEEDS, ())))
    return DroppingAttention.apply(query, key, value, rows_R2, scale, causal, drop)  # pyright: ignore


def _packed(heads: list[torch.Tensor], rows_R2: torch.Tensor, scale: float, causal: bool, drop: Drop) -> Packed:
    query, key, _ = heads
    return Packed(
        *(one.data_ptr() for one in heads), *(Laid(one.stride(2), one.stride(1)) for one in heads),
        rows_R2.data_ptr(), len(rows_R2), query.shape[1], key.shape[1], query.shape[3], scale,
        drop.share, drop.seed, causal,
    )  # fmt: skip


def _together(heads: torch.Tensor) -> torch.Tensor:
    """Heads whose numbers lie one behind the other."""
    return heads if heads.stride(3) == 1 else heads.contiguous()


def _functions():
    functions = library()
    assert functions is not None
    return functions
