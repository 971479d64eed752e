"""A value for each token, read beside the output layer: what PPO expects of an answer from there on.

It is trained with the model and saved in checkpoints, and is no part of what is exported.

Axes: N positions, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

NAME = "value_head"


def add_value_head(model: Any) -> None:
    """Give a model a value head, which begins by expecting nothing: 0 everywhere."""
    layer = model.get_output_embeddings()
    head = torch.nn.Linear(layer.weight.shape[-1], 1, device=layer.weight.device)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    model.add_module(NAME, head)


def values(model: Any, hidden_ND: torch.Tensor) -> torch.Tensor:
    """What is expected at each position, (N,) in fp32, whatever precision the model has."""
    head = getattr(model, NAME)
    return torch.nn.functional.linear(hidden_ND.float(), head.weight.float(), head.bias.float())[:, 0]


def without_value_head(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The trained weights that are exported."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{NAME}.")}
