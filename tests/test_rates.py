"""Who learns how fast."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, OPTConfig

from conftest import save_tiny
from tunesmith.core.errors import ConfigError
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.methods.full import FullConfig
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.model.methods.method import trainable
from tunesmith.model.methods.table import METHODS
from tunesmith.train.config import OptimConfig
from tunesmith.train.rates import as_table, parameter_groups


def groups_of(model, rate=1.0, **optim):
    weights = trainable(model)
    groups = parameter_groups(model, weights, OptimConfig.model_validate(optim), rate)
    assert sorted(name for group in groups for name in group.names) == sorted(weights)
    return groups, {name: group for group in groups for name in group.names}


def full(folder):
    return METHODS["full"].apply(load(folder, LoadSpec()).model, FullConfig())


def test_norms_and_biases_do_not_decay(tiny):
    model = full(tiny)
    _, of = groups_of(model, weight_decay=0.1)
    for name, weight in trainable(model).items():
        assert of[name].weight_decay == (0.1 if weight.ndim == 2 else 0.0), name
        assert of[name].rate == 1.0


def test_each_layer_learns_slower_than_the_one_above_it(tiny):
    """Against what the papers write, by hand: of two layers the first at d^2, the second at d, embeddings at d^3."""
    model = full(tiny)
    groups, of = groups_of(model, 0.1, layer_decay=0.5)
    for name in trainable(model):
        want = 0.5 if ".layers.1." in name else 0.25 if ".layers.0." in name else 0.125 if "embed" in name else 1.0
        assert of[name].rate == pytest.approx(0.1 * want), name
    table = as_table(groups, trainable(model))
    assert [line["what"] for line in table] == ["embeddings", "layer 1", "layer 2", "head and last norm"]
    assert sum(line["weights"] for line in table) == sum(weight.numel() for weight in model.parameters())


def test_layers_are_found_under_adapters_and_in_other_architectures(tiny, tmp_path):
    lora = METHODS["lora"].apply(load(tiny, LoadSpec()).model, LoraConfig(rank=2))
    _, of = groups_of(lora, layer_decay=0.5)
    assert {round(group.rate, 4) for name, group in of.items() if ".layers.0." in name} == {0.25}
    assert {round(group.rate, 4) for name, group in of.items() if ".layers.1." in name} == {0.5}
    frozen = {"type": "freeze", "last": 0, "names": ["model.norm.weight", "*embed*"]}
    chosen = METHODS["freeze"].config.model_validate(frozen)
    freeze = METHODS["freeze"].apply(load(tiny, LoadSpec()).model, chosen)
    _, of = groups_of(freeze, layer_decay=0.5)  # no layer is trained, and each is where it is
    assert of["model.norm.weight"].rate == 1.0
    assert next(group.rate for name, group in of.items() if "embed" in name) == 0.5**3
    opt = AutoModelForCausalLM.from_config(
        OPTConfig(vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, ffn_dim=8,
                  max_position_embeddings=16, word_embed_proj_dim=8)
    )  # fmt: skip
    _, of = groups_of(opt, layer_decay=0.5)
    assert of["model.decoder.final_layer_norm.weight"].rate == 1.0  # built before the layers, and behind them
    assert of["model.decoder.embed_positions.weight"].rate == 0.5**3
    config = GPT2Config(vocab_size=30, n_embd=8, n_layer=3, n_head=2, n_positions=16)
    torch.manual_seed(0)
    gpt = AutoModelForCausalLM.from_config(config)
    _, of = groups_of(gpt, layer_decay=0.5)
    assert of["transformer.wpe.weight"].rate == of["transformer.wte.weight"].rate == 0.5**4  # with the tied head
    assert of["transformer.h.0.mlp.c_fc.weight"].rate == 0.5**3
    assert of["transformer.ln_f.weight"].rate == 1.0


def test_patterns_set_rates_and_decays_and_the_first_that_matches_counts(tiny):
    model = full(tiny)
    wanted = {"*embed*": {"rate": 0.1, "weight_decay": 0.0}, "*layers.1*": {"rate": 3}, "*q_proj*": {"weight_decay": 1}}
    _, of = groups_of(model, groups=wanted, weight_decay=0.2, layer_decay=0.5)
    embed = next(name for name in of if "embed" in name)
    assert (of[embed].rate, of[embed].weight_decay, of[embed].what) == (pytest.approx(0.1 * 0.125), 0.0, "*embed*")
    assert of["model.layers.1.self_attn.q_proj.weight"].rate == pytest.approx(1.5)
    assert of["model.layers.1.self_attn.q_proj.weight"].weight_decay == 0.2
    assert of["model.layers.0.self_attn.q_proj.weight"].weight_decay == 1.0
    assert of["model.layers.0.input_layernorm.weight"].weight_decay == 0.0
    with pytest.raises(ConfigError, match=r"no trained weight matches '\*nothing\*'.*model\."):
        groups_of(model, groups={"*nothing*": {"rate": 2}})


def test_matrices_are_those_of_layers(tmp_path):
    model = full(save_tiny(tmp_path))
    _, of = groups_of(model)
    assert {name.split(".")[-2] for name, group in of.items() if group.matrix} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
