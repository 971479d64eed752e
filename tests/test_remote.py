"""A remote model answers in order, is asked with patience, and its faults are sentences; real HTTP on 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tunesmith.core.errors import ConfigError, MissingError, ModelError, Stopped
from tunesmith.data.kinds.conversation import openai_turns
from tunesmith.infer import generator
from tunesmith.infer.chat import Chat
from tunesmith.infer.endpoint import Endpoint, Retry, check_address, key_variable
from tunesmith.infer.generator import Completion, Delta, Full, GivenUp, Options, Scorer, Updatable, Usage, answer_all
from tunesmith.infer.remote import RemoteModel, parse_remote, wire_turns
from tunesmith.prompt.messages import Message, ToolCall, as_conversation

QUICK = Retry(tries=4, first=0.01)
KEYS = ("OPENAI_API_KEY", "TUNESMITH_REMOTE_KEY")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "SSL_CERT_FILE")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in (*KEYS, *PROXIES):
        monkeypatch.delenv(name, raising=False)


class Server:
    """Answers with `respond(request)`: a status, a body (JSON unless bytes) and headers. Keeps all requests."""

    def __init__(self, respond: Callable[[dict[str, Any]], tuple]) -> None:
        server = self
        self.requests: list[dict[str, Any]] = []
        self.at_once, self.most_at_once, self.lock = 0, 0, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = {"path": self.path, "headers": dict(self.headers), "body": json.loads(body) if body else None}
                with server.lock:
                    server.requests.append(request)
                    request["number"] = len(server.requests)
                    server.at_once += 1
                    server.most_at_once = max(server.at_once, server.most_at_once)
                try:
                    response = respond(request)
                    with server.lock:
                        server.at_once -= 1
                    self.send(*response)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            do_GET = do_POST

            def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def serve():
    servers: list[Server] = []

    def start(respond: Callable[[dict[str, Any]], tuple]) -> Server:
        servers.append(Server(respond))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def completion(text: str | None, reason: str = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, **message}
    return {"choices": [{"index": 0, "message": said, "finish_reason": reason}], "usage": {"completion_tokens": 7}}


def echo(request: dict[str, Any]) -> tuple:
    return 200, completion(f"echo of {request['body']['messages'][-1]['content']}")


def ask(server: Server, *questions: str, options: Options = Options(), **settings: Any) -> list[Completion]:  # noqa: B008
    model = RemoteModel(server.url, "small", **{"retry": QUICK, **settings})
    return answer_all(model, [(as_conversation(question), options) for question in questions])


def text_of(completions: list[Completion]) -> list[str]:
    return [completion.choice.text for completion in completions]


def ask_one(model: RemoteModel) -> Completion:
    return answer_all(model, [(as_conversation("a"), Options())])[0]


def then(*responses: tuple) -> Callable[[dict[str, Any]], tuple]:
    """The n-th response for the n-th request, the last one for all after it."""
    return lambda request: responses[min(request["number"], len(responses)) - 1]


def test_answers_come_in_the_order_of_the_questions_and_no_more_at_once_than_allowed(serve):
    chance, together = random.Random(0), threading.Barrier(5)

    def slow(request):
        if request["number"] <= 5:
            together.wait(20)
        time.sleep(chance.uniform(0, 0.03))
        return echo(request)

    server = serve(slow)
    done: list[int] = []
    questions = [f"question {i} of a guest" for i in range(60)]
    model = RemoteModel(server.url, "small", concurrency=5, most_waiting=20)
    answers = answer_all(model, [(as_conversation(question), Options()) for question in questions], done.append)
    assert text_of(answers) == [f"echo of {question}" for question in questions]
    assert server.most_at_once == 5
    assert (done == sorted(done), done[-1]) == (True, 60)


def test_no_questions_no_answers(serve):
    server = serve(echo)
    assert ask(server) == []
    assert not server.requests


def test_what_is_sent_and_what_is_read(serve):
    server = serve(then((200, completion("Yes."))))
    [answer] = ask(server, "Is there wifi?", options=Options(9, 0.5, 0.9, 3), key="secret-key")
    [request] = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == "Bearer secret-key"
    assert request["body"] == {
        "model": "small",
        "messages": [{"role": "user", "content": "Is there wifi?"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
    }
    assert (answer.choice.text, answer.choice.finish_reason, answer.usage) == ("Yes.", "stop", Usage(0, 7))
    assert answer.seconds > 0
    assert (answer.choice.ids, answer.choice.logprobs) == ([], None)


@pytest.mark.parametrize(
    ("body", "want"),
    [
        (completion("a", "length"), ("a", False, 7)),
        (completion(None, "tool_calls", tool_calls=[{"id": "1"}]), ("", True, 7)),
        ({"choices": [{"message": {"tool_calls": [{}]}, "finish_reason": "tool_calls"}]}, ("", True, None)),
        ({"choices": [{"message": {"content": "x"}}], "usage": None}, ("x", False, None)),
        (b'{"choices": [{"message": {"content": "half \\ud83d"}, "finish_reason": "stop"}]}', ("half ?", True, None)),
    ],
)
def test_answers_of_other_shapes(serve, body, want):
    [answer] = ask(serve(then((200, body))), "hello")
    tokens = answer.usage and answer.usage.completion_tokens
    assert (answer.choice.text, answer.choice.ended, tokens) == want


def test_turns_with_tools_go_out_as_openai_writes_them(serve):
    calls = (ToolCall("find", {"where": "Zürich"}, "a1"), ToolCall("clock", {}, "a2"))
    turns = (
        Message("system", "Be brief."),
        Message("user", "Where and when?"),
        Message("assistant", "", tool_calls=calls),
        Message("tool", "there", tool_call_id="a2", name="clock"),
        Message("tool", "noon", tool_call_id="a1"),
    )
    tools = ({"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}},)
    server = serve(echo)
    answer_all(RemoteModel(server.url, "small"), [(turns, Options(tools=tools)), (turns, Options())])
    by_tools = {"tools" in request["body"]: request["body"] for request in server.requests}
    assert by_tools[True]["tools"] == list(tools)
    assert by_tools[True]["messages"] == by_tools[False]["messages"] == openai_turns(turns)


def test_calls_without_ids_get_them_and_what_the_api_does_not_know_is_left_out():
    turns = (
        Message("user", "Where and when?"),
        Message("assistant", "", 0, (ToolCall("find", {}), ToolCall("clock", {})), reasoning="Two calls."),
        Message("tool", "there"),
        Message("tool", "noon"),
    )
    _, call, *results = wire_turns(turns)
    ids = [each["id"] for each in call["tool_calls"]]
    assert len(set(ids)) == 2
    assert [result["tool_call_id"] for result in results] == ids
    assert set(call) == {"role", "content", "tool_calls"}


def test_an_overloaded_server_is_asked_again_after_the_pause_that_it_wants(serve):
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    busy = [(429, {}, {"Retry-After": "30"}), (503, b"busy", {"Retry-After": date}), (500, {}, {"Retry-After": "soon"})]
    server = serve(then(*busy, (200, completion("Yes."))))
    [answer] = ask(server, "hello", retry=Retry(pause=pause))
    assert answer.choice.text == "Yes."
    assert 30 <= pauses[0] <= 33
    assert 95 <= pauses[1] <= 110
    assert 1 <= pauses[2] <= 2
    assert len({json.dumps(request["body"]) for request in server.requests}) == 1


def test_a_real_pause_then_success(serve):
    busy = (429, {"error": {"message": "slow down"}}, {"Retry-After": "0.05"})
    assert text_of(ask(serve(then(busy, busy, (200, completion("Yes.")))), "hello")) == ["Yes."]


def test_pauses_grow_and_never_undercut_the_server():
    retry = Retry(first=0.5)
    for attempt in range(1, 9):
        waits = [retry.wait(attempt, None) for _ in range(50)]
        assert 0.25 * 2 ** (attempt - 1) <= min(waits) < max(waits) <= 0.5 * 2 ** (attempt - 1)
        assert min(retry.wait(attempt, 7.0) for _ in range(50)) >= 7


def test_giving_up_says_how_many_rows_were_answered(serve):
    server = serve(lambda request: echo(request) if request["number"] <= 2 else (503, {"detail": "loading\n\x1b[2Jit"}))
    with pytest.raises(GivenUp) as fault:
        ask(server, "a", "b", "c", concurrency=1)
    assert str(fault.value) == (
        f"{server.url} answers 503 (loading [2Jit); given up after 4 tries. 2 of 3 rows were answered; none is kept. "
        "Try again later."
    )
    assert len(server.requests) == 2 + QUICK.tries


def test_a_pause_longer_than_patience_is_not_begun(serve):
    server = serve(then((429, b"", {"Retry-After": "3600"})))
    with pytest.raises(GivenUp, match=r"answers 429 and asks for a pause of 3600 s; given up after 1 try\."):
        ask(server, "a")
    assert len(server.requests) == 1


def test_an_empty_account_is_not_asked_again(serve):
    server = serve(then((429, {"error": {"message": "You exceeded your quota.", "code": "insufficient_quota"}})))
    with pytest.raises(ModelError, match=r"\(429\): You exceeded your quota\.$"):
        ask(server, "a")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "key", "said"),
    [
        (401, "secret-key", r"refuses the key \(401\)\. Set TUNESMITH_REMOTE_KEY"),
        (401, "", r"wants a key \(401\)\. Set TUNESMITH_REMOTE_KEY"),
        (403, "secret-key", r"refuses access \(403: \[key\] may not\)\. The key in TUNESMITH_REMOTE_KEY"),
    ],
)
def test_a_key_that_is_refused(serve, status, key, said):
    server = serve(then((status, {"error": {"message": "secret-key may not."}})))
    with pytest.raises(ModelError, match=said) as fault:
        ask(server, "a", key=key)
    assert "secret-key" not in str(fault.value)
    assert len(server.requests) == 1


def listing(*names: str) -> Callable[[dict[str, Any]], tuple]:
    models = {"object": "list", "data": [{"id": name} for name in names]}
    return lambda request: (200, models) if request["path"] == "/v1/models" else (404, {"error": "not found"})


def test_an_unknown_model_names_those_there_are(serve):
    server = serve(listing("large", *[f"m{i:02}" for i in range(30)]))
    with pytest.raises(MissingError) as fault:
        ask(server, "a")
    head = f"{server.url} has no model 'small'. It has large, m00, "
    assert str(fault.value).startswith(head)
    assert str(fault.value).endswith("m18 and 11 more.")


def test_a_path_that_is_not_there(serve):
    server = serve(then((404, b"<html>Not found</html>")))
    with pytest.raises(MissingError, match=r"has no /chat/completions \(404\)\. Is it the address of an OpenAI-comp"):
        ask(server, "a")
    root = server.url.removesuffix("/v1")
    with pytest.raises(MissingError, match=rf"Does the address lack /v1, as in {root}/v1\?"):
        ask_one(RemoteModel(root, "small"))


def test_a_404_for_a_model_that_is_listed_is_quoted(serve):
    with pytest.raises(ModelError, match=r"refuses the request \(404\): not found\."):
        ask(serve(listing("small")), "a")


def test_a_model_that_is_not_named_is_the_only_one(serve):
    server = serve(listing("the-one"))
    assert RemoteModel(server.url + "/", "").model == "the-one"
    assert RemoteModel(server.url, "").models() == ["the-one"]
    with pytest.raises(ConfigError, match=r"has 2 models\. Say which, as in \S+/v1#b\. It has a, b\."):
        RemoteModel(serve(listing("b", "a")).url, "")
    with pytest.raises(MissingError, match="has no model"):
        RemoteModel(serve(listing()).url, "")
    with pytest.raises(MissingError, match="has no /models to choose from"):
        RemoteModel(serve(then((404, {}))).url, "")
    with pytest.raises(ModelError, match="no list of models"):
        RemoteModel(serve(then((200, {"models": []}))).url, "")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            {"error": {"message": "context is 4096 tokens.\nShorten it", "code": 400}},
            "context is 4096 tokens. Shorten it",
        ),
        (
            {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
            "Extra inputs are not permi",
        ),
        ({"message": "no"}, "no."),
        (b"plain words", "plain words."),
        (b"<html>", "it does not say why."),
        ({"error": "x" * 1000}, "x" * 199 + "…."),
    ],
)
def test_a_request_that_is_refused_is_quoted_in_short(serve, body, said):
    server = serve(then((400, body)))
    with pytest.raises(ModelError) as fault:
        ask(server, "a")
    assert f"{server.url} refuses the request (400): {said}" in str(fault.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "shown",
    [
        lambda request: request["body"]["messages"],
        lambda request: json.dumps(request["body"]["messages"]),
        lambda request: request["body"]["messages"][0]["content"],
        lambda request: request["body"]["messages"][0]["content"][:40],
    ],
    ids=["as Python", "as JSON", "as it is", "cut"],
)
def test_what_was_asked_is_never_repeated(serve, shown):
    secret = 'I am "Ada"\nof Zürich\nand my account is 12345678901234567890.'
    server = serve(lambda request: (400, {"error": {"message": f"bad turn {shown(request)} here"}}))
    with pytest.raises(ModelError) as fault:
        ask(server, secret)
    assert not re.search("Ada|rich|account|12345", str(fault.value))
    assert "bad turn" in str(fault.value)
    assert "here." in str(fault.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>welcome</html>", "no JSON object"),
        (b'{"choices": [', "no JSON object"),
        (b"\xff\xfe\x00", "no JSON object"),
        (b"[" * 100_000, "no JSON object"),
        ([], "no JSON object"),
        ({}, "without a message in 'choices'."),
        ({"choices": []}, "without a message in 'choices'."),
        ({"choices": [{"text": "old"}]}, "without a message in 'choices'."),
        ({"choices": [{"message": {"content": 5}}]}, "without a message in 'choices'."),
        ({"error": {"message": "upstream failed"}}, "without a message in 'choices': upstream failed."),
    ],
)
def test_an_answer_that_is_none(serve, body, said):
    server = serve(then((200, body)))
    with pytest.raises(ModelError) as fault:
        ask(server, "a")
    assert f"{server.url} answers with" in str(fault.value)
    assert said in str(fault.value)


def test_no_server(serve):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ModelError) as fault:
        ask_one(RemoteModel(url, "small"))
    want = f"cannot connect to {url} (Connection refused). Is the server running there, with this host and port?"
    assert str(fault.value) == want


def test_a_server_that_hangs_up_is_asked_again(serve):
    def hang_up_once(request):
        if request["number"] == 1:
            raise ConnectionResetError
        return echo(request)

    server = serve(hang_up_once)
    assert text_of(ask(server, "a")) == ["echo of a"]
    assert len(server.requests) == 2


def test_a_server_that_goes_away_in_between_is_waited_for(serve):
    server = serve(echo)
    endpoint = Endpoint(server.url, "", 5.0, QUICK)

    async def before_and_after() -> None:
        async with endpoint.client(1) as client:
            await endpoint.fetch(client, "/x", {"messages": [{"content": "a"}]})
        server.http.server_close()
        async with endpoint.client(1) as client:
            await endpoint.fetch(client, "/x", {})

    with pytest.raises(GivenUp, match=r"is no longer there .*; given up after 4 tries"):
        asyncio.run(before_and_after())


def test_a_slow_server_times_out(serve):
    released = threading.Event()
    server = serve(lambda request: released.wait(20) and echo(request))
    try:
        with pytest.raises(GivenUp, match=r"gave no whole answer within 0\.1 s; given up after 2 tries\. 0 of 1 rows"):
            ask(server, "a", timeout=0.1, retry=Retry(tries=2, first=0.01))
    finally:
        released.set()
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_refused_and_the_key_does_not_travel(serve, status):
    other = serve(echo)
    server = serve(then((status, {}, {"Location": f"{other.url}/chat/completions"})))
    with pytest.raises(ModelError, match=rf"redirects to {other.url}/chat/completions, which is not followed"):
        ask(server, "a", key="secret-key")
    assert server.requests[0]["headers"]["Authorization"] == "Bearer secret-key"
    assert other.requests == []


def test_max_tokens_is_called_otherwise_where_the_server_says_so(serve):
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    refused = {"error": {"message": message, "param": "max_tokens", "code": "unsupported_parameter"}}
    server = serve(lambda request: (400, refused) if "max_tokens" in request["body"] else echo(request))
    answers = ask(server, "a", "b", "c", options=Options(max_new_tokens=5), concurrency=1)
    assert text_of(answers) == ["echo of a", "echo of b", "echo of c"]
    limits = [(r["body"].get("max_tokens"), r["body"].get("max_completion_tokens")) for r in server.requests]
    assert limits == [(5, None), (None, 5), (None, 5), (None, 5)]


def test_the_other_name_refused_too_is_an_error(serve):
    server = serve(then((400, {"error": {"message": "max_tokens or max_completion_tokens is too large"}})))
    with pytest.raises(ModelError, match="is too large"):
        ask(server, "a")
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("https://api.openai.com/v1", KEYS[0]),
        ("https://API.OpenAI.com:443/v1", KEYS[0]),
        ("https://api.openai.com.example.org/v1", KEYS[1]),
        ("https://eu.api.openai.com/v1", KEYS[1]),
        ("https://example.org/api.openai.com/v1", KEYS[1]),
        ("http://127.0.0.1:8000/v1", KEYS[1]),
    ],
)
def test_each_host_gets_its_own_key_only(monkeypatch, url, variable):
    assert key_variable(httpx.URL(url)) == variable
    for name in KEYS:
        monkeypatch.setenv(name, f"value of {name}")
    assert Endpoint(url, None, 1.0, QUICK).key == f"value of {variable}"
    assert Endpoint(url, "given", 1.0, QUICK).key == "given"
    assert Endpoint(url, "", 1.0, QUICK).key == ""


def test_a_stranger_never_sees_the_openai_key(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "openai-key")
    server = serve(echo)
    ask(server, "a")
    monkeypatch.setenv("TUNESMITH_REMOTE_KEY", "own-key\n")
    ask(server, "b")
    assert [request["headers"].get("Authorization") for request in server.requests] == [None, "Bearer own-key"]
    monkeypatch.setenv("TUNESMITH_REMOTE_KEY", "schlüssel")
    with pytest.raises(ConfigError, match="Look at TUNESMITH_REMOTE_KEY"):
        ask(server, "c")


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("https://host:8000/v1#org/model:7b", ("https://host:8000/v1", "org/model:7b")),
        ("HTTP://host/v1# model#2 ", ("HTTP://host/v1", "model#2")),
        ("http://host/v1", ("http://host/v1", "")),
        ("http://host/v1#", ("http://host/v1", "")),
        ("runs/demo", None),
        ("ftp://host/v1#m", None),
        ("https", None),
    ],
)
def test_names_of_remote_models(name, want):
    assert parse_remote(name) == want


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/v1", "is no URL of a model server"),
        ("http://", "is no URL of a model server"),
        ("http://host/v1?api-version=1", "with nothing after the path"),
        ("http://host:port/v1", "is no URL"),
        ("https://me:hunter2@host/v1", "holds a password"),
        ("https://me:hunter2@host:port/v1", "is no URL"),
        ("https://api.openai.com@host/v1", "Put it into TUNESMITH_REMOTE_KEY"),
        ("http://api.openai.com/v1", "unencrypted"),
    ],
)
def test_addresses_that_cannot_be_used(url, said):
    with pytest.raises(ConfigError, match=said) as fault:
        check_address(url)
    assert "hunter2" not in str(fault.value)


def test_https_on_a_plain_server(serve):
    with pytest.raises(ModelError, match=r"cannot connect to https://\S+ securely .*Is it http:// there\?"):
        ask_one(RemoteModel(serve(echo).url.replace("http", "https"), "small"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_a_certificate_must_be_trusted(serve, tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ["-subj", "/CN=tunesmith test", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *names]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    server = serve(echo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    url = server.url.replace("http", "https")
    with pytest.raises(ModelError, match=r"securely \(self-signed certificate\).*set SSL_CERT_FILE"):
        ask_one(RemoteModel(url, "small"))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert ask_one(RemoteModel(url, "small")).choice.text == "echo of a"
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match="Look at HTTP_PROXY"):
        ask_one(RemoteModel(url, "small"))


def test_a_listener_can_end_the_work_while_the_server_is_silent(serve, monkeypatch):
    monkeypatch.setattr(generator, "BEAT_SECONDS", 0.02)
    released = threading.Event()
    server = serve(lambda request: released.wait(20) and echo(request))

    def stop(done: int) -> None:
        raise Stopped("stopped.")

    try:
        with pytest.raises(Stopped):
            answer_all(RemoteModel(server.url, "small"), [(as_conversation("a"), Options())], stop)
        assert not released.is_set()
    finally:
        released.set()


def test_it_works_under_a_loop_that_runs(serve):
    server = serve(echo)

    async def notebook() -> list[Completion]:
        return ask(server, "a")

    assert text_of(asyncio.run(notebook())) == ["echo of a"]


def test_an_interrupt_ends_it_though_the_server_is_silent(serve):
    asked, released = threading.Event(), threading.Event()

    def silent(request):
        asked.set()
        return released.wait(20) and echo(request)

    code = """
import sys
from tunesmith.infer.generator import Options, answer_all
from tunesmith.infer.remote import RemoteModel
from tunesmith.prompt.messages import as_conversation
try:
    answer_all(RemoteModel(sys.argv[1], "small"), [(as_conversation("a"), Options())] * 9)
except KeyboardInterrupt:
    print("interrupted")
"""
    server = serve(silent)
    child = subprocess.Popen([sys.executable, "-W", "error", "-c", code, server.url], stdout=-1, stderr=-1, text=True)
    try:
        assert asked.wait(20)
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=10) == ("interrupted\n", "")
        assert not released.is_set()
    finally:
        released.set()
        child.kill()


def test_it_is_a_generator_that_neither_scores_nor_learns(serve):
    model = RemoteModel(serve(echo).url, "small")
    assert not isinstance(model, Scorer | Updatable)
    with pytest.raises(ModelError, match="answers conversations, not token ids"):
        model.submit([1, 2, 3])
    assert Chat(model).generate("hello") == "echo of hello"
    assert list(Chat(model).stream("hello")) == ["echo of hello"]


def test_all_options_are_sent_and_all_of_the_answer_is_read(serve):
    tokens = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1}]
    choices = [{"message": {"content": "a"}, "finish_reason": "stop", "logprobs": {"content": tokens}},
               {"message": {"content": "b"}, "finish_reason": "content_filter"}]  # fmt: skip
    usage = {"prompt_tokens": 5, "completion_tokens": 4}
    server = serve(then((200, {"choices": choices, "usage": usage})))
    options = Options(n=2, stop=("x", "y"), logprobs=True, adapter="other")
    answering = RemoteModel(server.url, "small").submit(as_conversation("hello"), options)
    completion = answering.result(20)
    body = server.requests[0]["body"]
    assert (body["n"], body["stop"], body["logprobs"], body["model"]) == (2, ["x", "y"], True, "other")
    assert [(one.text, one.finish_reason, one.logprobs) for one in completion.choices] == [
        ("a", "stop", [-0.5, -1.0]), ("b", "content_filter", None),
    ]  # fmt: skip
    assert completion.usage == Usage(5, 4)
    assert list(answering) == [Delta(0, "a", [], [-0.5, -1.0], "stop"), Delta(1, "b", [], None, "content_filter")]
    with pytest.raises(ModelError, match="answers without 3 messages in 'choices'"):
        ask(server, "hello", options=Options(n=3))


def test_requests_that_wait_are_bounded_and_cancelled_ones_are_never_sent(serve):
    released, asked = threading.Event(), threading.Event()

    def wait(request):
        asked.set()
        return released.wait(20) and echo(request)

    server = serve(wait)
    model = RemoteModel(server.url, "small", concurrency=1, most_waiting=2)
    running = model.submit(as_conversation("0"))
    assert asked.wait(20)
    others = [model.submit(as_conversation(str(number))) for number in (1, 2)]
    with pytest.raises(Full, match="2 requests wait"):
        model.submit(as_conversation("3"))
    others[0].cancel()
    last = model.submit(as_conversation("4"))
    running.cancel()
    assert running.result(20).choice.finish_reason == "cancelled"
    assert others[0].result(20).choice.finish_reason == "cancelled"
    released.set()
    assert [one.result(20).choice.text for one in (others[1], last)] == ["echo of 2", "echo of 4"]
    assert "1" not in [request["body"]["messages"][0]["content"] for request in server.requests]
    deadline = time.monotonic() + 10
    while [thread for thread in threading.enumerate() if thread.name == "tunesmith-remote"]:
        assert time.monotonic() < deadline, "the thread outlives its work"
        time.sleep(0.01)
    assert model.submit(as_conversation("again")).result(20).choice.text == "echo of again"
