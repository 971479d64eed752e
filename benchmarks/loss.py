"""The loss of a large vocabulary, forth and back: tunesmith's, torch's with all logits, and kernels of others.

    python benchmarks/loss.py                    # on a GPU where there is one: 8,192 positions, 128,256 words
    python benchmarks/loss.py --device cpu --positions 1024 --width 576 --words 49152

Of each: milliseconds (the median), on a GPU memory beyond what goes in, and how far the gradients are from those of
fp32. `frozen` is LoRA, whose output layer learns nothing; `trained` is full fine-tuning. Liger (`liger-kernel`) and
Apple's cut cross-entropy (`cut-cross-entropy`) take part where they are installed and their kernels run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from tunesmith.model.device import keep_freed_memory
from tunesmith.train.loss import linear_cross_entropy

ROUNDS = 7
Given = tuple[torch.Tensor, torch.nn.Linear, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.nn.Linear, torch.Tensor], torch.Tensor]


def with_all_logits(hidden_ND: torch.Tensor, head: torch.nn.Linear, target_N: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(head(hidden_ND).float(), target_N, reduction="sum")


def ours(compiled: bool) -> Loss:
    return lambda hidden_ND, head, target_N: linear_cross_entropy(hidden_ND, head, target_N, compiled)[0]


def ligers(hidden_ND: torch.Tensor, head: torch.nn.Linear, target_N: torch.Tensor) -> torch.Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss(reduction="sum")(head.weight, hidden_ND, target_N)


def cut(hidden_ND: torch.Tensor, head: torch.nn.Linear, target_N: torch.Tensor) -> torch.Tensor:
    from cut_cross_entropy import linear_cross_entropy as apples

    return apples(hidden_ND, head.weight, target_N, reduction="sum")


LOSSES: dict[str, Loss] = {
    "tunesmith": ours(compiled=False),
    "tunesmith, compiled": ours(compiled=True),
    "torch, all logits": with_all_logits,
    "Liger": ligers,
    "cut cross-entropy": cut,
}


def make(options: argparse.Namespace) -> Given:
    """What goes into the output layer, that layer, and the right words."""
    generator, where = torch.Generator(options.device).manual_seed(0), torch.device(options.device)
    hidden_ND = torch.randn(options.positions, options.width, generator=generator, device=where).bfloat16()
    weight_VD = torch.randn(options.words, options.width, generator=generator, device=where) * 2 * options.width**-0.5
    head = torch.nn.Linear(options.width, options.words, bias=False, device="meta")
    head.weight = torch.nn.Parameter(weight_VD.bfloat16())
    target_N = torch.randint(options.words, (options.positions,), generator=generator, device=where)
    return hidden_ND.requires_grad_(), head, target_N


def once(loss: Loss, given: Given) -> tuple[torch.Tensor, ...]:
    """The gradients of a pass forth and back, which are kept nowhere else."""
    hidden_ND, head, _ = given
    loss(*given).backward()
    found = tuple(one.grad for one in (hidden_ND, head.weight) if one.grad is not None)
    hidden_ND.grad = head.weight.grad = None
    return found


def exact(given: Given) -> tuple[torch.Tensor, ...]:
    """The same in fp32, some positions at a time."""
    hidden_ND, head, target_N = given
    table = torch.nn.Linear(*head.weight.shape[::-1], bias=False, device=head.weight.device)
    table.weight = torch.nn.Parameter(head.weight.detach().float(), requires_grad=head.weight.requires_grad)
    found = list[torch.Tensor]()
    for some, target in zip(hidden_ND.detach().float().split(1024), target_N.split(1024), strict=True):
        some = some.requires_grad_()
        with_all_logits(some, table, target).backward()
        found.append(some.grad)
    return torch.cat(found), *(() if table.weight.grad is None else (table.weight.grad,))


def measured(loss: Loss, given: Given, want: tuple[torch.Tensor, ...], device: str) -> str:
    """The cells of one line."""
    cuda = device == "cuda"
    found = once(loss, given)  # kernels are made and compiled
    off = sum(float((a.float() - b).norm() / b.norm()) for a, b in zip(found, want, strict=True)) / len(want)
    del found
    before, seconds = torch.cuda.memory_allocated() if cuda else 0, list[float]()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(ROUNDS):
        started = time.perf_counter()
        once(loss, given)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    memory = f"{(torch.cuda.max_memory_allocated() - before) / 2**30:.2f} GB" if cuda else ""
    return f"{1e3 * statistics.median(seconds):.1f} | {memory} | {off:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--positions", type=int, default=8192)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--words", type=int, default=128256)
    options = parser.parse_args()
    keep_freed_memory()  # as a run does
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}, bf16: {options.positions:,} positions, width {options.width:,}, "
          f"{options.words:,} words.\n")  # fmt: skip
    print("| output layer | loss | ms, forth and back | memory beyond | gradients off by |\n|---|---|---|---|---|")
    given = make(options)
    for trained in (False, True):
        given[1].requires_grad_(trained)
        want = exact(given)
        for name, loss in LOSSES.items():
            try:
                cells = measured(loss, given, want, options.device)
            except ImportError as error:
                cells = f"not installed ({error.name}) | | "
            except Exception as error:  # noqa: BLE001  kernels of others fail in many ways where there is no GPU
                cells = f"failed: {type(error).__name__} | | "
            print(f"| {'trained' if trained else 'frozen'} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
