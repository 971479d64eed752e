"""A prompted model's answers as rows without the prompt: what is written, what is left out, nothing asked twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time

import pytest
import yaml
from typer.testing import CliRunner

from classifiers import class_rows
from conftest import COMMAND, READS, chat_row, many_rows
from tunesmith.cli.main import app
from tunesmith.core.errors import ConfigError, DataError, MissingError, ModelError
from tunesmith.core.events import silent
from tunesmith.core.files import read_json, read_lines
from tunesmith.data.config import DataConfig
from tunesmith.data.load import load_rows
from tunesmith.data.prompting.schema import label_schema
from tunesmith.data.source import find_files
from tunesmith.data.split import load_splits
from tunesmith.jobs.distill import distill
from tunesmith.jobs.teacher import agreed, distinct
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract


def said(text, ended="stop"):
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": ended}
    return 200, {"choices": [message], "usage": {"prompt_tokens": 50, "completion_tokens": 2}}


def asked_in(request):
    return request["body"]["messages"][-1]["content"]


def echoes(request):
    """An answer of its own to each question."""
    return said(f"You ask: {asked_in(request).splitlines()[-1]}")


def knows(request):
    """The label whose word stands in the question, in a manner of its own."""
    words = asked_in(request).split("\n")[-1]
    for name, clues in (("Wifi.", ["wifi", "internet", "network", "password"]), ("POOL", ["pool", "swim", "towel"])):
        if any(word in words for word in clues):
            return said(name)
    return said("I think that it is about dogs")


@pytest.fixture
def prompt(tmp_path):
    def write(name="best.yaml", schema=None, **parts):
        whole = {"template": None, "instruction": "Shortly.", "shots": 0, "examples": "", "seed": 0, **parts}
        (tmp_path / name).write_text(yaml.safe_dump({"id": "0001", "prompt": whole, "schema": schema}))
        return str(tmp_path / name)

    return write


@pytest.fixture
def options(tmp_path):
    def make(prompt, data, model, **changes):
        values = {
            "prompt": str(prompt), "data": str(data), "model": str(model), "into": str(tmp_path / "out.jsonl"),
            "limit": None, "keep": "all", "temperature": 0.0, "samples": 1, "seed": 0, "max_new_tokens": None,
            "price": [], "max_requests": None, "max_cost": None, "format": None, "columns": {}, "label_names": None,
            "chat_template": None, "device": "cpu",
        }  # fmt: skip
        return {**values, **changes}

    return make


@pytest.fixture
def chats(write_rows):
    return write_rows(many_rows(20), "chats.jsonl")


@pytest.fixture
def mails(write_rows):
    return write_rows(class_rows(40), "mails.jsonl")


# What is written.


def test_rows_have_the_answers_and_not_the_prompt(chats, prompt, options, serve, tmp_path):
    server = serve(echoes)
    found = distill(options(prompt(), chats, f"{server.url}#teacher"), silent)["report"]
    asked = [request["body"]["messages"][0]["content"] for request in server.requests]
    assert all(text.startswith("Shortly.\n\n") for text in asked)
    rows, before = read_lines(tmp_path / "out.jsonl"), load_rows(str(chats)).rows
    assert len(rows) == len(before) == 20
    for row, old in zip(rows, before, strict=True):
        question = old.prompt[-1].content
        assert row == chat_row(question, f"You ask: {question}")
    ledger = read_json(tmp_path / "out.jsonl.ledger.json")
    assert ledger == found
    assert ledger["rows"] == {"asked": 20, "written": 20, "not_asked": 0, "left_out": {}}
    assert ledger["prompt"]["told"] == "an instruction"
    assert ledger["prompt_tokens"] == 50 * 20
    again = load_rows(str(tmp_path / "out.jsonl"))
    assert again.ledger.counts() == {"read": 20, "kept": 20}
    assert [file.path.name for file in find_files(str(tmp_path)) if "ledger" in file.path.name] == []


def test_rows_fall_into_the_parts_of_those_that_were_asked(chats, prompt, options, serve, tmp_path):
    distill(options(prompt(), chats, f"{serve(echoes).url}#teacher"), silent)
    contract = load_contract(resolve("ember").folder)
    parts = [load_splits(DataConfig(train=str(file)), contract, 512, READS) for file in (chats, tmp_path / "out.jsonl")]
    for name in ("train", "validation", "test"):
        one, other = ([row.row.asked for row in getattr(part, name)] for part in parts)
        assert one == other


def test_what_came_before_the_question_is_context_alone(write_rows, prompt, options, serve, tmp_path):
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi?"},
             {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "And?"},
             {"role": "assistant", "content": "Bye."}]  # fmt: skip
    rows = write_rows([{"messages": turns}, *many_rows(5)])
    distill(options(prompt(), rows, f"{serve(echoes).url}#teacher", limit=1), silent)
    [row] = read_lines(tmp_path / "out.jsonl")
    assert row["messages"] == [*turns[:2], {**turns[2], "weight": 0}, turns[3],
                               {"role": "assistant", "content": "You ask: And?"}]  # fmt: skip


def test_questions_need_no_answers(tmp_path, prompt, options, serve):
    (tmp_path / "questions.txt").write_text("Where is the pool?\nIs there wifi?\n")
    server, heard = serve(echoes), []
    distill(options(prompt(), tmp_path / "questions.txt", f"{server.url}#t"), heard.append)
    assert read_lines(tmp_path / "out.jsonl") == [
        chat_row(question, f"You ask: {question}") for question in ("Where is the pool?", "Is there wifi?")
    ]
    assert any("read as questions without answers" in event.sentence for event in heard if event.kind == "warning")
    for changes, needs in (({"keep": "right"}, "--keep right"), ({}, "1 example of the prompt")):
        version = prompt(shots=0 if changes else 1, examples="" if changes else "nearest")
        asked = options(version, tmp_path / "questions.txt", f"{server.url}#t", **changes)
        with pytest.raises(DataError, match=rf"Rows with answers are needed for {needs}\.$"):
            distill(asked, silent)


# What is left out.


def test_answers_that_teach_nothing_are_left_out_and_counted(chats, prompt, options, serve, tmp_path):
    def respond(request):
        number = int(asked_in(request).rpartition("guest ")[2].rstrip("."))
        return [said(f"Answer {number}."), said(" \n"), said("It goes on and", "length")][min(number, 2)]

    server = serve(respond)
    heard = []
    found = distill(options(prompt(), chats, f"{server.url}#teacher"), heard.append)["report"]
    assert found["rows"]["written"] == 1
    left = found["rows"]["left_out"]
    assert {why: one["count"] for why, one in left.items()} == {"cut off after 256 tokens": 18, "empty": 1}
    assert left["empty"]["first"] == [f"{chats}:2"]
    assert len(left["cut off after 256 tokens"]["first"]) == 5
    assert any("allow longer ones with --max-new-tokens" in one.sentence for one in heard if one.kind == "warning")
    with pytest.raises(DataError, match=r"no answer can be learned from\. 0 rows of 20 .*; 20 left out: empty"):
        distill(options(prompt(), chats, f"{serve(lambda request: said('')).url}#t"), silent)


def test_what_a_server_refuses_is_left_out_unless_it_refuses_all(chats, prompt, options, serve, tmp_path):
    def filters(request):
        if "guest 3" in asked_in(request):
            return 400, {"error": {"message": "content policy"}}
        return echoes(request)

    server, heard = serve(filters), []
    found = distill(options(prompt(), chats, f"{server.url}#teacher"), heard.append)["report"]
    refused = found["rows"]["left_out"]["refused by the server"]
    assert refused["count"] == sum("guest 3" in line for line in chats.read_text().splitlines()) > 0
    assert found["rows"]["written"] == 20 - refused["count"] == len((tmp_path / "out.jsonl").read_text().splitlines())
    assert any("refuses the request (400): content policy." in event.sentence and refused["first"][0] in event.sentence
               for event in heard if event.kind == "warning")  # fmt: skip
    none = serve(lambda request: (400, {"error": {"message": "no such parameter"}}))
    with pytest.raises(ModelError, match="no such parameter"):
        distill(options(prompt(), chats, f"{none.url}#teacher"), silent)
    assert len(none.requests) < 10


def test_classes_are_written_as_they_are_called_and_only_right_ones_kept(mails, prompt, options, serve, tmp_path):
    server, rows = serve(knows), load_rows(str(mails)).rows
    asked = options(prompt(instruction="One of {labels}."), mails, f"{server.url}#t")
    found = distill(asked, silent)["report"]
    written = read_lines(tmp_path / "out.jsonl")
    assert {row["messages"][-1]["content"] for row in written} == {"wifi", "pool"}
    assert all(len(row["messages"]) == 2 for row in written)
    lost = found["rows"]["left_out"]["names no label"]["count"]
    assert lost + len(written) == len(rows)
    assert found["agree"]["of"] == len(written)
    right = distill({**asked, "keep": "right"}, silent)["report"]
    assert right["rows"]["written"] == right["agree"]["right"] == found["agree"]["right"]
    assert right["asked_now"] == 0
    assert server.requests[0]["body"]["messages"][0]["content"].startswith("One of dog, pool, wifi.")


def test_answers_that_do_not_fit_the_schema_are_left_out(mails, prompt, options, serve, tmp_path):
    answers = ['{"label": "pool"}', '{"label": "cat"}', "pool", '{"label": "dog"}']
    server = serve(lambda request: said(answers[request["number"] % 4]))
    version = prompt(schema=label_schema(["dog", "pool", "wifi"]))
    found = distill(options(version, mails, f"{server.url}#t", limit=8), silent)["report"]
    assert {row["messages"][-1]["content"] for row in read_lines(tmp_path / "out.jsonl")} == {answers[0], answers[3]}
    assert found["rows"]["left_out"]["no JSON that fits the schema"]["count"] == 4
    assert server.requests[0]["body"]["response_format"]["type"] == "json_schema"


def test_several_samples_and_what_most_of_them_say(chats, prompt, options, serve, tmp_path):
    def respond(request):
        number = int(asked_in(request).rpartition("guest ")[2].rstrip("."))
        seed = request["body"]["seed"]
        return said(["Yes.", "yes", "No."][seed % 3] if number % 2 else f"Answer {seed}.")

    server = serve(respond)
    asked = options(prompt(), chats, f"{server.url}#t", samples=3, temperature=0.7, limit=4)
    distill(asked, silent)
    assert {request["body"]["temperature"] for request in server.requests} == {0.7}
    assert len(server.requests) == 12
    rows = read_lines(tmp_path / "out.jsonl")
    assert [row["messages"][-1]["content"] for row in rows[:5]] == [
        "Answer 0.",
        "Answer 1.",
        "Answer 2.",
        "Yes.",
        "No.",
    ]
    found = distill({**asked, "keep": "agreeing"}, silent)["report"]
    assert len(server.requests) == 12  # nothing is asked twice
    assert [row["messages"][-1]["content"] for row in read_lines(tmp_path / "out.jsonl")] == ["Yes.", "Yes."]
    assert found["rows"]["left_out"]["fewer than half of the samples agree"]["count"] == 2
    assert agreed(["a", "b", "b"], 4) is None
    assert distinct(["A.", "b", "a"]) == ["A.", "b"]
    assert distinct(["-5", "5", "1.5", "15", "x + 1", "x - 1", "5."]) == ["-5", "5", "1.5", "15", "x + 1", "x - 1"]
    assert distinct(['{"a": 1, "b": "C"}', '{"b":"C","a":1}', '{"a": 1, "b": "c"}']) == [
        '{"a": 1, "b": "C"}', '{"a": 1, "b": "c"}',
    ]  # fmt: skip
    assert agreed(["-3", "3", "3."], 3) == "3"


def test_a_number_that_differs_in_a_sign_is_not_right(write_rows, prompt, options, serve, tmp_path):
    file = write_rows([chat_row(f"What is 3 less {n}?", str(3 - n)) for n in (1, 4, 5)], "sums.jsonl")
    server = serve(lambda request: said(str(abs(3 - int(asked_in(request).rstrip("?").split()[-1])))))
    found = distill(options(prompt(), file, f"{server.url}#t", keep="right"), silent)["report"]
    assert (found["agree"], found["rows"]["written"]) == ({"right": 1, "of": 3}, 1)


# Models of this machine.


def test_a_local_model_scores_classes_and_writes_answers(mails, chats, prompt, options, tiny, tmp_path):
    found = distill(options(prompt(instruction="One of {labels}."), mails, tiny, limit=6), silent)["report"]
    assert found["how"].startswith("labels scored")
    written = [row["messages"][-1]["content"] for row in read_lines(tmp_path / "out.jsonl")]
    assert len(written) == 6
    assert set(written) <= {"dog", "pool", "wifi"}
    drawn = options(prompt(), chats, tiny, limit=3, temperature=1.0, max_new_tokens=4)
    with pytest.raises(DataError, match="no answer can be learned from"):  # random weights end nothing in 4 tokens
        distill(drawn, silent)
    with pytest.raises(ConfigError, match="--temperature: labels are scored"):
        distill(options(prompt(), mails, tiny, temperature=1.0), silent)
    long = options(prompt(instruction="word " * 600), mails, tiny, limit=2)
    with pytest.raises(DataError, match="2 left out: longer than the model takes"):
        distill(long, silent)


def test_nearest_examples_are_training_rows_and_never_the_row_itself(mails, prompt, options, serve):
    pytest.importorskip("bm25s")
    server = serve(knows)
    distill(options(prompt(shots=2, examples="nearest"), mails, f"{server.url}#t"), silent)
    contract = load_contract(resolve("ember").folder)
    plain = load_splits(DataConfig(train=str(mails)), contract, 512, frozenset({"labelled"}))
    training = {row.row.content.text for row in plain.train}
    for request in server.requests:
        texts = [turn["content"].removeprefix("Shortly.\n\n") for turn in request["body"]["messages"][::2]]
        assert len(texts) == 3
        assert set(texts[:-1]) <= training - {texts[-1]}


# What is spent.


def test_a_budget_ends_it_early_and_a_larger_one_goes_on(chats, prompt, options, serve, tmp_path):
    server = serve(echoes)
    asked, heard = options(prompt(), chats, f"{server.url}#t", max_requests=7), []
    found = distill(asked, heard.append)["report"]
    assert (found["rows"]["written"], found["rows"]["not_asked"]) == (7, 13)
    assert any("the budget ended it after 7 requests" in one.sentence for one in heard if one.kind == "warning")
    more = distill({**asked, "max_requests": 100}, silent)["report"]
    assert (more["rows"]["written"], more["asked_now"], len(server.requests)) == (20, 13, 20)
    dear = options(prompt(), chats, f"{server.url}#dear", price=["1000,1000"], max_cost=1.5)
    assert 0 < distill(dear, silent)["report"]["spent"]["dollars"] <= 1.5


def test_after_a_kill_nothing_is_asked_twice_and_nothing_is_lost(chats, prompt, serve, tmp_path):
    free, bodies = threading.Event(), []

    def respond(request):
        bodies.append(json.dumps(request["body"]))
        if len(bodies) > 6:
            free.wait(20)
        return echoes(request)

    server, into = serve(respond), tmp_path / "out.jsonl"
    command = [*COMMAND, "distill", prompt(), str(chats), "--model", f"{server.url}#t", "--into", str(into)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        for _ in range(600):
            if len(bodies) > 9:
                break
            time.sleep(0.1)
        assert not into.exists()
        time.sleep(0.5)  # what has been answered is on the disk
        os.killpg(process.pid, signal.SIGKILL)
    answered, before = bodies[:6], len(bodies)
    free.set()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = bodies[before:]
    assert not set(after) & set(answered)
    assert len(set(after)) == len(after)
    assert len(read_lines(into)) == 20
    assert "20 rows of 20 that were asked about." in done.stdout
    assert f"train   tunesmith train recipes/chat.yaml --set data.train={into}" in done.stdout


# The whole of it.


def test_rows_that_were_distilled_can_be_trained_on(chats, prompt, options, serve, tiny, tmp_path, in_process):
    distill(options(prompt(), chats, f"{serve(echoes).url}#t"), silent)
    recipe = tmp_path / "small.yaml"
    values = {"model": {"base": str(tiny)}, "data": {"train": str(tmp_path / "out.jsonl"), "replay": "off"},
              "optim": {"epochs": 1}, "output": {"folder": str(tmp_path / "runs")}, "precision": "fp32"}  # fmt: skip
    recipe.write_text(yaml.safe_dump(values))
    done = CliRunner().invoke(app, ["train", str(recipe), "--until", "trained"], catch_exceptions=False)
    assert done.exit_code == 0


# Mistakes.


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"keep": "wrong"}, "--keep wrong: "),
        ({"samples": 3}, r"--samples 3: without --temperature"),
        ({"keep": "agreeing", "samples": 2, "temperature": 1.0}, "of three or more"),
        ({"max_requests": 5}, "are for models behind a URL"),
        ({"model": "https://127.0.0.1:1/v1#x", "max_cost": 1.0}, "no price is known"),
    ],
)
def test_mistakes_get_a_sentence(chats, prompt, options, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        distill({**options(prompt(), chats, "ember"), **changes}, silent)


def test_columns_that_are_called_otherwise_are_spoken_of(tmp_path, prompt, options):
    (tmp_path / "mails.csv").write_text("text,category\nWhere is the pool?,pool\nIs there wifi?,wifi\n")
    with pytest.raises(DataError, match=r"needed for 2 examples of the prompt\. Where columns are .* with --column\.$"):
        distill(options(prompt(shots=2, examples="nearest"), tmp_path / "mails.csv", "ember"), silent)


def test_a_price_of_another_model_is_refused(chats, prompt, options, serve):
    asked = options(prompt(), chats, f"{serve(echoes).url}#small", price=["smal=1,2"])
    with pytest.raises(ConfigError, match="--price smal: this model is not asked: did you mean 'small'"):
        distill(asked, silent)


def test_files_that_are_in_the_way_or_not_there(chats, prompt, options, tmp_path):
    (tmp_path / "out.jsonl").write_text("mine\n")
    with pytest.raises(ConfigError, match="exists, and `tunesmith distill` has not made it"):
        distill(options(prompt(), chats, "ember"), silent)
    assert (tmp_path / "out.jsonl").read_text() == "mine\n"
    with pytest.raises(ConfigError, match="is a folder"):
        distill(options(prompt(), chats, "ember", into=str(tmp_path)), silent)
    with pytest.raises(MissingError, match="the prompt nowhere: no such file"):
        distill(options("nowhere", chats, "ember", into=str(tmp_path / "new.jsonl")), silent)
    with pytest.raises(MissingError, match="no such file"):
        distill(options(prompt(), tmp_path / "none.jsonl", "ember", into=str(tmp_path / "new.jsonl")), silent)
