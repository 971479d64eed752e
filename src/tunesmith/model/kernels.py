"""Which kernel computes attention of packed rows on a GPU: the fastest of those that are there and right.

Torch has one, and cuDNN one for rows that are equally long (`attention_gpu`). Where a package brings FlashAttention 3
(Shah et al., 2024, arXiv 2407.08608) or 4, torch lets it take its own kernel's place, in all that a process computes.
Which is the fastest depends on the card and on a run's shapes, so `fastest` measures on these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.attention as switch

from tunesmith.core.errors import MissingError
from tunesmith.model.attention_gpu import attend_any, attend_by_cudnn

SWITCHES = hasattr(switch, "restore_flash_attention_impl")  # whether this torch can put its own kernel back
WARM, TIMED = 3, 10  # runs of each kernel: left out, and timed
CLOSE = 0.02  # relative distance of two kernels' results: both round to bf16


@dataclass(frozen=True)
class Kernel:
    """What can compute attention of packed rows on a GPU.

    Attributes:
        said: whose it is.
        package: that brings it; torch does if empty.
        replaces: how torch calls it where it takes the place of torch's own kernel.
        cards: compute capabilities, without their minor part, of those that it is for; of any if empty. On others
            torch would take its own without a word.
        equal_rows: whether it is another one for rows that are equally long alone.
    """

    said: str
    package: str = ""
    replaces: str = ""
    cards: tuple[int, ...] = ()
    equal_rows: bool = False


OWN, CUDNN = "tunesmith_packed", "tunesmith_packed_by_cudnn"
KERNELS = {  # by the names that transformers' attention interface has for them
    OWN: Kernel("torch's"),
    "tunesmith_packed_by_fa3": Kernel("FlashAttention 3's", "flash_attn_interface", "FA3", (9,)),
    "tunesmith_packed_by_fa4": Kernel("FlashAttention 4's", "flash_attn", "FA4", (9, 10)),
    CUDNN: Kernel("cuDNN's", equal_rows=True),
}
Measured = tuple[Sequence[torch.Tensor], float]  # output and gradients, and milliseconds


def use_kernel(model: Any, name: str) -> None:
    """Let a model compute attention of packed rows with the kernel of this name, and this process with it.

    Raises:
        MissingError: the package that brings it is not there, or has it no more.
    """
    put_in_place(KERNELS[name])
    model.set_attn_implementation(name)


def put_in_place(kernel: Kernel) -> None:
    """Give torch's own kernel its place back, or have another take it.

    Raises:
        MissingError: the other is not there.
    """
    if not SWITCHES or switch.current_flash_attention_impl() == (kernel.replaces or None):
        return
    if not kernel.replaces:
        switch.restore_flash_attention_impl()
        return
    try:
        switch.activate_flash_attention_impl(kernel.replaces)
    except Exception as error:  # a package of another version fails in its own way
        raise MissingError(
            f"{kernel.said} attention cannot be used ({_word(error)}). Install what brings {kernel.package}, or begin "
            "a new run, which takes what is there."
        ) from error


def fastest(names: Sequence[str], measure: Callable[[Kernel], Measured]) -> tuple[str, str]:
    """The kernel that takes the least time and computes what the first of them does, and what was found, in words.

    Args:
        names: of `KERNELS`; the first is torch's own.
        measure: computes with one that was put in its place.
    """
    times, said, own = dict[str, float](), list[str](), None
    for name in names:
        kernel = KERNELS[name]
        try:
            put_in_place(kernel)
            found, took = measure(kernel)
        except MissingError as error:
            said.append(f"{kernel.said} is not there ({_word(error.__cause__)})")
            continue
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001  assertions and compilers' own errors among them
            said.append(f"{kernel.said} does not take these shapes ({_word(error)})")
            if own is None:
                break
            continue
        own = found if own is None else own
        offs = [float((a.float() - b.float()).norm() / a.float().norm()) for a, b in zip(own, found, strict=True)]
        if wrong := [off for off in offs if not off <= CLOSE]:
            said.append(f"{kernel.said} is {wrong[0]:.2g} off")
            continue
        times[name] = took
        said.append(f"{kernel.said} takes {took:.2f} ms")
    return min(times, key=lambda name: times[name], default=names[0]), f"measured: {', '.join(said)}"


def _word(error: BaseException | None) -> str:
    """The first line of what an error says, or what it is."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def kernels_for(alike: bool, card: int) -> list[str]:
    """Names of those that may be worth a measurement, torch's own first.

    Args:
        alike: whether many rows are equally long.
        card: the GPU's compute capability, without its minor part.
    """

    def may(kernel: Kernel) -> bool:
        there = not kernel.package or (SWITCHES and find_spec(kernel.package) is not None)
        return there and (not kernel.cards or card in kernel.cards) and (alike or not kernel.equal_rows)

    return [name for name, kernel in KERNELS.items() if may(kernel)]


def trial(heads: int, groups: int, width: int, lengths: Sequence[int]) -> Callable[[Kernel], Measured]:
    """What measures a kernel on rows of some lengths.

    Args:
        heads: of the queries.
        groups: of them that share a key.
        width: of each head.
        lengths: of the rows, which are equal for a kernel of equal rows.
    """
    generator = torch.Generator("cuda").manual_seed(0)

    def drawn(heads: int) -> torch.Tensor:
        shape = (sum(lengths), heads, width)
        return torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16).requires_grad_()

    inputs, direction = [drawn(heads), drawn(heads // groups), drawn(heads // groups)], drawn(heads).detach()
    offsets = torch.tensor([0, *accumulate(lengths)], device="cuda", dtype=torch.int32)
    if len(set(lengths)) > 1:  # a batch may be filled up with rows of no token
        offsets = torch.cat([offsets, offsets[-1:], offsets[-1:]])

    def measure(kernel: Kernel) -> Measured:
        attention: Callable[..., Any] = attend_by_cudnn if kernel.equal_rows else attend_any

        def both_ways() -> list[torch.Tensor]:
            found = attention(*inputs, offsets, max(lengths), width**-0.5, True)
            output = found if isinstance(found, torch.Tensor) else found[0]
            return [output, *torch.autograd.grad(output, inputs, direction)]

        return both_ways(), milliseconds(both_ways)

    return measure


def milliseconds(run: Callable[[], Any]) -> float:
    """Of GPU time that a run takes, the median of several, by events: the host's clock would count launches."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(TIMED + 1)]
    for _ in range(WARM):
        run()
    for before in events[:-1]:
        before.record()
        run()
    events[-1].record()
    torch.cuda.synchronize()
    return sorted(one.elapsed_time(other) for one, other in pairwise(events))[TIMED // 2]
