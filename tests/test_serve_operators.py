"""What operators of the API rely on: webhooks, limits, logs, and who may reach what."""

from __future__ import annotations

import json
import logging
import os
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

import httpx
import openai
import pytest
from openai import OpenAI
from sqlalchemy import select

from conftest import made_once, save_tiny
from serving import OURS, Running, rows, wait_for_end
from tunesmith.core.errors import ConfigError
from tunesmith.exec.executor import Job
from tunesmith.exec.queue.commit import Ending, end
from tunesmith.exec.queue.lease import claim
from tunesmith.exec.queue.submit import Submission, submit
from tunesmith.serve import audit, deliver
from tunesmith.serve.deliver import Deliverer
from tunesmith.serve.keys import create_key
from tunesmith.serve.logs import Lines, Text
from tunesmith.serve.outside import addresses_of, is_public, post, refuse_address
from tunesmith.serve.signing import new_secret, signed
from tunesmith.store.records import now
from tunesmith.store.schema import deliveries, webhooks
from tunesmith.store.stores import know_project


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((dict(self.headers), body))
        left = self.server.left
        self.send_response(left.pop(0) if len(left) > 1 else left[0])
        self.end_headers()

    def log_message(self, *arguments):
        pass


class Receiver:
    """Hears what it is sent, and answers with the statuses that it is given, the last one again and again."""

    def __init__(self, *statuses, context=None):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.heard = self.heard = []
        self.server.left = list(statuses)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/told?x=1"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return made_once(tmp_path_factory, "tiny", save_tiny)


@pytest.fixture(scope="module")
def running(tmp_path_factory, base):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deliver, "LOOK", 0.05)
        patch.setattr(deliver, "FIRST", 0.1)
        one = Running(
            tmp_path_factory.mktemp("serve"), base, origins=["https://app.example"], private_webhooks=True,
            integrations=("wandb",),
        )  # fmt: skip
        yield one
        one.stop()


@pytest.fixture(scope="module")
def client(running):
    return running.client()


# Webhooks


def test_a_webhook_hears_of_the_end_of_a_job_though_it_was_down(running):
    client = running.client("hooked")
    with Receiver(503, 302, 200) as receiver:
        made = client.webhooks.create(
            name="mine", url=receiver.url, event_types=["fine_tuning.job.failed", "fine_tuning.job.succeeded"]
        )
        file = client.files.create(file=rows(3), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, extra_body=OURS)
        until(lambda: len(receiver.heard) == 3)
        events = [client.webhooks.unwrap(body, headers, secret=made.signing_secret) for headers, body in receiver.heard]
        assert {event.type for event in events} == {"fine_tuning.job.failed"}
        assert {event.data.id for event in events} == {job.id}
        assert len({event.id for event in events}) == 1
        assert {headers["webhook-id"] for headers, _ in receiver.heard} == {events[0].id}
        until(lambda: client.webhooks.retrieve(made.id).model_extra["tunesmith"]["waiting"] == 0)
        time.sleep(0.5)
        assert len(receiver.heard) == 3
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(receiver.heard[0][1] + b" ", receiver.heard[0][0], secret=made.signing_secret)


def test_webhooks_are_listed_changed_tried_and_deleted(running):
    client, other = running.client("changing"), running.client("else")
    with Receiver(204) as receiver:
        made = client.webhooks.create(name="a", url=receiver.url, event_types=["fine_tuning.job.succeeded"])
        assert made.signing_secret.startswith(made.signing_secret_hint.removesuffix("..."))
        assert [one.id for one in client.webhooks.list()] == [made.id]
        assert client.webhooks.update(made.id, name="b").name == "b"
        assert client.webhooks.event_types.list().data[0] == "fine_tuning.job.succeeded"
        with pytest.raises(openai.BadRequestError, match="is not one of"):
            client.webhooks.update(made.id, event_types=["fine_tuning.job.suceeded"])
        tried = client.webhooks.test(made.id, event_type="fine_tuning.job.cancelled")
        assert tried.status_code == 204
        turned = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
        client.webhooks.test(made.id, event_type="fine_tuning.job.cancelled")
        headers, body = receiver.heard[-1]
        for secret in (made.signing_secret, turned.signing_secret):
            assert client.webhooks.unwrap(body, headers, secret=secret).data.id == "ftjob-sample"
        last = client.webhooks.rotate_secret(made.id).signing_secret
        client.webhooks.test(made.id, event_type="fine_tuning.job.cancelled")
        headers, body = receiver.heard[-1]
        client.webhooks.unwrap(body, headers, secret=last)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(body, headers, secret=turned.signing_secret)
    with pytest.raises(openai.BadRequestError, match="cannot be told anything"):
        client.webhooks.test(made.id, event_type="fine_tuning.job.cancelled")
    for ask in (other.webhooks.retrieve, other.webhooks.delete, other.webhooks.rotate_secret):
        with pytest.raises(openai.NotFoundError):
            ask(made.id)
    assert client.webhooks.delete(made.id).deleted
    assert list(client.webhooks.list()) == []


def ended(records, project, outcome="failed"):
    id = submit(records, Submission(Job("finetune", {}), project=project, details={"api": True}))
    lease = claim(records, "w", 60.0)
    end(records, lease, Ending(outcome, "why", files={}))
    return id


def test_two_servers_tell_each_end_once_and_nothing_that_was_over(records, monkeypatch):
    monkeypatch.setattr(deliver, "LOOK", 0.01)
    with records.write() as connection:
        know_project(connection, "p")
    ended(records, "p")
    with Receiver(200) as receiver:
        row = {"id": "whe_1", "project": "p", "name": "n", "url": receiver.url, "secret": new_secret()}
        row |= {"types": ["fine_tuning.job.failed"], "created": now(), "updated": now()}
        with records.write() as connection:
            connection.execute(webhooks.insert().values(**row))
            deliver.know_ended(connection, "whe_1")
        both = [Deliverer(records, True) for _ in range(2)]
        for one in both:
            one.start()
        wanted = {ended(records, "p") for _ in range(6)}
        ended(records, "p", "succeeded")
        ended(records, "another")
        until(lambda: len(receiver.heard) == 6)
        time.sleep(0.3)
        for one in both:
            one.stop()
        assert sorted(json.loads(body)["data"]["id"] for _, body in receiver.heard) == sorted(wanted)


def test_who_never_answers_is_given_up(records, monkeypatch):
    monkeypatch.setattr(deliver, "LOOK", 0.01)
    monkeypatch.setattr(deliver, "FIRST", 0.05)
    monkeypatch.setattr(deliver, "GIVE_UP", 1.0)
    with records.write() as connection:
        know_project(connection, "p")
        row = {"id": "whe_1", "project": "p", "name": "n", "url": "http://127.0.0.1:1/", "secret": new_secret()}
        row |= {"types": ["fine_tuning.job.failed"], "created": now(), "updated": now()}
        connection.execute(webhooks.insert().values(**row))
    one = Deliverer(records, True)
    one.start()
    ended(records, "p")

    def given_up():
        with records.read() as connection:
            return connection.execute(select(deliveries).where(deliveries.c.done.is_not(None))).one_or_none()

    until(lambda: given_up() is not None)
    one.stop()
    assert given_up().tries > 1
    assert given_up().sentence


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "https://", "https:///x", "x", "https://a:b@example.com/",
        "https://127.0.0.1/", "https://localhost:8000/", "https://10.1.2.3/", "https://192.168.0.1", "https://[::1]/",
        "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest/meta-data", "https://2130706433/",
        "https://0x7f.1/", "https://0/", "https://[64:ff9b::a00:1]/", "https://[fd00::1]/", "https://exa mple.com/",
        "https://no-such-name.invalid/", "https://[::1", "https://example.com:99999/", "https://exämple.com/",
    ],
)  # fmt: skip
def test_requests_go_to_no_network_of_the_operators(url):
    with pytest.raises(ConfigError):
        addresses_of(str(refuse_address(url, private=False).hostname), 443, private=False)


def test_which_addresses_are_public():
    public = ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
    private = [
        "0.0.0.0",
        "100.64.0.1",
        "172.16.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "2002:a00:1::",
        "fe80::1",
        "ff02::1",
    ]
    private += ["2001:0:4136:e378:8000:63bf:3fff:fdd2"]
    assert all(is_public(ip_address(one)) for one in public)
    assert not any(is_public(ip_address(one)) for one in private)


def certificate(folder, name):
    """Of a server called `name`, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, today = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(1).not_valid_before(today - timedelta(days=1)).not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return path, context


def test_the_certificate_must_be_the_names(tmp_path, monkeypatch):
    path, context = certificate(tmp_path, "localhost")
    with Receiver(200, context=context) as receiver:
        url = f"https://localhost:{receiver.port}/"
        with pytest.raises(OSError, match="self-signed"):
            post(url, b"x", {}, private=True)
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        assert post(url, b"x", {}, private=True) == 200
        assert receiver.heard[0][0]["Host"] == f"localhost:{receiver.port}"
        with pytest.raises(OSError, match="not valid for"):
            post(url.replace("localhost", "127.0.0.1"), b"x", {}, private=True)


def test_signatures_are_verified_by_the_client():
    secret, body = new_secret(), b'{"id": "evt", "type": "fine_tuning.job.succeeded", "data": {"id": "j"}}'
    client = OpenAI(api_key="x", webhook_secret=secret)
    client.webhooks.verify_signature(body, signed("evt", int(time.time()), body, [secret]))
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body, signed("evt", int(time.time()) - 400, body, [secret]))


# Limits


def test_a_key_asks_so_many_times_a_minute(running):
    _, secret = create_key(running.stores.records, "slow", "slow", per_minute=3)
    client = running.as_client(secret)
    left = [client.models.with_raw_response.list().headers["x-ratelimit-remaining-requests"] for _ in range(3)]
    assert left == ["2", "1", "0"]
    with pytest.raises(openai.RateLimitError) as error:
        client.models.list()
    assert 1 <= int(error.value.response.headers["retry-after"]) <= 20
    assert running.client("slow").models.list().data  # another key of the same project


def test_a_key_sends_so_many_bytes(running):
    _, secret = create_key(running.stores.records, "small", "small", largest_file=100)
    client = running.as_client(secret)
    client.files.create(file=b"x" * 100, purpose="batch")
    for ask in (
        lambda: client.files.create(file=b"x" * 101, purpose="batch"),
        lambda: client.uploads.create(bytes=101, filename="x", mime_type="text/plain", purpose="batch"),
    ):
        with pytest.raises(openai.APIStatusError) as error:
            ask()
        assert error.value.status_code == 413


# What is written down


def test_changes_are_in_the_audit_log_and_contents_are_not(running):
    key, secret = create_key(running.stores.records, "noted", "noted")
    client = running.as_client(secret)
    sent = client.files.with_raw_response.create(file=("secret-name.txt", b"very secret"), purpose="batch")
    file = sent.parse()
    client.files.retrieve(file.id)
    client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "very secret"}], max_tokens=1)
    client.files.delete(file.id)
    with pytest.raises(openai.NotFoundError):
        client.files.delete(file.id)
    found = [entry for entry in audit.read(running.stores.records) if entry.project == "noted"]
    assert [(entry.action, entry.what, entry.status) for entry in found] == [
        ("POST", "/v1/files", 200), ("DELETE", f"/v1/files/{file.id}", 200), ("DELETE", f"/v1/files/{file.id}", 404),
    ]  # fmt: skip
    assert {entry.key for entry in found} == {key.id}
    assert found[0].request == sent.headers["x-request-id"]


def test_requests_are_logged_without_what_was_said(running, client, caplog):
    caplog.set_level(logging.INFO, "tunesmith.serve.access")
    client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "very secret"}], max_tokens=1)
    list(client.fine_tuning.jobs.list(metadata={"secret": "x"}))
    httpx.get(f"{running.url}/v1/files/a%0Ab%22", headers={"Authorization": "Bearer very-secret"})
    until(lambda: len(caplog.records) == 3)
    assert "secret" not in caplog.text
    first, _, last = (json.loads(record.getMessage()) for record in caplog.records)
    assert (first["path"], first["status"], first["project"]) == ("/v1/chat/completions", 200, "default")
    assert (last["path"], last["status"], last["key"]) == ("/v1/files/a%0Ab%22", 401, None)
    for formatter in (Text(), Lines()):
        assert all("\n" not in formatter.format(record) for record in caplog.records)
    assert "warning: odd" in Text().format(logging.LogRecord("tunesmith.serve", 30, "", 0, "odd", (), None))


# Who may reach it


def test_pages_of_other_sites_are_refused(running):
    ask = f"{running.url}/healthz"
    assert httpx.get(ask, headers={"Origin": "https://evil.example"}).status_code == 403
    assert httpx.get(ask, headers={"Origin": "null"}).status_code == 403
    assert httpx.get(ask, headers={"Origin": "http://[x"}).status_code == 403
    assert httpx.get(ask, headers={"Origin": running.url}).status_code == 200
    allowed = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    answer = httpx.options(f"{running.url}/v1/files", headers=allowed)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"


def test_metrics_go_where_the_operator_lets_them(running, client, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    file = client.files.create(file=rows(12), purpose="fine-tune")
    asked = [{"type": "wandb", "wandb": {"project": "p", "entity": "e", "name": "n", "tags": ["t"]}}]
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file.id, integrations=asked, extra_body=OURS, hyperparameters={"n_epochs": 1}
    )
    assert job.integrations[0].wandb.entity == "e"
    done = wait_for_end(client, job.id)
    assert (done.status, done.error) == ("succeeded", None)
    with pytest.raises(openai.BadRequestError, match="one integration"):
        client.fine_tuning.jobs.create(model="tiny", training_file=file.id, integrations=asked * 2)


# A restart


def test_a_signal_lets_answers_end_and_sends_watchers_away(tmp_path, base):
    command = [sys.executable, "-c", "from tunesmith.cli.main import run; run()", "serve", "--port", "0", "--workers",
               "0", "--log", "none", "--home", str(tmp_path), "--model", f"tiny={base}"]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as one:
        secret, url = one.stdout.readline().split()[-1], one.stdout.readline().split()[1].rstrip(",")
        client = OpenAI(base_url=url, api_key=secret, max_retries=10)
        file = client.files.create(file=rows(10), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
        settings = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "Tell."}],
            "temperature": 0,
            "max_tokens": 300,
        }
        whole = client.chat.completions.create(**settings)
        page = url.removesuffix("v1")
        with httpx.Client(base_url=page, timeout=20) as browser:
            browser.post("login", data={"key": secret}, headers={"Origin": page.rstrip("/")})
            with browser.stream("GET", f"jobs/{job.id}/live") as watched:
                lines = watched.iter_lines()
                assert next(lines).startswith("data: ")
                pieces = client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
                said = [next(pieces)]
                began = time.monotonic()
                one.terminate()
                said += list(pieces)
                list(lines)  # ends
        assert said[-1].usage.completion_tokens == whole.usage.completion_tokens
        text = "".join(piece.choices[0].delta.content or "" for piece in said if piece.choices)
        assert text == whole.choices[0].message.content
        assert one.wait(20) == 0
        assert time.monotonic() - began < 20  # not the 30 s that answers may take
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
        client.close()
