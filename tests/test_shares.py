"""Softmax written over logits in C++: that of double precision, whatever the number of words and whatever they say."""

from __future__ import annotations

import pytest
import torch

from tunesmith.model import native, shares
from tunesmith.model.shares import can_write, weigh, write_shares
from tunesmith.train import logprobs, loss
from tunesmith.train.logprobs import token_logprobs
from tunesmith.train.loss import linear_cross_entropy

pytestmark = pytest.mark.skipif(native.library() is None, reason="no g++, or another processor")
WORDS = [1, 15, 16, 17, 64, 79, 4099]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("size", [0.0, 3.0, 60.0])
def test_shares_are_those_of_double_precision(words, size):
    logits_NV = torch.randn(37, words, generator=torch.Generator().manual_seed(0)).mul(size).bfloat16()
    want, given = logits_NV.double(), logits_NV.clone()
    log_sum_N1, top_N1 = write_shares(given)
    torch.testing.assert_close(log_sum_N1.double(), want.logsumexp(-1, keepdim=True), rtol=1e-6, atol=1e-6)
    assert torch.equal(top_N1, logits_NV.float().amax(-1, keepdim=True))
    torch.testing.assert_close(given.double(), want.softmax(-1), rtol=2**-8, atol=1e-30)
    alone = logits_NV[3:4].clone()
    write_shares(alone)
    assert torch.equal(alone, given[3:4])  # whatever else is there


@pytest.mark.parametrize("words", WORDS[1:])
def test_words_that_cannot_be_have_no_share_and_what_is_no_number_is_seen(words):
    logits_NV = torch.zeros(4, words).bfloat16()
    logits_NV[0, 1:] = -torch.inf
    logits_NV[1, -1] = -torch.inf
    logits_NV[2, -1] = torch.nan
    logits_NV[3, 0] = torch.inf
    log_sum_N1, _ = write_shares(logits_NV)
    assert logits_NV[0].tolist() == [1.0] + [0.0] * (words - 1)
    assert log_sum_N1[0] == 0
    assert logits_NV[1, -1] == 0
    assert logits_NV[1, 0] == torch.tensor(1 / (words - 1)).bfloat16()
    assert log_sum_N1[2:].isnan().all()


@pytest.mark.parametrize("words", WORDS)
def test_each_position_is_weighed_by_its_own_number(words):
    share_NV, factor_N1 = torch.rand(9, words).bfloat16(), torch.randn(9, 1)
    want = (share_NV.float() * factor_N1).bfloat16()
    weigh(share_NV, factor_N1)
    assert torch.equal(share_NV, want)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("trained", [True, False])
def test_losses_and_their_gradients_are_those_that_torch_computes(monkeypatch, trained, smoothing):
    torch.manual_seed(0)
    monkeypatch.setitem(loss.LOGITS_PER_PIECE, "cpu", 5 * 203)
    monkeypatch.setattr(logprobs, "MOST_KEPT", 0)
    start, table, made = torch.randn(23, 32).bfloat16(), torch.randn(203, 32).bfloat16(), []
    target_N = (start @ table.T).argmax(-1).where(torch.arange(23) % 2 == 0, 7)  # some are the first choice
    for ours in (True, False):
        if not ours:
            for module in (loss, shares):  # `logprobs` asks there
                monkeypatch.setattr(module, "can_write", lambda weight: False)
        head = torch.nn.Linear(32, 203, bias=False, dtype=torch.bfloat16)
        head.weight = torch.nn.Parameter(table.clone(), requires_grad=trained)
        hidden_ND = start.clone().requires_grad_()
        total, right = linear_cross_entropy(hidden_ND, head, target_N, smoothing=smoothing)
        logprob_N = token_logprobs(hidden_ND, head, target_N)
        (total + (logprob_N * torch.arange(23)).sum()).backward()
        made.append([total, right, logprob_N, hidden_ND.grad, *([head.weight.grad] if trained else [])])
    for one, other in zip(*made, strict=True):
        assert (one.double() - other.double()).norm() <= 2e-3 * other.double().norm()
    assert made[0][1] == made[1][1] >= 11


def test_only_what_is_in_bf16_on_a_cpu_is_written_so():
    weight = torch.zeros(3, 4, dtype=torch.bfloat16)
    assert can_write(weight)
    assert not can_write(weight.float())
    assert not can_write(weight.to("meta"))
