"""Decoding on an NVIDIA GPU: replays say what steps and transformers say, and kernels what mathematics says."""

from __future__ import annotations

import threading

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from tunesmith.infer.engine.compared import distance, why_logits_differ
from tunesmith.infer.engine.fused import FusedNorm, attend, can_attend
from tunesmith.infer.engine.network import Network
from tunesmith.infer.engine.replay import Replays, recorder_for
from tunesmith.infer.engine.sample import pick
from tunesmith.infer.engine.slots import SlotCache
from tunesmith.infer.generator import Options, answer_all
from tunesmith.infer.local import LocalEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS:UserWarning"),  # in a thread that begins with it
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),  # torch's
]
SIZES = {
    "vocab_size": 1024, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 512, "max_position_embeddings": 512, "initializer_range": 0.1, "pad_token_id": 0,
    "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": False,
}  # fmt: skip
CLOSE = 1e-3  # two logits this near may change places when sums are taken in another order


def make(kind: str = "llama", dtype: torch.dtype = torch.float32):
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=1024, n_positions=512, n_embd=256, n_layer=4, n_head=4, initializer_range=0.1,
                            bos_token_id=None, eos_token_id=None, pad_token_id=0)  # fmt: skip
        model = GPT2LMHeadModel(config)
    elif kind == "mistral":
        model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=16))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SIZES))
    return model.eval().to("cuda", dtype)


def adapted(seed: int):
    torch.manual_seed(seed)
    config = LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj", "down_proj"], init_lora_weights=False,
                        task_type="CAUSAL_LM")  # fmt: skip
    return get_peft_model(make(), config).eval()


def prompts(lengths=(3, 20, 7, 1, 33, 12)) -> list[list[int]]:
    return [[(7919 * row + 31 * place + 5) % 1024 for place in range(length)] for row, length in enumerate(lengths)]


def same(model, prompt: list[int], got: list[int]) -> bool:
    """Whether an answer is transformers' greedy one, up to a first flip between logits that are as good as equal."""
    ids = torch.tensor([prompt], device="cuda")
    with torch.inference_mode():
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(got),
                              do_sample=False)  # fmt: skip
        want = made[0, len(prompt) :].tolist()
        if got == want:
            return True
        place = next(i for i, (one, other) in enumerate(zip(got, want, strict=True)) if one != other)
        first, second = model(torch.cat([ids[0], made[0, len(prompt) : len(prompt) + place]])[None]).logits[0, -1].topk(
            2).values.tolist()  # fmt: skip
    return first - second < CLOSE


def replays_of(engine: LocalEngine) -> Replays:
    replays = engine._path().replays
    assert engine.reason == ""
    assert replays is not None
    return replays


def without_replays(model, **settings) -> LocalEngine:
    engine = LocalEngine(model, None, **settings)
    engine._path().scheduler.batch.replays = None
    return engine


def joining(engine: LocalEngine) -> list[list[int]]:
    """Answers that begin and end at different times; slots grow meanwhile."""
    lengths, asked, answerings = (150, 8, 40, 4, 12, 90, 2, 9), prompts((5, 3, 9, 60, 2, 14, 7, 33)), []
    for index, (prompt, length) in enumerate(zip(asked, lengths, strict=True)):
        answerings.append(engine.submit(prompt, Options(max_new_tokens=length)))
        if index in (0, 2, 4):
            reading = iter(answerings[0])
            for _ in range(9):
                next(reading)
    return [answering.result().choice.ids for answering in answerings]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_rows_that_join_and_leave_are_answered_as_transformers_does(kind: str):
    model = make(kind)
    engine = LocalEngine(model, None, batch_size=5)
    got = joining(engine)
    assert replays_of(engine).replayed > 100
    for prompt, ids in zip(prompts((5, 3, 9, 60, 2, 14, 7, 33)), got, strict=True):
        assert same(model, prompt, ids)
    plain = joining(without_replays(model, batch_size=5))
    equal = sum(one == other for one, other in zip(got, plain, strict=True))
    assert equal >= len(got) - 1, "more than one answer flipped"


def test_replayed_logits_are_near_those_of_a_step_in_bf16():
    model = make(dtype=torch.bfloat16)
    with torch.inference_mode():
        network = Network(model, [])
        assert why_logits_differ(network, model, -1) is None
        replays = Replays(recorder_for(network.device))
        caches = SlotCache(), SlotCache()
        ids = torch.tensor(prompts((9, 9, 9)), device="cuda")
        for cache in caches:
            cache.ensure(4, 64)
            network.prefill(cache, 0, 0, ids, [8, 8, 8], [-1] * 3)
        for step in range(20):
            inputs = [7 + step, 8, 9 + 2 * step], [9 + step] * 3, [-1] * 3
            got, likeliest = replays.decode(network, caches[0], *inputs, 0)
            want = network.decode(caches[1], *inputs)
            assert distance(got, want) < 0.05
            assert likeliest is not None
            assert torch.equal(likeliest, got.argmax(-1))
    assert replays.reason == ""
    assert replays.replayed == 17


def test_an_adapter_that_is_put_or_replaced_is_seen():
    base, ones = make(), [adapted(seed) for seed in (3, 4, 5)]
    engine = LocalEngine(base, None)
    answer_all(engine, [(prompt, Options(max_new_tokens=24)) for prompt in prompts()])
    for name, one in (("a", ones[0]), ("b", ones[1]), ("a", ones[2])):
        engine.set_adapter(name, get_peft_model_state_dict(one), one.peft_config["default"])
        before = replays_of(engine).replayed
        asked = [
            (prompt, Options(max_new_tokens=24, adapter=adapter)) for prompt in prompts() for adapter in ("", name)
        ]
        got = [answer.choice.ids for answer in answer_all(engine, asked)]
        for prompt, of_base, of_adapter in zip(prompts(), got[::2], got[1::2], strict=True):
            assert same(base, prompt, of_base)
            assert same(one, prompt, of_adapter)
        assert replays_of(engine).replayed > before


@pytest.mark.parametrize("how", ["in place", "other tensors"])
def test_new_weights_are_seen(how: str):
    model = make()
    engine = LocalEngine(model, None)
    asked = [(prompt, Options(max_new_tokens=24)) for prompt in prompts()]
    before = [answer.choice.ids for answer in answer_all(engine, asked)]
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            new = weight + 0.05 * torch.randn_like(weight)
            if how == "in place":
                weight.copy_(new)
            else:
                weight.data = new
    engine.refresh()
    after = [answer.choice.ids for answer in answer_all(engine, asked)]
    assert after != before
    assert all(same(model, prompt, ids) for prompt, ids in zip(prompts(), after, strict=True))
    assert replays_of(engine).replayed


def test_sampling_and_probabilities_read_the_replayed_logits():
    model = make()
    wanted = [Options(max_new_tokens=40, temperature=0.9, top_p=0.8, seed=5, n=3),
              Options(max_new_tokens=40, logprobs=True, top_logprobs=3)]  # fmt: skip
    asked = [(prompt, options) for options in wanted for prompt in prompts((3, 20))]
    engine = LocalEngine(model, None, batch_size=8)
    got, want = answer_all(engine, asked), answer_all(without_replays(model, batch_size=8), asked)
    assert replays_of(engine).replayed > 20
    for one, other in zip(got[2:], want[2:], strict=True):
        assert one.choice.logprobs == pytest.approx(other.choice.logprobs, abs=1e-3)
    pairs = [(a.ids, b.ids) for one, other in zip(got, want, strict=True)
             for a, b in zip(one.choices, other.choices, strict=True)]  # fmt: skip
    assert sum(one == other for one, other in pairs) >= len(pairs) - 1


def test_many_threads_read_their_own_answers():
    model = make()
    engine = LocalEngine(model, None, batch_size=4)
    got: dict[int, list[int]] = {}

    def ask(index: int, prompt: list[int]) -> None:
        got[index] = engine.submit(prompt, Options(max_new_tokens=40 + index)).result().choice.ids

    threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(prompts())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert replays_of(engine).replayed
    assert all(same(model, prompt, got[index]) for index, prompt in enumerate(prompts()))


def test_sampled_rows_are_those_of_a_cpu():
    torch.manual_seed(0)
    logits = 3 * torch.randn(200, 2048)
    options = [Options(temperature=(0.3, 1.0)[row % 2], top_p=(0.0, 0.5, 0.9, 1.0)[row % 4]) for row in range(200)]
    draws = torch.rand(200, dtype=torch.float64).tolist()
    got, want = (pick(one, options, draws) for one in (logits.cuda(), logits))
    assert sum(one == other for one, other in zip(got, want, strict=True)) >= 198  # numbers are rounded differently


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 24])
@pytest.mark.parametrize(("tokens", "positions"), [(1, 64), (1, 128), (37, 61)])
def test_the_kernel_of_attention(dtype: torch.dtype, window, tokens: int, positions: int):
    torch.manual_seed(0)
    query = torch.randn(3, 4, tokens, 64, device="cuda", dtype=dtype)
    key, value = (torch.randn(5, 4, 256, 64, device="cuda", dtype=dtype)[:3, :, :positions] for _ in range(2))
    assert can_attend(query, value)
    place = torch.tensor([positions - tokens, 24, 3], device="cuda")[:, None] + torch.arange(tokens, device="cuda")
    relative = (place[:, :, None] - torch.arange(positions, device="cuda"))[:, None]
    seen = (relative >= 0) & (relative < (window or positions))
    scores = (query.double() @ key.double().transpose(-1, -2) / 8).masked_fill(~seen, float("-inf"))
    want = scores.softmax(-1) @ value.double()
    got = attend(query, key, value, relative, window, 1 / 8)
    assert (got.double() - want).norm() / want.norm() < (1e-4 if dtype == torch.float32 else 1e-2)


def test_norms_are_one_kernel():
    network = Network(make(dtype=torch.bfloat16), [])
    assert sum(isinstance(part, FusedNorm) for part in network.model.modules()) == 9
