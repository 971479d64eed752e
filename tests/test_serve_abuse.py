"""The API under abuse: whatever is sent, on both databases, it answers with an error in its shape, and goes on."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import time
from collections import Counter

import httpx
import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from conftest import made_once, new_database, save_tiny
from serving import OURS, Running, rows
from tunesmith.serve import gate


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def running(request, tmp_path_factory):
    records = new_database(request.getfixturevalue("postgres")) if request.param == "postgres" else None
    base = made_once(tmp_path_factory, "tiny", save_tiny)
    one = Running(tmp_path_factory.mktemp("serve"), base, records)
    yield one
    one.stop()


@pytest.fixture(scope="module")
def client(running):
    return running.client(role="admin")


@pytest.fixture(scope="module")
def there(client):
    """Ids of what is there, by the routes that name it."""
    file = client.files.create(file=rows(12), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, extra_body=OURS)
    upload = client.uploads.create(bytes=10, filename="x", mime_type="text/plain", purpose="batch")
    return {"files": file.id, "jobs": job.id, "uploads": upload.id, "webhook_endpoints": "whe_none"}


@pytest.mark.parametrize("running", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("examples", [4, pytest.param(100, marks=pytest.mark.fuzz)])
def test_no_route_breaks(running, client, there, examples):
    """What the routes say that they take, and what they say that they do not; half of it is about what is there."""
    schema, turn = schemathesis.openapi.from_url(f"{running.url}/openapi.json"), [0]
    tried = Counter()

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None,
        phases=[Phase.generate],
    )  # fmt: skip
    def goes_on(case):
        turn[0] += 1
        for part, id in there.items():
            if turn[0] % 2 and f"/{part}/" in case.operation.path and "id" in (case.path_parameters or {}):
                case.path_parameters["id"] = id
        if turn[0] % 3 and isinstance(case.body, dict):
            filled = {"model": "tiny", "training_file": there["files"], "max_tokens": 1}
            case.body |= {name: value for name, value in filled.items() if name in case.body}
            short = {
                "max_tokens": 1,
                "max_completion_tokens": 1,
                "n": 1,
                "stream": False,
            }  # most of the time, else, is theirs
            case.body |= short if "messages" in case.body or "prompt" in case.body else {}
        answer = case.call(headers={"Authorization": f"Bearer {client.api_key}"}, timeout=60)
        tried[answer.status_code] += 1
        assert answer.status_code < 500, (case.as_curl_command(), answer.text)
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert "Traceback" not in answer.text
        assert str(running.folder) not in answer.text
        assert client.api_key not in answer.text

    routes = [result.ok() for result in schema.get_all_operations()]
    assert len(routes) > 30
    for route in routes:
        for mode in GenerationMode:
            with contextlib.suppress(Unsatisfiable):  # nothing about this route could be wrong
                given(route.as_strategy(generation_mode=mode))(goes_on)()
    assert tried[200] > 4 * examples


def ask(running, client, method, path, **more):
    headers = {"Authorization": f"Bearer {client.api_key}", **more.pop("headers", {})}
    return httpx.request(method, running.url + path, headers=headers, timeout=60, **more)


ODD = ["\x00", "a\x00b", "\ud800", "\u202e", "😀" * 50, "'; DROP TABLE jobs; --", "%", "a" * 5000, "\n", ""]


@pytest.mark.parametrize("text", ODD, ids=lambda text: ascii(text[:6]))
def test_odd_texts_are_kept_or_refused(running, client, there, text):
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 1, "stop": text or None}
    job = {"model": "tiny", "training_file": there["files"], "tunesmith": OURS["tunesmith"]}
    grader = {"type": "string_check", "name": "x", "operation": "eq", "input": "{{sample.output_text}}",
              "reference": "x"}  # fmt: skip
    asked = [
        ("/v1/chat/completions", body),
        ("/v1/chat/completions", {**body, "model": text}),
        ("/v1/completions", {"model": "tiny", "prompt": text, "max_tokens": 1}),
        ("/v1/fine_tuning/jobs", {**job, "metadata": {text: text}}),
        ("/v1/fine_tuning/jobs", {**job, "suffix": text}),
        ("/v1/fine_tuning/jobs", {**job, "training_file": text}),
        ("/v1/fine_tuning/jobs", {**job, "tunesmith": {text: text}}),
        ("/v1/uploads", {"bytes": 1, "filename": text, "mime_type": text, "purpose": "batch"}),
        ("/v1/webhook_endpoints", {"name": text, "url": text, "event_types": [text]}),
        ("/v1/fine_tuning/checkpoints/x/permissions", {"project_ids": [text]}),
        ("/v1/fine_tuning/alpha/graders/run", {"grader": grader, "model_sample": text, "item": {text: text}}),
        ("/v1/fine_tuning/alpha/graders/run", {"grader": {**grader, "name": text}, "model_sample": "x"}),
        ("/v1/fine_tuning/alpha/graders/validate", {"grader": {**grader, "reference": "{{item." + text + "}}"}}),
        (
            "/v1/fine_tuning/jobs",
            {**job, "method": {"type": "reinforcement", "reinforcement": {"grader": {**grader, "input": text}}}},
        ),
    ]
    for path, values in asked:
        answer = ask(running, client, "POST", path, content=json.dumps(values))
        assert answer.status_code < 500, (path, values, answer.text)
    key = text.encode("utf-8", "surrogatepass").replace(b"\x00", b"").replace(b"\n", b"")
    answer = ask(running, client, "POST", "/v1/fine_tuning/jobs", json=job, headers={"Idempotency-Key": key})
    assert answer.status_code < 500
    answer = ask(running, client, "POST", "/v1/files", data={"purpose": "batch"}, files={"file": ("x", b"x")})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/..%2f..%2fetc%2fpasswd", "/v1/files/../../../../etc/passwd", "/v1/files/%00",
        "/v1/files/%2e%2e/content",
        "/v1/models/..%2F..%2Fetc", "/v1/models/%00", "/v1/models/ft:tiny:default::%2e%2e%2f%2e",
        "/v1/models//etc/passwd",
        "/v1/files/file-results-..%2f..%2f", "/v1/fine_tuning/jobs/%00", "/v1/fine_tuning/jobs/ftjob-%25/events",
        "/v1/fine_tuning/jobs?after=%00&limit=1", "/v1/files?purpose=%00", "/v1/fine_tuning/jobs?metadata[%00]=%00",
        "/v1/files/%ff%fe", "/v1/webhook_endpoints/%00", "//v1/files", "/v1/fine_tuning/checkpoints/%00/permissions",
        "/docs/../v1/files",
    ],
)  # fmt: skip
def test_tricks_in_paths_find_nothing(running, client, path):
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as raw:
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer {client.api_key}"
        raw.sendall(f"{head}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    status = int(answer.split()[1])
    assert status in (200, 400, 404, 405, 307), answer
    assert b"root:" not in answer
    if status == 200:
        assert b'"object":"list"' in answer


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000, b'{"a":' * 100_000, b"{", b"", b"null", b"[]", b'"x"', b"\xff\xfe", b"NaN",
        b'{"model": "tiny", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model": "tiny", "messages": [{"role": "user", "content": ' + b"[" * 900 + b"]" * 900 + b"}]}",
        b'{"model": "tiny", "messages": [{"role": "user", "content": 1e999}], "temperature": 1e999}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 99999999999999999999999, '
        b'"stop": ["e", "a", " ", "t"]}',
        b'{"model": "tiny", "training_file": "x", "tunesmith": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
    ],
    ids=range(15),
)  # fmt: skip
def test_json_that_is_none_or_too_deep(running, client, content):
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/fine_tuning/jobs", "/v1/uploads"):
        answer = ask(running, client, "POST", path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code < 500, answer.text
        assert answer.status_code == 200 or set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_bodies_that_are_too_long_are_not_read(running, client):
    def endless(head):
        yield head
        for _ in range(100):
            yield b" " * (1 << 20)

    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    for path, kind, head in (
        ("/v1/chat/completions", "application/json", b"{"),
        ("/v1/files", "multipart/form-data; boundary=x", part),
    ):
        headers = {"Authorization": f"Bearer {client.api_key}", "Content-Type": kind}
        with contextlib.suppress(httpx.WriteError):  # it has hung up before all was sent
            assert httpx.post(running.url + path, content=endless(head), headers=headers).status_code == 413
    assert ask(running, client, "GET", "/healthz").status_code == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # starlette lets go of half an upload
def test_an_upload_that_breaks_off_leaves_nothing(running, client):
    before = {file.id for file in client.files.list()}
    port = int(running.url.rpartition(":")[2])
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {client.api_key}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000\r\n\r\n"
    )
    part = '--x\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nhalf of '
    for sent in (head, head + part):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(sent.encode())
    time.sleep(0.3)
    assert {file.id for file in client.files.list()} == before
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert ask(running, client, "POST", "/v1/files", content=part, headers=kind).status_code == 400  # whole, it is none


def test_a_body_that_comes_too_slowly_is_not_waited_for(running, client, monkeypatch):
    monkeypatch.setattr(gate, "SILENCE", 0.3)
    port = int(running.url.rpartition(":")[2])
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {client.api_key}\r\n"
    for drip in (0.0, 0.1):  # in silence, and letter by letter
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall((head + "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{").encode())
            raw.settimeout(0.1)
            answer, deadline = b"", time.monotonic() + 10
            while not answer and time.monotonic() < deadline:
                if drip:
                    time.sleep(drip)
                    raw.sendall(b" ")
                try:
                    answer = raw.recv(65536)
                except TimeoutError:
                    continue
            assert b" 408 " in answer.splitlines()[0]


def test_temporary_files_of_uploads_are_gone(running, client, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    client.files.create(file=b"x" * 1_000_000, purpose="batch")
    with pytest.raises(openai.APIStatusError):
        client.files.create(file=b"x" * ((1 << 20) + 5), purpose="batch")
    late = time.monotonic() + 10  # the answer may be there a moment before they are closed
    while list(tmp_path.iterdir()) and time.monotonic() < late:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []
