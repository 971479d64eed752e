"""Attention for packed rows: each row attends to itself alone.

Registered with transformers' attention interface, so every model that goes through it can use it
unpatched. One sequence holds several rows; `cu_seq_lens_q` (R + 1 offsets, the name that
transformers' own packed kernels use) says where each begins. Cost is the sum of squares of the row
lengths, not the square of the sum.

Axes: B batch (1), H heads, K key-value heads, T tokens, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PACKED = "tunesmith_packed"
CHANGES_NOTHING = {"position_ids", "cu_seq_lens_k", "max_length_q", "max_length_k", "use_cache"}


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row of a packed sequence.

    Args:
        module: the attention layer; only its number of key-value groups is read.
        query: (1, H, T, D).
        key: (1, K, T, D).
        value: (1, K, T, D).
        attention_mask: must be None, since the offsets say it all.
        dropout: probability, applied inside each row.
        scaling: factor on the scores.
        cu_seq_lens_q: R + 1 offsets, from 0 to T.
        is_causal: must not be False.
        **other: anything a model asks for that this function does not do is an error.

    Returns:
        Output of shape (1, T, H, D), and no attention weights.
    """
    unknown = {name for name, given in other.items() if given is not None and name not in CHANGES_NOTHING}
    if unknown:
        raise NotImplementedError(f"packed attention cannot do {', '.join(sorted(unknown))}")
    if attention_mask is not None or cu_seq_lens_q is None or query.shape[0] != 1 or is_causal is False:
        raise NotImplementedError("packed attention cannot do masks, batches, unpacked rows or a look ahead")
    if (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    lengths = cu_seq_lens_q.diff().tolist()
    rows = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True)
    outputs = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling, is_causal=True) for q, k, v in rows
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(PACKED, packed_attention)
