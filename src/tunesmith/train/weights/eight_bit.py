"""AdamW whose two moments are kept in 8 bits, block by block (Dettmers et al., 2022, arXiv 2110.02861).

A block is 256 values that share one fp32 scale, their largest magnitude. Each value is kept as the number of
the nearest of 256 levels between -1 and 1 (first moment) or 0 and 1 (second moment). Levels are dynamic: seven
decades, each with twice as many levels as the one below, so that large values are kept finely and small ones
are not lost. A weight's state takes 2.03 bytes instead of 8.

What differs from the paper: a second moment above zero never becomes zero, since the update divides by its root;
there is no stable embedding layer.

Why not a library: bitsandbytes has this for GPUs alone, as compiled code. torchao's is plain torch too, but needs a
compiler to be fast, and keeps state in tensor subclasses, which a checkpoint of plain tensors cannot hold. This one
runs wherever torch does.

The nearest level is looked up by the upper 20 bits of the number itself, not searched for; it may be off by 2^-11 of
the value. For ten million weights on two cores of an AMD EPYC, `python benchmarks/optimizer.py` prints 20.5 MB of
state and 42 ms a step, where torch's fused AdamW takes 80.8 MB and 5 ms. Unmeasured on GPUs.

Axes: N values, K blocks, V values of a block (256), L levels (256).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad

BLOCK = 256
SMALL = 4096  # weights with fewer values keep both moments in fp32
DECADES = 7
BITS = 20  # of a number's 32, by which its level is looked up: sign, exponent and 11 of the fraction
PIECE = {"cpu": 1 << 18, "cuda": 1 << 24}  # values updated at once: what caches hold, and what bounds spare memory


@dataclass(frozen=True)
class Levels:
    """The values that codes stand for.

    Attributes:
        values_L: ascending.
        nearest: the code of each number by its upper bits, 2^20 bytes.
    """

    values_L: torch.Tensor
    nearest: torch.Tensor


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter, 2019) with moments in 8 bits; groups and their settings as in torch's AdamW.

    The state of a weight is plain tensors: `step`, `exp_avg` and `exp_avg_sq`; and, where these are codes of shape
    (K, 256), `exp_avg_scale` and `exp_avg_sq_scale` of shape (K, 1). Put it back by these names: torch's own
    `load_state_dict` would make the codes floats.
    """

    def __init__(
        self,
        groups: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        update: Callable[..., None] | None = None,
    ) -> None:
        """Begin with no state.

        Args:
            groups: weights, or dicts of `params` and settings of their own.
            lr: learning rate.
            betas: decay rates of the two moments.
            eps: added to the root of the second moment.
            weight_decay: decoupled.
            update: `update_coded`, compiled, where the caller wants that.
        """
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._update: Callable[..., None] = update or update_coded
        self._levels: dict[torch.device, tuple[Levels, Levels]] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step_one(weight, weight.grad, group)
        return loss

    def _step_one(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state: dict[str, torch.Tensor] = self.state[weight]
        if not state:
            state.update(first_state(weight))
        state["step"] += 1
        step, (beta1, beta2) = int(state["step"]), group["betas"]
        numbers = {
            "keep": torch.tensor(1 - group["lr"] * group["weight_decay"]),
            "rate": torch.tensor(group["lr"] / (1 - beta1**step)),
            "correction": torch.tensor(math.sqrt(1 - beta2**step)),
            "beta1": beta1,
            "beta2": beta2,
            "eps": group["eps"],
        }
        gradient_N, weight_N = gradient.reshape(-1), weight.contiguous().view(-1)
        if "exp_avg_scale" in state:
            self._in_pieces(weight_N, gradient_N, state, numbers)
        else:
            update(weight_N, gradient_N, state["exp_avg"].view(-1), state["exp_avg_sq"].view(-1), **numbers)
        if not weight.is_contiguous():
            weight.copy_(weight_N.view(weight.shape))

    def _in_pieces(
        self,
        weight_N: torch.Tensor,
        gradient_N: torch.Tensor,
        state: dict[str, torch.Tensor],
        numbers: dict[str, Any],
    ) -> None:
        if weight_N.device not in self._levels:
            self._levels[weight_N.device] = make_levels(True, weight_N.device), make_levels(False, weight_N.device)
        piece = PIECE.get(weight_N.device.type, PIECE["cpu"])
        for start in range(0, len(weight_N), piece):
            values = slice(start, start + piece)
            blocks = slice(start // BLOCK, (start + piece) // BLOCK)
            parts = (state[name][blocks] for name in ("exp_avg", "exp_avg_scale", "exp_avg_sq", "exp_avg_sq_scale"))
            self._update(weight_N[values], gradient_N[values], *parts, *self._levels[weight_N.device], **numbers)


def first_state(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The state of a weight that was never updated."""
    step = torch.zeros((), dtype=torch.float32)
    if weight.numel() < SMALL:
        zeros = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        return {"step": step, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
    blocks = -(-weight.numel() // BLOCK)
    scales = torch.zeros(blocks, 1, dtype=torch.float32, device=weight.device)
    zero = (make_values(signed=True) == 0).nonzero().item()
    codes = torch.full((blocks, BLOCK), int(zero), dtype=torch.uint8, device=weight.device)
    return {
        "step": step,
        "exp_avg": codes,
        "exp_avg_scale": scales,
        "exp_avg_sq": torch.zeros_like(codes),
        "exp_avg_sq_scale": scales.clone(),
    }


def update(
    weight_N: torch.Tensor, gradient_N: torch.Tensor, first_N: torch.Tensor, second_N: torch.Tensor, *,
    keep: torch.Tensor, rate: torch.Tensor, correction: torch.Tensor, beta1: float, beta2: float, eps: float,
) -> None:  # fmt: skip
    """One step of AdamW, its moments in fp32; weight and moments change in place.

    What changes from step to step is a tensor without axes, since compiled code would hold a float to be constant.

    Args:
        weight_N: in fp32, or in bf16, to which the sum is rounded.
        gradient_N: its gradient.
        first_N: first moment.
        second_N: second moment.
        keep: factor on the weight: 1 minus learning rate times weight decay.
        rate: learning rate, corrected for the first moment's start at zero.
        correction: of the second moment's root, for its start at zero.
        beta1: decay rate of the first moment.
        beta2: decay rate of the second moment.
        eps: added to that root.
    """
    follow(gradient_N.float(), first_N, second_N, beta1, beta2)
    move(weight_N, first_N, second_N, keep, rate, correction, eps)


def update_coded(
    weight_N: torch.Tensor, gradient_N: torch.Tensor, first_KV: torch.Tensor, first_scale_K1: torch.Tensor,
    second_KV: torch.Tensor, second_scale_K1: torch.Tensor, signed: Levels, unsigned: Levels, *,
    keep: torch.Tensor, rate: torch.Tensor, correction: torch.Tensor, beta1: float, beta2: float, eps: float,
) -> None:  # fmt: skip
    """As `update`, its moments codes and scales; the last block may be longer than what is left of the weight."""
    size = len(weight_N)
    first_N = decode(first_KV, first_scale_K1, signed)
    second_N = decode(second_KV, second_scale_K1, unsigned)
    follow(pad(gradient_N.float(), (0, -size % BLOCK)), first_N, second_N, beta1, beta2)
    encode(first_N, signed, first_KV, first_scale_K1)
    encode(second_N, unsigned, second_KV, second_scale_K1)
    move(weight_N, first_N[:size], second_N[:size], keep, rate, correction, eps)


def follow(gradient_N: torch.Tensor, first_N: torch.Tensor, second_N: torch.Tensor, beta1: float, beta2: float) -> None:
    """Take a gradient into the moments."""
    first_N.lerp_(gradient_N, 1 - beta1)
    second_N.mul_(beta2).addcmul_(gradient_N, gradient_N, value=1 - beta2)


def move(
    weight_N: torch.Tensor, first_N: torch.Tensor, second_N: torch.Tensor, keep: torch.Tensor,
    rate: torch.Tensor, correction: torch.Tensor, eps: float,
) -> None:  # fmt: skip
    """Move a weight by its moments."""
    root_N = second_N.sqrt().div_(correction).add_(eps)
    weight_N.copy_(weight_N.float().mul_(keep).sub_(first_N / root_N * rate))


def decode(codes_KV: torch.Tensor, scale_K1: torch.Tensor, levels: Levels) -> torch.Tensor:
    """The numbers that codes stand for, of shape (N,)."""
    values_KV = levels.values_L.index_select(0, codes_KV.reshape(-1).int()).view(codes_KV.shape)
    return values_KV.mul_(scale_K1).view(-1)


def encode(values_N: torch.Tensor, levels: Levels, codes_KV: torch.Tensor, scale_K1: torch.Tensor) -> None:
    """Write numbers of shape (N,) as codes and scales."""
    values_KV = values_N.view(codes_KV.shape)
    scale_K1.copy_(values_KV.abs().amax(dim=1, keepdim=True))
    shares_KV = values_KV / scale_K1.clamp_min(torch.finfo(torch.float32).tiny)
    places_KV = (shares_KV.view(torch.int32) >> (32 - BITS)) & ((1 << BITS) - 1)
    codes_KV.copy_(levels.nearest.index_select(0, places_KV.view(-1)).view(codes_KV.shape))


def make_levels(signed: bool, device: torch.device) -> Levels:
    """Levels and the table that finds them."""
    values_L = make_values(signed)
    # The middle of all numbers that share their upper bits.
    bits = (torch.arange(1 << BITS, dtype=torch.int64) << (32 - BITS)) + (1 << (31 - BITS))
    numbers = bits.to(torch.int32).view(torch.float32).nan_to_num().clamp(-1, 1)
    nearest = torch.bucketize(numbers, (values_L[1:] + values_L[:-1]) / 2)
    if not signed:
        nearest[1:] = nearest[1:].clamp_min(1)
    return Levels(values_L.to(device), nearest.to(device, torch.uint8))


def make_values(signed: bool) -> torch.Tensor:
    """The 256 levels: seven decades below 1, the lowest of one level (or two, where none is negative), and 0 and 1."""
    decades: list[torch.Tensor] = []
    for decade in range(DECADES):
        count = 2 ** (decade if signed else decade + 1)
        middles = 0.1 + 0.9 * (torch.arange(count, dtype=torch.float64) + 0.5) / count
        decades.append(middles * 10.0 ** (decade - DECADES + 1))
    positive, zero, one = torch.cat(decades), torch.zeros(1), torch.ones(1)
    parts = [-positive.flip(0), zero, positive, one] if signed else [zero, positive, one]
    return torch.cat(parts).float()
