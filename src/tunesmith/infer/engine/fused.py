"""What a GPU does in one kernel where transformers' modules take several: norms, and attention to slots.

A step of decoding is as slow as its kernels are many. Each replacement is compared with what it replaces, or by
`why_logits_differ` with the rest. Axes: B rows, H heads, T new tokens, P positions, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import rms_norm
from torch.utils.weak import WeakTensorKeyDictionary

WIDTH_MULTIPLE = 8  # heads of such widths the kernel can read
BIAS_MULTIPLE = 16  # numbers from one row of a bias to the next
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-5}  # of norms, relative; others are rounded more coarsely
CLOSE_ENOUGH = 0.01

_biases = WeakTensorKeyDictionary()  # by relative positions: all layers of a pass are given the same ones


class FusedNorm(torch.nn.Module):
    """Root mean square normalisation (Zhang and Sennrich, 2019) with a weight that it shares."""

    def __init__(self, weight: torch.nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = weight, epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape and precision."""
        return rms_norm(x, self.weight.shape, self.weight, self.epsilon)


@torch.no_grad()
def replace_norms(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Put a `FusedNorm` in the place of each norm that computes just that.

    Args:
        model: changed.
        dtype: in which it computes.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            weight: Any = getattr(child, "weight", None)
            epsilon = getattr(child, "variance_epsilon", getattr(child, "eps", None))
            if not type(child).__name__.endswith("RMSNorm") or not isinstance(epsilon, float):
                continue
            if not isinstance(weight, torch.nn.Parameter) or weight.dtype != dtype:
                continue
            fused = FusedNorm(weight, epsilon)
            if _alike(child, fused):
                setattr(parent, name, fused)


def _alike(norm: torch.nn.Module, fused: FusedNorm) -> bool:
    weight = fused.weight
    x = torch.arange(2 * weight.numel(), device=weight.device).sin().view(2, *weight.shape).to(weight.dtype)
    want, have = norm(x).float(), fused(x).float()
    return bool((have - want).norm() <= CLOSE.get(weight.dtype, CLOSE_ENOUGH) * want.norm())


def can_attend(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether `attend` takes heads like these, on the device where they are."""
    if query.device.type != "cuda" or torch.version.hip is not None:
        return False
    if query.shape[-1] % WIDTH_MULTIPLE or value.shape[-1] % WIDTH_MULTIPLE:
        return False
    if query.dtype == torch.bfloat16:
        return torch.cuda.get_device_capability(query.device)[0] >= 8
    return query.dtype in (torch.float16, torch.float32)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    relative: torch.Tensor,
    window: int | None,
    scale: float,
) -> torch.Tensor:
    """Attention (B, H, T, D) by one kernel that reads keys of any strides and needs no plan made for each length.

    PyTorch's own choice would be cuDNN, which takes tens of milliseconds to get ready for each number of positions.

    Args:
        query: (B, H, T, D).
        key: (B, H, P, D).
        value: (B, H, P, D).
        relative: position of each key (B or 1, 1, T or 1, P); negative ones are not seen.
        window: a key that is so far back, or farther, is not seen; None for no such limit.
        scale: factor on the scores.
    """
    bias = bias_of(relative, window, query.dtype).expand(*query.shape[:3], key.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, False, scale=scale)[0]


def bias_of(relative: torch.Tensor, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """Zero for what is seen and minus infinity for the rest, made once for all layers that have the same window."""
    made: dict[Any, torch.Tensor] | None = _biases.get(relative)
    if made is None:
        _biases[relative] = made = {}
    if (window, dtype) not in made:
        hidden = relative < 0
        if window is not None:
            hidden = hidden | (relative >= window)
        positions = relative.shape[-1]
        aligned = -(-positions // BIAS_MULTIPLE) * BIAS_MULTIPLE
        bias = torch.zeros(*relative.shape[:-1], aligned, dtype=dtype, device=relative.device)[..., :positions]
        made[window, dtype] = bias.masked_fill_(hidden, float("-inf"))
    return made[window, dtype]
