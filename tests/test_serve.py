"""The API, as OpenAI's unmodified client meets it: a real server, a real worker, small true models."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time

import httpx
import openai
import pytest
import torch
from safetensors.torch import load, load_file

from conftest import made_once, save_tiny
from serving import OURS, Running, rows, wait_for_end
from tunesmith.exec.queue.commit import read_checkpoints
from tunesmith.exec.queue.control import read_model
from tunesmith.serve.keys import create_key, find_key, list_keys, revoke_key
from tunesmith.serve.names import job_of, tuned_name
from tunesmith.serve.results import finish_of


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    one = Running(tmp_path_factory.mktemp("serve"), made_once(tmp_path_factory, "tiny", save_tiny))
    yield one
    one.stop()


@pytest.fixture(scope="module")
def client(running):
    return running.client()


@pytest.fixture(scope="module")
def tuned(client):
    """A job that has succeeded."""
    file = client.files.create(file=rows(40), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="gpt-3.5-turbo", training_file=file.id, suffix="mine", metadata={"a": "b"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}, extra_body=OURS,
    )  # fmt: skip
    assert job.status in ("queued", "validating_files")
    return wait_for_end(client, job.id)


# The road of OpenAI's users


def test_a_file_becomes_a_model_that_answers(client, tuned):
    assert (tuned.status, tuned.error) == ("succeeded", None)
    assert tuned.fine_tuned_model == f"ft:gpt-3.5-turbo:default:mine:{tuned.id[6:14]}"
    assert tuned.trained_tokens > 0
    assert tuned.metadata == {"a": "b"}
    assert tuned.hyperparameters.n_epochs == 1
    assert {model.id for model in client.models.list()} >= {"tiny", "gpt-3.5-turbo", tuned.fine_tuned_model}
    asked = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi?"}]},
    ]
    settings = {"model": tuned.fine_tuned_model, "messages": asked, "temperature": 0, "max_tokens": 12}
    whole = client.chat.completions.create(**settings, logprobs=True)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
    pieces = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces[:-1]) == whole.choices[0].message.content
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert pieces[-1].usage == whole.usage
    assert {piece.id for piece in pieces} == {pieces[0].id}
    text = client.completions.create(model=tuned.fine_tuned_model, prompt="The pool", max_tokens=3, temperature=0)
    assert text.usage.completion_tokens == 3


def test_what_a_job_has_said_is_told_in_pages(client, tuned):
    first = client.fine_tuning.jobs.list_events(tuned.id, limit=2)
    messages = [event.message for event in client.fine_tuning.jobs.list_events(tuned.id, limit=3)]  # all pages
    assert first.has_more
    assert [event.message for event in first.data] == messages[:2]
    assert messages[:2] == [
        "The job has successfully completed",
        f"New fine-tuned model created: {tuned.fine_tuned_model}",
    ]
    assert messages[-1] == f"Created fine-tuning job: {tuned.id}"
    assert f"Validating training file: {tuned.training_file}" in messages
    assert len({event.id for event in client.fine_tuning.jobs.list_events(tuned.id, limit=3)}) == len(messages)
    metrics = [event.data for event in client.fine_tuning.jobs.list_events(tuned.id) if event.type == "metrics"]
    assert {"step", "total_steps", "train_loss"} <= set(metrics[0])


def test_jobs_are_found_by_their_metadata(client, tuned):
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"a": "b"})] == [tuned.id]
    assert list(client.fine_tuning.jobs.list(metadata={"a": "c"})) == []
    assert tuned.id not in {job.id for job in client.fine_tuning.jobs.list(extra_query={"metadata": "null"})}


def test_the_finish_is_estimated_by_the_pace():
    steps = {number: {"step": number, "total_steps": 10, "seconds": 2.0} for number in (1, 2, 3)}
    assert finish_of(steps) == 14.0
    assert finish_of({}) is None


def test_results_and_checkpoints(client, tuned):
    table = list(csv.reader(io.StringIO(client.files.content(tuned.result_files[0]).text)))
    assert table[0] == ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
    assert [line[0] for line in table[1:]] == ["1", "2", "3", "4", "5"]
    assert client.files.retrieve(tuned.result_files[0]).purpose == "fine-tune-results"
    found = client.fine_tuning.jobs.checkpoints.list(tuned.id).data
    assert [one.step_number for one in found] == [5, 3]
    assert found[0].fine_tuned_model_checkpoint == f"{tuned.fine_tuned_model}:ckpt-step-5"
    assert found[0].metrics.train_loss == pytest.approx(float(table[5][1]))
    asked = [{"role": "user", "content": "Hi?"}]
    last = client.chat.completions.create(model=found[0].fine_tuned_model_checkpoint, messages=asked, max_tokens=2)
    assert last.usage.completion_tokens <= 2


def test_each_kept_checkpoint_answers_as_it_was(running, client, tuned):
    name = f"{tuned.fine_tuned_model}:ckpt-step-3"
    asked = {"messages": [{"role": "user", "content": "Hi?"}], "temperature": 0, "max_tokens": 5, "logprobs": True}
    answers = {one: client.chat.completions.create(model=one, **asked) for one in (name, tuned.fine_tuned_model)}
    first, last = ([token.logprob for token in one.choices[0].logprobs.content] for one in answers.values())
    assert first[0] != last[0]
    files = dict(read_checkpoints(running.stores.records, tuned.id))[3]
    kept = load(b"".join(running.stores.blobs.read(files["checkpoints/step-000003/trainable.safetensors"][0])))
    made = load_file(running.folder / "models" / f"{tuned.id}-step-3" / "model" / "adapter_model.safetensors")
    assert {name.replace(".default", ""): True for name in kept} == dict.fromkeys(made, True)
    assert all(torch.equal(made[name.replace(".default", "")], value) for name, value in kept.items())
    with pytest.raises(openai.BadRequestError, match="is a checkpoint"):
        client.models.delete(name)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=f"{tuned.fine_tuned_model}:ckpt-step-4", **asked)


def test_bad_files_end_in_a_failed_job(client):
    few = client.files.create(file=rows(3), purpose="fine-tune")
    broken = client.files.create(file=("x.jsonl", b'{"messages": [{"role": "user"}]}\n' * 12), purpose="fine-tune")
    ids = [
        client.fine_tuning.jobs.create(model="tiny", training_file=one.id, extra_body=OURS).id for one in (few, broken)
    ]
    first, second = (wait_for_end(client, id) for id in ids)
    assert (first.error.code, first.error.param) == ("invalid_n_examples", "training_file")
    assert first.error.message == "Training file has 3 example(s), but must have at least 10 examples."
    assert (second.error.code, second.error.param) == ("invalid_training_file", "training_file")
    assert first.fine_tuned_model is None
    assert client.fine_tuning.jobs.list_events(second.id).data[0].level == "error"


def test_a_job_is_paused_resumed_and_cancelled(client):
    file = client.files.create(file=rows(60), purpose="fine-tune")
    long = {"tunesmith": {**OURS["tunesmith"], "optim": {"batch_size": 1, "steps": 5000}}}
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, extra_body=long)
    wait_for_end(client, job.id, ("running",))
    deadline = time.monotonic() + 60
    while not (found := client.fine_tuning.jobs.checkpoints.list(job.id).data):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    asked = {"messages": [{"role": "user", "content": "Hi?"}], "max_tokens": 1}  # while it is trained on
    client.chat.completions.create(model=found[0].fine_tuned_model_checkpoint, **asked)
    client.fine_tuning.jobs.pause(job.id)
    deadline = time.monotonic() + 60
    while client.fine_tuning.jobs.retrieve(job.id).model_extra["tunesmith"]["state"] != "paused":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "queued"  # their types know no other word
    client.files.delete(file.id)  # the job keeps what it needs
    client.fine_tuning.jobs.resume(job.id)
    wait_for_end(client, job.id, ("running",))
    client.fine_tuning.jobs.cancel(job.id)
    assert wait_for_end(client, job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="cannot go on"):
        client.fine_tuning.jobs.resume(job.id)


def test_files_are_kept_listed_and_deleted(client):
    sent = client.files.create(file=("../../etc/pass wd.jsonl", b"{}\n"), purpose="user_data")
    assert (sent.filename, sent.bytes, sent.status) == ("pass wd.jsonl", 3, "processed")
    assert client.files.content(sent.id).read() == b"{}\n"
    assert sent.id in {file.id for file in client.files.list(purpose="user_data")}
    kept = client.files.create(file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    assert kept.expires_at - kept.created_at == 3600
    assert client.files.delete(sent.id).deleted
    with pytest.raises(openai.NotFoundError, match=f"No such File object: {sent.id}"):
        client.files.retrieve(sent.id)


def test_a_file_comes_in_parts(client):
    content = rows(20)[1]
    upload = client.uploads.create(
        bytes=len(content), filename="a/rows.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )
    assert (upload.status, upload.filename) == ("pending", "rows.jsonl")
    halves = [content[: len(content) // 2], content[len(content) // 2 :]]
    second, first = (client.uploads.parts.create(upload.id, data=half) for half in reversed(halves))
    with pytest.raises(openai.BadRequestError, match="were announced"):
        client.uploads.complete(upload.id, part_ids=[first.id])
    with pytest.raises(openai.BadRequestError, match="another MD5"):
        client.uploads.complete(upload.id, part_ids=[first.id, second.id], md5="0" * 32)
    done = client.uploads.complete(upload.id, part_ids=[first.id, second.id], md5=hashlib.md5(content).hexdigest())
    assert done.status == "completed"
    assert client.files.content(done.file.id).read() == content
    with pytest.raises(openai.BadRequestError, match="is completed"):
        client.uploads.parts.create(upload.id, data=b"x")
    again = client.uploads.create(bytes=3, filename="x", mime_type="text/plain", purpose="batch")
    assert client.uploads.cancel(again.id).status == "cancelled"
    with pytest.raises(openai.NotFoundError):
        client.uploads.cancel("upload_none")


def test_a_model_is_shared_with_another_project(running, client, tuned):
    admin, friend = running.client(role="admin"), running.client("friend")
    asked = {"model": tuned.fine_tuned_model, "messages": [{"role": "user", "content": "Hi?"}], "max_tokens": 1}
    permissions = client.fine_tuning.checkpoints.permissions
    with pytest.raises(openai.PermissionDeniedError, match="admin"):
        permissions.create(tuned.fine_tuned_model, project_ids=["friend"])
    permissions = admin.fine_tuning.checkpoints.permissions
    [made] = permissions.create(tuned.fine_tuned_model, project_ids=["friend"]).data
    assert [one.project_id for one in permissions.list(tuned.fine_tuned_model).data] == ["friend"]
    assert friend.chat.completions.create(**asked).usage.completion_tokens == 1
    with pytest.raises(openai.NotFoundError):
        friend.models.delete(tuned.fine_tuned_model)
    assert permissions.delete(made.id, fine_tuned_model_checkpoint=tuned.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        friend.chat.completions.create(**asked)


def test_a_key_that_is_sent_again_is_the_same_job(client):
    file = client.files.create(file=rows(12), purpose="fine-tune")
    again = {
        "model": "tiny",
        "training_file": file.id,
        "extra_headers": {"Idempotency-Key": "once"},
        "extra_body": OURS,
    }
    assert len({client.fine_tuning.jobs.create(**again).id for _ in range(3)}) == 1


def test_a_model_is_deleted_and_its_job_stays(running):
    client = running.client("another")
    file = client.files.create(file=rows(12), purpose="fine-tune")
    job = wait_for_end(client, client.fine_tuning.jobs.create(model="tiny", training_file=file.id, extra_body=OURS).id)
    assert client.models.delete(job.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(job.fine_tuned_model)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    with pytest.raises(openai.BadRequestError, match="its operator decides"):
        client.models.delete("tiny")


def test_a_job_goes_on_from_what_another_has_made(running, client, tuned):
    file = client.files.create(file=rows(16), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=tuned.fine_tuned_model, training_file=file.id, suffix="on", extra_body=OURS
    )
    done = wait_for_end(client, job.id)
    assert (done.status, done.error) == ("succeeded", None)
    assert done.model == tuned.fine_tuned_model
    assert done.fine_tuned_model == f"ft:gpt-3.5-turbo:default:on:{done.id[6:14]}"
    asked = {"messages": [{"role": "user", "content": "Hi?"}], "max_tokens": 2}
    assert client.chat.completions.create(model=done.fine_tuned_model, **asked).usage.completion_tokens > 0
    before, after = (read_model(running.stores.records, one.id)[1] for one in (tuned, done))
    card = json.loads(b"".join(running.stores.blobs.read(after["model/tunesmith.json"][0])))
    assert card["continue_from"]["sha256"] == before["model/adapter_model.safetensors"][0]


@pytest.mark.parametrize(
    "reach",
    [
        {"model": {"base": "/etc"}}, {"data": {"train": "/etc/passwd"}}, {"data.replay": "/etc/passwd"},
        {"data": {"replay": "http://127.0.0.1:1/x"}}, {"data.validation": "/etc/passwd"},
        {"evaluate": {"general_ability": ["/etc/passwd"]}}, {"method.continue_from": "/"}, {"processes": 64},
        {"track": {"mlflow": "http://127.0.0.1:1"}}, {"data.test": ["hf:a/b"]}, {"model.revision": "main"},
        {"data.prompt": "/etc/passwd"},
        {"data.label_names": "/etc/passwd"},
        {"objective": {"type": "grpo", "rewards": [{"type": "regex", "pattern": "(a*)*b"}]}},
    ],
)  # fmt: skip
def test_a_client_cannot_reach_for_what_is_the_operators(client, reach):
    file = client.files.create(file=rows(12), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match="cannot be set by a client of this server"):
        client.fine_tuning.jobs.create(model="tiny", training_file=file.id, extra_body={"tunesmith": reach})


# Whose it is


def test_every_route_but_health_wants_a_key(running):
    revoked, secret = create_key(running.stores.records, "old", "default")
    revoke_key(running.stores.records, revoked.id)
    wrong = [{}, *({"Authorization": value} for value in ("x", "Bearer sk-wrong", f"Bearer {secret}"))]
    found = 0
    for path, methods in running.app.openapi()["paths"].items():
        if path in ("/healthz", "/readyz"):
            continue
        path = path.replace("{id}", "x").replace("{name}", "x").replace("{action}", "cancel")
        for method in methods:
            for headers in wrong:
                answer = httpx.request(method, running.url + path, headers=headers)
                assert answer.status_code == 401, (method, path)
                assert answer.json()["error"]["code"] == "invalid_api_key"
                found += 1
    assert found > 60
    assert httpx.get(f"{running.url}/healthz").json() == httpx.get(f"{running.url}/readyz").json() == {"status": "ok"}


def test_what_is_another_projects_is_not_there(running, client, tuned):
    other = running.client("other")
    for ask in (
        lambda: other.files.retrieve(tuned.training_file),
        lambda: other.files.content(tuned.training_file),
        lambda: other.files.content(tuned.result_files[0]),
        lambda: other.files.delete(tuned.training_file),
        lambda: other.fine_tuning.jobs.retrieve(tuned.id),
        lambda: other.fine_tuning.jobs.cancel(tuned.id),
        lambda: other.fine_tuning.jobs.list_events(tuned.id),
        lambda: other.fine_tuning.jobs.checkpoints.list(tuned.id),
        lambda: other.models.retrieve(tuned.fine_tuned_model),
        lambda: other.models.delete(tuned.fine_tuned_model),
        lambda: other.fine_tuning.jobs.create(model="tiny", training_file=tuned.training_file),
        lambda: other.chat.completions.create(
            model=tuned.fine_tuned_model, messages=[{"role": "user", "content": "x"}]
        ),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    assert list(other.fine_tuning.jobs.list()) == list(other.files.list()) == []
    assert tuned.fine_tuned_model not in {model.id for model in other.models.list()}


def test_keys_are_kept_as_hashes(running):
    key, secret = create_key(running.stores.records, "n", "p", "admin")
    assert find_key(running.stores.records, secret) == key
    assert find_key(running.stores.records, secret + "x") is None
    assert key in list_keys(running.stores.records)
    assert secret.encode() not in running.stores.records.sqlite.read_bytes()


# What cannot be done


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}


def chat(*messages, **more):
    return lambda client: client.chat.completions.create(model="tiny", messages=list(messages), **more)


def text(prompt, **more):
    return lambda client: client.completions.create(model="tiny", prompt=prompt, **more)


def tune(model="tiny", training_file="x", **more):
    return lambda client: client.fine_tuning.jobs.create(model=model, training_file=training_file, **more)


def send(content, purpose="batch"):
    return lambda client: client.files.create(file=content, purpose=purpose)


@pytest.mark.parametrize(
    ("ask", "status", "said"),
    [
        (lambda client: client.models.retrieve("nope"), 404, "model_not_found"),
        (lambda client: client.fine_tuning.jobs.retrieve("ftjob-none"), 404, "fine_tune_not_found"),
        (lambda client: client.embeddings.create(model="tiny", input="x"), 404, "there is no such route"),
        (tune("gpt-9"), 400, "model_not_available"),
        (tune(training_file="file-x"), 404, "No such File object: file-x"),
        (tune(suffix="a:b"), 400, "suffix"),
        (tune(method={"type": "reinforcement"}), 400, "a grader is missing"),
        (tune(hyperparameters={"n_epochs": 99}), 400, "n_epochs"),
        (send(b"x", "nonsense"), 400, "is not one of"),
        (send(b""), 400, "empty"),
        (send(b"x" * (1 << 20) + b"y"), 413, "1,048,577 bytes"),
        (send(b"x" * (3 << 20)), 413, "at most"),
        (chat(), 400, "too short"),
        (chat({"role": "x", "content": ""}), 400, "is not one of"),
        (chat({"role": "user", "content": "x"}, temperature=9), 400, "temperature"),
        (chat({"role": "user", "content": [{"type": "image_url"}]}), 400, "text alone"),
        (chat({"role": "user", "content": "x " * 3000}), 400, "512"),
        (chat({"role": "user", "content": "x"}, response_format={"type": "xml"}), 400, "must be text, json_object"),
        (chat({"role": "user", "content": "x"}, tools=[{"type": "function"}]), 400, "no function with a name"),
        (chat({"role": "user", "content": "x"}, tools=TOOLS, tool_choice="must"), 400, "tool_choice must be one of"),
        (chat({"role": "user", "content": "x"}, tool_choice="required"), 400, "there are no tools to choose from"),
        (
            chat(
                {"role": "user", "content": "x"},
                tools=TOOLS,
                tool_choice={"type": "function", "function": {"name": "y"}},
            ),
            400,
            "there is no function 'y'",
        ),
        (chat({"role": "user", "content": "x"}, tools=TOOLS), 400, "has no tools"),
        (chat({"role": "user", "content": "x"}, logit_bias={"x": 1}), 400, "ids of tokens"),
        (text([]), 400, "one text"),
        (text(["a", "b"]), 400, "one text"),
        (text([10**30]), 400, "prompt"),
        (text([-1]), 400, "prompt"),
        (text([10**8], echo=True), 400, "outside the model"),
        (chat({"role": "user", "content": "x"}, logit_bias={"99999999": 1}), 400, "is none of the model"),
        (chat({"role": "user", "content": "x"}, frequency_penalty=3), 400, "frequency_penalty"),
        (chat({"role": "user", "content": "x"}, response_format=SCHEMA), 400, "schema"),
    ],
)
def test_errors_are_what_the_client_expects(client, ask, status, said):
    with pytest.raises(openai.APIStatusError) as error:
        ask(client)
    assert error.value.status_code == status
    body = error.value.response.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert said in f"{body}"
    assert error.value.request_id


def test_extensions_that_make_no_sense_are_named(client):
    file = client.files.create(file=rows(12), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match=r"optim\.learning_rat.*did you mean 'learning_rate'"):
        client.fine_tuning.jobs.create(
            model="tiny", training_file=file.id, extra_body={"tunesmith": {"optim.learning_rat": 1}}
        )


def test_hosts_that_were_not_allowed_are_refused(running):
    assert httpx.get(f"{running.url}/healthz", headers={"Host": "evil.example"}).status_code == 400


def test_names_of_models():
    name = tuned_name("owner/base", "p", None, "ftjob-0123456789ab")
    assert name == "ft:owner/base:p::01234567"
    assert job_of(name) == ("ftjob-01234567", None)
    assert job_of(f"{name}:ckpt-step-12") == ("ftjob-01234567", 12)
    assert job_of("gpt-4") is None
