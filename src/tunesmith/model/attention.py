"""Attention for packed rows: each row attends to itself alone.

Registered with transformers' attention interface, so every model that goes through it can use it
unpatched. One sequence holds several rows; `cu_seq_lens_q` (R + 1 offsets, the name that
transformers' own packed kernels use) says where each begins. Cost is the sum of squares of the row
lengths, not the square of the sum.

On a CPU this is one operator of its own, so that compiled layers need not be broken open for it. In
bf16 it is C++ of our own where that can be compiled (`attention_cpu`); elsewhere, and for very long rows,
it goes block by block through plain matrix products, short rows together (`tiles`): torch's fused
kernel for CPUs does not use the processor's bf16 products (see docs/speed.md for what that gains). In fp32
the fused kernel is as fast, and is used. Only queries, keys and values are kept for the backward pass;
probabilities are computed again there (Dao et al., 2022, arXiv 2205.14135). On a GPU `kernels`
says which one it is.

Axes: B batch (1), H heads, K key-value heads, G = H / K query heads that share one, T tokens, D width
of a head, N queries of a block, S keys that they see.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from tunesmith.model import attention_cpu, tiles
from tunesmith.model.attention_gpu import attend_any, attend_by_cudnn
from tunesmith.model.kernels import CUDNN, KERNELS, OWN
from tunesmith.model.prefix import place_in_rows, prefix_of, replaced, row_of_tokens
from tunesmith.model.read_at import attend_at

PACKED = OWN
CHANGES_NOTHING = {"position_ids", "cu_seq_lens_k", "max_length_k", "use_cache", "output_router_logits"}
BLOCK = 256  # queries whose probabilities are there at once
WHOLE = 32  # lengths of blocks are multiples of it: few shapes, for each of which oneDNN makes kernels once


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    is_causal: bool | None = None,
    equal_rows_by_cudnn: bool = False,
    read_at: tuple[torch.Tensor, torch.Tensor] | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each row of a packed sequence: to what came before, or (of an encoder) to all of the row.

    Args:
        module: the attention layer, which says whether it is causal where the call does not.
        query: (1, H, T, D).
        key: (1, K, T, D).
        value: (1, K, T, D).
        attention_mask: must be None, since the offsets say it all.
        dropout: probability, applied inside each row.
        scaling: factor on the scores.
        cu_seq_lens_q: R + 1 offsets, from 0 to T.
        max_length_q: tokens of the longest row; T if absent.
        is_causal: whether a token sees only itself and those before it; as the layer says if absent.
        equal_rows_by_cudnn: on a GPU, which kernel takes rows that are equally long.
        read_at: where queries are those of some tokens alone, all states and their places (`read_at.py`).
        **other: anything a model asks for that this function does not do is an error.

    Returns:
        Output of shape (1, T, H, D), and no attention weights.
    """
    unknown = {name for name, given in other.items() if given is not None and name not in CHANGES_NOTHING}
    if unknown:
        raise NotImplementedError(f"packed attention cannot do {', '.join(sorted(unknown))}")
    if attention_mask is not None or cu_seq_lens_q is None or query.shape[0] != 1:
        raise NotImplementedError("packed attention cannot do masks, batches or unpacked rows")
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if read_at is not None:
        return attend_at(module, query, read_at, cu_seq_lens_q, dropout, scale), None
    if (prefix := prefix_of(module)) is not None:
        places_T = place_in_rows(cu_seq_lens_q, row_of_tokens(cu_seq_lens_q, key.shape[2]))
        key, value = replaced(prefix, key, value, places_T)
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary positions may leave them in fp32
    if query.device.type == "cpu" and dropout == 0:
        return attend(query, key, value, cu_seq_lens_q, scale, causal)[0], None
    if query.device.type == "cpu":
        found = attention_cpu.dropping(query, key, value, cu_seq_lens_q, scale, causal, dropout)
        if found is not None:
            return found, None
    if query.is_cuda and dropout == 0 and query.dtype != torch.float32:
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        run = attend_by_cudnn if equal_rows_by_cudnn else attend_any
        found = run(q, k, v, cu_seq_lens_q, max_length_q or query.shape[2], scale, causal)
        return (found if isinstance(found, torch.Tensor) else found[0])[None], None
    return row_by_row(query, key, value, cu_seq_lens_q, dropout, scale, causal), None


def row_by_row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, offsets: torch.Tensor, dropout: float, scale: float,
    causal: bool = True,
) -> torch.Tensor:  # fmt: skip
    """Torch's own attention for each row in turn: with dropout where C++ cannot do it, or in fp32 on a GPU."""
    if (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    lengths = offsets.diff().tolist()
    rows = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True)
    outputs = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale, is_causal=causal) for q, k, v in rows
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2)


@torch.library.custom_op("tunesmith::attend", mutates_args=(), device_types="cpu")
def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, offsets: torch.Tensor, scale: float, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (1, T, H, D), and for fp32 the logarithms (1, T, H) of each query's sum, which its backward pass needs."""
    _, heads, tokens, width = query.shape
    output = query.new_empty(1, tokens, heads, width)
    sums = query.new_empty(_sums_shape(query), dtype=torch.float32)
    ours, short, rows = _parted(offsets, query, key, value, causal)
    if ours is not None:
        attention_cpu.forward(query, key, value, ours, scale, causal, output)
    if short is not None:
        tiles.forward(query, key, value, scale, short, output[0])
    for here in rows:
        if query.dtype == torch.float32:
            q, k, v = query[:, :, here], key[:, :, here], value[:, :, here]
            found, log_sum = _fused(q, *_for_each_head(q, k, v), 0.0, causal, scale=scale)
            output[:, here], sums[:, here] = found.transpose(1, 2), log_sum.transpose(1, 2)
        else:
            k, v = key[0, :, here.start :], value[0, :, here.start :]
            q, into = query[:, :, here.start :], output[:, here].transpose(1, 2)
            _forward(_grouped(q, key), k, v, scale, causal, _grouped(into, key))
    return output, sums


@torch.library.custom_op("tunesmith::attend_backward", mutates_args=(), device_types="cpu")
def attend_backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, offsets: torch.Tensor,
    scale: float, causal: bool, output: torch.Tensor, sums: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of `attend` by query, key and value; `gradient` is (1, T, H, D)."""
    by_query, by_key, by_value = (_laid_out_by_tokens(tensor) for tensor in (query, key, value))
    ours, short, rows = _parted(offsets, query, key, value, causal)
    if ours is not None:
        attention_cpu.backward(gradient, query, key, value, ours, scale, causal, by_query, by_key, by_value)
    if short is not None:
        tiles.backward(gradient, query, key, value, scale, short, by_query, by_key, by_value)
    for here in rows:
        g = gradient[:, here].transpose(1, 2)
        if query.dtype == torch.float32:
            q, k, v = query[:, :, here], key[:, :, here], value[:, :, here]
            o, log_sum = output[:, here].transpose(1, 2), sums[:, here].transpose(1, 2)
            found = _fused_backward(g, q, *_for_each_head(q, k, v), o, log_sum, 0.0, causal, scale=scale)
            by_query[:, :, here] = found[0]
            by_key[0, :, here], by_value[0, :, here] = (_grouped(one, k).sum(1) for one in found[1:])
        else:
            k, v = key[0, :, here.start :], value[0, :, here.start :]
            q, into = query[:, :, here.start :], by_query[:, :, here]
            found = _backward(_grouped(g, key), _grouped(q, key), k, v, scale, causal, _grouped(into, key))
            by_key[0, :, here], by_value[0, :, here] = found
    return by_query, by_key, by_value


_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@attend.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, offsets: torch.Tensor, scale: float, causal: bool):  # pyright: ignore
    _, heads, tokens, width = query.shape
    return query.new_empty(1, tokens, heads, width), query.new_empty(_sums_shape(query), dtype=torch.float32)


@attend_backward.register_fake
def _(gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any):  # pyright: ignore
    return _laid_out_by_tokens(query), _laid_out_by_tokens(key), _laid_out_by_tokens(value)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    query, key, value, offsets, ctx.scale, ctx.causal = inputs
    kept = output if query.dtype == torch.float32 else (output[1], output[1])
    ctx.save_for_backward(query, key, value, offsets, *kept)
    ctx.set_materialize_grads(False)


def _differentiate(context: Any, gradient: torch.Tensor, _: None) -> tuple[torch.Tensor | None, ...]:
    query, key, value, offsets, output, sums = context.saved_tensors
    found = attend_backward(gradient, query, key, value, offsets, context.scale, context.causal, output, sums)
    return *found, None, None, None


attend.register_autograd(_differentiate, setup_context=_keep)  # pyright: ignore[reportArgumentType]


def _forward(
    query_KGTD: torch.Tensor, key_KTD: torch.Tensor, value_KTD: torch.Tensor, scale: float, causal: bool,
    output_KGLD: torch.Tensor,
) -> None:  # fmt: skip
    """Write the attention of the first L tokens, which are a row, into `output_KGLD`."""
    for block, seen in _blocks(output_KGLD.shape[2], query_KGTD.shape[2], causal):
        p_KMS = _probabilities(query_KGTD[:, :, block], key_KTD[:, seen], scale, causal)
        into = output_KGLD[:, :, block]
        into.copy_(_first(torch.bmm(p_KMS, value_KTD[:, seen]), into))


def _backward(
    gradient_KGLD: torch.Tensor, query_KGTD: torch.Tensor, key_KTD: torch.Tensor, value_KTD: torch.Tensor,
    scale: float, causal: bool, by_query_KGLD: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of the first L tokens: by query, written into `by_query_KGLD`; by key and value, returned."""
    heads, groups, length, width = gradient_KGLD.shape
    blocks = list(_blocks(length, query_KGTD.shape[2], causal))
    dtype = torch.float32 if len(blocks) > 1 else key_KTD.dtype  # of what is summed over blocks
    by_key, by_value = (key_KTD.new_zeros(heads, blocks[-1][1].stop, width, dtype=dtype) for _ in range(2))
    for block, seen in blocks:
        q_KMD, into = query_KGTD[:, :, block].flatten(1, 2), by_query_KGLD[:, :, block]
        g_KGND = into.new_zeros(heads, groups, block.stop - block.start, width)
        g_KGND[:, :, : into.shape[2]] = gradient_KGLD[:, :, block]
        g_KMD = g_KGND.flatten(1, 2)
        p_KMS = _probabilities(query_KGTD[:, :, block], key_KTD[:, seen], scale, causal)
        by_value[:, seen] += torch.bmm(p_KMS.transpose(1, 2), g_KMD)
        by_p_KMS = torch.bmm(g_KMD, value_KTD[:, seen].transpose(1, 2))
        by_score_KMS = torch._softmax_backward_data(by_p_KMS, p_KMS, -1, p_KMS.dtype)
        into.copy_(_first(_scaled(by_score_KMS, key_KTD[:, seen], scale), into))
        by_key[:, seen] += _scaled(by_score_KMS.transpose(1, 2), q_KMD, scale)
    return by_key[:, :length], by_value[:, :length]


def _probabilities(query_KGND: torch.Tensor, key_KSD: torch.Tensor, scale: float, causal: bool) -> torch.Tensor:
    """Softmax of the scores of a block, (K, M, S), M = G N; if causal, its last N keys are the block's own tokens."""
    (heads, groups, n, _), s = query_KGND.shape, key_KSD.shape[1]
    score_KGNS = _scaled(query_KGND.flatten(1, 2), key_KSD.transpose(1, 2), scale).view(heads, groups, n, s)
    if causal:
        score_KGNS[..., s - n :] += _future(query_KGND.dtype)[:n, :n]
    return score_KGNS.softmax(-1).view(heads, groups * n, s)


@functools.cache
def _future(dtype: torch.dtype) -> torch.Tensor:
    """What hides the tokens after each of a block's: (N, N)."""
    return torch.full((BLOCK, BLOCK), -torch.inf, dtype=dtype).triu(1)


def _scaled(left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    """scale * left @ right, rounded once."""
    empty = left.new_empty(left.shape[0], left.shape[1], right.shape[2])
    return torch.baddbmm(empty, left, right, beta=0, alpha=scale)


def _blocks(length: int, most: int, causal: bool) -> Iterator[tuple[slice, slice]]:
    """Blocks of about as many queries each, and the keys that some of them see.

    The last block may go on into tokens after the row, where there are any: keys that come later are hidden from the
    row's own queries, and what those tokens find is thrown away. Where attention is not causal, all see the whole row.
    """
    size = _whole(-(-length // -(-length // BLOCK)))
    for start in range(0, length, size):
        end = min(start + _whole(min(size, length - start)), most)
        yield slice(start, end), slice(0, end if causal else length)


def _whole(tokens: int) -> int:
    return -(-tokens // WHOLE) * WHOLE


def _first(found_KMD: torch.Tensor, into_KGLD: torch.Tensor) -> torch.Tensor:
    """The first L tokens of what was found for each head."""
    return found_KMD.unflatten(1, (into_KGLD.shape[1], -1))[:, :, : into_KGLD.shape[2]]


def _parted(
    offsets: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool
) -> tuple[torch.Tensor | None, tiles.Short | None, tuple[slice, ...]]:
    """The rows that `attention_cpu` takes, the short ones that go in tiles, and those that are computed one by one."""
    ends = tuple(offsets.tolist())
    if query.dtype == torch.float32:
        return None, None, tuple(slice(begin, end) for begin, end in pairwise(ends) if begin < end)
    if attention_cpu.can_attend(query, key, value):
        ours, rows = attention_cpu.rows_of(ends, query.shape[2])
        return ours, None, rows
    return None, *tiles.short_of(ends, causal, query.dtype, query.shape[1])


def _grouped(tensor: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(1, H, T, D) as (K, G, T, D)."""
    return tensor[0].unflatten(0, (key.shape[1], -1))


def _for_each_head(query: torch.Tensor, *few: torch.Tensor) -> list[torch.Tensor]:
    """Keys and values repeated for the query heads that share them."""
    return [tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1) for tensor in few]


def _laid_out_by_tokens(tensor: torch.Tensor) -> torch.Tensor:
    """An empty (1, H, T, D) whose memory is in the order of (1, T, H, D), as the layers around it want it."""
    _, heads, tokens, width = tensor.shape
    return tensor.new_empty(1, tokens, heads, width).transpose(1, 2)


def _sums_shape(query: torch.Tensor) -> tuple[int, ...]:
    return (1, query.shape[2], query.shape[1]) if query.dtype == torch.float32 else (0,)


def packed_attention_by_cudnn(module: torch.nn.Module, *tensors: Any, **given: Any) -> tuple[torch.Tensor, None]:
    """`packed_attention` with cuDNN's kernel for rows that are equally long."""
    return packed_attention(module, *tensors, equal_rows_by_cudnn=True, **given)


for _name in KERNELS:
    AttentionInterface.register(_name, packed_attention_by_cudnn if _name == CUDNN else packed_attention)
