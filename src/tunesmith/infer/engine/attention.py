"""Attention of one new token of each row to its slot (`cpp/slot_attention.cpp`), in bf16 on a CPU.

Axes: B rows, K groups of heads that share keys, R heads of a group, P positions, D width of a head.
"""

from __future__ import annotations

import torch

from tunesmith.model.native import library

WIDTH_MULTIPLE = 32  # heads of such widths it can read
EVERYTHING = 1 << 40  # a window that nothing is out of

_library = torch.library.Library("tunesmith", "FRAGMENT")
_library.define("attend_one(Tensor query, Tensor key, Tensor value, Tensor places, int window, float scale) -> Tensor")


def can_attend_one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether `attend_one` takes heads like these, here."""
    if query.device.type != "cpu" or {query.dtype, key.dtype, value.dtype} != {torch.bfloat16}:
        return False
    return query.shape[-1] == value.shape[-1] and query.shape[-1] % WIDTH_MULTIPLE == 0 and _is_there()


@torch.compiler.assume_constant_result
def _is_there() -> bool:
    return library() is not None


def attend_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    relative: torch.Tensor,
    window: int | None,
    scale: float,
) -> torch.Tensor:
    """Attention (B, K, R, D); a row's bits do not depend on the others.

    Args:
        query: (B, K, R, D).
        key: (B, K, P, D), of the slots themselves.
        value: (B, K, P, D), the same.
        relative: how far back each position is from the row's token (B or 1, 1, 1, P), of neighbouring positions.
        window: a position that is so far back, or farther, is not seen; None for no such limit.
        scale: factor on the scores.
    """
    places = relative[:, 0, 0, 0].long().expand(len(query))
    return torch.ops.tunesmith.attend_one(query, key, value, places, window or EVERYTHING, scale)


def _attend_one(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, places: torch.Tensor, window: int, scale: float
) -> torch.Tensor:
    functions = library()
    assert functions is not None
    query, key, value = query.contiguous(), _together(key), _together(value)
    output = torch.empty_like(query)
    functions.attention(
        query.data_ptr(), key.data_ptr(), value.data_ptr(), places.data_ptr(), output.data_ptr(), *query.shape,
        key.shape[2], *key.stride()[:2], *value.stride()[:2], places.stride(0), window, scale, torch.get_num_threads(),
    )  # fmt: skip
    return output


def _together(states: torch.Tensor) -> torch.Tensor:
    """Keys or values of which a group's positions lie one behind the other."""
    return states if states.stride()[2:] == (states.shape[3], 1) else states.contiguous()


def _shape(query: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


_library.impl("attend_one", _attend_one, "CPU")
_library.impl("attend_one", _shape, "Meta")
