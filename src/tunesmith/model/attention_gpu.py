"""Attention for packed rows on NVIDIA GPUs: by torch's kernel for rows of many lengths, and by cuDNN's.

Torch's variable-length kernel (FlashAttention 2; Dao, 2023, arXiv 2307.08691) takes rows of any lengths. Where all rows
of a sequence are as long as each other they are a plain batch, which cuDNN's kernel takes. Which is used, and whether
another takes the place of torch's own, `kernels` says. Grouped keys are never repeated.

Axes: T tokens, R rows, L tokens of each where they are equal, H heads, K key-value heads, D width of a head.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn

# torch 2.11 takes grouped keys as they are, 2.13 wants to be told.
GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
_sums_axes = [4]  # of the logarithms that cuDNN's kernel gives and wants back: torch's versions differ in the last one


def attend_any(
    query_THD: torch.Tensor, key_TKD: torch.Tensor, value_TKD: torch.Tensor, offsets: torch.Tensor, longest: int,
    scale: float, causal: bool,
) -> torch.Tensor:  # fmt: skip
    """Attention within each row by torch's variable-length kernel.

    Args:
        query_THD: of all rows, one after another.
        key_TKD: likewise, of fewer heads where several share one.
        value_TKD: likewise.
        offsets: R + 1 of them, from 0 to T.
        longest: tokens of the longest row, or more.
        scale: factor on the scores.
        causal: whether a token sees only itself and those before it.

    Returns:
        Output of shape (T, H, D).
    """
    window = (-1, 0 if causal else -1)
    found = varlen_attn(query_THD, key_TKD, value_TKD, offsets, offsets, longest, longest, window_size=window,
                        scale=scale, **GROUPED)  # fmt: skip
    assert isinstance(found, torch.Tensor)
    return found


@torch.library.custom_op("tunesmith::attend_by_cudnn", mutates_args=(), device_types="cuda")
def attend_by_cudnn(
    query_THD: torch.Tensor, key_TKD: torch.Tensor, value_TKD: torch.Tensor, offsets: torch.Tensor, longest: int,
    scale: float, causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The same by cuDNN where all rows are as long as the longest, and the logarithms (H T) of each query's sum."""
    tokens = query_THD.shape[0]
    if _equal(offsets, longest, tokens):
        q, k, v = (_as_batch(tensor, longest) for tensor in (query_THD, key_TKD, value_TKD))
        found = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, causal, False, scale=scale)
        _sums_axes[0] = found[1].dim()
        return _as_rows(found[0]), found[1].reshape(-1)
    output, log_sum, *_ = torch.ops.aten._flash_attention_forward(
        query_THD, key_TKD, value_TKD, offsets, offsets, longest, longest, 0.0, causal, False, scale=scale
    )
    return output.contiguous(), log_sum.reshape(-1)


@torch.library.custom_op("tunesmith::attend_by_cudnn_backward", mutates_args=(), device_types="cuda")
def attend_by_cudnn_backward(
    gradient_THD: torch.Tensor, query_THD: torch.Tensor, key_TKD: torch.Tensor, value_TKD: torch.Tensor,
    offsets: torch.Tensor, longest: int, scale: float, causal: bool, output_THD: torch.Tensor, log_sum: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of `attend_by_cudnn` by query, key and value."""
    tokens, heads, _ = query_THD.shape
    gradient_THD = gradient_THD.contiguous()
    if _equal(offsets, longest, tokens):
        g, q, k, v, o = (_as_batch(one, longest) for one in (gradient_THD, query_THD, key_TKD, value_TKD, output_THD))
        seed = torch.zeros((), dtype=torch.int64, device=query_THD.device)  # of dropout, which there is none of
        by_q, by_k, by_v = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            g, q, k, v, o, log_sum.view((tokens // longest, heads, longest, 1)[: _sums_axes[0]]), seed, seed, None,
            None, None, longest, longest, 0.0, causal, scale=scale,
        )  # fmt: skip
        return _as_rows(by_q), _as_rows(by_k), _as_rows(by_v)
    seed = torch.zeros(2, dtype=torch.uint64, device=query_THD.device)
    found = torch.ops.aten._flash_attention_backward(
        gradient_THD, query_THD, key_TKD, value_TKD, output_THD, log_sum.view(heads, tokens), offsets, offsets,
        longest, longest, 0.0, causal, seed, seed.new_empty(0), scale=scale,
    )  # fmt: skip
    return found[0].contiguous(), found[1].contiguous(), found[2].contiguous()


@attend_by_cudnn.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, heads, _width = query.shape
    return query.new_empty(query.shape), query.new_empty(heads * tokens, dtype=torch.float32)


@attend_by_cudnn_backward.register_fake
def _(gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> Any:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    query, key, value, offsets, ctx.longest, ctx.scale, ctx.causal = inputs
    ctx.save_for_backward(query, key, value, offsets, *output)
    ctx.set_materialize_grads(False)


def _differentiate(context: Any, gradient: torch.Tensor, _: None) -> tuple[torch.Tensor | None, ...]:
    query, key, value, offsets, output, log_sum = context.saved_tensors
    found = attend_by_cudnn_backward(
        gradient, query, key, value, offsets, context.longest, context.scale, context.causal, output, log_sum
    )
    return *found, None, None, None, None


attend_by_cudnn.register_autograd(_differentiate, setup_context=_keep)  # pyright: ignore[reportArgumentType]


def _equal(offsets: torch.Tensor, longest: int, tokens: int) -> bool:
    """Whether all rows have as many tokens, by numbers that the host knows."""
    return (len(offsets) - 1) * longest == tokens


def _as_batch(tensor_THD: torch.Tensor, length: int) -> torch.Tensor:
    """(T, H, D) as (R, H, L, D), in the memory where it is."""
    return tensor_THD.unflatten(0, (-1, length)).transpose(1, 2)


def _as_rows(tensor_RHLD: torch.Tensor) -> torch.Tensor:
    """(R, H, L, D) as (T, H, D), one token after another."""
    return tensor_RHLD.transpose(1, 2).flatten(0, 1).contiguous()
