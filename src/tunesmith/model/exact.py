"""A model's own forward pass in fp32, whatever its weights are kept in, without a second copy of the model.

A check that compares two computations in bf16 compares two roundings. Here the weights of one part of the model at a
time (a layer, the embeddings, the output layer) are widened while that part computes, so that what is left of a
difference is a difference. Weights that are parted among processes cannot be widened like this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map


def can_widen(model: torch.nn.Module) -> bool:
    """Whether the model's weights are all here, and are floats."""
    return not any(isinstance(weight, DTensor) or not weight.is_floating_point() for weight in model.parameters())


@contextlib.contextmanager
def in_fp32(model: torch.nn.Module) -> Generator[None]:
    """Let forward passes of `model` compute in fp32, without gradients, while the block lasts."""
    assert can_widen(model)
    hooks: list[Any] = []
    for part in parts_of(model):
        narrow: list[tuple[dict[str, Any], str, torch.Tensor]] = []
        hooks.append(part.register_forward_pre_hook(_widener(narrow), with_kwargs=True))
        hooks.append(part.register_forward_hook(_narrower(narrow), always_call=True))
    try:
        device = next((weight.device.type for weight in model.parameters()), "cpu")
        with torch.no_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def parts_of(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The modules that a model repeats, each as one, and the largest ones beside them."""
    if isinstance(module, torch.nn.ModuleList):
        yield from module
    elif any(isinstance(part, torch.nn.ModuleList) for part in module.modules()):
        for child in module.children():
            yield from parts_of(child)
    else:
        yield module


def widened(value: Any) -> Any:
    """A value with each tensor of fewer than 32 bits a float in it, as fp32."""
    narrow = (torch.bfloat16, torch.float16)
    return tree_map(lambda one: one.float() if isinstance(one, torch.Tensor) and one.dtype in narrow else one, value)


def _widener(narrow: list[tuple[dict[str, Any], str, torch.Tensor]]) -> Any:
    def widen(part: torch.nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        for inner in part.modules():
            for tensors in (inner._parameters, inner._buffers):
                for name, tensor in tensors.items():
                    wide = widened(tensor)
                    if tensor is not None and wide is not tensor:
                        narrow.append((tensors, name, tensor))
                        is_weight = tensors is inner._parameters
                        tensors[name] = torch.nn.Parameter(wide, requires_grad=False) if is_weight else wide
        return widened(args), widened(kwargs)

    return widen


def _narrower(narrow: list[tuple[dict[str, Any], str, torch.Tensor]]) -> Any:
    def restore(*_: Any) -> None:
        while narrow:
            tensors, name, tensor = narrow.pop()
            tensors[name] = tensor

    return restore
