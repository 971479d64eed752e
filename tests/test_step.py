"""A step of decoding in one call: against the model in fp32, row by row to the bit, with adapters; and without it."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils import parametrize
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tunesmith.infer.engine.adapters import Adapter, adapters_of
from tunesmith.infer.engine.compared import distance
from tunesmith.infer.engine.network import Network
from tunesmith.infer.engine.slots import SlotCache
from tunesmith.infer.engine.step import WholeStep, can_step
from tunesmith.infer.generator import Options, answer_all
from tunesmith.infer.local import LocalEngine
from tunesmith.model import native

pytestmark = [
    pytest.mark.skipif(native.library() is None, reason="no g++, or another processor"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),  # torch's
]
WORDS, PROMPT = 320, 40
FAMILIES = {
    "Llama": (LlamaConfig, LlamaForCausalLM, {}),
    "Llama, five heads a group": (
        LlamaConfig, LlamaForCausalLM, {"num_attention_heads": 10, "head_dim": 96, "hidden_size": 160}
    ),
    "Llama with biases": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "Mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 5}),
    "Qwen2": (
        Qwen2Config, Qwen2ForCausalLM, {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
    ),
    "Qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 64}),
}  # fmt: skip


def made(family: str, **changes):
    config, kind, extra = FAMILIES[family]
    sizes = {"vocab_size": WORDS, "hidden_size": 96, "intermediate_size": 176, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32}
    torch.manual_seed(0)
    return in_bf16(kind(config(**sizes | heads | extra | changes)))


@torch.no_grad()
def in_bf16(model):
    for name, weight in model.named_parameters():
        spread = 0.08 if weight.ndim == 2 else 0.3
        weight.copy_(torch.randn_like(weight) * spread + (1 if "norm" in name else 0))
    return model.to(torch.bfloat16).eval()


def whole_and_parted(model, adapters=()) -> tuple[Network, Network]:
    network = Network(model, adapters)
    assert network.whole is not None
    return network, network.twin()


@torch.inference_mode()
def steps_of(network: Network, rows, own=-1) -> list[torch.Tensor]:
    """Logits of steps of so many rows each, behind prompts of forty tokens."""
    cache, most = SlotCache(), max(rows)
    owns = [own] * most if isinstance(own, int) else own[:most]
    cache.ensure(most, 64)
    prompts = (torch.arange(most)[:, None] * 41 + torch.arange(PROMPT) * 37) % WORDS
    network.prefill(cache, 0, 0, prompts, [PROMPT - 1] * most, owns)
    return [
        network.decode(cache, [(3 * row + i) % WORDS for row in range(count)],
                       [PROMPT + i - row for row in range(count)], owns[:count])
        for i, count in enumerate(rows)
    ]  # fmt: skip


def worst(have, want) -> float:
    return max(distance(one, other) for one, other in zip(have, want, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_as_near_to_fp32_as_the_layers_one_by_one(family):
    model = made(family)
    network, parted = whole_and_parted(model)
    exact = Network(copy.deepcopy(model).float(), [])
    rows = (9, 1, 3, 8, 33, 9)
    want = steps_of(exact, rows)
    assert worst(steps_of(network, rows), want) < 1.3 * worst(steps_of(parted, rows), want) < 0.03


@pytest.mark.parametrize("family", ["Llama with biases", "Qwen3"])
def test_a_row_does_not_depend_on_the_others(family):
    model = made(family)
    network = Network(model, [adapter_of(model, 5, "all-linear")])
    assert network.whole is not None
    own = [0, -1] * 8 + [0]
    many = steps_of(network, (17, 17, 17), own)
    few = steps_of(network, (1, 1, 1), own)
    assert all(torch.equal(one[0], other[0]) for one, other in zip(many, few, strict=True))
    with torch.no_grad():
        model.get_input_embeddings().weight[3] = torch.nan  # the second row's token in the first step
    network.refresh(model)
    spoilt = steps_of(network, (17,), own)[0]
    assert spoilt[1].isnan().all()
    assert torch.equal(spoilt[2:], many[0][2:])


def adapter_of(model, rank: int, targets, scale: float = 0.05) -> Adapter:
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(rank)
    peft = get_peft_model(copy.deepcopy(model), config)
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_" in name:
                weight.normal_(std=scale)
    return adapters_of(peft)[0]


@pytest.mark.parametrize("family", ["Llama", "Llama with biases"])
def test_each_row_has_its_own_adapter(family):
    model = made(family)
    adapters = [adapter_of(model, 6, ["q_proj", "v_proj", "o_proj"]), adapter_of(model, 3, "all-linear")]
    network, parted = whole_and_parted(model, adapters)
    own = [1, -1, 0, 1, 0, -1, -1, 1, 0]
    have, want = (steps_of(one, (9, 3, 9), own) for one in (network, parted))
    assert worst(have, want) < 0.02
    alone = Network(model, []), Network(model, adapters[1:])
    for one, place, row in ((alone[0], -1, 1), (alone[1], 0, 0)):
        mine = steps_of(one, (9, 3, 9), place)
        assert distance(have[0][row], mine[0][row]) < 0.02
        assert distance(have[0][row], have[0][2]) > 0.1  # which adapters change


def test_weights_and_adapters_that_change_are_those_that_are_used():
    model = made("Llama with biases")
    network = Network(model, [])
    before = steps_of(network, (3,))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(-1)
        for layer in model.model.layers:  # elsewhere
            layer.input_layernorm.weight.data = layer.input_layernorm.weight.flip(0).clone()
            layer.self_attn.v_proj.bias.data = layer.self_attn.v_proj.bias.flip(0).clone()
    network.refresh(model)
    after = steps_of(network, (3,))
    assert worst(after, before) > 0.1
    assert worst(after, steps_of(Network(model, []), (3,))) == 0
    for place in range(3):  # places double on the way
        network.put(place, adapter_of(model, 2 + place, "all-linear"))
        own = [place, 0, -1]
        assert worst(steps_of(network, (3,), own), steps_of(network.twin(), (3,), own)) < 0.02
    assert worst(steps_of(network, (3,), [2, 0, 1]), after) > 0.1


def test_weights_that_are_no_longer_as_it_reads_them_are_read_layer_by_layer():
    model = made("Llama")
    network = Network(model, [])
    assert network.whole.is_ready(network.version)
    want = steps_of(network, (3,))
    for part in model.modules():
        if type(part).__name__ == "LlamaRMSNorm":
            part.weight.data = part.weight.data.float()
    network.refresh(model)
    assert not network.whole.is_ready(network.version)
    for part in model.modules():
        if type(part).__name__ == "LlamaRMSNorm":
            part.weight.data = part.weight.data.bfloat16()
    network.refresh(model)
    assert worst(steps_of(network, (3,)), want) == 0


def test_slots_and_positions_grow_between_steps():
    network, parted = whole_and_parted(made("Qwen2"))
    logits = []
    for one in (network, parted):
        cache = SlotCache()
        with torch.inference_mode():
            one.prefill(cache, 0, 0, torch.arange(40).view(2, 20), [19, 19], [-1, -1])
            found = [one.decode(cache, [1, 2], [20, 20], [-1, -1])]
            cache.ensure(5, 100)
            one.prefill(cache, 2, 0, torch.arange(90)[None].expand(3, -1), [89] * 3, [-1] * 3)
            found.append(one.decode(cache, [1, 2, 3, 4, 5], [21, 21, 90, 90, 90], [-1] * 5))
        logits.append(found)
    assert worst(*logits) < 0.02


def test_what_is_nowhere_is_refused():
    network = Network(made("Llama"), [])
    cache = SlotCache()
    network.prefill(cache, 0, 0, torch.arange(8).view(2, 4), [3, 3], [-1, -1])
    for tokens, places in (([1], [cache.positions]), ([1], [-1]), ([1, 2, 3], [4, 4, 4])):
        with pytest.raises(IndexError, match="rows at"):
            network.decode(cache, tokens, places, [-1] * len(tokens), 32)


def granite():
    sizes = {"vocab_size": WORDS, "hidden_size": 96, "intermediate_size": 176, "num_hidden_layers": 2}
    return in_bf16(GraniteForCausalLM(GraniteConfig(**sizes, num_attention_heads=3, num_key_value_heads=1)))


def hooked():
    model = made("Llama")
    model.model.layers[2].mlp.register_forward_hook(lambda layer, inputs, output: output * 2)
    return model


def hooked_norm():
    model = made("Llama")
    model.model.norm.register_forward_hook(lambda layer, inputs, output: output * 1.03)
    return model


def wide():
    model, other = made("Llama"), made("Llama", intermediate_size=352)
    model.model.layers[1].mlp = other.model.layers[1].mlp
    return model


def other_epsilon():
    model = made("Llama")
    model.model.layers[1].input_layernorm.variance_epsilon = 0.1
    return model


def parametrized():
    model = made("Llama")
    parametrize.register_parametrization(model.model.layers[0].input_layernorm, "weight", torch.nn.Identity())
    return model


@pytest.mark.parametrize(
    "make",
    [
        granite,
        hooked,
        parametrized,
        lambda: made("Llama").float(),
        lambda: made("Llama", hidden_act="gelu"),
        lambda: made("Llama", head_dim=16),
        lambda: made("Llama", intermediate_size=100),
        lambda: made("Mistral", sliding_window=0),
        hooked_norm,
        wide,
        other_epsilon,
    ],
)
def test_it_is_not_taken_for_what_it_does_not_compute(make):
    network = Network(make(), [])
    assert not can_step(network.model)
    assert network.whole is None


def test_where_its_logits_are_others_layers_are_computed_one_by_one(monkeypatch):
    model = made("Llama")
    prompts = [([5, 6, 7], Options(max_new_tokens=6)), ([9, 8], Options(max_new_tokens=4))]
    with monkeypatch.context() as without:
        without.setattr("tunesmith.infer.engine.network.can_step", lambda model: False)
        want = answer_all(LocalEngine(model, None, compile_after=None), prompts)
    engine = LocalEngine(model, None)
    assert [len(one.choices[0].ids) for one in answer_all(engine, prompts)] == [6, 4]
    assert engine._path().network.whole is not None
    assert engine.reason == ""
    step = WholeStep.__call__
    for wrong in (lambda *inputs: step(*inputs).roll(1, -1), lambda *inputs: 1 / 0):
        monkeypatch.setattr(WholeStep, "__call__", wrong)
        other = LocalEngine(model, None, compile_after=None)
        have = answer_all(other, prompts)
        assert other._path().network.whole is None
        assert [one.choices[0].ids for one in have] == [one.choices[0].ids for one in want]
