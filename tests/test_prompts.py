"""Prompts beside tuned models: rows of the right part, examples, labels scored, answers kept, budgets, mistakes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from classifiers import begin, class_rows, save_base
from conftest import COMMAND, chat_row, made_once, many_rows
from tunesmith.cli.main import app
from tunesmith.core.errors import ConfigError, DataError, MissingError, ModelError, Stopped
from tunesmith.core.events import silent
from tunesmith.core.files import read_json
from tunesmith.data.config import DataConfig
from tunesmith.data.load import load_rows
from tunesmith.data.prompting.choose import Examples, balanced_order, index_of, nearest
from tunesmith.data.prompting.schema import label_schema
from tunesmith.data.prompting.variant import Prompting, Variant, read_template, variants
from tunesmith.data.split import load_splits
from tunesmith.evaluate.prompts.ask import Reply
from tunesmith.evaluate.prompts.cache import Answers
from tunesmith.evaluate.prompts.labels import alike, endings_of, label_scores, label_sums, named
from tunesmith.evaluate.prompts.rows import asked_in, prompt_rows
from tunesmith.evaluate.prompts.spending import Budget, Price, bound_of, parse_prices
from tunesmith.evaluate.prompts.table import class_results
from tunesmith.infer.engine.endings import Endings, can_share, common, in_parts, row_of
from tunesmith.infer.local import LocalEngine
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.prompts import try_prompts
from tunesmith.model.load import LoadSpec, load
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.prompt.messages import Message

LABELS = ["dog", "pool", "wifi"]


def options(file, **changes):
    """What the command asks its job for, with little to do."""
    values = {
        "data": str(file), "models": ["ember"], "shots": [0], "examples": ["random"], "instruction": None,
        "template": None, "rows": 6, "validation": None, "test": None, "validate_only": False, "metric": None,
        "scoring": "sum", "against": "best", "max_new_tokens": None, "price": [], "max_requests": None,
        "max_cost": None, "format": None, "columns": {}, "label_names": None, "chat_template": None, "seed": 0,
        "device": "cpu",
    }  # fmt: skip
    return {**values, **changes}


@pytest.fixture
def mails(write_rows):
    return write_rows(class_rows(90), "mails.jsonl")


def said(text, tokens=True):
    usage = {"usage": {"prompt_tokens": 50, "completion_tokens": 2}} if tokens else {}
    return 200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                 **usage}  # fmt: skip


def knows(request):
    """The label whose word stands in the question, in a manner of its own."""
    words = request["body"]["messages"][-1]["content"]
    for name, clues in (("Wifi.", ["wifi", "internet", "network", "password"]), ("POOL", ["pool", "swim", "towel"])):
        if any(word in words.split("\n")[-1] for word in clues):
            return said(name)
    return said("I think that it is about dogs")


# Rows and variants.


def test_rows_are_split_as_training_splits_them(mails):
    rows = prompt_rows(DataConfig(train=str(mails)), 1000, 0)
    contract = load_contract(resolve("ember").folder)
    splits = load_splits(DataConfig(train=str(mails)), contract, 500, frozenset({"labelled"}))
    for ours, theirs in ((rows.training, splits.train), (rows.validation, splits.validation), (rows.test, splits.test)):
        assert [row.key for row in ours] == [row.row.key for row in theirs]
    assert rows.labels == LABELS
    few = prompt_rows(DataConfig(train=str(mails)), 3, 0)
    assert len(few.validation) == 3
    assert {row.key for row in few.validation} <= {row.key for row in rows.validation}


def test_what_a_chat_asks_is_known_again_as_a_text_with_a_class(mails, write_rows):
    texts = load_rows(str(mails)).rows
    asked = texts[0].content.text
    same = load_rows(str(write_rows([chat_row(asked, "dog"), chat_row("Else?", "no")], "same.jsonl"))).rows
    turns = [{"role": role, "content": words} for role, words in
             (("user", "Hi"), ("assistant", "Hello"), ("user", asked), ("assistant", "dog"))]  # fmt: skip
    later = load_rows(str(write_rows([{"messages": turns}], "later.jsonl"))).rows
    assert asked_in(same, texts) == sum(row.content.text == asked for row in texts) > 0
    assert asked_in(texts, texts) == len(texts)
    assert asked_in(later, texts) == 0


def test_each_variant_once():
    names = [one.name for one in variants([0, 4], ["random", "nearest"], True, True)]
    assert names == [
        "zero-shot", "zero-shot, instruction", "4 random", "4 random, instruction", "4 nearest",
        "4 nearest, instruction",
    ]  # fmt: skip
    assert [one.name for one in variants([0], [], False, True)] == ["zero-shot"]


def test_examples_are_earlier_turns(mails):
    rows = load_rows(str(mails)).rows
    prompting = Prompting("labelled", LABELS, "Which?")
    turns = prompting.conversation(rows[0], rows[1:2], True)
    assert [turn.role for turn in turns] == ["user", "assistant", "user"]
    assert turns[0].content == f"Which?\n\n{rows[1].content.text}"
    assert (turns[1].content, turns[2].content) == (rows[1].content.label, rows[0].content.text)
    fields = ["instruction", "examples", "text", "labels"]
    template = read_template("{instruction}|{examples}|{text}|{labels}|{{x}}", fields, "t")
    [turn] = Prompting("labelled", LABELS, "Which?", template).conversation(rows[0], rows[1:2], True)
    example = f"Text: {rows[1].content.text}\nLabel: {rows[1].content.label}"
    assert turn.content == f"Which?|{example}|{rows[0].content.text}|dog, pool, wifi|{{x}}"


def test_a_chat_keeps_its_system_message_and_history(write_rows):
    rows = load_rows(str(write_rows([chat_row("Where?", "There.", "Be kind."), chat_row("When?", "Then.")]))).rows
    turns = Prompting("chat", [], "Shortly.").conversation(rows[0], rows[1:], True)
    assert [(turn.role, turn.content) for turn in turns] == [
        ("system", "Be kind."), ("user", "Shortly.\n\nWhen?"), ("assistant", "Then."), ("user", "Where?"),
    ]  # fmt: skip


def test_balanced_takes_the_classes_in_turn(mails):
    rows = load_rows(str(mails)).rows
    labels = [row.content.label for row in rows]
    order = balanced_order(labels, 0)
    assert sorted(order) == list(range(len(rows)))
    assert {labels[place] for place in order[:3]} == {labels[place] for place in order[3:6]} == set(LABELS)
    assert balanced_order(["a", "a", "a", "b"], 0)[:2] != balanced_order(["a", "a", "a", "b"], 0)[2:]
    examples = Examples(rows, 1)
    four, eight = (examples.for_rows(Variant(k, "random", False), rows[:2]) for k in (4, 8))
    assert four[0] == four[1] == eight[0][:4]


def test_the_nearest_are_those_of_bm25s(mails):
    bm25s = pytest.importorskip("bm25s")
    texts = [row.content.text for row in load_rows(str(mails)).rows]
    index = bm25s.BM25()
    index.index([text.split() for text in texts], show_progress=False)
    questions = ["my dog and my cat", "the wifi password please", "qqq", ""]
    ours = nearest(index_of(texts, "t"), questions, 5)
    for question, places in zip(questions[:2], ours, strict=False):
        found, scores = index.retrieve([question.split()], k=5, show_progress=False, n_threads=0)
        assert index.get_scores(question.split())[places].tolist() == scores[0].tolist()
        assert len(set(found[0])) == len(set(places)) == 5
    assert ours[2] == ours[3] == [0, 1, 2, 3, 4]  # nothing is like it: the first
    examples = Examples(load_rows(str(mails)).rows, 0)
    own = examples.rows[7]
    [near] = examples.for_rows(Variant(2, "nearest", False), [own])
    [places] = nearest(index_of(texts, "t"), [own.content.text], len(texts))
    others = [examples.rows[place] for place in places if texts[place] != own.content.text]
    assert near == [others[1], others[0]]  # the most alike stands last, and none that asks the same gives it away


# Labels.


def test_scores_of_labels_equal_a_naive_reference(tiny):
    contract = load_contract(tiny)
    model = load(tiny, LoadSpec()).model.eval().float()
    asked = (Message("user", "where is my dog"),)
    labels = ["dog", "dog leash", "the wifi in the room"]
    prompt, endings = endings_of(contract, asked, labels)
    assert prompt == contract.prompt(asked)
    naive = []
    for label in labels:
        rendered = contract.render((*asked, Message("assistant", label)))
        ids = torch.tensor([list(rendered.ids)])
        logprobs = model(ids).logits[0].detach().log_softmax(-1)
        [(begin, end)] = rendered.spans
        naive.append([float(logprobs[place - 1, ids[0, place]]) for place in range(begin, end)])
    scorer = Endings(LocalEngine(model, contract))
    found = scorer.score(prompt, endings)
    assert scorer.shared is True
    for one, other in zip(found, naive, strict=True):
        assert one.logprobs == pytest.approx(other, abs=1e-4)
    sums = label_sums(found)
    assert label_scores(sums, endings, "sum") == pytest.approx([sum(one) for one in naive], abs=1e-3)
    assert label_scores(sums, endings, "mean") == pytest.approx([float(np.mean(one)) for one in naive], abs=1e-3)
    assert label_scores([-3, -2, -1], endings, "pmi", [-1, -2, -5]) == [-2, 0, 4]
    other = (Message("user", "where is my towel and the pool, and how warm is the water"),)
    longer, _ = endings_of(contract, other, labels)
    known = [scorer.score(ids, endings) for ids in (longer, prompt, longer)]  # each begins as the one before
    assert scorer.shared is True
    scorer.shared = False  # rows, through the Scorer
    for ids, before in zip((longer, prompt, longer), known, strict=True):
        for one, other in zip(scorer.score(ids, endings), before, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
            assert one.correct == other.correct
    engine = LocalEngine(model, contract, batch_tokens=len(prompt) + 3)  # one ending a pass
    for one, other in zip(Endings(engine).score(prompt, endings), known[1], strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_layers_that_forget_share_no_pass(tiny):
    model = load(tiny, LoadSpec()).model
    assert can_share(model)
    model.config.layer_types = ["full_attention", "sliding_attention"]
    assert not can_share(model)
    assert common([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common([1, 2], [1, 2, 3]) == 2


def test_a_model_that_shares_no_pass_is_scored_row_by_row(tiny):
    model = load(tiny, LoadSpec()).model.eval()
    engine = LocalEngine(model, load_contract(tiny))

    forward = model.forward

    def stubborn(**inputs):
        if inputs["attention_mask"].ndim == 4:
            raise ValueError("no such mask")
        return forward(**inputs)

    model.forward = stubborn
    scorer = Endings(engine)
    found = scorer.score([5, 6, 7], [[8, 2], [9, 10, 2]])
    assert scorer.shared is False
    assert [len(one.logprobs) for one in found] == [2, 3]
    assert row_of([5], [6, 7]) == ([5, 6, 7], [False, True, True])
    assert in_parts(10, [3, 3, 3], 16) == [[0, 1], [2]]
    assert in_parts(10, [30, 3], 16) == [[0], [1]]


def test_labels_that_begin_alike_are_told_apart(tiny):
    contract = load_contract(tiny)
    labels = ["late checkout", "late arrival", "wifi"]
    _, endings = endings_of(contract, (Message("user", "a"),), labels)
    assert alike(labels, endings) == (2, ("late checkout", "late arrival"))
    assert alike(labels[1:], endings[1:]) is None


def test_answers_are_matched_without_case_and_punctuation():
    labels = ["room_service", "Wi-Fi"]
    assert [named(text, labels) for text in ("Room service.", "wifi", " WI-FI!\n", "room", "", "wifi please")] == [
        0, 1, 1, None, None, None,
    ]  # fmt: skip
    assert [named(text, ["?", "yes"]) for text in ("?", " ?", "", "...", "Yes!")] == [0, 0, None, None, 1]
    replies = [Reply(text, True, None, 1, 1, 0.1) for text in ("Room service.", "no idea", "wifi")]
    counts, answers = class_results(replies, ["room_service", "Wi-Fi", "room_service"], labels)
    assert counts["accuracy"][:, 0].tolist() == [1, 0, 0]
    assert counts["unmatched answers"][:, 0].tolist() == [0, 1, 0]
    assert answers == ["room_service", "no idea", "Wi-Fi"]


# The whole of it.


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    def make(folder):
        base = save_base(folder / "bert", "bert")
        run = begin(folder / "run", base, class_rows(120))
        finetune({"folder": str(run), "until": "exported"}, silent, lambda: False)

    return made_once(tmp_path_factory, "classifier", make) / "run"


def test_one_table_of_base_server_and_classifier(
    mails, serve, classifier, tmp_path, in_process, tiny, monkeypatch
):  # fmt: skip
    monkeypatch.chdir(tmp_path)  # where versions are kept
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))  # other tests may have looked at these rows
    run, server = classifier, serve(knows)
    said = CliRunner().invoke(
        app,
        ["prompts", str(mails), "--models", f"{tiny},{server.url}#small,{run}", "--shots", "0,2", "--examples",
         "random,balanced", "--rows", "12", "--price", "1,2", "--json", str(tmp_path / "out.json"),
         "--html", str(tmp_path / "out.html"), "--device", "cpu"],
        catch_exceptions=False,
    )  # fmt: skip
    found = read_json(tmp_path / "out.json")
    validation, test = found["validation"]["entries"], found["test"]["entries"]
    assert [(line["model"], line["prompt"]) for line in validation[:2]] == [
        (str(tiny), "zero-shot"), (str(tiny), "zero-shot, instruction"),
    ]  # fmt: skip
    assert len(validation) == 6 + 6 + 1
    assert all(
        len(found[part]["sources"]) == len(found[part]["entries"][0]["answers"]) for part in ("validation", "test")
    )
    assert {line["model"] for line in test} == {str(tiny), f"{server.url}#small", str(run)}
    for line in test:
        if line["model"] != str(run):
            assert line["prompt"] == found["chosen"][line["model"]]
    scores = {line["model"]: {one["metric"]: one for one in line["scores"]} for line in test}
    remote = scores[f"{server.url}#small"]
    assert remote["accuracy"]["score"]["value"] == pytest.approx(100 - remote["unmatched answers"]["score"]["value"])
    assert "unmatched answers" not in scores[str(tiny)]
    assert scores[str(run)]["accuracy"]["score"]["value"] > 80
    assert sum(line["beside"] for line in test) == 1
    asked = len(server.requests)
    assert found["spent"]["requests"] == asked
    assert found["spent"]["dollars"] == pytest.approx(asked * (50 * 1 + 2 * 2) / 1e6)
    assert "trained for it" in said.stdout
    assert "accuracy" in said.stdout
    assert not found["notes"]  # its own held-out rows are these: the same file, split in the same way
    assert "How the first row was asked" in (tmp_path / "out.html").read_text()


def test_rows_that_were_learned_from_are_told(classifier, mails, write_rows):
    test = write_rows(class_rows(20), "test.jsonl")
    found = try_prompts(options(mails, models=[str(classifier)], test=str(test), rows=30), silent)["report"]
    told = " ".join(found["notes"])
    assert "of 20 rows ask what a training row asks" in told
    assert "was trained on 1" in told
    assert "of 20 rows of the test part, whose scores flatter it" in told


def test_ways_to_score_share_what_is_kept(mails, tiny, monkeypatch):
    asked = options(mails, models=[str(tiny)], validate_only=True, shots=[1], rows=5)
    calls = []
    score = Endings.score
    monkeypatch.setattr(Endings, "score", lambda self, *given: calls.append(given) or score(self, *given))
    first = {how: try_prompts({**asked, "scoring": how}, silent)["report"] for how in ("sum", "mean", "pmi")}
    assert len(calls) == 2 * 5 + 2  # two variants; and of each the question that says nothing
    metrics = {
        how: {one["metric"] for one in found["validation"]["entries"][0]["scores"]} for how, found in first.items()
    }
    assert "calibration error" in metrics["sum"]
    assert "calibration error" not in metrics["mean"] | metrics["pmi"]


def test_chats_are_answered_and_measured(write_rows, serve):
    file = write_rows(many_rows(40))
    server = serve(lambda request: said("From seven to ten.", tokens=False))
    asked = options(file, models=[f"{server.url}#small"], shots=[0, 1], examples=[], max_new_tokens=8)
    pytest.importorskip("bm25s")
    found = try_prompts(asked, silent)["report"]
    names = [line["prompt"] for line in found["validation"]["entries"]]
    assert names == ["zero-shot", "1 random", "1 nearest"]  # no instruction, no classes
    line = found["validation"]["entries"][0]
    assert {score["metric"] for score in line["scores"]} >= {"chrF", "token F1", "exact match", "ends by itself"}
    assert (line["prompt_tokens"], line["cost"]) == (None, None)
    assert server.requests[0]["body"]["max_tokens"] == 8


def test_a_local_model_writes_answers_to_chats(write_rows, tiny):
    file = write_rows(many_rows(40))
    asked = options(file, models=[str(tiny)], max_new_tokens=4, rows=3, instruction="Be short.")
    found = try_prompts(asked, silent)["report"]
    assert [line["prompt"] for line in found["validation"]["entries"]] == ["zero-shot", "zero-shot, instruction"]
    assert all(line["answer_tokens"] <= 4 for line in found["validation"]["entries"])
    again = try_prompts(asked, silent)["report"]
    assert [line["asked_now"] for line in again["validation"]["entries"]] == [0, 0]
    assert [line["answers"] for line in again["test"]["entries"]] == [
        line["answers"] for line in found["test"]["entries"]
    ]


def test_test_rows_are_left_alone_where_that_is_asked_and_their_use_is_noted(write_rows, tiny):
    file = write_rows(class_rows(120, 3), "more.jsonl")
    asked = options(file, models=[str(tiny)], validate_only=True)
    assert try_prompts(asked, silent)["report"]["test"]["entries"] == []
    first = try_prompts({**asked, "validate_only": False}, silent)["report"]
    assert not any("used" in note for note in first["notes"])
    shots = {"validate_only": False, "shots": [1]}
    second = try_prompts({**asked, **shots}, silent)["report"]
    assert any("these test rows were used 1 time before, for other prompts" in note for note in second["notes"])


# Kept answers and budgets.


def test_a_kill_costs_no_answer_twice(mails, serve, home):
    enough, free = 5, threading.Event()

    def slow(request):
        if request["number"] > enough and not free.is_set():
            time.sleep(60)
        return knows(request)

    server = serve(slow)
    command = [
        *COMMAND, "prompts", str(mails), "--models", f"{server.url}#small", "--shots", "0", "--rows", "7",
        "--json", str(mails.with_name("out.json")),
    ]  # fmt: skip
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, env=dict(os.environ),
                             cwd=mails.parent)  # fmt: skip
    key = f"{server.url}#small"
    until = time.monotonic() + 100
    while len(Answers(key)._kept) < enough and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert len(Answers(key)._kept) == enough
    bodies = [json.dumps(request["body"]) for request in server.requests]
    answered = bodies[:enough]
    before = len(bodies)
    free.set()
    found = try_prompts(options(mails, models=[key], rows=7), silent)["report"]
    after = [json.dumps(request["body"]) for request in server.requests[before:]]
    assert not set(after) & set(answered)
    assert len(set(after)) == len(after)
    assert all(line["rows"] == line["of"] for line in found["validation"]["entries"])
    count = len(server.requests)
    assert try_prompts(options(mails, models=[key], rows=7), silent)["report"]["spent"]["requests"] == 0
    assert len(server.requests) == count


def test_what_a_server_is_paid_for_is_kept_when_it_is_stopped(mails, serve):
    server = serve(knows)

    def stop(event):
        if event.kind == "pulse":
            raise Stopped("enough")

    asked = options(mails, models=[f"{server.url}#small"])
    with pytest.raises(Stopped):
        try_prompts(asked, stop)
    sent = len(server.requests)
    assert 0 < sent < 12
    assert len(Answers(f"{server.url}#small")._kept) == sent


def test_what_a_server_is_paid_for_is_kept_when_it_refuses_another_question(mails, serve):
    first = threading.Lock()

    def respond(request):
        if first.acquire(blocking=False):
            return 400, {"error": {"message": "not this one"}}
        time.sleep(0.3)
        return knows(request)

    server = serve(respond)
    with pytest.raises(ModelError, match="not this one"):
        try_prompts(options(mails, models=[f"{server.url}#small"]), silent)
    sent = len(server.requests)
    assert sent > 1
    assert len(Answers(f"{server.url}#small")._kept) == sent - 1


def test_a_budget_ends_it_early_with_what_is_there(mails, serve):
    server = serve(knows)
    asked = options(mails, models=[f"{server.url}#small"], max_requests=8)
    found = try_prompts(asked, silent)["report"]
    assert len(server.requests) == 8
    assert [(line["rows"], line["of"]) for line in found["validation"]["entries"]] == [(6, 6), (2, 6)]
    assert found["spent"]["ended_early"]
    assert not found["test"]["entries"]
    assert any("the budget ended it early, after 8 requests" in note for note in found["notes"])
    other = options(mails, models=[f"{server.url}#other"], max_requests=0)
    assert [line["rows"] for line in try_prompts(other, silent)["report"]["validation"]["entries"]] == [0, 0]
    more = try_prompts({**asked, "max_requests": 100}, silent)["report"]
    assert not more["spent"]["ended_early"]
    assert len(more["test"]["entries"]) == 1
    assert len(server.requests) == 8 + more["spent"]["requests"]
    assert len({json.dumps(request["body"]) for request in server.requests}) == len(server.requests)


def test_a_budget_of_dollars_is_never_gone_beyond(mails, serve):
    server = serve(knows)
    asked = options(mails, models=[f"{server.url}#small"], price=["small=100,100"], max_cost=0.05)
    found = try_prompts(asked, silent)["report"]
    assert 0 < found["spent"]["dollars"] <= 0.05
    assert found["spent"]["dollars"] == pytest.approx(len(server.requests) * 52 * 100 / 1e6)
    assert found["spent"]["ended_early"]
    turns = (Message("user", "Hm?"),)
    schema = json.dumps(label_schema(["a" * 300]))
    more = bound_of(Price(1, 1), turns, (), 5, schema) - bound_of(Price(1, 1), turns, (), 5)
    assert more * 1e6 >= len(schema)  # servers read it too
    budget = Budget(None, 1.0)
    assert budget.take(0.6)
    assert not budget.take(0.6)
    budget.settle(0.6, 0.1)
    assert budget.take(0.6)
    assert parse_prices(["0.4,1.6", "a=1,2"]) == {"": Price(0.4, 1.6), "a": Price(1, 2)}


# Mistakes.


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shots": [500]}, r"--shots 500: the training part has \d+ rows to choose examples from"),
        ({"examples": ["near"]}, "--examples near: did you mean 'nearest'"),
        ({"instruction": "Choose {label}"}, r"--instruction: unknown field \{label\}: did you mean 'labels'"),
        ({"instruction": "Choose {"}, "a brace stands alone"),
        ({"scoring": "first"}, "--scoring first: known: mean, pmi, sum"),
        ({"against": "base"}, "--against base"),
        ({"metric": "accurracy"}, "did you mean 'accuracy'"),
        ({"metric": "unmatched answers"}, "not all models have it"),
        ({"max_cost": 1.0}, r"no price is known\. Give one with --price"),
        ({"price": ["1"]}, "must be two prices in dollars"),
        ({"max_requests": 5}, "are for models behind a URL, and none is named"),
    ],
)
def test_mistakes_get_a_sentence(mails, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        try_prompts(options(mails, **changes), silent)


@pytest.mark.parametrize(
    ("text", "changes", "sentence"),
    [
        ("{text} {name}", {}, r"unknown field \{name\}"),
        ("{labels}", {}, r"has no \{text\}"),
        ("{text}", {"shots": [1]}, r"has no \{examples\}, and --shots"),
        ("{text}", {"instruction": "Choose."}, r"has no \{instruction\}, and --instruction"),
        ("{text:>9}", {}, "has a format"),
    ],
)
def test_templates_with_mistakes(mails, tmp_path, text, changes, sentence):
    (tmp_path / "prompt.txt").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        try_prompts(options(mails, template=str(tmp_path / "prompt.txt"), **changes), silent)


def test_rows_and_models_with_mistakes(mails, write_rows, tmp_path, serve, tiny):
    with pytest.raises(MissingError, match="--template nowhere: no such file"):
        try_prompts(options(mails, template="nowhere"), silent)
    with pytest.raises(DataError, match="without labels or answers"):
        try_prompts(options(write_rows([{"text": f"a text {i}"} for i in range(30)], "texts.jsonl")), silent)
    several = [{"text": f"a text {i}", "labels": ["a", "b"][: i % 2 + 1]} for i in range(30)]
    with pytest.raises(DataError, match="several classes each"):
        try_prompts(options(write_rows(several, "several.jsonl")), silent)
    shutil.copytree(tiny, tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"no chat template\. Choose one with --chat-template"):
        try_prompts(options(mails, models=[str(tmp_path / "bare")]), silent)
    with pytest.raises(ConfigError, match=r"^--models: ember is named twice\. Leave one out\.$"):
        try_prompts(options(mails, models=["ember", "ember"]), silent)
    with pytest.raises(MissingError, match="no such folder or file"):
        try_prompts(options(mails, models=["./nothing"]), silent)
    with pytest.raises(ConfigError, match="--examples balanced takes the classes in turn"):
        try_prompts(options(write_rows(many_rows(30), "chats.jsonl"), examples=["balanced"]), silent)
    server = serve(knows)
    twins = [{"text": f"text {i} about {i * 7}", "label": ["Wi-Fi", "wifi"][i % 2]} for i in range(40)]
    with pytest.raises(ConfigError, match="differ in case or punctuation alone"):
        try_prompts(options(write_rows(twins, "twins.jsonl"), models=[f"{server.url}#small"]), silent)
    assert not server.requests
    found = try_prompts(options(mails, models=[str(tiny)], shots=[0, 60]), silent)["report"]
    left = [line for line in found["validation"]["entries"] if line["left_out"]]
    assert [line["prompt"] for line in left] == ["60 random", "60 random, instruction"]
    assert "and the model takes 512. Ask for fewer examples" in left[0]["left_out"]
    with pytest.raises(ConfigError, match="nothing could be asked"):
        try_prompts(options(mails, models=[str(tiny)], shots=[60]), silent)


def test_equal_labels_are_refused(tiny):
    contract = load_contract(tiny)
    with pytest.raises(ModelError, match="are the same words to the model"):
        endings_of(contract, (Message("user", "a"),), ["wifi", "wifi"])
