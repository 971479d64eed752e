"""Layers compiled one by one: torch turns what lies between their matrix products into a few loops over memory.

All layers of a model share one graph, made for any number of tokens, so that there is one thing to compile: a model
with thirty layers takes as long as one with two. The result is compared with the layers as they are before it is
used, on rows of the run, forward and backward; whatever goes wrong there (no C++ compiler, no Python headers, an
operation that cannot be compiled) is a reason to leave them as they are. What it gains: docs/speed.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.fx.experimental import _config as shapes

from tunesmith.train.loss import inside
from tunesmith.train.shards import whole

SECONDS = 30.0  # that compiling takes with nothing in torch's cache
SHARE = 0.15  # of a run's time that it saves, at least
CLOSE = 0.02  # largest relative difference of a loss, or of the gradient's norm


def does_not_pay(seconds: float) -> str | None:
    """Why a run of so many seconds of training is better left uncompiled, as a sentence; None if it is not."""
    if seconds * SHARE > SECONDS:
        return None
    return (
        f"about {seconds:.0f} s of training, of which compiled layers would save some {seconds * SHARE:.0f}, and "
        f"compiling takes up to {SECONDS:.0f}"
    )


def layers_of(model: Any) -> list[torch.nn.Module]:
    """The layers that a model repeats, or nothing if it has no such list."""
    lists = [part for part in inside(model).modules() if isinstance(part, torch.nn.ModuleList)]
    depth = getattr(inside(model).config.get_text_config(), "num_hidden_layers", None)
    return next((list(part) for part in lists if len(part) == depth), [])


def compile_layers(model: Any) -> None:
    """Let each layer be compiled when it is first used."""
    inside(model).enable_input_require_grads()  # or the first layer would be another graph than all others
    for layer in layers_of(model):  # what is hooked on a sharded layer stays outside
        layer.forward = torch.compile(layer.forward, dynamic=True, fullgraph=True)


@contextlib.contextmanager
def as_they_are() -> Iterator[None]:
    """Nothing runs compiled while the block lasts: without gradients, or in evaluation mode, it would be anew."""
    with torch.compiler.set_stance("force_eager"):
        yield


def why_not_compiled(
    model: Any, weights: Mapping[str, torch.Tensor], backward: Callable[[], float]
) -> str | None:  # fmt: skip
    """Compile the layers of `model` and compare them with what they were; the reason to go without, if there is one.

    Args:
        model: as it will be trained.
        weights: that gradients are computed of.
        backward: computes a loss and its gradients, in training mode, and returns the loss.
    """
    if not layers_of(model):
        return "this model has no list of layers"
    torch.compiler.set_stance("default")
    with torch.random.fork_rng():
        with as_they_are():
            before = _loss_and_norm(weights, backward)
        compile_layers(model)
        try:
            # A number of tokens that happens to be a width of the model too must not be taken for the same thing.
            with shapes.patch(use_duck_shape=False):  # pyright: ignore[reportAttributeAccessIssue]
                after = _loss_and_norm(weights, backward)
        except Exception as error:  # noqa: BLE001  a compiler may fail in any way
            torch.compiler.set_stance("force_eager")
            return _in_a_line(error)
    drops = any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules())
    for one, other in zip(before, after, strict=True):
        if not abs(one - other) <= CLOSE * abs(one) and not drops:
            torch.compiler.set_stance("force_eager")
            return f"compiled layers give another result ({other:.6g} for {one:.6g})"
    return None


def _loss_and_norm(weights: Mapping[str, torch.Tensor], backward: Callable[[], float]) -> tuple[float, float]:
    try:
        loss = backward()
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights.values() if weight.grad is not None])
    finally:  # a backward pass that failed half way has left some
        for weight in weights.values():
            weight.grad = None
    return loss, whole(norm).item()


def _in_a_line(error: Exception) -> str:
    """What went wrong at the bottom of it: compilers wrap an error in errors of their own."""
    while error.__cause__ is not None or getattr(error, "inner_exception", None) is not None:
        error = error.__cause__ or error.inner_exception  # pyright: ignore
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}{': ' if lines else ''}{' '.join(lines[:2])[:300]}"
