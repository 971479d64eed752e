"""What a backward pass keeps: measured on a few rows, to decide whether layers shall compute it again instead.

Activation checkpointing (Chen et al., 2016, arXiv 1604.06174) keeps what goes into each layer and nothing from inside
it; the backward pass computes a layer once more before it needs it. That is a third more work for a small part of the
memory, so it is done where a micro-batch would not fit otherwise, and its results are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from tunesmith.train.loss import inside, output_layer

SHARE = 0.8  # of the free memory, that may be planned for


def kept_bytes(model: Any, forward: Callable[[], Any]) -> int:
    """Bytes that `forward` leaves behind for its backward pass, weights and the output layer's gradient aside."""
    sizes: dict[int, int] = {}
    whole = [weight for weight in model.parameters() if not isinstance(weight, DTensor)]
    places = {weight.untyped_storage().data_ptr() for weight in whole}
    head = output_layer(model)

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage, weight = tensor.untyped_storage(), isinstance(tensor, torch.nn.Parameter)
        if not weight and storage.data_ptr() not in places and (head is None or tensor.shape != head.weight.shape):
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = forward()  # kept until all is counted, or addresses would be used again
    total = sum(sizes.values())
    del result
    return total


def why_checkpointing(kept: int, state: int, free: int) -> str | None:
    """Why layers shall be computed again, as a sentence; None if everything fits.

    Args:
        kept: bytes of a micro-batch's activations.
        state: bytes of gradients and optimizer state, which are not there yet.
        free: bytes of memory.
    """
    if kept + state <= SHARE * free:
        return None
    return (
        f"a micro-batch keeps about {kept / 2**30:.1f} GB and the optimizer takes {state / 2**30:.1f}, of "
        f"{free / 2**30:.1f} GB that are free"
    )


def checkpoint_activations(model: Any) -> None:
    """Let each layer keep its input alone."""
    inside(model).enable_input_require_grads()  # a frozen embedding's output would need no gradient, and be left out
    # transformers 5.23 calls it by this name, and 5.17 by the other.
    enable = getattr(inside(model), "activation_checkpointing_enable", None)
    enable = enable or inside(model).gradient_checkpointing_enable
    enable({"use_reentrant": False})
