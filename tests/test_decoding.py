"""Batched decoding says what transformers and peft say, for many kinds of models, whoever comes and goes."""

from __future__ import annotations

import copy
import gc
import os
import shutil
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tunesmith.core.errors import ModelError
from tunesmith.infer.chat import Chat
from tunesmith.infer.engine import batch, compiled, slots
from tunesmith.infer.engine.adapters import read_adapter
from tunesmith.infer.engine.linear import _packed
from tunesmith.infer.engine.slots import SlotCache
from tunesmith.infer.generator import Choice, Options, answer_all
from tunesmith.infer.local import LocalEngine
from tunesmith.model.load import LoadSpec, load
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's
SIZES = {
    "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 128, "head_dim": 16, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": False,
}  # fmt: skip
LENGTHS = (3, 20, 7, 1, 33, 12)
CLOSE = 1e-3  # two logits this near may change places when sums are taken in another order


def make(kind: str):
    torch.manual_seed(0)
    without_width = {key: value for key, value in SIZES.items() if key != "head_dim"}
    makers = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=512, n_positions=128, n_embd=64, n_layer=2, n_head=4, initializer_range=0.2,
                       bos_token_id=None, eos_token_id=None, pad_token_id=0)
        ),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)),
        "qwen2": lambda: Qwen2ForCausalLM(
            Qwen2Config(**without_width, use_sliding_window=True, sliding_window=8, max_window_layers=1)
        ),
        "gemma2": lambda: Gemma2ForCausalLM(
            Gemma2Config(**SIZES, sliding_window=8, attn_logit_softcapping=5.0, final_logit_softcapping=5.0,
                         attn_implementation="eager")
        ),
        "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, sliding_window=8)),
    }  # fmt: skip
    return makers[kind]().eval()


def prompts(lengths=LENGTHS) -> list[list[int]]:
    return [[(7919 * row + 31 * place + 5) % 512 for place in range(length)] for row, length in enumerate(lengths)]


def greedy(model, prompt: list[int], count: int, **inputs) -> list[int]:
    """What transformers generates."""
    ids = torch.tensor([prompt])
    inputs = inputs or {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    made = model.generate(**inputs, max_new_tokens=count, do_sample=False)[0].tolist()
    return made[len(made) - count :]


def generate(engine: LocalEngine, asked: list[list[int]], options: Options) -> list[Choice]:
    return [one.choice for one in answer_all(engine, [(prompt, options) for prompt in asked])]


def read(answering) -> list[int]:
    return [token for delta in answering for token in delta.ids]


def same(model, prompt: list[int], got: list[int], want: list[int]) -> bool:
    """Whether two greedy answers are one, up to a first flip between two logits that are as good as equal."""
    if got == want:
        return True
    place = next(i for i, (one, other) in enumerate(zip(got, want, strict=True)) if one != other)
    with torch.no_grad():
        first, second = model(torch.tensor([prompt + want[:place]])).logits[0, -1].topk(2).values.tolist()
    return first - second < CLOSE


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "qwen2", "gemma2", "gemma3"])
def test_answers_equal_those_of_transformers(kind: str):
    model = make(kind)
    engine = LocalEngine(model, None, batch_size=4)
    answers = generate(engine, prompts(), Options(max_new_tokens=24))
    assert engine.reason == ""
    for prompt, answer in zip(prompts(), answers, strict=True):
        want = greedy(model, prompt, 24)
        assert len(set(want)) > 1, "an answer of one token shows nothing"
        assert same(model, prompt, answer.ids, want)
        assert same(model, prompt, generate(engine, [prompt], Options(max_new_tokens=24))[0].ids, want)


def test_a_model_that_reads_positions_its_own_way_is_decoded_the_plain_way():
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=512, hidden_size=64, n_layer=2, n_head=4, initializer_range=0.2, bos_token_id=None,
                         eos_token_id=None, pad_token_id=0)  # fmt: skip
    model = BloomForCausalLM(config).eval()
    engine = LocalEngine(model, None, batch_size=4)
    answers = generate(engine, prompts(), Options(max_new_tokens=12))
    assert engine.reason.startswith("answers are decoded the plain way: ")
    assert engine.reason.endswith(".")
    for prompt, answer in zip(prompts(), answers, strict=True):
        assert same(model, prompt, answer.ids, greedy(model, prompt, 12))


def test_rows_join_and_leave_while_others_run():
    model = make("llama")
    engine = LocalEngine(model, None, batch_size=3)
    lengths = (20, 8, 16, 4, 12, 24, 2)
    answerings, readers = [], []
    asked = prompts((5, 3, 9, 60, 2, 14, 7))
    for index, (prompt, length) in enumerate(zip(asked, lengths, strict=True)):
        answerings.append(engine.submit(prompt, Options(max_new_tokens=length)))
        if index in (2, 4):  # the first ones are under way when the next ones come
            reading = iter(answerings[0])
            for _ in range(3 if index == 2 else 2):
                readers.append(next(reading))
    for prompt, length, answering in zip(asked, lengths, answerings, strict=True):
        assert same(model, prompt, answering.result().choice.ids, greedy(model, prompt, length))


def test_many_threads_read_their_own_answers():
    model = make("llama")
    engine = LocalEngine(model, None, batch_size=4)
    got: dict[int, list[int]] = {}

    def ask(index: int, prompt: list[int]) -> None:
        got[index] = read(engine.submit(prompt, Options(max_new_tokens=10 + index)))

    threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(prompts())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for index, prompt in enumerate(prompts()):
        assert same(model, prompt, got[index], greedy(model, prompt, 10 + index))


def test_a_thread_that_only_drives_serves_all_readers():
    model = make("llama")
    engine = LocalEngine(model, None, batch_size=4)
    stop = threading.Event()
    driver = threading.Thread(target=engine.drive, args=(stop,))
    driver.start()
    try:
        answerings = [engine.submit(prompt, Options(max_new_tokens=8)) for prompt in prompts()]
        for prompt, answering in zip(prompts(), answerings, strict=True):
            assert same(model, prompt, read(answering), greedy(model, prompt, 8))
        again = generate(engine, prompts()[:2], Options(max_new_tokens=4))
        assert [len(one.ids) for one in again] == [4, 4]
    finally:
        stop.set()
        driver.join(10)
    assert not driver.is_alive()


def test_a_cancelled_row_leaves_and_frees_its_slot():
    model = make("llama")
    engine = LocalEngine(model, None, batch_size=2)
    first, second, third = (engine.submit(prompt, Options(max_new_tokens=90)) for prompt in prompts((5, 9, 3)))
    reading = iter(second)
    for _ in range(4):
        next(reading)
    assert [bool(one.requests[0].ids) for one in (first, second, third)] == [True, True, False]  # no room for a third
    first.cancel()
    assert same(model, prompts((5, 9, 3))[2], third.result().choice.ids, greedy(model, prompts((5, 9, 3))[2], 90))
    assert len(first.result().choice.ids) < 10
    assert first.result().choice.finish_reason == "cancelled"
    assert same(model, prompts((5, 9))[1], second.result().choice.ids, greedy(model, prompts((5, 9))[1], 90))
    waiting = [engine.submit(prompt, Options(max_new_tokens=20)) for prompt in prompts()]
    for answering in waiting:
        answering.cancel()
    assert all(len(answering.result().choice.ids) == 0 for answering in waiting[1:])


def test_a_broken_off_stream_leaves_no_row_behind():
    contract = load_contract(resolve("ember").folder)
    engine = LocalEngine(load(resolve("ember").folder, LoadSpec()).model, contract, batch_size=1)
    stream = Chat(engine).stream("What time is breakfast?", max_new_tokens=60)
    next(stream)
    stream.close()
    [answer] = generate(engine, prompts()[:1], Options(max_new_tokens=3))
    assert answer.finish_reason in ("length", "stop")
    assert engine._path().scheduler.batch.rows == []


def test_a_long_prompt_is_read_in_pieces_between_steps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch, "PROMPT_TOKENS_A_STEP", 32)
    model = make("llama")
    engine = LocalEngine(model, None, batch_size=4)
    short, long, other = prompts((4, 100, 40))
    answerings = [engine.submit(short, Options(max_new_tokens=20))]
    next(iter(answerings[0]))
    answerings += [engine.submit(long, Options(max_new_tokens=10)), engine.submit(other, Options(max_new_tokens=10))]
    next(iter(answerings[1]))
    assert len(answerings[0].requests[0].ids) > 3
    for prompt, count, answering in zip((short, long, other), (20, 10, 10), answerings, strict=True):
        assert same(model, prompt, answering.result().choice.ids, greedy(model, prompt, count))


def test_a_prompt_that_fills_all_positions_is_refused():
    engine = LocalEngine(make("llama"), None)
    assert len(generate(engine, prompts((120,)), Options(max_new_tokens=50))[0].ids) == 8
    with pytest.raises(ModelError, match="takes at most 128"):
        engine.submit(prompts((128,))[0], Options())


@pytest.mark.parametrize(
    ("prompt", "soft", "said"),
    [([], None, "has no tokens"), ([3, 512], None, "outside the model's 512"), ([-1], None, "outside"),
     ([1], torch.zeros(4, 63), r"\(tokens, 64\), not \(4, 63\)")],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused_before_it_joins_others(prompt, soft, said: str):
    with pytest.raises(ModelError, match=said):
        LocalEngine(make("llama"), None).submit(prompt, Options(), embeddings=soft)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory):
    """A base, two LoRA adapters of different ranks and layers in folders, and each with its base as peft loads it."""
    base, folders = make("llama"), {}
    for name, rank, targets in (("one", 4, ["q_proj", "down_proj"]), ("two", 6, "all-linear")):
        torch.manual_seed(rank)
        config = LoraConfig(r=rank, lora_alpha=3 * rank, target_modules=targets, init_lora_weights=False,
                            task_type="CAUSAL_LM", use_rslora=name == "one")  # fmt: skip
        folders[name] = tmp_path_factory.mktemp(name)
        get_peft_model(copy.deepcopy(base), config).save_pretrained(folders[name], save_embedding_layers=False)
    alone = {
        name: PeftModel.from_pretrained(copy.deepcopy(base), folder).eval() for name, folder in folders.items()
    } | {"": base}
    return base, folders, alone


def test_adapters_and_their_base_mix_in_one_batch(tuned):
    base, folders, alone = tuned
    engine = LocalEngine(base, None, batch_size=8)
    assert engine.adapters == []
    for name, folder in folders.items():
        engine.add_adapter(name, folder)
    check_mixture(engine, alone, 16)


def test_a_peft_model_brings_its_adapters(tuned):
    base, folders, alone = tuned
    model = PeftModel.from_pretrained(copy.deepcopy(base), folders["one"], adapter_name="one")
    model.load_adapter(folders["two"], "two")
    model.set_adapter("two")
    engine = LocalEngine(model.eval(), None, batch_size=8)
    check_mixture(engine, alone, 12)
    answer = generate(engine, prompts()[:1], Options(max_new_tokens=12))[0].ids
    assert same(alone["two"], prompts()[0], answer, greedy(alone["two"], prompts()[0], 12))


def check_mixture(engine: LocalEngine, alone, count: int) -> None:
    names = ["one", "", "two", "two", "", "one"]
    answerings = [
        engine.submit(prompt, Options(max_new_tokens=count, adapter=name))
        for prompt, name in zip(prompts(), names, strict=True)
    ]
    answers = [answering.result().choice.ids for answering in answerings]
    assert engine.reason == ""
    for prompt, name, answer in zip(prompts(), names, answers, strict=True):
        assert same(alone[name], prompt, answer, greedy(alone[name], prompt, count))
    for name in ("one", "two"):
        assert greedy(alone[name], prompts()[0], count) != greedy(alone[""], prompts()[0], count)


def test_unknown_and_unfit_adapters_are_refused(tuned, tmp_path):
    base, folders, _ = tuned
    engine = LocalEngine(base, None)
    engine.add_adapter("one", folders["one"])
    with pytest.raises(ModelError, match="no adapter is called 'oen'; did you mean 'one'"):
        engine.submit([1], Options(adapter="oen"))
    with pytest.raises(ModelError, match="no adapter can be read"):
        engine.add_adapter("nothing", tmp_path)
    with pytest.raises(ModelError, match="It belongs to another base"):
        LocalEngine(make("gpt2"), None).add_adapter("one", folders["one"])
    dora = get_peft_model(make("llama"), LoraConfig(r=2, use_dora=True, target_modules=["q_proj"]))
    dora.save_pretrained(tmp_path / "dora", save_embedding_layers=False)
    with pytest.raises(ModelError, match="use_dora=True, so it cannot join a batch"):
        engine.add_adapter("dora", tmp_path / "dora")


def test_an_adapter_that_has_no_place_in_a_batch_is_folded_into_the_copy(tuned):
    torch.manual_seed(1)
    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"],
                       init_ia3_weights=False, task_type="CAUSAL_LM")  # fmt: skip
    model = get_peft_model(make("llama"), config).eval()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    engine = LocalEngine(model, None, batch_size=2)
    first = generate(engine, prompts(), Options(max_new_tokens=8))
    assert engine.reason == ""
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    with pytest.raises(ModelError, match="is IA3, not LoRA, and is folded into the weights"):
        engine.add_adapter("one", tuned[1]["one"])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(2.0) if "ia3" in name else None
    engine.refresh()
    again = generate(engine, prompts(), Options(max_new_tokens=8))
    assert [answer.ids for answer in again] != [answer.ids for answer in first]
    for prompt, answer in zip(prompts(), again, strict=True):
        assert same(model, prompt, answer.ids, greedy(model, prompt, 8))


@pytest.mark.parametrize("plainly", [False, True])
def test_a_soft_prompt_enters_as_embeddings(plainly: bool):
    model = make("llama")
    engine = LocalEngine(model, None)
    if plainly:
        from tunesmith.infer.local import plain_path

        engine._decided = plain_path(engine, "asked for")
    torch.manual_seed(2)
    soft, asked = torch.randn(5, 64) * 0.2, prompts()[:3]
    answerings = [engine.submit(prompt, Options(max_new_tokens=10), embeddings=soft) for prompt in asked]
    bare = engine.submit(asked[0], Options(max_new_tokens=10))
    for prompt, answering in zip(asked, answerings, strict=True):
        whole = torch.cat([soft, model.get_input_embeddings()(torch.tensor(prompt))])[None]
        want = greedy(model, prompt, 10, inputs_embeds=whole, attention_mask=torch.ones(whole.shape[:2]).long())
        assert answering.result().choice.ids == want
    assert bare.result().choice.ids == greedy(model, asked[0], 10) != answerings[0].result().choice.ids


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_sampling_depends_on_its_own_seed_and_not_on_company(top_p: float):
    engine = LocalEngine(make("llama"), None)
    asked = prompts((6, 6, 6, 6))
    sampling = [Options(max_new_tokens=12, temperature=1.5, top_p=top_p, seed=seed) for seed in (3, 4, 5)]
    [alone] = generate(engine, asked[:1], sampling[0])
    answerings = [engine.submit(asked[0], one) for one in sampling]
    answerings.append(engine.submit(asked[1], Options(max_new_tokens=5)))
    answers = [answering.result().choice.ids for answering in answerings]
    assert answers[0] == alone.ids
    assert len({tuple(answer) for answer in answers[:3]}) == 3


def test_packed_weights_are_freed_with_their_engine():
    gc.collect()
    before = len(_packed)
    engine = LocalEngine(make("llama"), None)
    generate(engine, prompts()[:1], Options(max_new_tokens=2))
    assert len(_packed) > before
    del engine
    gc.collect()
    assert len(_packed) == before


def test_an_error_in_a_step_reaches_everybody_and_the_engine_goes_on(monkeypatch: pytest.MonkeyPatch):
    engine = LocalEngine(make("llama"), None, batch_size=1)
    answerings = [engine.submit(prompt, Options(max_new_tokens=5)) for prompt in prompts()[:2]]

    def burst(*_, **__):
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(engine._path().network.model, "forward", burst)
        for answering in answerings:
            with pytest.raises(MemoryError, match="no room"):
                answering.result()
    assert len(generate(engine, prompts()[:1], Options(max_new_tokens=5))[0].ids) == 5


def test_an_error_while_memory_is_asked_for_reaches_everybody_too(monkeypatch: pytest.MonkeyPatch):
    model = make("llama")
    engine = LocalEngine(model, None)
    want = generate(engine, prompts(), Options(max_new_tokens=4))
    grow = SlotCache.ensure

    def fail(self, slots, positions):
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(SlotCache, "ensure", fail)
    with pytest.raises(RuntimeError, match="allocate"):
        generate(engine, prompts(), Options(max_new_tokens=4))
    monkeypatch.setattr(SlotCache, "ensure", grow)
    assert generate(engine, prompts(), Options(max_new_tokens=4)) == want


def test_a_cache_that_could_not_grow_is_forgotten_as_a_whole(monkeypatch: pytest.MonkeyPatch):
    cache = SlotCache()
    for layer in range(3):
        for store in (cache.keys, cache.values):
            store[layer] = torch.zeros(cache.slots, 2, cache.positions, 4)
    calls = []
    zeros = torch.Tensor.new_zeros

    def fail(self, *shape, **settings):
        calls.append(shape)
        if len(calls) == 3:
            raise RuntimeError("can't allocate memory")
        return zeros(self, *shape, **settings)

    monkeypatch.setattr(torch.Tensor, "new_zeros", fail)
    with pytest.raises(RuntimeError, match="allocate"):
        cache.ensure(8, 100)
    assert (cache.keys, cache.values, cache.slots) == ({}, {}, 2)


def test_one_long_row_does_not_take_the_room_of_many(monkeypatch: pytest.MonkeyPatch):
    engine = LocalEngine(make("llama"), None, batch_size=16)
    generate(engine, prompts([3] * 16), Options(max_new_tokens=4))
    way = engine._path()
    cache = way.scheduler.batch.cache
    assert cache.slots == 16
    need = way.network.bytes_per_position * 2 * 128  # of the row alone
    monkeypatch.setattr(batch, "free_bytes", lambda device: need + 1)
    [answer] = generate(engine, prompts([90]), Options(max_new_tokens=8))
    assert len(answer.ids) == 8
    assert (cache.slots, cache.positions) == (2, 128)
    monkeypatch.setattr(batch, "free_bytes", lambda device: need // 4)
    cache.forget()
    with pytest.raises(ModelError, match=r"no memory for the keys and values of 98 tokens. Shorten"):
        generate(engine, prompts([90]), Options(max_new_tokens=8))


def test_a_cancelled_prompt_is_not_read_to_its_end():
    engine = LocalEngine(make("llama"), None, batch_tokens=8)
    read = []
    long, network = engine.submit(prompts([90])[0], Options(max_new_tokens=20)), engine._path().network
    prefill = network.prefill

    def watched(cache, first, start, tokens, *rest):
        read.append(tokens.shape[1])
        if len(read) == 2:
            long.cancel()
        return prefill(cache, first, start, tokens, *rest)

    network.prefill = watched
    [answer] = generate(engine, prompts([5]), Options(max_new_tokens=4))
    assert (len(answer.ids), long.result(0).choice.ids, read) == (4, [], [8, 8, 5])


def test_a_compiler_at_work_elsewhere_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    """torch says to all threads that it is compiling while one of them does."""
    engine = LocalEngine(make("llama"), None)
    want = generate(engine, prompts(), Options(max_new_tokens=4))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(slots, "scaled_dot_product_attention", watched := Counted(slots.scaled_dot_product_attention))
    assert generate(engine, prompts(), Options(max_new_tokens=4)) == want
    assert watched.calls > 4


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.function(*args, **kwargs)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "longest row of a batch"),
        ({"layer_types": ["chunked_attention", "full_attention"]}, "layers of chunked_attention"),
    ],
)
def test_what_a_short_comparison_would_not_show_is_known_from_the_configuration(changes, said: str):
    model = make("llama")
    for name, value in changes.items():
        setattr(model.config, name, value)
    assert said in LocalEngine(model, None).reason


def test_an_engine_is_freed_without_the_collector():
    engine = LocalEngine(make("llama"), None)
    generate(engine, prompts(), Options(max_new_tokens=2))
    gone = weakref.ref(engine)
    gc.disable()
    try:
        del engine
        assert gone() is None
    finally:
        gc.enable()


def test_adapters_in_16_bits_answer_as_peft_reads_them_and_broken_ones_are_refused(tuned, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "half"
    shutil.copytree(tuned[1]["two"], folder)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor.half() for name, tensor in tensors.items()}, file)
    assert all(down.dtype == torch.float32 for down, _ in read_adapter("half", folder).factors.values())
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] * torch.inf}, file)
    with pytest.raises(ModelError, match="infinite"):
        read_adapter("inf", folder)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="no adapter can be read from it"):
        read_adapter("cut", folder)


def test_compiled_layers_say_the_same_and_are_never_compiled_again(tuned):
    base, folders, alone = tuned
    engine = LocalEngine(base, None, compile_after=None)
    for name, folder in folders.items():
        engine.add_adapter(name, folder)
    generate(engine, prompts()[:1], Options(max_new_tokens=1))
    engine.compile()
    assert engine.reason == ""
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert counted >= 2
    for prompt in prompts():
        for name in ("", "two"):
            answer = engine.submit(prompt, Options(max_new_tokens=90 - len(prompt), adapter=name)).result().choice.ids
            assert same(alone[name], prompt, answer, greedy(alone[name], prompt, 90 - len(prompt)))
    check_mixture(engine, alone, 40)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == counted


WITHOUT_COMPILER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_decoding import LocalEngine, Options, generate, greedy, make, prompts, same
model = make("llama")
engine = LocalEngine(model, None, compile_after=0.0)
generate(engine, prompts(), Options(max_new_tokens=4))
engine._graphs.wait()
answer = generate(engine, prompts()[:1], Options(max_new_tokens=20))[0].ids
assert same(model, prompts()[0], answer, greedy(model, prompts()[0], 20))
print(engine.reason)
"""


def test_without_a_compiler_everything_works(tmp_path):
    environment = {**os.environ, "CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", WITHOUT_COMPILER, str(Path(__file__).parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("layers are not compiled, which is slower: ")
    assert "compiler" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "mistral", "qwen2", "gemma2", "gemma3"])
def test_compiled_layers_of_other_models_say_the_same(kind: str):
    model = make(kind)
    engine = LocalEngine(model, None, batch_size=4)
    engine.compile()
    assert engine.reason == ""
    for prompt, answer in zip(prompts(), generate(engine, prompts(), Options(max_new_tokens=40)), strict=True):
        assert same(model, prompt, answer.ids, greedy(model, prompt, 40))


def test_short_work_compiles_nothing():
    engine = LocalEngine(make("llama"), None)
    generate(engine, prompts(), Options(max_new_tokens=8))
    assert engine._graphs is None
    assert not [thread for thread in threading.enumerate() if thread.name == "tunesmith-compile"]
    assert compiled.LayerGraphs.__doc__


def test_what_torch_traces_once_is_traced_before_another_thread_computes():
    """While it traces, a call of any module in any thread is an error: seen once, in a run that answered meanwhile."""
    loop_body = pytest.importorskip("torch._inductor.loop_body")
    kept = loop_body.InterpreterShim._dummy_gm
    kept.cache_clear()
    compiled.trace_once()
    assert kept.cache_info().currsize == 1
    traced = kept()
    assert kept() is traced
