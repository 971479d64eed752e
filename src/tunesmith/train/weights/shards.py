"""Weights in parts: each process holds a part of every weight, of its gradient and of its moments (FSDP2).

A layer is put together from its parts when it is needed, and let go again (Zhao et al., 2023, arXiv 2304.11277). So a
model can be trained that none of the processes could hold. In bf16, parts are fp32 where they are trained, layers are
put together in bf16, and gradients are summed in fp32: what `master` does in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from tunesmith.model.outline import Sources, replace_weights
from tunesmith.train.weights.ranks import Ranks

T = TypeVar("T")
WITHIN = "within_a_pass"  # the name under which a sharded model computes what it is given


def shard(model: Any, layers: Sequence[torch.nn.Module], ranks: Ranks, precision: str, sources: Sources) -> None:
    """Part every weight among the ranks: the layers one by one, then what is left.

    No weight is whole on the device before it is used: the model is parted without its values, and then each rank
    reads its part of each. Layers compute in `precision`; the parts stay as they are, gradients are summed in fp32.

    Args:
        model: on the CPU.
        layers: those that it repeats; each is put together when it is needed, all else for a whole pass.
        ranks: those that share it.
        precision: `fp32` or `bf16`.
        sources: where the values of weights lie that have none themselves.
    """
    values = {
        name: sources[weight] if weight in sources else weight.detach() for name, weight in model.named_parameters()
    }
    replace_weights(model, lambda weight: torch.empty(weight.shape, dtype=weight.dtype, device="meta"))
    mesh = init_device_mesh(ranks.device, (ranks.count,))
    # Inputs stay as the model makes them: in bf16, since all its weights are, as in one process.
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    policy = policy if precision == "bf16" else MixedPrecisionPolicy()
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # What is not in a layer stays whole from a pass to its backward pass: the loss reads the output layer's weight.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for part in _sharded(model):
        part.set_gradient_divide_factor(1.0)  # a sum, not a mean
        part.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    places = dict(model.named_parameters(remove_duplicate=False))
    parts = {
        place: torch.nn.Parameter(like(values[name], place).to(place.dtype)) for name, place in model.named_parameters()
    }
    model.load_state_dict({name: parts[place] for name, place in places.items()}, strict=False, assign=True)
    setattr(model, WITHIN, lambda work: work())
    register_fsdp_forward_method(model, WITHIN)


def within(model: Any, work: Callable[[], T]) -> T:
    """What `work` computes with parts of a model, past its forward pass; sharded weights are whole there."""
    return getattr(model, WITHIN)(work) if isinstance(model, FSDPModule) else work()


def forget_gathered(model: torch.nn.Module) -> None:
    """Let no sharded layer go on with a whole copy of weights that were changed by hand."""
    for part in _sharded(model):
        part.reshard()


def _sharded(model: torch.nn.Module) -> list[FSDPModule]:
    return [part for part in model.modules() if isinstance(part, FSDPModule)]


def here(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor put together from its parts; every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    """A copy of a whole tensor, in parts and on the device as `pattern` is; nothing is read but this process's part."""
    if not isinstance(pattern, DTensor):
        return tensor.to(pattern.device, copy=True)
    mesh = pattern.device_mesh
    parts = tensor.chunk(mesh.size())  # along the first axis, as FSDP2 does; there may be fewer than ranks
    rank = mesh.get_local_rank()
    part = parts[rank] if rank < len(parts) else tensor[:0]
    return DTensor.from_local(
        part.to(mesh.device_type, copy=True), mesh, pattern.placements,
        run_check=False, shape=tensor.shape, stride=tensor.stride(),
    )  # fmt: skip
