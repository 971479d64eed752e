"""Common mistakes with prompts, each with its whole sentence."""

from __future__ import annotations

import re
import socket

import pytest

from classifiers import save_base
from conftest import made_once
from test_prompts import knows, mails, options  # noqa: F401  fixtures
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import silent
from tunesmith.infer.remote import RemoteModel
from tunesmith.jobs.prompts import try_prompts


def labelled(count, *labels):
    return [{"text": f"text {i} about {i * 7}", "label": labels[i % len(labels)]} for i in range(count)]


def sentence_of(file, **changes):
    with pytest.raises(TunesmithError) as found:
        try_prompts(options(file, **changes), silent)
    return str(found.value)


OF_OPTIONS = [
    ({"template": "{text} of {lable}"},
     r"--template T: unknown field {lable}: did you mean 'labels'\? Write {{ and }} for braces that are text\."),
    ({"template": "{text} {"},
     r"--template T: a brace stands alone \(.+\)\. Write {{ and }} for braces that are text\."),
    ({"template": "Which label?"},
     r"--template T: has no {text}, so every row would be asked the same\. Put it in\."),
    ({"template": "{text}", "shots": [2]},
     r"--template T: has no {examples}, and --shots asks for some\. Put it in, or ask for --shots 0\."),
    ({"instruction": "Which of {lables}?"},
     r"--instruction: unknown field {lables}: did you mean 'labels'\? Write {{ and }} for braces that are text\."),
    ({"shots": [500]},
     r"--shots 500: the training part has \d+ rows to choose examples from\. Ask for at most \d+\."),
    ({"models": ["ember", "ember"]}, r"--models: ember is named twice\. Leave one out\."),
    ({"models": []}, r"--models names none\. Name a base model, a run, or https://host/v1#name\."),
    ({"models": ["embar"]}, r".*embar.*"),
    ({"price": ["1"]},
     r"--price 1: must be two prices in dollars for a million tokens, of prompts and of answers, such as 0\.4,1\.6; or "
     r"MODEL=0\.4,1\.6\."),
    ({"price": ["0.4,1.6"]},
     r"--price, --max-requests and --max-cost are for models behind a URL, and none is named\. Leave them out\."),
    ({"max_cost": 1.0}, r"--max-cost is in dollars, and no price is known\. Give one with --price IN,OUT\."),
    ({"metric": "acuracy"}, r"--metric acuracy: did you mean 'accuracy'\?"),
    ({"metric": "valid answers"}, r"--metric valid answers: not all models have it\. Choose another\."),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), OF_OPTIONS, ids=[str(one[0])[:50] for one in OF_OPTIONS])
def test_options(mails, tmp_path, changes, sentence):  # noqa: F811
    if "template" in changes:
        path = tmp_path / "t.txt"
        path.write_text(changes["template"])
        changes, sentence = {**changes, "template": str(path)}, sentence.replace(" T:", f" {re.escape(str(path))}:")
    assert re.fullmatch(sentence, sentence_of(mails, **changes))


OF_SERVERS = [
    ({"scoring": "pmi"}, knows,
     r"--scoring pmi compares log probabilities of labels, and URL#small is a server's, which writes its answers: many "
     r"servers tell none\. Leave it out, or name a model of this machine\."),
    ({"price": ["large=1,2"]}, knows,
     r"--price large: this model is not asked: known: URL#small, small\."),
    ({"price": ["smal=1,2"]}, knows, r"--price smal: this model is not asked: did you mean 'small'\?"),
    ({"price": ["small=1000,1000"], "max_cost": 0.0001}, knows,
     r"--max-cost 0\.0001: one request can cost 0\.\d{6} dollars, so that none was sent\. Give more, or ask for "
     r"shorter answers with --max-new-tokens\."),
    ({}, lambda request: (401, {"error": {"message": "bad key"}}),
     r"URL wants a key \(401\)\. Set TUNESMITH_REMOTE_KEY to one that is valid there\."),
    ({}, lambda request: (404, {}) if "chat" in request["path"] else (200, {"data": [{"id": "tiny"}]}),
     r"URL has no model 'small'\. It has tiny\."),
    ({}, lambda request: (404, {}),
     r"URL has no /chat/completions \(404\)\. .+"),
    ({}, lambda request: (400, {"error": {"message": "too long"}}), r"URL refuses the request \(400\): too long\."),
    ({"models": ["URL#small", "URL/#small"]}, knows,
     r"--models: URL#small and URL/#small are the same model\. Leave one out\."),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "respond", "sentence"), OF_SERVERS, ids=[str(n) for n in range(len(OF_SERVERS))])
def test_servers(mails, serve, changes, respond, sentence, monkeypatch):  # noqa: F811
    monkeypatch.delenv("TUNESMITH_REMOTE_KEY", raising=False)
    url = serve(respond).url
    names = [one.replace("URL", url) for one in changes.get("models", ["URL#small"])]
    said = sentence_of(mails, **{**changes, "models": names})
    assert re.fullmatch(sentence.replace("URL", re.escape(url)), said)


def test_a_server_that_is_not_there(mails):  # noqa: F811
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    said = sentence_of(mails, models=[f"{url}#small"])
    assert said == (
        f"cannot connect to {url} (Connection refused). Is the server running there, with this host and port?"
    )
    assert RemoteModel(url, "small").name == f"{url}#small"


def test_scoring_is_noted_where_one_model_is_a_server(mails, serve, tiny):  # noqa: F811
    url = serve(knows).url
    asked = options(mails, models=[str(tiny), f"{url}#small"], scoring="mean", validate_only=True)
    notes = try_prompts(asked, silent)["report"]["notes"]
    assert notes == [f"{url}#small: --scoring mean is of models of this machine; this one writes its answers."]


def test_rows(write_rows, serve):
    def said(rows, name):
        return sentence_of(write_rows(rows, name), models=[f"{serve(knows).url}#small"])

    alone = said(labelled(30, "a"), "alone.jsonl")
    assert re.fullmatch(r"\S+alone\.jsonl: all rows have the label 'a', so there is nothing to \w+\. .+", alone)
    empty = said(labelled(30, "a", "b", ""), "empty.jsonl")
    assert re.search(r"empty\.jsonl:\d+.*'label' is .*Give a class as text or number\.", empty, re.DOTALL)
    same = [[{"text": f"the same {word * 9}", "label": label} for label in "ab"] for word in ("sun", "moon", "star")]
    few = [said(rows, f"few{number}.jsonl") for number, rows in enumerate(same)]  # one question: it is in one part
    wanted = "no rows are left to choose a prompt by. Give more rows, or a file with --validation."
    assert any(sentence.endswith(wanted) for sentence in few)


def test_more_examples_than_the_context_holds(mails, tiny):  # noqa: F811
    assert re.fullmatch(
        rf"nothing could be asked\. {re.escape(str(tiny))}, 60 random: prompt and answer have \d+ tokens, and the "
        r"model takes 512\. Ask for fewer examples with --shots, or for shorter answers with --max-new-tokens\.",
        sentence_of(mails, models=[str(tiny)], shots=[60]),
    )


def test_labels_that_begin_alike(write_rows, tiny):
    file = write_rows(labelled(40, "late checkout", "late arrival", "wifi"), "alike.jsonl")
    [note] = try_prompts(options(file, models=[str(tiny)], validate_only=True), silent)["report"]["notes"]
    assert note == (
        f"{tiny}: 2 labels begin with the same token as another, such as 'late arrival' and 'late checkout'. Whole "
        "labels are scored, so that they are told apart."
    )


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    return made_once(tmp_path_factory, "a-bert", lambda folder: save_base(folder / "bert", "bert")) / "bert"


def test_a_model_that_writes_nothing(mails, bert):  # noqa: F811
    said = sentence_of(mails, models=[str(bert)])
    assert re.fullmatch(
        rf"{re.escape(str(bert))}: a model for the task '\w+' is not asked by prompts, and stands beside them where "
        r"rows have one class each\. Leave it out\.",
        said,
    )
