"""Attention of packed rows on a GPU, beside double precision row by row on the CPU."""

from __future__ import annotations

import inspect
from itertools import pairwise

import pytest
import torch

from gpu.small import off
from tunesmith.model.attention import packed_attention

LENGTHS = [1, 3, 36, 600, 129, 17]
ENDS = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]
CLOSE = {torch.bfloat16: 1e-2, torch.float32: 3e-5}
SCALE = 0.21


def heads(dtype, device, keys, width=64):
    """Random queries, keys and values, in the memory order that models give them, and a direction."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(1, ENDS[-1], n, width, generator=generator).to(dtype) for n in (4, keys, keys, 4)]
    *given, direction = (one.to(device) for one in made)
    return [one.transpose(1, 2).requires_grad_() for one in given], direction


def exact(given, direction, causal, scale=SCALE):
    """Output (1, T, H, D) and gradients in double precision, written out."""
    query, key, value = (one.detach().cpu().double().requires_grad_() for one in given)
    groups = query.shape[1] // key.shape[1]
    every_key, every_value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    outputs = []
    for start, end in pairwise(ENDS):
        score = query[:, :, start:end] @ every_key[:, :, start:end].transpose(2, 3) * scale
        if causal:
            score = score.masked_fill(torch.ones_like(score, dtype=torch.bool).triu(1), -torch.inf)
        outputs.append(score.softmax(-1) @ every_value[:, :, start:end])
    found = torch.cat(outputs, dim=2).transpose(1, 2)
    return found, torch.autograd.grad(found, (query, key, value), direction.cpu().double())


def offsets_on(device):
    return torch.tensor(ENDS, dtype=torch.int32, device=device)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize(("keys", "causal"), [(4, True), (2, True), (1, True), (2, False), (4, False)])
def test_attention_and_its_gradients_are_those_of_double_precision(device, dtype, keys, causal):
    given, direction = heads(dtype, device, keys)
    found, _ = packed_attention(
        torch.nn.Identity(), *given, None, cu_seq_lens_q=offsets_on(device), max_length_q=max(LENGTHS), scaling=SCALE,
        is_causal=causal,
    )  # fmt: skip
    by = torch.autograd.grad(found, given, direction)
    assert found.dtype == dtype
    want, wanted = exact(given, direction, causal)
    for one, other in zip((found, *by), (want, *wanted), strict=True):
        assert off(one, other) < CLOSE[dtype]
    for start, end in pairwise(ENDS):  # a short row that is wrong would not be seen among the long ones
        assert off(found[:, start:end], want[:, start:end]) < CLOSE[dtype]


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("causal", [True, False])
def test_torchs_kernel_takes_grouped_keys_as_they_are(card, width, causal):
    from torch.nn.attention.varlen import varlen_attn

    given, direction = heads(torch.bfloat16, card, 2, width)
    asks = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
    ends, longest = offsets_on(card), max(LENGTHS)
    found = varlen_attn(
        *(one[0].transpose(0, 1) for one in given), ends, ends, longest, longest, window_size=(-1, 0 if causal else -1),
        scale=SCALE, **asks,
    )  # fmt: skip
    by = torch.autograd.grad(found, given, direction[0])
    want, wanted = exact(given, direction, causal)
    for one, other in zip((found[None], *by), (want, *wanted), strict=True):
        assert off(one, other) < CLOSE[torch.bfloat16]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_dropout_leaves_the_mean_as_it_is_and_rows_apart(device, dtype):
    given, direction = heads(dtype, device, 2)
    drawn = []
    for seed in range(100):
        torch.manual_seed(seed)
        found, _ = packed_attention(
            torch.nn.Identity(), *given, None, dropout=0.2, cu_seq_lens_q=offsets_on(device), scaling=SCALE
        )
        drawn.append(found.detach().double().cpu())
    assert not torch.equal(drawn[0], drawn[1])
    want, _ = exact(given, direction, True)
    assert off(torch.stack(drawn).mean(0), want) < 0.15
    assert off(drawn[0], want) > 0.2
    start, end = ENDS[3:5]  # the long row
    by = torch.autograd.grad(found[:, start:end].float().sum(), given)
    for gradient in by:
        assert gradient[:, :, start:end].any()
        assert not gradient[:, :, :start].any()
        assert not gradient[:, :, end:].any()
