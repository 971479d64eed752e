"""Steps that are recorded and replayed give the answers that steps give, whatever happens between them.

CUDA graphs need a GPU. Here a stand-in records the computation itself and does it again on the same tensors.
"""

from __future__ import annotations

import pytest
import torch

from test_decoding import generate, greedy, make, prompts, same
from test_refresh import train, with_lora
from tunesmith.infer import local
from tunesmith.infer.engine import fused, replay, slots
from tunesmith.infer.engine.compared import distance, own_distance, tolerance, why_logits_differ
from tunesmith.infer.engine.linear import SlotLinear, add_low_rank
from tunesmith.infer.engine.network import Network
from tunesmith.infer.engine.replay import rounded
from tunesmith.infer.engine.slots import SlotCache
from tunesmith.infer.generator import Options, answer_all
from tunesmith.infer.local import LocalEngine

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's
NEW = 24


class Again:
    """Records by keeping the computation; a replay writes into the outputs of the first time."""

    def __call__(self, compute):
        outputs = compute()

        def again():
            for old, new in zip(outputs, compute(), strict=True):
                old.copy_(new)

        return outputs, again


@pytest.fixture
def recorded(monkeypatch):
    """Lets engines record on this device too; the list has one entry for each recorder that was made."""
    made = []

    def recorder():
        made.append(Again())
        return made[-1]

    monkeypatch.setattr(local, "recorder_for", lambda device: recorder)
    return made


def replays_of(engine: LocalEngine) -> replay.Replays:
    replays = engine._path().replays
    assert replays is not None
    return replays


def all_same(model, asked, got, lengths=None) -> bool:
    lengths = lengths or [NEW] * len(asked)
    rows = zip(asked, got, lengths, strict=True)
    return all(same(model, prompt, ids, greedy(model, prompt, length)) for prompt, ids, length in rows)


def test_sizes_are_rounded_up():
    assert [rounded(count, 16) for count in (1, 2, 3, 8, 9, 16, 17, 24, 25, 33, 48, 49)] == [
        1, 2, 4, 8, 16, 16, 24, 24, 32, 48, 48, 64]  # fmt: skip
    assert [rounded(count, 128) for count in (128, 129, 193, 257, 1000)] == [128, 192, 256, 384, 1024]


def test_nothing_is_recorded_on_a_cpu():
    engine = LocalEngine(make("llama"), None)
    assert engine._path().replays is None
    assert replay.recorder_for(torch.device("cpu")) is None


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "gemma2", "gemma3"])
def test_answers_are_those_of_steps(kind: str, recorded):
    model = make(kind)
    engine = LocalEngine(model, None, batch_size=4, compile_after=None)
    answers = generate(engine, prompts(), Options(max_new_tokens=NEW))
    assert engine.reason == ""
    assert all_same(model, prompts(), [answer.ids for answer in answers])
    assert replays_of(engine).replayed > NEW
    before = replays_of(engine).replayed
    again = generate(engine, prompts()[:1], Options(max_new_tokens=NEW))
    assert again[0].ids == answers[0].ids
    assert replays_of(engine).replayed > before


def test_rows_join_and_leave_and_slots_grow(recorded):
    model = make("llama")
    engine = LocalEngine(model, None, batch_size=5, compile_after=None)
    lengths = (60, 8, 16, 4, 12, 50, 2, 9)
    asked, answerings = prompts((5, 3, 9, 60, 2, 14, 7, 33)), []
    for index, (prompt, length) in enumerate(zip(asked, lengths, strict=True)):
        answerings.append(engine.submit(prompt, Options(max_new_tokens=length)))
        if index in (0, 2, 4):  # the first ones are under way when the next ones come
            reading = iter(answerings[0])
            for _ in range(5):
                next(reading)
    got = [answering.result().choice.ids for answering in answerings]
    assert all_same(model, asked, got, lengths)
    assert len(recorded) > 1, "slots have not grown while steps were recorded"
    assert replays_of(engine).replayed > 20
    assert len(replays_of(engine)._steps) > 2


def test_rows_that_pad_disturb_no_prompt_that_is_being_read(recorded, monkeypatch):
    from tunesmith.infer.engine import batch

    monkeypatch.setattr(batch, "PROMPT_TOKENS_A_STEP", 8)  # prompts are read in many pieces while others decode
    model = make("llama")
    engine = LocalEngine(model, None, batch_size=8, compile_after=None)
    first = [engine.submit(prompt, Options(max_new_tokens=40)) for prompt in prompts((5, 9, 4))]
    reading = iter(first[0])
    for _ in range(5):
        next(reading)
    asked = prompts((70, 40, 61))
    later = [engine.submit(prompt, Options(max_new_tokens=NEW)) for prompt in asked]
    assert all_same(model, asked, [one.result().choice.ids for one in later])
    assert all_same(model, prompts((5, 9, 4)), [one.result().choice.ids for one in first], [40] * 3)
    assert replays_of(engine).replayed > 20


def test_prompts_that_begin_alike(recorded):
    model = make("llama")
    system = [(13 * place + 7) % 512 for place in range(80)]
    asked = [[*system, *prompt] for prompt in prompts((3, 9, 5, 7))]
    engine = LocalEngine(model, None, compile_after=None)
    for _ in range(2):
        assert all_same(model, asked, [one.ids for one in generate(engine, asked, Options(max_new_tokens=NEW))])
    assert replays_of(engine).replayed


@pytest.mark.parametrize("how", ["in place", "other tensors"])
def test_new_weights_are_seen(how: str, recorded):
    model = make("llama")
    engine = LocalEngine(model, None, compile_after=None)
    before = generate(engine, prompts(), Options(max_new_tokens=NEW))
    recorders = len(recorded)
    train(model, how)
    engine.refresh()
    after = generate(engine, prompts(), Options(max_new_tokens=NEW))
    assert after != before
    assert all_same(model, prompts(), [answer.ids for answer in after])
    assert len(recorded) == recorders + (how == "other tensors")  # else what was recorded is still good


def test_adapters_that_are_put_and_replaced_are_seen(recorded):
    from peft.utils.save_and_load import get_peft_model_state_dict

    model, ones = make("llama"), [with_lora(seed=seed) for seed in (3, 4, 5)]
    engine = LocalEngine(model, None, compile_after=None)
    options = Options(max_new_tokens=NEW)
    generate(engine, prompts(), options)
    recorders = []
    for name, one in (("a", ones[0]), ("b", ones[1]), ("a", ones[2])):
        engine.set_adapter(name, get_peft_model_state_dict(one), one.peft_config["default"])
        mixed = answer_all(engine, [(prompt, Options(max_new_tokens=NEW, adapter=adapter))
                                    for prompt in prompts() for adapter in ("", name)])  # fmt: skip
        got = [answer.choice.ids for answer in mixed]
        assert all_same(model, prompts(), got[::2])
        assert all_same(one, prompts(), got[1::2])
        recorders.append(len(recorded))
    assert recorders[0] < recorders[1] == recorders[2]  # the last one went where another one was


def test_what_reads_logits_reads_those_of_the_replay(recorded):
    model = make("llama")
    wanted = [
        Options(max_new_tokens=NEW, temperature=0.9, top_p=0.8, seed=5, n=3),
        Options(max_new_tokens=NEW, logprobs=True, top_logprobs=3),
        Options(max_new_tokens=NEW, frequency_penalty=1.5, logit_bias=((7, 4.0),)),
        Options(max_new_tokens=NEW),
    ]
    asked = [(prompt, options) for options in wanted for prompt in prompts((3, 20, 7))]
    engines = [LocalEngine(model, None, batch_size=8, compile_after=None) for _ in range(2)]
    engines[1]._path()
    object.__setattr__(engines[1]._path(), "replays", None)
    engines[1]._path().scheduler.batch.replays = None  # steps alone
    got, want = (answer_all(engine, asked) for engine in engines)
    assert replays_of(engines[0]).replayed > 20
    for one, other in zip(got, want, strict=True):
        for choice, wanted_choice in zip(one.choices, other.choices, strict=True):
            assert choice.ids == wanted_choice.ids
            assert (choice.logprobs is None) == (wanted_choice.logprobs is None)
            assert choice.logprobs is None or choice.logprobs == pytest.approx(wanted_choice.logprobs, abs=1e-4)


def test_what_cannot_be_recorded_is_computed(recorded, monkeypatch):
    def refuse(self, compute):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(Again, "__call__", refuse)
    model = make("llama")
    engine = LocalEngine(model, None, compile_after=None)
    answers = generate(engine, prompts(), Options(max_new_tokens=NEW))
    assert all_same(model, prompts(), [answer.ids for answer in answers])
    assert engine.reason == ("steps are not replayed, which is slower: RuntimeError: operation not permitted when "
                             "stream is capturing")  # fmt: skip


def test_a_replay_that_says_something_else_is_not_trusted(recorded, monkeypatch):
    monkeypatch.setattr(Again, "__call__", lambda self, compute: (compute(), lambda: None))  # as if inputs were fixed
    model = make("llama")
    engine = LocalEngine(model, None, compile_after=None)
    answers = generate(engine, prompts(), Options(max_new_tokens=NEW))
    assert all_same(model, prompts(), [answer.ids for answer in answers])
    assert "a replay gives other logits" in engine.reason
    assert replays_of(engine).replayed == 0


def test_few_shapes_are_kept(recorded, monkeypatch):
    monkeypatch.setattr(replay, "MOST_STEPS", 2)
    model = make("llama")
    engine = LocalEngine(model, None, batch_size=5, compile_after=None)
    answers = generate(engine, prompts(), Options(max_new_tokens=NEW))
    assert all_same(model, prompts(), [answer.ids for answer in answers])
    assert len(replays_of(engine)._steps) <= 2


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2", "gemma3"])
def test_norms_in_one_kernel_change_no_logits(kind: str):
    model = make(kind)
    with torch.inference_mode():
        for part in model.modules():
            if type(part).__name__.endswith("RMSNorm"):
                part.weight += 0.3 * torch.randn_like(part.weight)
        ids = torch.tensor(prompts((20,)))
        want = model(ids).logits
        fused.replace_norms(model, torch.float32)
        replaced = sum(isinstance(part, fused.FusedNorm) for part in model.modules())
        assert distance(model(ids).logits, want) < 1e-5
    assert replaced == (0 if kind.startswith("gemma") else 5)  # Gemma's multiply by one more than the weight


def test_low_rank_products_in_few_kernels_are_those_of_layers(monkeypatch):
    """All passes of adapters that go as on a GPU."""
    forward = SlotLinear.forward

    def as_on_a_gpu(layer, x):
        down, layer.down = layer.down, None
        y, layer.down = forward(layer, x), down
        own = layer.context.own
        if down is None or own is None:
            return y
        place, alone = layer.context.spread(own)
        return add_low_rank(y.clone(), x, down[place], layer.up[place], alone)

    monkeypatch.setattr(SlotLinear, "forward", as_on_a_gpu)
    one = with_lora()
    engine = LocalEngine(one, None, compile_after=None)
    asked = [(prompt, Options(max_new_tokens=NEW, adapter=name)) for prompt in prompts() for name in ("", "default")]
    got = [answer.choice.ids for answer in answer_all(engine, asked)]
    assert engine.reason == ""
    assert all_same(one, prompts(), got[1::2])
    with one.disable_adapter():
        assert all_same(one, prompts(), got[::2])


@pytest.mark.parametrize("window", [None, 8])
def test_a_bias_hides_what_may_not_be_seen(window):
    relative = (torch.tensor([20, 3])[:, None] - torch.arange(40))[:, None, None]
    bias = fused.bias_of(relative, window, torch.bfloat16)
    assert bias is fused.bias_of(relative, window, torch.bfloat16)
    seen = (relative >= 0) & ((relative < window) if window else True)
    assert torch.equal(bias == 0, seen)
    assert torch.equal(bias == -torch.inf, ~seen)
    assert all(stride % fused.BIAS_MULTIPLE == 0 for stride in bias.stride()[:-1])
    query, key = torch.zeros(2, 2, 3, 8, device="meta"), torch.zeros(2, 2, 40, 8, device="meta")
    assert fused.attend(query, key, key, relative.to("meta"), window, 1.0).shape == query.shape
    assert not fused.can_attend(torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 8))


def test_attention_by_bias_is_attention_by_position(monkeypatch):
    """All passes over a model whose attention reads the bias, as the kernel of a GPU does."""

    def attend(query, key, value, relative, window, scale):
        bias = fused.bias_of(relative, window, query.dtype).expand(*query.shape[:3], key.shape[2])
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)

    monkeypatch.setattr(slots, "can_attend", lambda query, value: True)
    monkeypatch.setattr(slots, "attend", attend)
    for kind in ("llama", "mistral"):
        model = make(kind)
        answers = generate(LocalEngine(model, None, compile_after=None), prompts(), Options(max_new_tokens=NEW))
        assert all_same(model, prompts(), [answer.ids for answer in answers])


def test_rounding_of_16_bits_is_told_from_mistakes(monkeypatch):
    model = make("llama").to(torch.bfloat16)
    with torch.inference_mode():
        whole = torch.tensor(prompts((34,)))
        assert 0 < own_distance(model, whole, model(whole, use_cache=False).logits[0, 16:]) < tolerance(torch.bfloat16)
    network = Network(model, [])
    aim = SlotCache.aim

    def astray(cache, first, rows, relative, places):
        aim(cache, first, rows, relative, places + 1 if isinstance(places, torch.Tensor) else places)

    with torch.inference_mode():
        assert why_logits_differ(network, model, -1) is None
        monkeypatch.setattr(SlotCache, "aim", astray)
        assert "other logits" in why_logits_differ(network, model, -1)
