"""What an update takes on this CPU: AdamW with moments in 8 bits, beside torch's fused AdamW, on ten million weights.

    python benchmarks/optimizer.py

Each optimizer updates the same weights of a 10M Llama, from the same random gradients.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from datetime import UTC, datetime
from importlib.metadata import version

import torch
from start import processor

from tunesmith.train.weights.eight_bit import AdamW8bit

SHAPES = [(16384, 256), *([(1024, 256)] * 12), *([(256, 1024)] * 6), *([(256, 256)] * 12), *([(128, 256)] * 12),
          *([(256,)] * 13)]  # fmt: skip
STEPS = 15


def weights_with_gradients() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(0.02 * torch.randn(shape)) for shape in SHAPES]
    for weight in weights:
        weight.grad = 1e-3 * torch.randn_like(weight)
    return weights


def seconds_a_step(optimizer: torch.optim.Optimizer) -> float:
    """The median, after one step that makes the state."""
    seconds: list[float] = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    tensors = [tensor for state in optimizer.state.values() for tensor in state.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def distance(one: list[torch.nn.Parameter], other: list[torch.nn.Parameter]) -> float:
    return math.sqrt(sum(float((a.detach() - b.detach()).square().sum()) for a, b in zip(one, other, strict=True)))


def main() -> None:
    made = {"torch.optim.AdamW, fused": lambda weights: torch.optim.AdamW(weights, lr=1e-4, fused=True),
            "AdamW8bit": lambda weights: AdamW8bit(weights, lr=1e-4)}  # fmt: skip
    count = sum(math.prod(shape) for shape in SHAPES)
    print(f"{os.cpu_count()} cores of {processor()}, torch {version('torch')}, {datetime.now(UTC).date()}; "
          f"{count:,} weights, median of {STEPS} steps.\n")  # fmt: skip
    print("| | milliseconds a step | bytes of state | bytes a weight |\n|---|---|---|---|")
    ends: list[list[torch.nn.Parameter]] = []
    for name, make in made.items():
        ends.append(weights_with_gradients())
        optimizer = make(ends[-1])
        milliseconds, size = 1e3 * seconds_a_step(optimizer), state_bytes(optimizer)
        print(f"| {name} | {milliseconds:.1f} | {size:,} | {size / count:.2f} |")
    moved = distance(ends[0], weights_with_gradients())
    print(f"\nWeights moved alike: they are {distance(*ends) / moved:.1%} of the way apart.")


if __name__ == "__main__":
    main()
