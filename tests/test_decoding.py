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
from tunesmith.infer import batch, compiled, slots
from tunesmith.infer.adapters import read_adapter
from tunesmith.infer.engine import Sampling
from tunesmith.infer.linear import _packed
from tunesmith.infer.local import LocalEngine
from tunesmith.infer.slots import SlotCache

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
    engine = LocalEngine(model, (), batch_size=4)
    answers = engine.generate(prompts(), Sampling(max_new_tokens=24))
    assert engine.reason == ""
    for prompt, answer in zip(prompts(), answers, strict=True):
        want = greedy(model, prompt, 24)
        assert len(set(want)) > 1, "an answer of one token shows nothing"
        assert same(model, prompt, answer.ids, want)
        assert same(model, prompt, engine.generate([prompt], Sampling(max_new_tokens=24))[0].ids, want)


def test_a_model_that_reads_positions_its_own_way_is_decoded_the_plain_way():
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=512, hidden_size=64, n_layer=2, n_head=4, initializer_range=0.2, bos_token_id=None,
                         eos_token_id=None, pad_token_id=0)  # fmt: skip
    model = BloomForCausalLM(config).eval()
    engine = LocalEngine(model, (), batch_size=4)
    answers = engine.generate(prompts(), Sampling(max_new_tokens=12))
    assert engine.reason.startswith("answers are decoded the plain way: ")
    assert engine.reason.endswith(".")
    for prompt, answer in zip(prompts(), answers, strict=True):
        assert same(model, prompt, answer.ids, greedy(model, prompt, 12))


def test_rows_join_and_leave_while_others_run():
    model = make("llama")
    engine = LocalEngine(model, (), batch_size=3)
    lengths = (20, 8, 16, 4, 12, 24, 2)
    tickets, readers = [], []
    asked = prompts((5, 3, 9, 60, 2, 14, 7))
    for index, (prompt, length) in enumerate(zip(asked, lengths, strict=True)):
        tickets.append(engine.submit(prompt, Sampling(max_new_tokens=length)))
        if index in (2, 4):  # the first ones are under way when the next ones come
            reading = iter(tickets[0])
            for _ in range(3 if index == 2 else 2):
                readers.append(next(reading))
    for prompt, length, ticket in zip(asked, lengths, tickets, strict=True):
        assert same(model, prompt, ticket.result().ids, greedy(model, prompt, length))


def test_many_threads_read_their_own_answers():
    model = make("llama")
    engine = LocalEngine(model, (), batch_size=4)
    got: dict[int, list[int]] = {}

    def read(index: int, prompt: list[int]) -> None:
        got[index] = list(engine.submit(prompt, Sampling(max_new_tokens=10 + index)))

    threads = [threading.Thread(target=read, args=pair) for pair in enumerate(prompts())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for index, prompt in enumerate(prompts()):
        assert same(model, prompt, got[index], greedy(model, prompt, 10 + index))


def test_a_thread_that_only_drives_serves_all_readers():
    model = make("llama")
    engine = LocalEngine(model, (), batch_size=4)
    stop = threading.Event()
    driver = threading.Thread(target=engine.drive, args=(stop,))
    driver.start()
    try:
        tickets = [engine.submit(prompt, Sampling(max_new_tokens=8)) for prompt in prompts()]
        for prompt, ticket in zip(prompts(), tickets, strict=True):
            assert same(model, prompt, list(ticket), greedy(model, prompt, 8))
        again = engine.generate(prompts()[:2], Sampling(max_new_tokens=4))
        assert [len(one.ids) for one in again] == [4, 4]
    finally:
        stop.set()
        driver.join(10)
    assert not driver.is_alive()


def test_a_cancelled_row_leaves_and_frees_its_slot():
    model = make("llama")
    engine = LocalEngine(model, (), batch_size=2)
    first, second, third = (engine.submit(prompt, Sampling(max_new_tokens=90)) for prompt in prompts((5, 9, 3)))
    reading = iter(second)
    for _ in range(4):
        next(reading)
    assert (len(first.ids) > 0, third.ids) == (True, [])  # no room for a third
    first.cancel()
    assert same(model, prompts((5, 9, 3))[2], third.result().ids, greedy(model, prompts((5, 9, 3))[2], 90))
    assert len(first.result().ids) < 10
    assert same(model, prompts((5, 9))[1], second.result().ids, greedy(model, prompts((5, 9))[1], 90))
    waiting = [engine.submit(prompt, Sampling(max_new_tokens=20)) for prompt in prompts()]
    for ticket in waiting:
        ticket.cancel()
    assert all(len(ticket.result().ids) == 0 for ticket in waiting[1:])


def test_a_broken_off_stream_leaves_no_row_behind():
    engine = LocalEngine(make("llama"), (), batch_size=1)
    stream = engine.stream(prompts()[0], Sampling(max_new_tokens=60))
    next(stream)
    stream.close()
    assert len(engine.generate(prompts()[:1], Sampling(max_new_tokens=3))[0].ids) == 3


def test_a_long_prompt_is_read_in_pieces_between_steps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tunesmith.infer.batch.BUSY", 32)
    model = make("llama")
    engine = LocalEngine(model, (), batch_size=4)
    short, long, other = prompts((4, 100, 40))
    tickets = [engine.submit(short, Sampling(max_new_tokens=20))]
    next(iter(tickets[0]))
    tickets += [engine.submit(long, Sampling(max_new_tokens=10)), engine.submit(other, Sampling(max_new_tokens=10))]
    next(iter(tickets[1]))
    assert len(tickets[0].ids) > 3
    for prompt, count, ticket in zip((short, long, other), (20, 10, 10), tickets, strict=True):
        assert same(model, prompt, ticket.result().ids, greedy(model, prompt, count))


def test_a_prompt_that_fills_all_positions_is_refused():
    engine = LocalEngine(make("llama"), ())
    assert len(engine.generate(prompts((120,)), Sampling(max_new_tokens=50))[0].ids) == 8
    with pytest.raises(ModelError, match="takes at most 128"):
        engine.submit(prompts((128,))[0], Sampling())


@pytest.mark.parametrize(
    ("prompt", "soft", "said"),
    [([], None, "has no tokens"), ([3, 512], None, "outside the model's 512"), ([-1], None, "outside"),
     ([1], torch.zeros(4, 63), r"\(tokens, 64\), not \(4, 63\)")],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused_before_it_joins_others(prompt, soft, said: str):
    with pytest.raises(ModelError, match=said):
        LocalEngine(make("llama"), ()).submit(prompt, Sampling(), embeddings=soft)


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
    engine = LocalEngine(base, (), batch_size=8)
    assert engine.adapters == []
    for name, folder in folders.items():
        engine.add_adapter(name, folder)
    check_mixture(engine, alone, 16)


def test_a_peft_model_brings_its_adapters(tuned):
    base, folders, alone = tuned
    model = PeftModel.from_pretrained(copy.deepcopy(base), folders["one"], adapter_name="one")
    model.load_adapter(folders["two"], "two")
    model.set_adapter("two")
    engine = LocalEngine(model.eval(), (), batch_size=8)
    check_mixture(engine, alone, 12)
    answer = engine.generate(prompts()[:1], Sampling(max_new_tokens=12))[0].ids
    assert same(alone["two"], prompts()[0], answer, greedy(alone["two"], prompts()[0], 12))


def check_mixture(engine: LocalEngine, alone, count: int) -> None:
    names = ["one", "", "two", "two", "", "one"]
    tickets = [
        engine.submit(prompt, Sampling(max_new_tokens=count), adapter=name)
        for prompt, name in zip(prompts(), names, strict=True)
    ]
    answers = [ticket.result().ids for ticket in tickets]
    assert engine.reason == ""
    for prompt, name, answer in zip(prompts(), names, answers, strict=True):
        assert same(alone[name], prompt, answer, greedy(alone[name], prompt, count))
    for name in ("one", "two"):
        assert greedy(alone[name], prompts()[0], count) != greedy(alone[""], prompts()[0], count)


def test_unknown_and_unfit_adapters_are_refused(tuned, tmp_path):
    base, folders, _ = tuned
    engine = LocalEngine(base, ())
    engine.add_adapter("one", folders["one"])
    with pytest.raises(ModelError, match="no adapter is called 'oen'; did you mean 'one'"):
        engine.submit([1], Sampling(), adapter="oen")
    with pytest.raises(ModelError, match="no adapter can be read"):
        engine.add_adapter("nothing", tmp_path)
    with pytest.raises(ModelError, match="It belongs to another base"):
        LocalEngine(make("gpt2"), ()).add_adapter("one", folders["one"])
    dora = get_peft_model(make("llama"), LoraConfig(r=2, use_dora=True, target_modules=["q_proj"]))
    dora.save_pretrained(tmp_path / "dora", save_embedding_layers=False)
    with pytest.raises(ModelError, match="use_dora=True, so it cannot join a batch"):
        engine.add_adapter("dora", tmp_path / "dora")


def test_other_methods_are_decoded_the_plain_way(tuned):
    torch.manual_seed(1)
    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"],
                       init_ia3_weights=False, task_type="CAUSAL_LM")  # fmt: skip
    model = get_peft_model(make("llama"), config).eval()
    engine = LocalEngine(model, (), batch_size=2)
    answers = engine.generate(prompts(), Sampling(max_new_tokens=8))
    assert "the adapter is IA3, not LoRA" in engine.reason
    for prompt, answer in zip(prompts(), answers, strict=True):
        assert same(model, prompt, answer.ids, greedy(model, prompt, 8))
    with pytest.raises(ModelError, match="Load it as a model of its own"):
        engine.add_adapter("one", tuned[1]["one"])


@pytest.mark.parametrize("plainly", [False, True])
def test_a_soft_prompt_enters_as_embeddings(plainly: bool):
    model = make("llama")
    engine = LocalEngine(model, ())
    if plainly:
        from tunesmith.infer.local import plain_way

        engine._settled = plain_way(engine, "asked for")
    torch.manual_seed(2)
    soft, asked = torch.randn(5, 64) * 0.2, prompts()[:3]
    tickets = [engine.submit(prompt, Sampling(max_new_tokens=10), embeddings=soft) for prompt in asked]
    bare = engine.submit(asked[0], Sampling(max_new_tokens=10))
    for prompt, ticket in zip(asked, tickets, strict=True):
        whole = torch.cat([soft, model.get_input_embeddings()(torch.tensor(prompt))])[None]
        want = greedy(model, prompt, 10, inputs_embeds=whole, attention_mask=torch.ones(whole.shape[:2]).long())
        assert ticket.result().ids == want
    assert bare.result().ids == greedy(model, asked[0], 10) != tickets[0].ids


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_sampling_depends_on_its_own_seed_and_not_on_company(top_p: float):
    engine = LocalEngine(make("llama"), ())
    asked = prompts((6, 6, 6, 6))
    sampling = [Sampling(max_new_tokens=12, temperature=1.5, top_p=top_p, seed=seed) for seed in (3, 4, 5)]
    [alone] = engine.generate(asked[:1], sampling[0])
    tickets = [engine.submit(asked[0], one) for one in sampling]
    tickets.append(engine.submit(asked[1], Sampling(max_new_tokens=5)))
    answers = [ticket.result().ids for ticket in tickets]
    assert answers[0] == alone.ids
    assert len({tuple(answer) for answer in answers[:3]}) == 3


def test_packed_weights_are_freed_with_their_engine():
    gc.collect()
    before = len(_packed)
    engine = LocalEngine(make("llama"), ())
    engine.generate(prompts()[:1], Sampling(max_new_tokens=2))
    assert len(_packed) > before
    del engine
    gc.collect()
    assert len(_packed) == before


def test_an_error_in_a_step_reaches_everybody_and_the_engine_goes_on(monkeypatch: pytest.MonkeyPatch):
    engine = LocalEngine(make("llama"), (), batch_size=1)
    tickets = [engine.submit(prompt, Sampling(max_new_tokens=5)) for prompt in prompts()[:2]]

    def burst(*_, **__):
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(engine._way().network.model, "forward", burst)
        for ticket in tickets:
            with pytest.raises(MemoryError, match="no room"):
                ticket.result()
    assert len(engine.generate(prompts()[:1], Sampling(max_new_tokens=5))[0].ids) == 5


def test_an_error_while_memory_is_asked_for_reaches_everybody_too(monkeypatch: pytest.MonkeyPatch):
    model = make("llama")
    engine = LocalEngine(model, ())
    want = engine.generate(prompts(), Sampling(max_new_tokens=4))
    grow = SlotCache.ensure

    def fail(self, slots, positions):
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(SlotCache, "ensure", fail)
    with pytest.raises(RuntimeError, match="allocate"):
        engine.generate(prompts(), Sampling(max_new_tokens=4))
    monkeypatch.setattr(SlotCache, "ensure", grow)
    assert engine.generate(prompts(), Sampling(max_new_tokens=4)) == want


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
    engine = LocalEngine(make("llama"), (), batch_size=16)
    engine.generate(prompts([3] * 16), Sampling(max_new_tokens=4))
    way = engine._way()
    cache = way.scheduler._batch.cache
    assert cache.slots == 16
    need = way.network.bytes_per_position * 2 * 128  # of the row alone
    monkeypatch.setattr(batch, "free_bytes", lambda device: need + 1)
    [answer] = engine.generate(prompts([90]), Sampling(max_new_tokens=8))
    assert len(answer.ids) == 8
    assert (cache.slots, cache.positions) == (2, 128)
    monkeypatch.setattr(batch, "free_bytes", lambda device: need // 4)
    cache.forget()
    with pytest.raises(ModelError, match=r"no memory for the keys and values of 98 tokens. Shorten"):
        engine.generate(prompts([90]), Sampling(max_new_tokens=8))


def test_a_cancelled_newcomer_is_not_read_to_its_end():
    engine = LocalEngine(make("llama"), (), batch_tokens=8)
    read = []
    long, network = engine.submit(prompts([90])[0], Sampling(max_new_tokens=20)), engine._way().network
    prefill = network.prefill

    def watched(cache, first, start, tokens, *rest):
        read.append(tokens.shape[1])
        if len(read) == 2:
            long.cancel()
        return prefill(cache, first, start, tokens, *rest)

    network.prefill = watched
    [answer] = engine.generate(prompts([5]), Sampling(max_new_tokens=4))
    assert (len(answer.ids), long.ended, long.ids, read) == (4, True, [], [8, 8, 5])


def test_a_compiler_at_work_elsewhere_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    """torch says to all threads that it is compiling while one of them does."""
    engine = LocalEngine(make("llama"), ())
    want = engine.generate(prompts(), Sampling(max_new_tokens=4))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(slots, "scaled_dot_product_attention", watched := Counted(slots.scaled_dot_product_attention))
    assert engine.generate(prompts(), Sampling(max_new_tokens=4)) == want
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
def test_what_a_short_probe_would_not_show_is_known_from_the_configuration(changes, said: str):
    model = make("llama")
    for name, value in changes.items():
        setattr(model.config, name, value)
    assert said in LocalEngine(model, ()).reason


def test_an_engine_is_freed_without_the_collector():
    engine = LocalEngine(make("llama"), ())
    engine.generate(prompts(), Sampling(max_new_tokens=2))
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
    engine = LocalEngine(base, (), compile_after=None)
    for name, folder in folders.items():
        engine.add_adapter(name, folder)
    engine.generate(prompts()[:1], Sampling(max_new_tokens=1))
    engine.warm()
    assert engine.reason == ""
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert counted >= 2
    for prompt in prompts():
        for name in ("", "two"):
            answer = engine.submit(prompt, Sampling(max_new_tokens=90 - len(prompt)), adapter=name).result().ids
            assert same(alone[name], prompt, answer, greedy(alone[name], prompt, 90 - len(prompt)))
    check_mixture(engine, alone, 40)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == counted


WITHOUT_COMPILER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_decoding import LocalEngine, Sampling, greedy, make, prompts, same
model = make("llama")
engine = LocalEngine(model, (), compile_after=0.0)
engine.generate(prompts(), Sampling(max_new_tokens=4))
engine._graphs.wait()
answer = engine.generate(prompts()[:1], Sampling(max_new_tokens=20))[0].ids
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
    engine = LocalEngine(model, (), batch_size=4)
    engine.warm()
    assert engine.reason == ""
    for prompt, answer in zip(prompts(), engine.generate(prompts(), Sampling(max_new_tokens=40)), strict=True):
        assert same(model, prompt, answer.ids, greedy(model, prompt, 40))


def test_short_work_compiles_nothing():
    engine = LocalEngine(make("llama"), ())
    engine.generate(prompts(), Sampling(max_new_tokens=8))
    assert engine._graphs is None
    assert not [thread for thread in threading.enumerate() if thread.name == "tunesmith-compile"]
    assert compiled.LayerGraphs.__doc__
