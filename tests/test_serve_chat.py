"""Answers of the API: what may be asked of them, who is answered beside whom, and what happens when it is too much."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import httpx
import openai
import pytest
import torch
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from conftest import made_once, save_adapters, save_tiny
from serving import OURS, Running, wait_for_end
from tunesmith.infer.engine.scheduler import Scheduler
from tunesmith.infer.generator import Full, Options
from tunesmith.infer.local import LocalEngine
from tunesmith.model.export import find_model
from tunesmith.prompt.messages import Message
from tunesmith.serve.engines import Engines
from tunesmith.serve.errors import ApiError
from tunesmith.serve.stream import Events
from tunesmith.serve.turns import Turns

ASKED = [{"role": "user", "content": "Tell me of the pool."}]
PRECISE = {"tunesmith": {**OURS["tunesmith"], "optim": {"batch_size": 8, "learning_rate": 0.01}}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "book",
            "description": "Book a table.",
            "parameters": {"type": "object", "properties": {"people": {"type": "integer"}}},
        },
    }
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return made_once(tmp_path_factory, "tiny", save_tiny)


@pytest.fixture(scope="module")
def running(tmp_path_factory, base):
    one = Running(tmp_path_factory.mktemp("serve"), base)
    yield one
    one.stop()


@pytest.fixture(scope="module")
def client(running):
    return running.client()


@pytest.fixture(scope="module")
def tuned(running, base, tmp_path_factory):
    """Three models of one base."""
    folders = save_adapters(base, tmp_path_factory.mktemp("adapters"), 3)
    names = {f"tiny-{folder.name}": str(folder) for folder in folders}
    running.server_settings.bases.table.update(names)
    return list(names)


def plain_engine(name):
    exported = find_model(str(name))
    return LocalEngine(exported.load(), exported.contract())


def ask(client, model="tiny", **more):
    settings = {"messages": ASKED, "temperature": 0, "max_tokens": 12, "seed": 1, **more}
    return client.chat.completions.create(model=model, **settings)


# What may be asked


def test_streaming_says_what_an_answer_at_once_says(client):
    settings = {"logprobs": True, "top_logprobs": 3, "n": 2, "temperature": 1.0, "stop": ["e"]}
    whole = ask(client, **settings)
    pieces = [piece for piece in ask(client, **settings, stream=True) if piece.choices]
    for index, choice in enumerate(whole.choices):
        mine = [piece.choices[0] for piece in pieces if piece.choices[0].index == index]
        assert "".join(one.delta.content or "" for one in mine) == choice.message.content
        assert [one for piece in mine if piece.logprobs for one in piece.logprobs.content] == choice.logprobs.content
        assert mine[-1].finish_reason == choice.finish_reason
    first = whole.choices[0].logprobs.content[0]
    assert len(first.top_logprobs) == 3
    assert first.top_logprobs[0].logprob >= first.top_logprobs[1].logprob
    greedy = ask(client, logprobs=True, top_logprobs=1).choices[0].logprobs.content
    assert all(one.top_logprobs[0].logprob == pytest.approx(one.logprob) for one in greedy)


def test_the_bytes_of_tokens_make_the_text(client):
    choice = ask(client, logprobs=True, max_tokens=20, temperature=1.5, seed=3).choices[0]
    written = b"".join(bytes(one.bytes) for one in choice.logprobs.content)
    assert written.decode("utf-8", "replace") == choice.message.content


def test_penalties_and_biases_are_those_of_a_naive_decoder(client, base):
    engine = plain_engine(base)
    model, contract = engine.model, engine.contract
    prompt = contract.prompt((Message("user", ASKED[0]["content"]),))
    options = {"frequency_penalty": 1.5, "presence_penalty": 0.7, "logit_bias": {"70": 12.0, "71": 12.0}}
    ids, came = list(prompt), []
    for _ in range(12):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].float()
        for token in set(came):
            logits[token] -= 1.5 * came.count(token) + 0.7
        logits[70] += 12.0
        logits[71] += 12.0
        came.append(int(logits.argmax()))
        ids.append(came[-1])
        if came[-1] in contract.stop_ids:
            break
    said = ask(client, **options).choices[0].message.content
    assert said == contract.decode([one for one in came if one not in contract.stop_ids])
    assert 1 < came.count(70) + came.count(71) < 12


def test_a_bias_can_force_a_token(client, base):
    contract = find_model(str(base)).contract()
    token = contract.tokenizer.encode("e", add_special_tokens=False)[0]
    assert set(ask(client, logit_bias={str(token): 100}).choices[0].message.content) == {"e"}


class Booking(BaseModel):
    meal: Literal["lunch", "dinner"]
    people: Literal[2, 4]
    early: bool


def test_answers_keep_to_a_schema(client):
    parsed = client.chat.completions.parse(
        model="tiny", messages=ASKED, response_format=Booking, temperature=1.0, seed=1, max_tokens=400
    )
    assert isinstance(parsed.choices[0].message.parsed, Booking)
    kept = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": kept, "strict": True}}
    whole = ask(client, response_format=asked, max_tokens=60)
    assert json.loads(whole.choices[0].message.content)["a"] in ("x", "y")
    assert whole.choices[0].finish_reason == "stop"
    pieces = ask(client, response_format=asked, max_tokens=60, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content
    text = ask(client, response_format={"type": "json_object"}, max_tokens=5).choices[0].message.content
    assert text.startswith("{")


def test_calls_are_read_back_and_streamed(client):
    def row(number):
        call = {"id": f"c{number}", "type": "function", "function": {"name": "book", "arguments": '{"people": 4}'}}
        asked = {"role": "user", "content": f"A table for four, number {number}."}
        return {"messages": [asked, {"role": "assistant", "content": None, "tool_calls": [call]}], "tools": TOOLS}

    lines = [row(number) for number in range(12)]
    lines += [
        {"messages": [{"role": "user", "content": f"Hi {n}"}, {"role": "assistant", "content": "Hello."}]}
        for n in range(6)
    ]
    file = client.files.create(file="".join(json.dumps(one) + "\n" for one in lines).encode(), purpose="fine-tune")
    ours = {
        "model": {"template": "chatml"},
        "method": {"type": "full"},
        "precision": "fp32",
        "optim": {"batch_size": 6, "learning_rate": 0.01, "steps": 90},
    }
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, extra_body={"tunesmith": ours})
    done = wait_for_end(client, job.id)
    assert done.status == "succeeded", done.error
    asked = {"messages": [{"role": "user", "content": "A table for four, number 3."}], "tools": TOOLS, "max_tokens": 60}
    whole = ask(client, done.fine_tuned_model, **asked).choices[0]
    assert whole.finish_reason == "tool_calls", whole
    [call] = whole.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("book", {"people": 4})
    assert whole.message.content is None
    pieces = [piece.choices[0] for piece in ask(client, done.fine_tuned_model, **asked, stream=True)]
    streamed = [one for piece in pieces for one in piece.delta.tool_calls or []]
    assert [(one.function.name, one.function.arguments) for one in streamed] == [("book", call.function.arguments)]
    assert pieces[-1].finish_reason == "tool_calls"
    assert "".join(piece.delta.content or "" for piece in pieces) == ""
    with client.chat.completions.stream(model=done.fine_tuned_model, temperature=0, **asked) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.name == "book"
    back = [
        *asked["messages"],
        whole.message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "done"},
    ]
    assert ask(client, done.fine_tuned_model, messages=back, tools=TOOLS).choices[0].message.role == "assistant"
    silent = ask(client, done.fine_tuned_model, **asked, tool_choice="none").choices[0]
    assert silent.message.tool_calls is None
    people = {"type": "object", "properties": {"people": {"enum": [2, 4]}}, "required": ["people"]}
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {**people, "additionalProperties": False}}}
        for name in ("book", "cancel")
    ]
    greeted = {"messages": [{"role": "user", "content": "Hi 3"}], "tools": tools, "max_tokens": 60}
    cancel = {"type": "function", "function": {"name": "cancel"}}
    for choice, names in (("required", {"book", "cancel"}), (cancel, {"cancel"})):
        forced = ask(client, done.fine_tuned_model, **greeted, tool_choice=choice).choices[0]
        [call] = forced.message.tool_calls
        assert call.function.name in names
        assert json.loads(call.function.arguments)["people"] in (2, 4)
        assert (forced.message.content, forced.finish_reason) == (None, "tool_calls")
        pieces = ask(client, done.fine_tuned_model, **greeted, tool_choice=choice, stream=True)
        [streamed] = [one for piece in pieces for one in piece.choices[0].delta.tool_calls or []]
        assert streamed.function.arguments == call.function.arguments


def test_plain_completions_tell_log_probabilities(running, client):
    settings = {"model": "tiny", "prompt": "The pool", "max_tokens": 6, "temperature": 0, "logprobs": 2, "echo": True}
    whole = client.completions.create(**settings)
    told = whole.choices[0].logprobs
    assert whole.choices[0].text.startswith("The pool")
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset) == 6
    assert told.text_offset[0] == len("The pool")
    loose = running.as_client(client.api_key, strict=False)  # its types know no piece before the last one
    pieces = list(loose.completions.create(**settings, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text


# Many models of one base


def test_adapters_of_a_base_answer_in_one_batch_as_each_would_alone(running, client, tuned):
    alone = {}
    for name in ["tiny", *tuned]:
        ask(client, name, max_tokens=1)
        engine = plain_engine(running.server_settings.bases.table[name])
        options = Options(max_new_tokens=12)
        alone[name] = engine.submit((Message("user", ASKED[0]["content"]),), options).result().choice.text
    engines = running.server_settings.engines
    before = len(engines._loaded)
    with ThreadPoolExecutor(16) as pool:
        names = [*alone] * 6
        answers = list(pool.map(lambda name: ask(client, name).choices[0].message.content, names))
    assert [alone[name] for name in names] == answers
    assert before == len(engines._loaded)
    assert max(len(loaded.adapters) for loaded in engines._loaded.values()) == len(tuned)
    assert len(set(alone.values())) > 1
    assert set(engines.models) >= set(alone)


def test_adapters_make_room_for_others(running, client, tuned):
    server = running.server_settings
    engines = Engines(most=1, most_adapters=2)
    from tunesmith.serve.models import finder_of

    answers = []
    for name in [*tuned, *tuned, tuned[0]]:
        with engines.borrow(*finder_of(server, "default", name)) as serving:
            options = Options(max_new_tokens=12, adapter=serving.adapter)
            answers.append(serving.engine.submit((Message("user", ASKED[0]["content"]),), options).result().choice.text)
            assert len(engines.models) <= 2
    assert answers == [ask(client, name).choices[0].message.content for name in [*tuned, *tuned, tuned[0]]]
    with (
        engines.borrow(*finder_of(server, "default", tuned[0])),
        engines.borrow(*finder_of(server, "default", tuned[1])),
        pytest.raises(Full, match="in use"),
        engines.borrow(*finder_of(server, "default", tuned[2])),
    ):
        pass
    engines.close()


def test_adapters_leave_when_memory_is_short_and_one_that_cannot_be_put_costs_nobody_a_place(
    running, client, tuned, monkeypatch
):
    from tunesmith.infer import local
    from tunesmith.serve.models import finder_of

    def answer(name: str) -> str:
        with engines.borrow(*finder_of(running.server_settings, "default", name)) as serving:
            options = Options(max_new_tokens=12, adapter=serving.adapter)
            return serving.engine.submit((Message("user", ASKED[0]["content"]),), options).result().choice.text

    engines = Engines()
    first = answer(tuned[0])
    [loaded] = engines._loaded.values()
    monkeypatch.setattr(local, "free_bytes", lambda device: 0)
    put = loaded.engine.add_adapter
    loaded.engine.add_adapter = lambda *_: (_ for _ in ()).throw(OSError("the disk"))
    with pytest.raises(OSError, match="the disk"):
        answer(tuned[1])
    loaded.engine.add_adapter = put
    assert list(loaded.adapters) == [tuned[0]] == loaded.engine.adapters
    for name in [*tuned, tuned[0]]:
        assert answer(name) == ask(client, name).choices[0].message.content
        assert list(loaded.adapters) == [name] == loaded.engine.adapters
    assert answer(tuned[0]) == first
    with (
        engines.borrow(*finder_of(running.server_settings, "default", tuned[0])),
        pytest.raises(Full, match="all 1 adapters of this base that memory is for are in use"),
        engines.borrow(*finder_of(running.server_settings, "default", tuned[1])),
    ):
        pass
    monkeypatch.undo()
    answer(tuned[1])
    assert list(loaded.adapters) == [tuned[0], tuned[1]]
    engines.close()


def test_the_only_model_needs_no_name(running, client, tuned):
    lone = running.client("lonely")
    table = running.server_settings.bases.table
    with pytest.raises(openai.BadRequestError, match=f"means the only one, and there are {len(table)}"):
        ask(lone, "")
    kept = dict(table)
    for name in set(table) - {"tiny"}:
        del table[name]
    assert ask(lone, "").choices[0].message.content == ask(client).choices[0].message.content
    table.update(kept)


def test_a_prompt_that_begins_like_another_is_known_so_far_and_that_is_told(running, client):
    long = [{"role": "system", "content": "You are the clerk of a hotel by the sea. " * 12}, *ASKED]
    first = ask(client, messages=long)
    again = ask(client, messages=long)
    other = ask(client, messages=[*long[:1], {"role": "user", "content": "Is there a garden?"}])
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1
    assert 64 <= other.usage.prompt_tokens_details.cached_tokens < again.usage.prompt_tokens - 1
    assert again.choices[0].message.content == first.choices[0].message.content
    stranger = running.client("elsewhere")
    assert ask(stranger, messages=long).usage.prompt_tokens_details.cached_tokens == 0
    told = httpx.get(
        running.url + "/metrics", headers={"Authorization": f"Bearer {running.client(role='admin').api_key}"}
    )
    [line] = [line for line in told.text.splitlines() if line.startswith("tunesmith_prompt_tokens_cached_total{")
              and '"tiny"' in line and '"chat"' in line]  # fmt: skip
    assert float(line.split()[-1]) >= again.usage.prompt_tokens - 1 + 64


# Turns


def test_keys_take_turns_and_who_would_wait_too_long_is_told():
    async def play():
        turns, order = Turns(running=2, waiting=6), []
        held = [await turns.take("a", 1) for _ in range(2)]

        async def want(key, answers=1):
            size = await turns.take(key, answers)
            order.append(key)
            return size

        waiting = [asyncio.create_task(want("a")) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as much:
            await turns.take("a", 1)
        waiting += [asyncio.create_task(want(key)) for key in ("b", "b", "c")]
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as full:
            await turns.take("d", 1)
        assert (much.value.status, full.value.status) == (429, 503)
        assert much.value.headers["Retry-After"]
        waiting[1].cancel()
        await asyncio.sleep(0)
        assert turns.waiting == 5
        for size in held:
            turns.give_back(size)
        while order.__len__() < 5:
            await asyncio.sleep(0)
            if turns.running == 2 and turns.waiting:
                turns.give_back(1)
        await asyncio.gather(*waiting, return_exceptions=True)
        assert order == ["a", "b", "c", "a", "b"]
        while turns.running:
            turns.give_back(1)
        large = await turns.take("a", 100)
        assert large == 2
        turns.give_back(large)
        assert (turns.running, turns.waiting) == (0, 0)

    asyncio.run(play())


def test_too_much_is_refused_and_nothing_is_left_behind(running, client):
    server = running.server_settings
    before = server.turns
    object.__setattr__(server, "turns", Turns(running=2, waiting=4))
    statuses = []

    def hammer(number):
        mine = running.client(f"p{number % 3}")
        for _ in range(4):
            try:
                ask(mine, max_tokens=40)
                statuses.append(200)
            except openai.APIStatusError as error:
                statuses.append(error.status_code)

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 429, 503}
    assert statuses.count(200) >= 8
    assert len(set(statuses)) > 1
    assert (server.turns.running, server.turns.waiting) == (0, 0)
    object.__setattr__(server, "turns", before)


@pytest.mark.parametrize("stream", [True, False])
def test_who_goes_away_frees_the_place(running, client, stream, monkeypatch):
    """Its answer would take half a minute: each step of the model is slowed."""
    turns = running.server_settings.turns
    step = Scheduler._step

    def slow(self):
        time.sleep(0.06)
        step(self)

    monkeypatch.setattr(Scheduler, "_step", slow)
    body = {"model": "tiny", "messages": ASKED, "max_tokens": 480, "stream": stream, "logit_bias": {"5": 100}}
    headers = {"Authorization": f"Bearer {client.api_key}"}
    if stream:
        with httpx.stream("POST", f"{running.url}/v1/chat/completions", json=body, headers=headers) as answer:
            lines = answer.iter_lines()  # held: the answer is closed with it
            assert next(lines).startswith("data: {")
            assert turns.running == 1
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{running.url}/v1/chat/completions", json={**body, "n": 16}, headers=headers, timeout=0.2)
    deadline = time.monotonic() + 5
    while turns.running:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# What is kept, and what is counted


def test_completions_are_kept_with_metadata(running):
    client, other = running.client("keeper"), running.client("reader")
    whole = ask(client, store=True, metadata={"a": "b"})
    pieces = list(ask(client, store=True, stream=True))
    ask(client)
    assert [one.id for one in client.chat.completions.list()] == [whole.id, pieces[0].id]
    assert client.chat.completions.list(order="desc", limit=1).data[0].id == pieces[0].id
    assert [one.id for one in client.chat.completions.list(metadata={"a": "b"})] == [whole.id]
    kept = [client.chat.completions.retrieve(id) for id in (whole.id, pieces[0].id)]
    assert {one.choices[0].message.content for one in kept} == {whole.choices[0].message.content}
    assert client.chat.completions.update(whole.id, metadata={"c": "d"}).metadata == {"c": "d"}
    loose = running.as_client(client.api_key, strict=False)  # its types know no message of a user here
    assert [one.content for one in loose.chat.completions.messages.list(whole.id)] == [ASKED[0]["content"]]
    with pytest.raises(openai.NotFoundError):
        other.chat.completions.retrieve(whole.id)
    assert list(other.chat.completions.list()) == []
    assert client.chat.completions.delete(whole.id).deleted
    with pytest.raises(openai.NotFoundError, match="store=true"):
        client.chat.completions.retrieve(whole.id)


def test_what_the_server_does_is_counted(running, client):
    ask(client)
    with pytest.raises(openai.BadRequestError):
        ask(client, messages=[{"role": "user", "content": "x " * 3000}])
    admin = {"Authorization": f"Bearer {running.client(role='admin').api_key}"}
    text = httpx.get(f"{running.url}/metrics", headers=admin).text
    counted = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    chat = 'gen_ai_operation_name="chat",gen_ai_request_model="tiny"'
    assert counted[f'gen_ai_server_request_duration_seconds_count{{error_type="",{chat}}}'] >= 1
    assert counted[f'gen_ai_server_request_duration_seconds_count{{error_type="ModelError",{chat}}}'] >= 1
    assert counted[f"gen_ai_server_time_to_first_token_seconds_count{{{chat}}}"] >= 1
    assert counted[f'gen_ai_client_token_usage_tokens_sum{{{chat},gen_ai_token_type="output"}}'] >= 12
    route = 'method="POST",route="/v1/chat/completions"'
    assert counted[f'tunesmith_http_requests_total{{{route},status="200"}}'] >= 1
    assert counted["tunesmith_models_loaded"] >= 1
    assert counted["process_resident_memory_bytes"] > 1e6
    assert httpx.get(f"{running.url}/metrics", headers={"Authorization": f"Bearer {client.api_key}"}).status_code == 403


def test_who_goes_before_the_first_piece_frees_the_place(running, client):
    turns, port = running.server_settings.turns, int(running.url.rpartition(":")[2])
    body = json.dumps({"model": "tiny", "messages": ASKED, "max_tokens": 400, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {client.api_key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    for number in range(30):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(head.encode() + body)
            time.sleep(0.001 * number)
    deadline = time.monotonic() + 10
    while turns.running or turns.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not any(one.users.total() for one in running.server_settings.engines._loaded.values())


def test_a_stream_that_never_begins_lets_go_of_its_answers():
    closed = []

    class Stub:
        def close(self, error=None):
            closed.append(error)

    async def nothing():
        yield "never"

    async def gone(message):
        raise OSError("the client has gone")

    async def play():
        with pytest.raises(ClientDisconnect):
            await Events(Stub(), nothing())({"type": "http", "asgi": {"spec_version": "2.4"}}, None, gone)

    asyncio.run(play())
    assert closed
