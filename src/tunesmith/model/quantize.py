"""A base whose linear layers are kept in 4 or 8 bits, to train something beside them (QLoRA).

Dettmers et al., 2023, arXiv 2305.14314. What is no linear layer, the output layer and heads stay as they are. The
numbers are bitsandbytes': NF4 in blocks of 64 with scales that are quantised too, or rows of int8 (Dettmers et al.,
2022, arXiv 2208.07339). Of int8 weights alone are rounded, and products are computed in the precision of what comes in,
in training and afterwards, on every device: bitsandbytes' own kernel would round what comes in too, each token by its
largest number, and part outliers by a look at all tokens at once. On a CPU it would pack a weight of NF4 at its first
pass without gradients, after which no gradient reaches what lies below it: that is switched off.

Axes: N tokens and whatever stands before them, I numbers that a layer reads, O that it gives.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch

from tunesmith.core.errors import MissingError, ModelError
from tunesmith.model.heads import head_modules

Quantize = Literal["none", "nf4", "int8"]
BLOCK = 64  # numbers with one scale


def quantized(model: Any, kind: Quantize, dtype: torch.dtype, device: str = "cpu") -> Any:
    """The model, with its linear layers quantised in place, but for the output layer or the modules of its head.

    Args:
        model: on the CPU.
        kind: of numbers.
        dtype: of all other weights, and of what quantised ones are computed in.
        device: where each layer is quantised, and then stays: no more than one of them is whole there at a time.

    Raises:
        MissingError: bitsandbytes is not installed.
        ModelError: a layer cannot be quantised.
    """
    if kind == "none":
        return model
    library = bitsandbytes()
    head, own = model.get_output_embeddings(), tuple(head_modules(model))
    for name, parent in list(model.named_modules()):
        for child_name, child in list(parent.named_children()):
            whole = f"{name}.{child_name}".lstrip(".")
            if type(child).__name__ == "Conv1D":
                raise ModelError(
                    f"model.quantize = {kind}: the layer {whole} stores its weights transposed (GPT-2), which "
                    "bitsandbytes cannot take. Set model.quantize=none."
                )
            if any(f"{whole}.".startswith(f"{module}.") for module in own):
                continue
            if type(child) is torch.nn.Linear and child is not head:
                refuse_width(whole, child.in_features, kind)
                setattr(parent, child_name, _layer(library, child, kind, dtype, device))
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)
    model.config.dtype = dtype
    setattr(model, "is_loaded_in_4bit" if kind == "nf4" else "is_loaded_in_8bit", True)  # where peft looks
    return model


def bitsandbytes() -> Any:
    """The library.

    Raises:
        MissingError: it is not installed.
    """
    try:
        import bitsandbytes as library
    except ImportError:
        raise MissingError("model.quantize needs bitsandbytes: pip install 'tunesmith[quantize]'.") from None
    return library


def refuse_width(name: str, width: int, kind: Quantize) -> None:
    """Refuse a layer that the quantiser cannot take.

    Raises:
        ModelError: its width is no multiple of a block's half.
    """
    if kind == "nf4" and width % (BLOCK // 2):
        raise ModelError(
            f"model.quantize = nf4: the layer {name} reads {width} numbers, and NF4 takes multiples of {BLOCK // 2}. "
            "Set model.quantize=int8 or none."
        )


def _layer(library: Any, layer: torch.nn.Linear, kind: Quantize, dtype: torch.dtype, device: str) -> Any:
    shape = layer.in_features, layer.out_features
    bias = layer.bias is not None
    if kind == "nf4":
        made = library.nn.Linear4bit(*shape, bias=bias, compute_dtype=dtype, quant_type="nf4", compress_statistics=True)
        weight = library.nn.Params4bit(
            layer.weight.data, requires_grad=False, quant_type="nf4", blocksize=BLOCK, compress_statistics=True
        )
        made.support_avx512bf16_for_cpu = False
    else:
        made = int8_linear(library)(*shape, bias=bias, has_fp16_weights=False, threshold=0.0)
        weight = library.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    made.weight = weight.to(device)
    if bias:
        made.bias = layer.bias
    return made.requires_grad_(False)


@functools.cache
def int8_linear(library: Any) -> Any:
    """bitsandbytes' layer of int8, as peft knows it, with products of ours."""

    class Int8Linear(library.nn.Linear8bitLt):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return _CodesProduct.apply(x, self.weight.data, self.weight.SCB, self.bias)  # pyright: ignore

    return Int8Linear


class _CodesProduct(torch.autograd.Function):
    """A product with weights of int8, which are whole only while it is computed, forth and back."""

    @staticmethod
    def forward(
        ctx: Any, x_NI: torch.Tensor, codes_OI: torch.Tensor, scale_O: torch.Tensor, bias_O: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(codes_OI, scale_O)
        bias_O = None if bias_O is None else bias_O.to(x_NI.dtype)
        return torch.nn.functional.linear(x_NI, whole(codes_OI, scale_O, x_NI.dtype), bias_O)

    @staticmethod
    def backward(ctx: Any, by_output_NO: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore
        codes_OI, scale_O = ctx.saved_tensors
        return by_output_NO @ whole(codes_OI, scale_O, by_output_NO.dtype), None, None, None


def whole(codes_OI: torch.Tensor, scale_O: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weights (O, I) that codes stand for, 127 being the scale."""
    return codes_OI.to(dtype).mul_(scale_O[:, None] * (1 / 127))


def is_quantized(model: Any) -> bool:
    """Whether some of its weights are kept in fewer than 16 bits."""
    return any(not weight.is_floating_point() for weight in model.parameters())
