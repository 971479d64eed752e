"""Dropout from a seed: as many numbers are left out as torch would, the same forth and back, wherever it is used."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertForSequenceClassification

from tunesmith.model import dropout, native
from tunesmith.model.dropout import SeededDropout, seed_dropout
from tunesmith.model.layers import drops
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.model.methods.table import METHODS
from tunesmith.train.planning.plan import Plan
from tunesmith.train.weights.placed import Placed

needs_native = pytest.mark.skipif(native.library() is None, reason="no g++, or another processor")
PLAN = Plan("cpu", "fp32", False, 0, None, 1, "none", 1, {}, {}, "")
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


@needs_native
@BOTH
@pytest.mark.parametrize("shape", [(1,), (17,), (3, 5, 7), (2, 4099)])
def test_the_gradient_is_of_the_numbers_that_were_kept(dtype, shape):
    numbers = (torch.rand(shape) + 1).to(dtype).requires_grad_()
    torch.manual_seed(0)
    found = SeededDropout(0.3).train()(numbers)
    kept = found != 0
    factor = torch.tensor(1 / 0.7)
    torch.testing.assert_close(found[kept].float(), (numbers[kept].float() * factor).to(dtype).float())
    direction = torch.rand(shape).to(dtype) + 1
    [by] = torch.autograd.grad(found, numbers, direction)
    torch.testing.assert_close(by.float(), ((direction.float() * factor) * kept).to(dtype).float())


@needs_native
def test_numbers_are_left_out_at_random():
    torch.manual_seed(0)
    one = torch.ones(64, 10_000)
    layer = SeededDropout(0.1).train()
    first, second = (layer(one) > 0 for _ in range(2))
    for kept in (first, second):
        assert abs(kept.double().mean() - 0.9) < 0.0015  # four deviations
        assert ((kept.double().mean(1) - 0.9).abs() < 5 * (0.09 / 10_000) ** 0.5).all()
        assert ((kept.double().mean(0) - 0.9).abs() < 5.5 * (0.09 / 64) ** 0.5).all()
    for left, right in ((first, second), (first[:, 1:], first[:, :-1]), (first[1:], first[:-1])):
        assert abs((left & right).double().mean() - 0.81) < 0.002
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(layer(one) > 0, first)
    finally:
        torch.set_num_threads(before)


@needs_native
def test_numbers_that_lie_in_another_order_are_the_same():
    numbers = torch.rand(6, 50) + 1
    found = []
    for given in (numbers, numbers.t().contiguous().t()):
        torch.manual_seed(3)
        found.append(SeededDropout(0.5).train()(given))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("share", "dtype", "inplace", "without"),
    [(0.5, torch.float64, False, False), (0.5, torch.float16, False, False), (0.5, torch.float32, True, False),
     (0.0, torch.float32, False, False), (1.0, torch.float32, False, False), (0.999, torch.float32, False, False),
     (0.5, torch.float32, False, True)],
)  # fmt: skip
def test_elsewhere_it_is_torchs_own(share, dtype, inplace, without, monkeypatch):
    numbers = torch.rand(40, 50).to(dtype)
    if without:
        monkeypatch.setattr(dropout, "library", lambda: None)
    found = []
    for kind in (SeededDropout, torch.nn.Dropout):
        torch.manual_seed(0)
        found.append(kind(share, inplace).train()(numbers.clone()))
    assert torch.equal(*found)
    assert SeededDropout(share).eval()(numbers) is numbers


def test_it_is_the_same_where_a_layer_is_computed_again():
    layer = torch.nn.Sequential(torch.nn.Linear(8, 8), SeededDropout(0.5), torch.nn.Tanh()).train()
    numbers, found = torch.rand(6, 8, requires_grad=True), []
    for again in (False, True):
        torch.manual_seed(0)
        output = checkpoint(layer, numbers, use_reentrant=False) if again else layer(numbers)
        found.append(
            (output, *torch.autograd.grad(output.sum(), [numbers, *layer.parameters()]))
        )  # an expanded gradient
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert SeededDropout(0.5).train()(torch.empty(0, 3)).shape == (0, 3)


@needs_native
def test_a_model_that_is_trained_on_a_cpu_has_it():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.1))
    Placed(model, PLAN)
    assert type(model[1]) is SeededDropout


def test_compiled_layers_have_torchs_own():
    layer = torch.nn.Sequential(torch.nn.Linear(8, 8), SeededDropout(0.5)).train()
    found = torch.compile(layer, backend="eager", fullgraph=True)(torch.ones(4, 8))
    assert found.shape == (4, 8)


def test_a_models_dropout_and_a_methods_are_seeded():
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20)
    model = METHODS["lora"].apply(BertForSequenceClassification(config), LoraConfig(rank=2, alpha=2, dropout=0.2))
    assert drops(model)
    names = [name for name, part in model.named_modules() if type(part) is torch.nn.Dropout]
    assert any("lora_dropout" in name for name in names)
    seed_dropout(model)
    assert {type(model.get_submodule(name)) for name in names} == {SeededDropout}
    assert drops(model)
    assert sorted({model.get_submodule(name).p for name in names}) == [0.1, 0.2]
