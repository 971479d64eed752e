"""The loss that never holds all logits, on a GPU, beside torch's in double precision; and 8-bit moments."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from gpu.small import off
from tunesmith.train.loss import linear_cross_entropy, why_loss_differs
from tunesmith.train.weights.eight_bit import AdamW8bit

SHAPES = {"cuda": (2500, 64, 128256), "cpu": (200, 64, 1000)}  # positions, width, words: more than one piece
CLOSE = {torch.bfloat16: 1e-2, torch.float32: 1e-4}


@pytest.mark.parametrize("compiled", [False, True], ids=["as it is", "compiled"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(
    ("trained", "dtype"), [(True, torch.bfloat16), (False, torch.bfloat16), (True, torch.float32)],
    ids=["trained, bf16", "frozen, bf16", "trained, fp32"],
)  # fmt: skip
def test_the_chunked_loss_is_cross_entropy_in_double_precision(device, trained, dtype, smoothing, compiled):
    positions, width, words = SHAPES[device]
    torch.manual_seed(0)
    hidden = torch.randn(positions, width).to(device, dtype).requires_grad_()
    head = torch.nn.Linear(width, words, bias=False)
    torch.nn.init.normal_(head.weight, std=2 * width**-0.5)
    head = head.to(device, dtype).requires_grad_(trained)
    target = torch.randint(words, (positions,)).to(device)
    total, correct = linear_cross_entropy(hidden, head, target, compiled, smoothing)
    total.mul(0.3).backward()
    assert total.dtype == torch.float32

    exact, weight = (one.detach().double().requires_grad_() for one in (hidden, head.weight))
    logits = exact @ weight.T
    want = cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing)
    want.mul(0.3).backward()
    assert off(total, want) < CLOSE[dtype] / 5
    assert off(hidden.grad, exact.grad) < CLOSE[dtype]
    if trained:
        assert off(head.weight.grad, weight.grad) < CLOSE[dtype]
    else:
        assert head.weight.grad is None
    right = (logits.argmax(-1) == target).sum().item()
    assert abs(int(correct) - right) <= 0.02 * positions  # words that tie in bf16 are all right


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_the_compiled_loss_passes_its_own_check(device, dtype):
    assert why_loss_differs(dtype, device) is None


def steps_of(make, device, steps=4):
    """What a weight becomes in some steps; starts and gradients are the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(300, 700, generator=generator).to(device))
    start, optimizer = weight.detach().cpu().clone(), make([weight])
    for _ in range(steps):
        gradient = torch.randn(300, 700, generator=generator) * 10.0 ** torch.randint(
            -4, 1, (300, 1), generator=generator
        )
        weight.grad = gradient.to(device)
        optimizer.step()
    return weight.detach().cpu() - start


def ours(weights):
    return AdamW8bit(weights, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)


def test_moments_in_8_bits_are_those_of_the_cpu(device):
    """But for values that the last bit of a scale moves over the middle between two levels."""
    assert off(steps_of(ours, device), steps_of(ours, "cpu")) < 1e-3


def test_moments_in_8_bits_are_as_near_to_32_as_those_of_bitsandbytes(card):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    settings = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
    want = steps_of(lambda weights: torch.optim.AdamW(weights, **settings), card)
    peer = steps_of(lambda weights: bitsandbytes.optim.AdamW8bit(weights, **settings), card)
    assert off(steps_of(ours, card), want) < max(0.05, 1.5 * off(peer, want))
