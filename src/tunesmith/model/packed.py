"""Rows of token ids as arguments of a model's forward pass: several in one sequence, or one in each, padded.

Axes: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

# What a library's forward pass raises where an architecture cannot take what it was given.
UNFIT = (NotImplementedError, ValueError, TypeError, RuntimeError, AttributeError, IndexError, KeyError)
WHOLE = 128  # tokens: few shapes, for each of which kernels are made and memory is found once


def packed_inputs(ids: Sequence[np.ndarray], device: str) -> dict[str, Any]:
    """The rows one after another in a single sequence (B = 1), positions starting anew with each.

    Zeros fill it up to a multiple of `WHOLE` tokens, or to a power of two below it, as a row of their own.
    """
    ids_T = torch.from_numpy(np.concatenate(ids).astype(np.int64))
    positions_T = torch.cat([torch.arange(len(one)) for one in ids])
    offsets = torch.tensor([0, *map(len, ids)], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    if filling := filling_of(len(ids_T)):
        ids_T, positions_T = (torch.cat([tensor, tensor.new_zeros(filling)]) for tensor in (ids_T, positions_T))
        offsets = torch.cat([offsets, offsets[-1:] + filling])
    offsets, longest = offsets.to(device), max(filling, *map(len, ids))
    return {
        "input_ids": ids_T[None].to(device),
        "position_ids": positions_T[None].to(device),
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
    return {"input_ids": ids_BT.to(device), "attention_mask": seen_BT.to(device), "use_cache": False}


def filling_of(tokens: int) -> int:
    """Tokens that fill up a packed sequence."""
    return -tokens % min(WHOLE, 1 << (tokens - 1).bit_length())
