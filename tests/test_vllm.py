"""The engine that asks a vLLM server, against a fake of its API with a true small model behind it."""

from __future__ import annotations

import threading
import time

import openai
import pytest

from conftest import made_once, save_tiny
from fake_vllm import FakeVllm
from serving import OURS, Running, rows, wait_for_end
from tunesmith.core.errors import MissingError, ModelError
from tunesmith.infer.endpoint import Retry
from tunesmith.infer.generator import GivenUp, Options
from tunesmith.infer.local import LocalEngine
from tunesmith.infer.vllm import VllmServer
from tunesmith.model.export import find_model
from tunesmith.prompt.messages import Message
from tunesmith.serve.engines import Engines, by_vllm

ASKED = (Message("user", "Tell me of the pool."),)
SCHEMA = (
    '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": false}'
)
ONCE = Retry(1, 0.0, 0.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return made_once(tmp_path_factory, "tiny", save_tiny)


@pytest.fixture(scope="module")
def vllm(base):
    one = FakeVllm(base)
    yield one
    one.stop()


@pytest.fixture(scope="module")
def local(base):
    exported = find_model(str(base))
    return LocalEngine(exported.load(), exported.contract())


@pytest.fixture
def engine(vllm, base):
    exported = find_model(str(base))
    return VllmServer(vllm.url, retry=ONCE).engine([str(exported.folder)], exported.contract())


@pytest.mark.parametrize(
    "options",
    [
        Options(12), Options(12, logprobs=True, top_logprobs=3), Options(20, stop=("e", "a")),
        Options(12, 1.0, seed=7, n=3),
        Options(40, schema=SCHEMA), Options(12, logit_bias=((70, 9.0),), frequency_penalty=1.0, presence_penalty=0.5),
        Options(1), Options(4000),
    ],
)  # fmt: skip
def test_answers_are_those_of_the_local_engine_streamed_and_whole(engine, local, options):
    mine, others = engine.submit(ASKED, options).result(), local.submit(ASKED, options).result()
    assert mine.choices == others.choices
    assert mine.usage == others.usage
    pieces = list(engine.submit(ASKED, options))
    for index, choice in enumerate(others.choices):
        of_it = [piece for piece in pieces if piece.index == index]
        assert "".join(piece.text for piece in of_it) == choice.text
        assert [token for piece in of_it for token in piece.ids] == choice.ids
        assert of_it[-1].finish_reason == choice.finish_reason


def test_what_is_asked_is_in_the_words_of_vllm(engine, vllm):
    engine.submit(ASKED, Options(5, 0.5, 0.9, 3, stop=("x",), logprobs=True, top_logprobs=2, schema=SCHEMA)).result()
    body = vllm.asked[-1]
    assert all(isinstance(token, int) for token in body.pop("prompt"))
    assert body == {
        "model": "served", "max_tokens": 5, "stream": True, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["x"],
        "frequency_penalty": 0.0, "presence_penalty": 0.0, "stop_token_ids": sorted(engine.contract.stop_ids),
        "add_special_tokens": False, "return_token_ids": True, "return_tokens_as_token_ids": True, "logprobs": 2,
        "structured_outputs": {"json": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
                                        "additionalProperties": False}},
    }  # fmt: skip


def test_faults_are_sentences(engine, vllm, base, monkeypatch):
    exported = find_model(str(base))
    nobody = VllmServer("http://127.0.0.1:9/v1", retry=ONCE)
    with pytest.raises(ModelError, match="cannot connect"):
        nobody.engine(["x"], exported.contract())
    with pytest.raises(MissingError, match=r"has no model 'other'. It has served.*--enable-lora"):
        VllmServer(vllm.url).engine(["other"], exported.contract())
    with pytest.raises(ModelError, match="the model takes at most 512"):
        engine.submit([5] * 512)
    with pytest.raises(ModelError, match="No adapter found"):
        engine.add_adapter("x", base)
    monkeypatch.setattr(vllm, "fault", "out of memory")
    with pytest.raises(ModelError, match="failed: out of memory"):
        engine.submit(ASKED, Options(9)).result()
    monkeypatch.setattr(vllm, "ids", False)
    with pytest.raises(ModelError, match=r"0\.10\.2 or newer"):
        engine.submit(ASKED, Options(9)).result()
    engine._server.endpoint.url = "http://127.0.0.1:9/v1"
    with pytest.raises(GivenUp, match="Is vLLM running there"):
        engine.submit(ASKED, Options(9)).result()


def test_who_goes_away_stops_the_server(engine, vllm, monkeypatch):
    monkeypatch.setattr(vllm, "slow", 0.2)
    answering = engine.submit(ASKED, Options(200, n=2, logit_bias=((5, 100.0),)))
    next(iter(answering))
    assert vllm.under_way == 2
    answering.cancel()
    assert {choice.finish_reason for choice in answering.result().choices} == {"cancelled"}
    deadline = time.monotonic() + 5
    while vllm.under_way:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Behind our API


@pytest.fixture(scope="module")
def running(tmp_path_factory, base, vllm):
    engines = Engines(make=by_vllm(VllmServer(vllm.url, retry=ONCE), {"tiny": str(base)}), most_adapters=2)
    one = Running(tmp_path_factory.mktemp("serve"), base, engines=engines)
    yield one
    one.stop()


@pytest.fixture(scope="module")
def tuned(running):
    """Three models of one base, and their client."""
    client = running.client()
    file = client.files.create(file=rows(16), purpose="fine-tune")
    ours = {"tunesmith": {**OURS["tunesmith"], "optim": {"steps": 2, "learning_rate": 0.01}}}
    jobs = [
        client.fine_tuning.jobs.create(model="tiny", training_file=file.id, seed=seed, extra_body=ours)
        for seed in range(3)
    ]
    return client, [wait_for_end(client, job.id).fine_tuned_model for job in jobs]


def ask(client, model, **more):
    asked = {"messages": [{"role": "user", "content": ASKED[0].content}], "temperature": 0, "max_tokens": 12}
    return client.chat.completions.create(model=model, **asked, **more)


def test_tuned_models_are_registered_when_they_are_asked_and_leave_for_others(running, tuned, vllm):
    client, names = tuned
    for name in [*names, names[0], "tiny"]:
        said = ask(client, name).choices[0].message.content
        pieces = ask(client, name, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == said
        folder = running.base if name == "tiny" else next(running.folder.glob(f"models/ftjob-{name[-8:]}*"))
        found = find_model(str(folder))
        alone = LocalEngine(found.load(), found.contract())
        assert alone.submit(ASKED, Options(12)).result().choices[0].text == said
        assert len(vllm.adapters) <= 2
    assert set(vllm.adapters) == {names[2], names[0]}


def test_a_server_that_has_forgotten_an_adapter_is_told_again(tuned, vllm):
    client, names = tuned
    said = ask(client, names[0]).choices[0].message.content
    vllm.adapters.clear()
    assert ask(client, names[0]).choices[0].message.content == said
    assert list(vllm.adapters) == [names[0]]


def test_many_are_answered_at_once(tuned):
    client, names = tuned
    said = {name: ask(client, name).choices[0].message.content for name in (names[0], "tiny")}
    wrong = []

    def one(name):
        if ask(client, name).choices[0].message.content != said[name]:
            wrong.append(name)

    threads = [threading.Thread(target=one, args=(name,)) for name in [*said] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_server_that_is_gone_is_said_and_may_come_back(running, tuned, monkeypatch):
    client, _ = tuned
    (loaded,) = running.server_settings.engines._loaded.values()
    monkeypatch.setattr(loaded.engine._server.endpoint, "url", "http://127.0.0.1:9/v1")
    with pytest.raises(openai.InternalServerError, match="Is vLLM running there") as fault:
        ask(client, "tiny")
    assert (fault.value.status_code, fault.value.response.headers["retry-after"]) == (503, "5")
