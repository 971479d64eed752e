"""What a backward pass keeps: measured on a few rows, to decide whether layers shall compute it again instead.

Activation checkpointing (Chen et al., 2016, arXiv 1604.06174) keeps what goes into each layer and nothing from inside
it; the backward pass computes a layer once more before it needs it. That is a third more work for a small part of the
memory, so it is done where a micro-batch would not fit otherwise, and its results are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from tunesmith.model.layers import inside
from tunesmith.train.loss import output_layer
from tunesmith.train.weights.shards import here


def kept_bytes(model: Any, forward: Callable[[], Any]) -> int:
    """Bytes that `forward` leaves behind for its backward pass, weights and the output layer's gradient aside."""
    kept: dict[int, torch.UntypedStorage] = {}
    head = output_layer(model)

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() and (head is None or tensor.shape != head.weight.shape):
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = forward()  # kept until all is counted, or addresses would be used again
    # Looked at afterwards: sharded layers have let go of what they had put together, and what is in none has not.
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters() if not isinstance(weight, DTensor)}
    total = sum(storage.nbytes() for place, storage in kept.items() if place not in weights)
    del result
    return total


def state_bytes(weights: Iterable[torch.Tensor], bytes_a_weight: int) -> int:
    """Bytes of the gradients and moments of this process's part of some weights."""
    return sum(bytes_a_weight * here(weight).numel() for weight in weights)


def gathered_bytes(model: torch.nn.Module, layers: Sequence[torch.nn.Module], itemsize: int) -> int:
    """Bytes of what a process puts together of sharded weights at once: all that is in no layer, and two layers.

    Each with its gradients before they are parted, where it is trained.
    """

    def size(weights: Iterable[torch.Tensor]) -> int:
        return sum(weight.numel() * itemsize * (2 if weight.requires_grad else 1) for weight in weights)

    in_layers = [size(layer.parameters()) for layer in layers]
    return size(model.parameters()) - sum(in_layers) + sum(sorted(in_layers)[-2:])


def checkpoint_activations(model: Any) -> None:
    """Let each layer keep its input alone."""
    inside(model).enable_input_require_grads()  # a frozen embedding's output would need no gradient, and be left out
    # transformers 5.23 calls it by this name, and 5.17 by the other.
    enable = getattr(inside(model), "activation_checkpointing_enable", None)
    enable = enable or inside(model).gradient_checkpointing_enable
    enable({"use_reentrant": False})
