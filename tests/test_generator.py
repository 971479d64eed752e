"""What a generator of this machine promises: stop strings, several answers, log probabilities, a bounded queue.

One request that fails ends nobody else's.
"""

from __future__ import annotations

import threading
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from test_decoding import generate, greedy, make, prompts, read, same
from tunesmith.core.errors import ConfigError, ModelError
from tunesmith.infer.chat import Chat
from tunesmith.infer.engine import sample
from tunesmith.infer.engine.slots import SlotCache
from tunesmith.infer.generator import Full, GivenUp, Options, Scorer, Updatable, answer_all
from tunesmith.infer.local import LocalEngine, plain_path
from tunesmith.infer.text import TextStream, stop_in, whole_text
from tunesmith.model.load import LoadSpec, load
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract

QUESTION = "What time is breakfast?"


@pytest.fixture(scope="module")
def ember():
    folder = resolve("ember").folder
    return load(folder, LoadSpec()).model, load_contract(folder)


@cache
def contract_of_ember():
    """Made at first use: a home of the tests' own is there by then."""
    return load_contract(resolve("ember").folder)


def naive_cut(text: str, stop: list[str]) -> str:
    """Character by character: before the longest stop string with which the text so far ends."""
    for end in range(len(text) + 1):
        found = [one for one in stop if text[:end].endswith(one)]
        if found:
            return text[: end - max(map(len, found))]
    return text


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.text("ab ö", max_size=3), max_size=12), stop=st.lists(st.text("ab ö", min_size=1, max_size=4))
)
def test_text_ends_before_the_stop_string_that_it_completes_first(pieces, stop):
    text = "".join(pieces)
    assert text[: stop_in(text, stop)] == naive_cut(text, stop)
    contract = contract_of_ember()
    ids = contract.tokenizer.encode(text, add_special_tokens=False)
    stream, shown = TextStream(contract, stop), ""
    for token in ids:
        shown += stream.add(token)
        assert naive_cut(text, stop).startswith(shown)  # never more than there will be in the end
    assert shown + stream.end() == naive_cut(text, stop) == whole_text(contract, ids, stop)


def test_a_stop_string_ends_the_answer_streamed_or_not_though_it_spans_tokens(ember):
    model, contract = ember
    engine = LocalEngine(model, contract)
    chat = Chat(engine)
    whole = chat.complete(QUESTION, max_new_tokens=40)
    ids, text = whole.choice.ids, whole.choice.text
    first, second = contract.decode(ids[:3]), contract.decode(ids[:5])
    stop = second[len(first) - 2 : len(second) - 1]  # begins in one token and ends within another
    assert len(stop) >= 3
    found = chat.complete(QUESTION, max_new_tokens=40, stop=[stop, "never said"]).choice
    assert found.text == text[: text.index(stop)]
    assert found.finish_reason == "stop"
    assert len(found.ids) == 5 < len(ids)  # nothing is computed after it
    pieces = list(chat.stream(QUESTION, max_new_tokens=40, stop=stop))
    assert "".join(pieces) == found.text
    assert all("".join(pieces[: i + 1]) == found.text[: len("".join(pieces[: i + 1]))] for i in range(len(pieces)))
    assert chat.complete(QUESTION, max_new_tokens=40, stop="never said").choice == whole.choice
    assert chat.complete(QUESTION, max_new_tokens=40, stop=text[:1]).choice.text == ""


@pytest.mark.parametrize("plainly", [False, True])
def test_log_probabilities_are_the_models_own(plainly: bool):
    model = make("llama")
    engine = LocalEngine(model, None)
    if plainly:
        engine._decided = plain_path(engine, "asked for")
    options = [Options(max_new_tokens=8, logprobs=True), Options(max_new_tokens=8, temperature=1.5, top_p=0.9),
               Options(max_new_tokens=6, temperature=1.5, logprobs=True, n=2)]  # fmt: skip
    answerings = [engine.submit(prompt, one) for prompt, one in zip(prompts(), options, strict=False)]
    deltas = list(answerings[2])
    assert answerings[1].result().choice.logprobs is None
    for prompt, answering in zip(prompts(), answerings, strict=False):
        for index, choice in enumerate(answering.result().choices):
            if choice.logprobs is None:
                continue
            with torch.no_grad():
                logits_TV = model(torch.tensor([prompt + choice.ids])).logits[0, len(prompt) - 1 : -1]
            want = logits_TV.log_softmax(-1).gather(1, torch.tensor(choice.ids)[:, None])[:, 0].tolist()
            assert choice.logprobs == pytest.approx(want, abs=1e-3)
            if answering is answerings[2]:
                streamed = [value for delta in deltas if delta.index == index for value in delta.logprobs]
                assert streamed == choice.logprobs


def test_several_answers_to_one_prompt_are_those_of_seeds_that_follow():
    engine = LocalEngine(make("llama"), None)
    prompt, options = prompts()[0], Options(max_new_tokens=12, temperature=1.5, seed=7)
    completion = engine.submit(prompt, Options(max_new_tokens=12, temperature=1.5, seed=7, n=3)).result()
    alone = [
        generate(engine, [prompt], Options(max_new_tokens=12, temperature=1.5, seed=seed))[0] for seed in (7, 8, 9)
    ]
    assert completion.choices == alone
    assert len({tuple(choice.ids) for choice in alone}) == 3
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (len(prompt), 36)
    assert options.n == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"temperature": -1.0}, "temperature = -1.0"), ({"temperature": float("nan")}, "temperature = nan"),
     ({"temperature": 1e-40}, "at least 1e-05"), ({"top_p": 1.5}, "between 0 and 1"), ({"n": 0}, "n = 0"),
     ({"max_new_tokens": 0}, "at least 1"), ({"stop": ""}, "none of them empty"), ({"seed": 2**70}, "62 bits"),
     ({"temprature": 1.0}, "did you mean 'temperature'"), ({"n": 2}, "Use `complete` for several")],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(ember, wrong, said: str):
    with pytest.raises(ConfigError, match=said):
        Chat(LocalEngine(*ember)).generate(QUESTION, **wrong)


def test_a_full_queue_refuses_at_once_and_harms_nobody():
    model = make("llama")
    engine = LocalEngine(model, None, batch_size=2, most_waiting=3)
    asked = prompts()
    begun = [engine.submit(prompt, Options(max_new_tokens=8)) for prompt in asked[:3]]
    with pytest.raises(Full, match="3 answers wait for their turn, of at most 3"):
        engine.submit(asked[3], Options(max_new_tokens=8))
    begun[2].cancel()
    begun[2] = engine.submit(asked[2], Options(max_new_tokens=8))  # whoever is cancelled does not count
    with pytest.raises(Full):
        engine.submit(asked[3], Options(max_new_tokens=8, n=2))
    for prompt, answering in zip(asked, begun, strict=False):
        assert same(model, prompt, answering.result().choice.ids, greedy(model, prompt, 8))
    many = prompts([3 + i % 5 for i in range(12)])  # whoever asks many things waits for room
    for prompt, answer in zip(many, generate(engine, many, Options(max_new_tokens=4)), strict=True):
        assert same(model, prompt, answer.ids, greedy(model, prompt, 4))
    with pytest.raises(Full):
        generate(engine, many[:1], Options(max_new_tokens=4, n=4))


def test_a_timeout_gives_up_waiting_and_not_the_answer():
    engine = LocalEngine(make("llama"), None)
    answering = engine.submit(prompts()[0], Options(max_new_tokens=60))
    with pytest.raises(TimeoutError):
        answering.result(0)
    assert len(answering.result(60).choice.ids) == 60


BAD = 499  # a token at which the model breaks


@pytest.fixture(params=["slots", "plain"])
def breaking(request, monkeypatch: pytest.MonkeyPatch):
    """An engine whose forward pass fails wherever it reads a certain token, and the sound model."""
    sound = make("llama")
    model = make("llama")
    engine = LocalEngine(model, None, batch_size=8)
    if request.param == "plain":
        engine._decided = plain_path(engine, "asked for")
    network = engine._path().network
    decoder = model if network is None else network.model
    forward = decoder.forward

    def broken(*args, **inputs):
        if (ids := inputs.get("input_ids")) is not None and (ids == BAD).any():
            raise MemoryError("no room")
        return forward(*args, **inputs)

    decoder.forward = broken
    return engine, sound


def test_a_prompt_that_cannot_be_computed_ends_only_its_own_answer(breaking):
    engine, sound = breaking
    asked = [*prompts()[:4], [BAD, 3], prompts()[4]]
    answerings = [engine.submit(prompt, Options(max_new_tokens=10)) for prompt in asked]
    for prompt, answering in zip(asked, answerings, strict=True):
        if BAD in prompt:
            with pytest.raises(MemoryError, match="no room"):
                answering.result()
        else:
            assert same(sound, prompt, answering.result().choice.ids, greedy(sound, prompt, 10))


def test_an_answer_that_breaks_later_ends_alone_and_those_who_wait_go_on(breaking, monkeypatch: pytest.MonkeyPatch):
    engine, sound = breaking
    pick, steps = sample.pick, []

    def lead_astray(logits_BV, options, draws):
        tokens = pick(logits_BV, options, draws)
        steps.append(len(tokens))
        return [BAD if one.seed == 5 and len(steps) > 4 else token for token, one in zip(tokens, options, strict=True)]

    monkeypatch.setattr(sample, "pick", lead_astray)
    asked = prompts([5, 9, 3, 4, 8, 6, 7, 5, 6, 4])
    answerings = [
        engine.submit(prompt, Options(max_new_tokens=14, seed=5 if index == 2 else 0))
        for index, prompt in enumerate(asked)
    ]
    for index, (prompt, answering) in enumerate(zip(asked, answerings, strict=True)):
        if index == 2:
            with pytest.raises(MemoryError):
                read(answering)
        else:
            assert same(sound, prompt, answering.result().choice.ids, greedy(sound, prompt, 14))


def test_sampling_that_breaks_ends_only_its_own_answer(monkeypatch: pytest.MonkeyPatch):
    engine, model = LocalEngine(make("llama"), None), make("llama")
    draw = sample.draw_rows

    def broken(logits_NV, options, numbers):
        if any(one.seed == 1 for one in options):
            raise RuntimeError("no such distribution")
        return draw(logits_NV, options, numbers)

    monkeypatch.setattr(sample, "draw_rows", broken)
    sampled = [engine.submit(prompts()[0], Options(5, temperature=1.0, seed=seed)) for seed in (0, 1, 2)]
    plain = engine.submit(prompts()[1], Options(8))
    with pytest.raises(RuntimeError, match="no such distribution"):
        sampled[1].result()
    assert [len(sampled[index].result().choice.ids) for index in (0, 2)] == [5, 5]
    assert same(model, prompts()[1], plain.result().choice.ids, greedy(model, prompts()[1], 8))


def test_when_memory_runs_out_rows_begin_again_fewer_together(monkeypatch: pytest.MonkeyPatch):
    model = make("llama")
    engine = LocalEngine(model, None, batch_size=8)
    generate(engine, prompts()[:1], Options(max_new_tokens=1))
    grow, refused = SlotCache.ensure, []

    def fail(self, slots, positions):
        if slots * positions > 3 * 64:
            refused.append((slots, positions))
            self.forget()
            raise RuntimeError("can't allocate memory")
        grow(self, slots, positions)

    monkeypatch.setattr(SlotCache, "ensure", fail)
    asked = prompts([5, 9, 3, 12, 8, 6])
    for prompt, answer in zip(asked, generate(engine, asked, Options(max_new_tokens=50)), strict=True):
        assert same(model, prompt, answer.ids, greedy(model, prompt, 50))
    assert refused


def test_what_a_thread_raises_while_it_drives_reaches_its_own_reader_alone():
    engine = LocalEngine(make("llama"), None)
    answering = engine.submit(prompts()[0], Options(max_new_tokens=30))

    def fail():
        raise ModelError("mine")

    stop = threading.Event()
    driver = threading.Thread(target=engine.drive, args=(stop,))
    driver.start()
    try:
        with pytest.raises(ModelError, match="mine"):
            engine._path().scheduler.exclusively(fail)
        assert len(answering.result().choice.ids) == 30
    finally:
        stop.set()
        driver.join(10)


def test_asking_many_cancels_the_rest_when_one_fails_or_a_listener_ends_it(ember):
    engine = LocalEngine(*ember, batch_size=1)

    def stop(done: int) -> None:
        raise GivenUp("enough.")

    asked = [([5, 6, 7], Options(max_new_tokens=20))] * 3
    with pytest.raises(GivenUp, match="1 of 3 rows were answered; none is kept"):
        answer_all(engine, asked, stop)
    assert answer_all(engine, asked[:1])[0].choice.ids
    assert engine._path().scheduler.batch.idle
    assert isinstance(engine, Scorer)
    assert isinstance(engine, Updatable)
