"""Attention of packed rows in bf16 on this CPU, forth and back: in C++ of ours, by torch's products, and torch's own.

    python benchmarks/attention_cpu.py --write      # -> benchmarks/RESULTS.md

Each case is one layer's heads over the rows of a pack; each figure is the best of some calls. Torch's own takes the
rows one by one, as `scaled_dot_product_attention`, with keys and values repeated for the heads that share them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import pairwise
from typing import NamedTuple

import torch
from results import put
from start import processor

from tunesmith.model import attention_cpu
from tunesmith.model.attention import attend, row_by_row
from tunesmith.model.native import library


class Case(NamedTuple):
    """Rows, and the heads that read them."""

    name: str
    lengths: list[int]
    heads: int
    groups: int
    width: int
    causal: bool


CASES = (
    Case("64 questions, an encoder's heads", [8 + 7 * i % 16 for i in range(64)], 12, 12, 32, causal=False),
    Case("110 short rows", [6 + 7 * i % 25 for i in range(110)], 9, 3, 64, causal=True),
    Case("24 drawn answers", [72 + 7 * i % 21 for i in range(24)], 9, 3, 64, causal=True),
    Case("4 rows of 250", [250] * 4, 9, 3, 64, causal=True),
    Case("2 rows of 1,000", [1000] * 2, 9, 3, 64, causal=True),
    Case("a row of 2,000, larger heads", [2000], 32, 8, 128, causal=True),
)
Call = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@contextmanager
def by_products() -> Iterator[None]:
    """As it is where the C++ cannot be compiled."""
    can, attention_cpu.can_attend = attention_cpu.can_attend, lambda *heads: False
    try:
        yield
    finally:
        attention_cpu.can_attend = can


def milliseconds(call: Call, case: Case, rounds: int) -> tuple[float, float]:
    """Of the way forth, and of the way back."""
    torch.manual_seed(0)
    given = [torch.randn(1, sum(case.lengths), heads, case.width).bfloat16().transpose(1, 2).requires_grad_()
             for heads in (case.heads, case.groups, case.groups)]  # fmt: skip
    best = [float("inf")] * 2
    for _ in range(rounds + 1):
        times = [time.perf_counter()]
        output = call(*given)
        times.append(time.perf_counter())
        torch.autograd.grad(output, given, output.detach())
        times.append(time.perf_counter())
        spent = (1e3 * (after - before) for before, after in pairwise(times))
        best = [min(pair) for pair in zip(best, spent, strict=True)]
    return best[0], best[1]


def line(case: Case, rounds: int) -> str:
    """A case's line of the table."""
    offsets = torch.tensor([0, *case.lengths]).cumsum(0)
    scale = case.width**-0.5

    def ours(*given: torch.Tensor) -> torch.Tensor:
        return attend(*given, offsets, scale, case.causal)[0]  # pyright: ignore[reportCallIssue]

    def theirs(*given: torch.Tensor) -> torch.Tensor:
        return row_by_row(*given, offsets, 0.0, scale, case.causal)

    found = [milliseconds(ours, case, rounds)]
    with by_products():
        found.append(milliseconds(ours, case, rounds))
    found.append(milliseconds(theirs, case, rounds))
    cells = [f"{forth:.1f} + {back:.1f}" for forth, back in found]
    times = [f"{sum(one) / sum(found[0]):.1f}" for one in found[1:]]
    return f"| {case.name} | {' | '.join(cells)} | {', '.join(times)} |"


def main(arguments: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--cases", type=int, default=len(CASES), help="the first of them")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    options = parser.parse_args(arguments)
    assert library() is not None, "the C++ cannot be compiled here"
    where = f"{os.cpu_count()} cores of {processor()}, torch {version('torch')}, {datetime.now(UTC):%Y-%m-%d}"
    lines = [
        f"{where}; milliseconds, forth and back.",
        "",
        "| heads of one layer | C++ | products of torch's | torch's own, row by row | times as fast |",
        "|---|---|---|---|---|",
        *(line(case, options.rounds) for case in CASES[: options.cases]),
    ]
    text = "\n".join(lines)
    print(text)
    if options.write and options.cases == len(CASES):
        put("attention_cpu", text)
    return text


if __name__ == "__main__":
    main()
