"""Log probabilities of tokens without their logits: those of double precision, whatever of the output layer learns."""

from __future__ import annotations

import pytest
import torch

from test_fast import Largest
from tunesmith.model.new_tokens import MoreOutputs
from tunesmith.train import logprobs, loss
from tunesmith.train.logprobs import token_logprobs

N, D, V = 37, 16, 501
CLOSE = {torch.float32: 1e-6, torch.bfloat16: 2e-2}  # relative to the largest


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    """A piece is five positions, or twenty where the output layer is trained."""
    monkeypatch.setitem(loss.LOGITS_PER_PIECE, "cpu", 5 * V)


def given(dtype=torch.float32):
    torch.manual_seed(0)
    head = torch.nn.Linear(D, V, bias=False, dtype=dtype)
    torch.nn.init.normal_(head.weight)
    hidden_ND = torch.randn(N, D).to(dtype).requires_grad_()
    return hidden_ND, head, torch.randint(0, V, (N,)), torch.randn(N)


def exact(hidden_ND, weight_VD, target_N, weigh_N):
    """Five lines in double precision: log probabilities, and the gradients of their weighted sum."""
    hidden, weight = (tensor.detach().double().requires_grad_() for tensor in (hidden_ND, weight_VD))
    all_NV = (hidden @ weight.T).log_softmax(-1)
    found_N = all_NV.gather(1, target_N[:, None])[:, 0]
    by = torch.autograd.grad((found_N * weigh_N).sum(), (hidden, weight))
    return found_N, *by


def near(one, other, dtype=torch.float32):
    assert (one.double() - other).abs().max() <= CLOSE[dtype] * other.abs().max()


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("frozen", "kept"), [(True, 0), (False, 0), (False, 2**20)])
@pytest.mark.parametrize("compiled", [False, True])
def test_they_and_their_gradients_are_those_of_double_precision(frozen, kept, dtype, compiled, monkeypatch):
    monkeypatch.setattr(logprobs, "MOST_KEPT", kept)
    hidden_ND, head, target_N, weigh_N = given(dtype)
    head.weight.requires_grad_(not frozen)
    logprob_N = token_logprobs(hidden_ND, head, target_N, compiled)
    want_N, by_hidden, by_weight = exact(hidden_ND, head.weight, target_N, weigh_N)
    (logprob_N * weigh_N).sum().backward()
    assert logprob_N.dtype == torch.float32
    near(logprob_N, want_N, dtype)
    near(hidden_ND.grad, by_hidden, dtype)
    assert hidden_ND.grad.dtype == dtype
    if frozen:
        assert head.weight.grad is None
    else:
        near(head.weight.grad, by_weight, dtype)
    assert torch.equal(token_logprobs(hidden_ND, head, target_N, compiled), logprob_N)


def test_where_the_table_is_tied_both_ways_add_up():
    _, head, target_N, weigh_N = given()
    read_N = torch.randint(0, V, (N,))
    (token_logprobs(head.weight[read_N], head, target_N) * weigh_N).sum().backward()
    weight = head.weight.detach().double().requires_grad_()
    all_NV = (weight[read_N] @ weight.T).log_softmax(-1)
    [want] = torch.autograd.grad((all_NV.gather(1, target_N[:, None])[:, 0] * weigh_N).sum(), weight)
    near(head.weight.grad, want)


@pytest.mark.parametrize("frozen", [True, False])
def test_rows_that_are_trained_apart_have_their_gradients(frozen):
    hidden_ND, layer, target_N, weigh_N = given()
    layer.weight.requires_grad_(not frozen)
    rows = torch.nn.Parameter(layer.weight.detach()[400:404].clone())
    head = MoreOutputs(layer, 400, rows)
    target_N[:8] = torch.arange(400, 404).repeat(2)
    (token_logprobs(hidden_ND, head, target_N) * weigh_N).sum().backward()
    _, by_hidden, by_weight = exact(hidden_ND, layer.weight, target_N, weigh_N)
    near(hidden_ND.grad, by_hidden)
    near(rows.grad, by_weight[400:404])
    if not frozen:
        near(layer.weight.grad[:400], by_weight[:400])
        assert not layer.weight.grad[400:404].any()


@pytest.mark.parametrize("frozen", [True, False])
def test_no_more_than_one_piece_of_logits_is_ever_there(frozen, monkeypatch):
    monkeypatch.setattr(logprobs, "MOST_KEPT", 0)
    hidden_ND, head, target_N, weigh_N = given()
    head.weight.requires_grad_(not frozen)
    with Largest() as largest:
        (token_logprobs(hidden_ND, head, target_N) * weigh_N).sum().backward()
    assert largest.numel == max(5 * V * (1 if frozen else 4), V * D)


def test_without_gradients_nothing_is_kept():
    hidden_ND, head, target_N, _ = given()
    with torch.no_grad():
        assert not token_logprobs(hidden_ND, head, target_N).requires_grad
