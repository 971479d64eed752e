"""The last layer where a head reads it: less is computed, and logits and gradients stay what they are."""

from __future__ import annotations

import contextlib
import copy

import numpy as np
import pytest
import torch
import transformers as library

from tunesmith.model import read_at
from tunesmith.model.attention import PACKED
from tunesmith.model.heads import class_logits, inputs_of
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.model.methods.table import METHODS
from tunesmith.model.packed import filling_of
from tunesmith.train.planning.compiled import as_they_are, why_not_compiled

SIZE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
        "max_position_embeddings": 64, "initializer_range": 0.2, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "num_labels": 3}  # fmt: skip
NAMES = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "vocab_size": 50, "max_position_embeddings": 64,
         "initializer_range": 0.2, "dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0,
         "num_labels": 3}  # fmt: skip
MODELS = {
    "bert": lambda: library.BertForSequenceClassification(library.BertConfig(**SIZE)),
    "roberta": lambda: library.RobertaForSequenceClassification(library.RobertaConfig(**SIZE)),
    "xlm-roberta": lambda: library.XLMRobertaForSequenceClassification(library.XLMRobertaConfig(**SIZE)),
    "camembert": lambda: library.CamembertForSequenceClassification(library.CamembertConfig(**SIZE)),
    "electra": lambda: library.ElectraForSequenceClassification(library.ElectraConfig(**SIZE, embedding_size=16)),
    "distilbert": lambda: library.DistilBertForSequenceClassification(library.DistilBertConfig(**NAMES)),
}
LENGTHS = (5, 1, 9, 14, 4)
ROWS = [np.random.default_rng(seed).integers(3, 50, length).astype(np.int32) for seed, length in enumerate(LENGTHS)]


def make(kind):
    torch.manual_seed(0)
    return MODELS[kind]().eval()


def logits_of(model, packed):
    model.set_attn_implementation(PACKED if packed else "sdpa")
    return class_logits(model, inputs_of(ROWS, LENGTHS, packed, "cpu"), len(ROWS))


def widest(model):
    """How many tokens the last layer's feed-forward network sees while the block lasts."""
    seen = []
    layer = model.base_model.get_submodule(read_at.PRODUCTS[model.config.model_type][0])[-1]
    network = layer.ffn.lin1 if hasattr(layer, "ffn") else layer.intermediate.dense
    network.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    return seen


@pytest.mark.parametrize("kind", MODELS)
def test_logits_and_gradients_are_those_of_rows_beside_each_other(kind):
    model = make(kind)
    seen = widest(model)
    found = []
    for packed in (False, True):
        model.zero_grad()
        logits = logits_of(model, packed)
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1])).backward()
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        found.append((logits.detach(), gradients))
    (padded, by_padded), (packed, by_packed) = found
    assert seen == [max(LENGTHS), len(ROWS)]
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)
    assert by_padded.keys() == by_packed.keys()
    for name, gradient in by_padded.items():
        torch.testing.assert_close(by_packed[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_in_bf16_it_is_as_near_to_fp32_as_the_whole_layer(monkeypatch):
    exact = logits_of(make("bert"), False)
    model = make("bert").bfloat16()
    at_places = logits_of(model, True)
    monkeypatch.setattr(read_at, "PRODUCTS", {})
    whole = logits_of(model, True)
    off, own = ((one.float() - exact).norm() / exact.norm() for one in (at_places, whole))
    assert off < 2 * own + 1e-3


def test_gradients_of_long_rows_in_bf16_are_as_near_as_the_whole_layers(monkeypatch):
    rows = [np.random.default_rng(seed).integers(3, 50, length).astype(np.int32) for seed, length in ((1, 60), (2, 51))]

    def by_queries(dtype, packed):
        model = make("bert").to(dtype)
        model.set_attn_implementation(PACKED if packed else "sdpa")
        class_logits(model, inputs_of(rows, [60, 51], packed, "cpu"), 2)[:, 0].sum().backward()
        return model.bert.encoder.layer[-1].attention.self.query.weight.grad.float()

    exact, found = by_queries(torch.float32, False), by_queries(torch.bfloat16, True)
    monkeypatch.setattr(read_at, "PRODUCTS", {})
    whole = by_queries(torch.bfloat16, True)
    assert (found - exact).norm() < 1.5 * (whole - exact).norm()


def test_a_row_alone_and_an_unknown_architecture_are_computed_as_a_whole(monkeypatch):
    model = make("bert")
    seen = widest(model)
    model.set_attn_implementation(PACKED)
    class_logits(model, inputs_of(ROWS[:1], LENGTHS[:1], True, "cpu"), 1)
    monkeypatch.setattr(read_at, "PRODUCTS", {})
    logits = logits_of(model, True)
    assert seen == [8, sum(LENGTHS) + filling_of(sum(LENGTHS))]
    torch.testing.assert_close(logits, logits_of(model, False), rtol=1e-5, atol=1e-5)


def test_a_row_spoils_no_other():
    model = make("bert")
    exact = logits_of(model, True)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[ROWS[3][2]] = torch.nan
    logits = logits_of(model, True)
    spoilt = [int(ROWS[3][2]) in row for row in ROWS]
    assert logits.isnan().any(-1).tolist() == spoilt
    assert spoilt.count(False) >= 2
    torch.testing.assert_close(logits[~torch.tensor(spoilt)], exact[~torch.tensor(spoilt)])


def test_layers_are_in_place_again_whatever_happens():
    model = make("bert")
    layers, names = list(model.bert.encoder.layer), set(model.state_dict())
    with contextlib.suppress(KeyError), read_at.last_layer_at(model, torch.tensor([0, 4])) as there:
        assert there
        assert list(model.bert.encoder.layer) != layers
        assert set(model.state_dict()) < names
        raise KeyError
    assert list(model.bert.encoder.layer) == layers


def test_an_adapter_and_checkpointing_see_the_same_layer():
    torch.manual_seed(0)
    model = METHODS["lora"].apply(make("bert"), LoraConfig(rank=2, alpha=4))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    inside = model.get_base_model()
    seen = widest(inside)
    padded = logits_of(inside, False)
    packed = logits_of(inside, True)
    assert seen == [max(LENGTHS), len(ROWS)]
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)
    plain, again = ({}, {})
    seen.clear()
    for found in (plain, again):
        model.zero_grad()
        logits_of(inside, True).square().sum().backward()
        found |= {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        inside.gradient_checkpointing_enable({"use_reentrant": False})
        inside.enable_input_require_grads()
        inside.train()
    assert seen == 3 * [len(ROWS)]  # once, and twice with its second computation
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)


def test_dropout_falls_on_what_the_places_find():
    model = make("bert")
    layer = model.bert.encoder.layer[-1].attention.self
    state = torch.randn(1, sum(LENGTHS), 32)
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0)
    query = torch.randn(1, 2, len(LENGTHS), 16)
    given = (layer, query, (state, offsets[:-1]), offsets)
    torch.manual_seed(1)
    with torch.no_grad():
        mean = torch.stack([read_at.attend_at(*given, 0.5, 0.25) for _ in range(2000)]).mean(0)
        exact = read_at.attend_at(*given, 0.0, 0.25)
        assert (mean - exact).abs().max() < 0.15 * exact.abs().max()
        assert not torch.equal(read_at.attend_at(*given, 0.5, 0.25), exact)


def test_compiled_layers_give_the_same():
    """And the very same each time, whichever thread is first."""
    model = make("bert").train()
    plain = copy.deepcopy(model)
    weights = dict(model.named_parameters())

    def backward():
        loss = logits_of(model, True).square().sum()
        loss.backward()
        return loss.item()

    with as_they_are():
        backward()
    model.zero_grad()
    assert why_not_compiled(model, weights, backward) is None
    with torch.compiler.set_stance("fail_on_recompile"):
        for count in (2, 4, 1):  # rows of other numbers and lengths
            class_logits(model, inputs_of(ROWS[:count], LENGTHS[:count], True, "cpu"), count).sum().backward()
    model.zero_grad()
    for one in (model, plain):
        logits_of(one, True).square().sum().backward()
    first = {name: weight.grad.clone() for name, weight in weights.items() if weight.grad is not None}
    for _ in range(5):
        model.zero_grad()
        logits_of(model, True).square().sum().backward()
        assert all(torch.equal(weights[name].grad, gradient) for name, gradient in first.items())
    for name, weight in plain.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(weights[name].grad, weight.grad, rtol=1e-4, atol=1e-5, msg=name)
