"""Softmax over a vocabulary in C++, written over the logits (`cpp/shares.cpp`): what lies between products of a loss.

Torch makes three tensors of fp32 of them, and what it compiles reads them from memory as often. Here a position's
logits stay in a core's cache.

Axes: N positions, V words.
"""

from __future__ import annotations

import torch

from tunesmith.model.native import library


def can_write(weight_VD: torch.Tensor) -> bool:
    """Whether shares can be written so of logits that a product with this output layer gives."""
    return weight_VD.dtype == torch.bfloat16 and weight_VD.device.type == "cpu" and library() is not None


def write_shares(logits_NV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Write each word's share over its logit, in bf16.

    Args:
        logits_NV: in bf16, one after another in memory.

    Returns:
        The logarithm of the sum of all words' weights, and the largest logit: each (N, 1) in fp32.
    """
    functions, (count, words) = library(), logits_NV.shape
    assert functions is not None
    assert logits_NV.is_contiguous()
    log_sum_N1, top_N1 = (logits_NV.new_empty(count, 1, dtype=torch.float32) for _ in range(2))
    functions.shares(
        logits_NV.data_ptr(), log_sum_N1.data_ptr(), top_N1.data_ptr(), count, words, torch.get_num_threads()
    )
    return log_sum_N1, top_N1


def weigh(share_NV: torch.Tensor, factor_N1: torch.Tensor) -> None:
    """Multiply each position's shares by a number in fp32, in their place."""
    functions, (count, words) = library(), share_NV.shape
    assert functions is not None
    assert share_NV.is_contiguous()
    factor_N1 = factor_N1.float().contiguous()
    functions.weigh(share_NV.data_ptr(), factor_N1.data_ptr(), count, words, torch.get_num_threads())
