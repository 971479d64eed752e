"""Rows of token ids as arguments of a model's forward pass: several in one sequence, or one in each, padded.

Axes: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tunesmith.model.device import sent

# What a library's forward pass raises where an architecture cannot take what it was given.
UNFIT = (NotImplementedError, ValueError, TypeError, RuntimeError, AttributeError, IndexError, KeyError)
WHOLE, LEAST = 128, 16  # tokens: few shapes, for each of which kernels are made and memory is found once


def packed_inputs(ids: Sequence[np.ndarray], device: str, few_shapes: bool = False) -> dict[str, Any]:
    """The rows one after another in a single sequence (B = 1), positions starting anew with each.

    Zeros fill it up to a rounder number of tokens, as a row of their own.

    Args:
        ids: of each row.
        device: where the arguments are wanted.
        few_shapes: fill up to one of a few numbers of tokens, and of rows with rows of no token.
    """
    ids_T = torch.from_numpy(np.concatenate(ids).astype(np.int64))
    positions_T = torch.cat([torch.arange(len(one)) for one in ids])
    offsets = torch.tensor([0, *map(len, ids)], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    if filling := few_of(len(ids_T)) - len(ids_T) if few_shapes else filling_of(len(ids_T)):
        ids_T, positions_T = (torch.cat([tensor, tensor.new_zeros(filling)]) for tensor in (ids_T, positions_T))
        offsets = torch.cat([offsets, offsets[-1:] + filling])
    longest = max(filling, *map(len, ids))
    if few_shapes and longest * (len(offsets) - 1) != len(ids_T):  # equal rows are a batch, and stay one
        offsets = torch.cat([offsets, offsets[-1:].expand(few_of(len(offsets), 8) - len(offsets))])
        longest = min(few_of(longest), len(ids_T))
    offsets = sent(offsets, device)
    return {
        "input_ids": sent(ids_T[None], device),
        "position_ids": sent(positions_T[None], device),
        "cu_seq_lens_q": offsets,
        "cu_seq_lens_k": offsets,
        "max_length_q": longest,
        "max_length_k": longest,
        "use_cache": False,
    }


def padded_inputs(ids: Sequence[np.ndarray], device: str, padding: int = 0) -> dict[str, Any]:
    """One row in each sequence, padded on the right."""
    ids_BT = torch.full((len(ids), max(map(len, ids))), padding, dtype=torch.long)
    seen_BT = torch.zeros_like(ids_BT)
    for place, one in enumerate(ids):
        ids_BT[place, : len(one)] = torch.from_numpy(one.astype(np.int64))
        seen_BT[place, : len(one)] = 1
    return {"input_ids": sent(ids_BT, device), "attention_mask": sent(seen_BT, device), "use_cache": False}


def few_of(number: int, least: int = WHOLE) -> int:
    """The next of a few numbers, a power of two or one and a half of one, and at least `least`."""
    power = 1 << (max(number, least) - 1).bit_length()
    return power // 4 * 3 if power // 4 * 3 >= max(number, least) else power


def filling_of(tokens: int) -> int:
    """Tokens that fill up a packed sequence: by a thirty-second at most, or to a multiple of `LEAST`."""
    return -tokens % min(WHOLE, max(LEAST, 1 << tokens.bit_length() >> 6), 1 << (tokens - 1).bit_length())
