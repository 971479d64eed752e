"""Layers compiled one by one: torch turns what lies between their matrix products into a few loops over memory.

All layers of a model share one graph, made for any number of tokens, so that there is one thing to compile: a model
with thirty layers takes as long as one with two; an encoder's last, computed where it is read (`model/read_at`), has
one of its own. Before they are used, each layer's output and gradients are compared with those of the layer in fp32, on
rows of the run: they must be as near to it as the library's own layer is, in the precision of the run. Two computations
in bf16 would be compared by chance. Whatever goes wrong there (no C++ compiler, no Python headers, an operation that
cannot be compiled) is a reason to leave them as they are. What it gains: docs/speed.md.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.fx.experimental import _config as shapes
from torch.utils._pytree import tree_leaves, tree_map

from tunesmith.model.exact import can_widen, widened
from tunesmith.model.layers import drops, inside, layers_of

TIMES = 2.0  # as far from fp32 as the library's own layer may be what a compiled one gives: both round, here and there
SAME = 1e-4  # and this far, relative: where the library computes in fp32 itself
LEAST = 0.01  # of the largest, that a tensor must have to be looked at by itself
FAR = 0.1  # of a loss in bf16 on a few rows, that rounding moves it by at most


def compile_layers(model: Any) -> None:
    """Let each layer be compiled when it is first used."""
    inside(model).enable_input_require_grads()  # or the first layer would be another graph than all others
    for layer in layers_of(model):  # what is hooked on a sharded layer stays outside
        layer.forward = torch.compile(layer.forward, dynamic=True, fullgraph=True)


def leave_uncompiled(model: Any) -> None:
    """Let layers that `compile_layers` was tried on run as they are."""
    for layer in layers_of(model):
        vars(layer).pop("forward", None)


@contextlib.contextmanager
def as_they_are() -> Iterator[None]:
    """Nothing runs compiled while the block lasts: without gradients, or in evaluation mode, it would be anew."""
    with torch.compiler.set_stance("force_eager"):
        yield


def why_not_compiled(model: Any, weights: Mapping[str, torch.Tensor], backward: Callable[[], float]) -> str | None:
    """Compile the layers of `model` and compare them with what they were; the reason to go without, if there is one.

    Where something is dropped at random there is nothing to compare: that it can be compiled is all that is known then.
    Of weights that are parted among processes no layer can be computed in fp32 by itself; their loss is compared alone.

    Args:
        model: as it will be trained.
        weights: that gradients are computed of.
        backward: computes a loss and its gradients, in training mode, and returns the loss.
    """
    layers = layers_of(model)
    if not layers:
        return "this model has no list of layers"
    with torch.random.fork_rng():
        with as_they_are(), recorded(layers) as calls:
            before = _loss_of(weights, backward)
        compile_layers(model)
        try:
            with made_for_any_length():
                loss = _loss_of(weights, backward)
                by_chance = drops(model)
                reason = why_layers_differ(layers, calls) if can_widen(model) and not by_chance else None
        except Exception as error:  # noqa: BLE001  a compiler may fail in any way
            reason = _in_a_line(error)
        else:
            parted = not can_widen(model) and not by_chance
            if not math.isfinite(loss) or (parted and abs(loss - before) > FAR * abs(before)):
                reason = f"compiled layers give a loss of {loss:.6g}, and uncompiled ones {before:.6g}"
    if reason is not None:
        leave_uncompiled(model)
    return reason


@contextlib.contextmanager
def made_for_any_length() -> Iterator[None]:
    """What is compiled while the block lasts is for any number of tokens, and for the numbers that a layer has.

    A number of tokens that happens to be a width of the model too must not be taken for the same thing; a scale or an
    epsilon is a constant, and no tensor on the CPU that a kernel is made for.
    """
    with (
        shapes.patch(use_duck_shape=False),  # pyright: ignore[reportAttributeAccessIssue]
        torch._dynamo.config.patch(specialize_float=True),
    ):
        yield


Call = tuple[tuple[Any, ...], dict[str, Any]]


@contextlib.contextmanager
def recorded(layers: Sequence[torch.nn.Module]) -> Generator[list[Call]]:
    """What each layer is first called with while the block lasts."""
    calls: list[Call] = []

    def noting(number: int) -> Callable[..., None]:
        return lambda layer, *call: calls.append(tree_map(_alone, call)) if len(calls) == number else None

    hooks = [layer.register_forward_pre_hook(noting(i), with_kwargs=True) for i, layer in enumerate(layers)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _alone(value: Any) -> Any:
    """A tensor that has a gradient, without where it came from; others stay: a graph tells views from others."""
    return value.detach().requires_grad_() if isinstance(value, torch.Tensor) and value.requires_grad else value


def why_layers_differ(layers: Sequence[torch.nn.Module], calls: Sequence[Call]) -> str | None:
    """None if compiled layers are as near to fp32, forward and backward, as the library's own; else the first reason.

    Args:
        layers: compiled.
        calls: what each is called with.
    """
    for number, (layer, call) in enumerate(zip(layers, calls, strict=True), start=1):
        compiled = output_and_gradients(layer, call)
        with as_they_are():
            own = output_and_gradients(layer, call)
            exact = output_and_gradients(layer, widened(call), wide=True)
        for what, one, other, want in zip(("output", "gradient"), compiled, own, exact, strict=True):
            off, allowed = distance(one, want), TIMES * distance(other, want) + SAME
            if not off <= allowed:
                return (
                    f"the {what} of compiled layer {number} is {off:.2g} off what fp32 gives, relative, and at most "
                    f"{allowed:.2g} would be rounding"
                )
    return None


def output_and_gradients(layer: torch.nn.Module, call: Call, wide: bool = False) -> tuple[list[Any], list[Any]]:
    """What a layer gives, and the gradients of a sum of it by its input and trained weights.

    Args:
        layer: called as in training.
        call: its arguments; the hidden states come first or by name.
        wide: whether to compute with its weights in fp32.
    """
    args, kwargs = tree_map(_alone, call)
    hidden = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
    args, kwargs = ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
    trained = [name for name, weight in layer.named_parameters() if weight.requires_grad]
    if wide:
        wider = {name: widened(weight.detach()) for name, weight in layer.named_parameters()}
        wider |= {name: widened(tensor) for name, tensor in layer.named_buffers()}
        wider |= {name: wider[name].requires_grad_() for name in trained}
        # Each once: what several parts hold together (VeRA's matrices) would not all be put back.
        output = torch.func.functional_call(layer, wider, args, kwargs, tie_weights=False)
        by = [wider[name] for name in trained]
    else:
        output, weights = layer(*args, **kwargs), dict(layer.named_parameters())
        by = [weights[name] for name in trained]
    output = output[0] if isinstance(output, tuple) else output
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    by += [value for value in tensors if value.requires_grad and value is not hidden]  # states that it reads beside
    generator = torch.Generator(output.device).manual_seed(0)
    direction = torch.randn(output.shape, generator=generator, device=output.device).to(torch.bfloat16).to(output.dtype)
    gradients = torch.autograd.grad(output, [hidden, *by], direction, allow_unused=True)
    return [output.detach()], [gradient for gradient in gradients if gradient is not None]


def distance(tensors: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> float:
    """How far tensors are from others, relative to them, all together: each counts as much as another.

    But for those that are nothing beside the largest: the gradient of the bias of keys is none, whatever rounds.
    """
    sizes = [want.float().norm().item() for want in exact]
    least = max(LEAST * max(sizes), 1e-30)
    offs = [
        (one.float() - want.float()).norm() / max(size, least)
        for one, want, size in zip(tensors, exact, sizes, strict=True)
    ]
    return torch.stack(offs).square().mean().sqrt().item()


def _loss_of(weights: Mapping[str, torch.Tensor], backward: Callable[[], float]) -> float:
    try:
        return backward()
    finally:  # gradients are nobody's; a backward pass that failed half way has left some too
        for weight in weights.values():
            weight.grad = None


def _in_a_line(error: Exception) -> str:
    """What went wrong at the bottom of it: compilers wrap an error in errors of their own."""
    while error.__cause__ is not None or getattr(error, "inner_exception", None) is not None:
        error = error.__cause__ or error.inner_exception  # pyright: ignore
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}{': ' if lines else ''}{' '.join(lines[:2])[:300]}"
