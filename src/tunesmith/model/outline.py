"""A model whose weights stay in their files until each process takes its part of them.

What several processes hold in parts may be larger than any of them could hold. So the model is built without its
weights: what stands in their place takes no memory, and what the files hold is mapped, and read where it is looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.nn.modules.module import register_module_parameter_registration_hook

STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Sources = dict[torch.nn.Parameter, torch.Tensor]


def outline(mapped: Any, build: Callable[[], Any]) -> tuple[Any, Sources]:
    """A model in evaluation mode without the values of its weights, and where these lie.

    Its weights are of the right shape and precision, and take no memory of their own; all else is as it is when it is
    loaded. The tensors that they stand for are in the files' precision, and unread.

    Args:
        mapped: the model as it was read from its files, whose tensors are mapped into memory.
        build: makes the model anew, of the precision that is wanted.
    """
    handle = register_module_parameter_registration_hook(_on_meta)  # pyright: ignore[reportArgumentType]
    try:
        made: Any = build()
    finally:
        handle.remove()
    replace_weights(made, lambda weight: torch.zeros((), dtype=weight.dtype).expand(weight.shape))
    values = dict(mapped.named_parameters(remove_duplicate=False))
    stored = mapped.state_dict()
    for name, buffer in made.named_buffers():
        if name in stored:
            buffer.copy_(stored[name])
    return made.eval(), {weight: values[name].detach() for name, weight in made.named_parameters()}


def replace_weights(model: torch.nn.Module, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Put what `make` gives in the place of each weight; weights that layers share stay shared."""
    made: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    for part in model.modules():
        for name, weight in list(part.named_parameters(recurse=False, remove_duplicate=False)):
            if weight not in made:
                made[weight] = torch.nn.Parameter(make(weight), requires_grad=weight.requires_grad)
            setattr(part, name, made[weight])


def stored_dtype(folder: Path) -> torch.dtype | None:
    """The precision in which most of the numbers in a folder's *.safetensors are kept; None if it is another or none.

    Where this is not the precision of all of them, the others are converted while they are loaded, and lie in memory.
    """
    counts: Counter[str] = Counter()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:  # pyright: ignore[reportUnknownVariableType]
                for name in file.keys():  # noqa: SIM118  not a dict
                    tensor = file.get_slice(name)
                    counts[tensor.get_dtype()] += math.prod(tensor.get_shape())
        except (SafetensorError, OSError):  # loading says what is wrong with it
            return None
    return STORED.get(max(counts, key=lambda name: counts[name])) if counts else None


def _on_meta(module: torch.nn.Module, name: str, weight: torch.nn.Parameter | None) -> torch.nn.Parameter | None:
    """What a new layer keeps as its weight: one without values; None to leave it."""
    if weight is None or weight.is_meta:
        return None
    return torch.nn.Parameter(weight.to("meta"), requires_grad=weight.requires_grad)
