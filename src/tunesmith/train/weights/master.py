"""Weights that compute in bf16 and are remembered in fp32.

A bf16 number has eight bits of mantissa: an update smaller than 1/512 of a weight is lost when it is added to it. At a
learning rate of 1e-5 that is nearly every update. So the optimizer steps on fp32 masters, and the model computes with
bf16 copies of them (Micikevicius et al., 2018, arXiv 1710.03740). Gradients are summed over micro-batches in fp32.
"""

from __future__ import annotations

from functools import partial

import torch


class Masters:
    """fp32 masters of some weights of a model.

    Attributes:
        weights: the masters by name; their `grad` is what a backward pass of the model leaves.
    """

    def __init__(self, copies: dict[str, torch.nn.Parameter]) -> None:
        """Take over the weights' values; what stays in the model is rounded to bf16."""
        self._copies = copies
        self.weights = {name: torch.nn.Parameter(copy.detach().float()) for name, copy in copies.items()}
        for name, copy in copies.items():
            copy.data = self.weights[name].detach().to(torch.bfloat16)
            copy.register_post_accumulate_grad_hook(partial(_collect, self.weights[name]))

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """The model computes with the masters as they are now."""
        torch._foreach_copy_(list(self._copies.values()), list(self.weights.values()))


def _collect(master: torch.nn.Parameter, copy: torch.Tensor) -> None:
    """Add the gradient of a copy to its master's, and free it."""
    assert copy.grad is not None
    master.grad = copy.grad.float() if master.grad is None else master.grad.add_(copy.grad)
    copy.grad = None
