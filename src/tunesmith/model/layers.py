"""What a model is made of, whatever a method has put around it."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel


def inside(model: Any) -> Any:
    """The library's own model, within what a method put around it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def layers_of(model: Any) -> list[torch.nn.Module]:
    """The layers that a model repeats, an encoder's before its decoder's, or nothing if it has no such list."""
    if inside(model).config.is_encoder_decoder:
        stacks = (inside(model).get_encoder(), inside(model).get_decoder())
        return [layer for stack in stacks for layer in next(filter(_is_list, stack.children()), [])]
    lists = [part for part in inside(model).modules() if isinstance(part, torch.nn.ModuleList)]
    depth = getattr(inside(model).config.get_text_config(), "num_hidden_layers", None)
    return next((list(part) for part in lists if len(part) == depth), [])


def drops(model: torch.nn.Module) -> bool:
    """Whether parts are left out at random in training: by layers for that, or by rates that peft's additions have."""

    def rates(part: torch.nn.Module) -> list[Any]:
        own = [getattr(part, "p", 0)] if "Dropout" in type(part).__name__ else []
        named = (getattr(part, name, None) for name in ("rank_dropout", "module_dropout"))
        return own + [rate for found in named if isinstance(found, dict) for rate in found.values()]

    return any(isinstance(rate, int | float) and rate > 0 for part in model.modules() for rate in rates(part))


def _is_list(part: torch.nn.Module) -> bool:
    return isinstance(part, torch.nn.ModuleList)


def is_linear(module: torch.nn.Module) -> bool:
    """Whether a layer is a matrix product, whatever its class is called (GPT-2 has its own)."""
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


def linear_layers(model: Any, head: bool = False) -> dict[str, torch.nn.Module]:
    """The matrix products of a model by their whole names, with the one that makes logits only where it is wanted."""
    last = None if head else model.get_output_embeddings()
    return {name: part for name, part in model.named_modules() if is_linear(part) and part is not last}


def size_of(layer: Any) -> tuple[int, int]:
    """Outputs and inputs of a matrix product, however its weight is kept (turned, as GPT-2's, or in 4 bits)."""
    if isinstance(layer, torch.nn.Linear):
        return layer.out_features, layer.in_features
    inputs, outputs = layer.weight.shape
    return outputs, inputs
