"""Comparison and the page."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from conftest import READS, many_rows
from tunesmith.core.errors import ConfigError, DataError
from tunesmith.core.events import silent
from tunesmith.data.load import load_rows
from tunesmith.data.prepare import prepare
from tunesmith.evaluate.compare import Comparison, EvalReport, Sample, compare, rows_of, verdict
from tunesmith.evaluate.general_ability import general_files, load_general
from tunesmith.evaluate.report import Story, pick_samples, render_evaluation, render_page
from tunesmith.evaluate.slices import parts_of
from tunesmith.evaluate.suite import RowResults, evaluate_rows
from tunesmith.infer.generator import Answered, Choice, Completion, RowScore, Usage
from tunesmith.jobs.evaluate import evaluate_model
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.score.interval import Interval, show
from tunesmith.score.metrics import BLEU_SCORE, METRICS, PERPLEXITY


class Oracle:
    """A model that knows the answers, or says one thing to everything."""

    def __init__(self, rows, says=None):
        self.says = says
        self.answers = {row.row.prompt: row.row.answer for row in rows}

    def submit(self, prompt, options):
        choice = Choice(self.says or self.answers[prompt], "length" if self.says else "stop")
        return Answered(Completion([choice], Usage(1, 1), 0.1))

    def score(self, rows):
        return [RowScore([-2.0] * sum(mask[1:]), sum(mask[1:]) // 2) for _, mask in rows]


@pytest.fixture
def setting(write_rows):
    contract = load_contract(resolve("ember").folder)
    dataset = load_rows(str(write_rows(many_rows(30))))
    return contract, list(prepare(dataset.rows, dataset.reading.ledgers, contract, 500, READS))


def test_measuring_and_comparing(setting):
    _, rows = setting
    knows = evaluate_rows(Oracle(rows), rows, 64, silent, "knows")
    parrot = evaluate_rows(Oracle(rows, says="Hello."), rows, 64, silent, "parrot")
    report = compare(knows, parrot, ("knows", "parrot"), "id", rows)
    scores = {score.metric: score for score in report.scores}
    assert scores["perplexity"].score.value == pytest.approx(np.exp(2))
    assert scores["perplexity"].verdict == "no difference shown"
    assert scores["BLEU"].score.value == pytest.approx(100)
    assert scores["BLEU"].verdict == "better"
    assert scores["token accuracy"].score.value == pytest.approx(50, abs=5)
    assert (scores["ends by itself"].score.value, scores["ends by itself"].other.value) == (100, 0)
    assert report.samples[0].other == "Hello."
    assert report.samples[0].answer == report.samples[0].reference.strip()
    alone = compare(knows, None, ("knows", None), "id", rows)
    assert {score.other for score in alone.scores} == {None}
    assert [score.metric for score in report.scores] == [metric.name for metric in METRICS]
    assert len(pick_samples(report, 5)) == 5
    assert pick_samples(None, 5) == []


def test_verdicts():
    assert verdict(BLEU_SCORE, Interval(3, 1, 5, 50)) == "better"
    assert verdict(BLEU_SCORE, Interval(3, 1, 5, 9)) == "too few rows"
    assert verdict(PERPLEXITY, Interval(3, 1, 5, 50)) == "worse"
    assert verdict(PERPLEXITY, Interval(3, -1, 5, 50)) == "no difference shown"


def test_scores_show_the_digits_that_matter():
    assert [show(value) for value in (931.7, -80.52, 1.104, 0.1234, 0.0)] == ["932", "-80.5", "1.10", "0.123", "0.0"]


def test_the_page_is_self_contained_and_escapes_what_models_say(setting):
    _, rows = setting
    evil = "<script>alert(1)</script>"
    counts = evaluate_rows(Oracle(rows), rows, 64, silent, "knows").counts
    report = compare(RowResults([evil] * 30, counts), None, ("m", None), "id", rows)
    step = {"loss": 2.0, "tokens_per_second": 100.0, "memory_bytes": 2**30}
    page = render_page(
        Story(
            title="run<1>", lead="x", steps=[{"step": i, **step} for i in range(1, 9)],
            validations=[{"step": 8, "loss": 1.5}], lengths=[5, 9, 7], trained=[2, 3, 4], ledger="3 rows read.",
            recipe="seed: 0", plan={"device": "cpu"}, report=report, general={"general": report}, samples=3,
            notes=["one row <2> is odd."],
        )
    )  # fmt: skip
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "one row &lt;2&gt; is odd." in page
    assert page.count("<svg") == 4
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert all(metric.name in page for metric in METRICS)


def test_the_page_of_a_run_shows_what_it_is_watched_by_and_what_else_changed():
    frame = {"tokens_per_second": 100.0, "memory_bytes": 2**30, "learning_rate": 1.0, "seconds": 1.0}
    steps = [
        {"step": i, **frame, "loss": 0.1 * i, "reward": 2.0 * i, "kl": float(i), "beta": 0.1, "gradient_norm": 1.0 * i}
        for i in range(1, 5)
    ]
    del steps[-1]["reward"]  # nothing that could be scored
    page = render_page(
        Story(
            title="run", lead="x", steps=steps, validations=[{"step": 4, "loss": 1.5}], lengths=[5], trained=[2],
            ledger="", recipe="", plan={}, report=None, general={}, samples=0,
        )
    )  # fmt: skip
    assert "<h2>Reward</h2>" in page
    assert "<b>6.000</b><span>final reward</span>" in page
    shown = set(re.findall(r">(loss|kl|beta|gradient norm|learning rate|seconds|step)</text>", page))
    assert shown == {"loss", "kl", "gradient norm", "step"}  # what never changes has no picture


def test_the_page_names_the_models_and_folds_what_did_not_change():
    scores = [
        Comparison(name, "%", *[Interval(3.0, 2.0, 4.0, 30)] * 3, verdict)
        for name, verdict in (("BLEU", "no difference shown"), ("chrF", "worse"), ("token F1", "better"))
    ]
    sample = Sample([{"role": "user", "content": "Hi?"}], "Hello.", "Hey.", "No.")
    report = EvalReport("runs/hotel", "org/base-model", "id", 30, scores, [], {}, [sample])
    page = render_evaluation(report, {}, 1)
    words = ["hotel beside base-model: better in 1 metric, worse in 1 metric, no difference shown in 1 metric.",
             'class="better">better', "token F1", 'class="worse">worse', "chrF", "<details>", "BLEU"]  # fmt: skip
    places = [page.index(word, page.index("</svg>") if i else 0) for i, word in enumerate(words)]
    assert places == sorted(places)
    picture = page[page.index("<svg") : page.index("</svg>")]
    assert [name in picture for name in ("base-model", "hotel", "chrF", "token F1", "BLEU")] == [True] * 4 + [False]
    assert re.search(r'"who">base-model</span><span>No\..*"who">hotel</span><span>Hey\.', page, re.DOTALL)


def test_parts_of_the_rows_have_scores_of_their_own(write_rows):
    rows = many_rows(40)
    for i, row in enumerate(rows):
        row["intent"], row["number"] = ("pool" if i % 4 == 1 else "other"), i
    contract = load_contract(resolve("ember").folder)
    dataset = load_rows(str(write_rows(rows)))
    prepared = list(prepare(dataset.rows, dataset.reading.ledgers, contract, 500, READS))
    parts = parts_of(prepared)
    assert {part.by for part in parts} == {"intent", "length"}  # a number names each row, and there is one file
    for by in ("intent", "length"):
        places = [place for part in parts if part.by == by for place in part.places]
        assert sorted(places) == list(range(40))
    knows = evaluate_rows(Oracle(prepared), prepared, 64, silent, "knows")
    parrot = evaluate_rows(Oracle(prepared, says="On the lower level."), prepared, 64, silent, "parrot")
    report = compare(parrot, knows, ("parrot", "knows"), "id", prepared)
    pool = next(one for one in report.slices if one.value == "pool")
    other = next(one for one in report.slices if one.value == "other")
    assert (pool.rows, other.rows) == (10, 30)
    score = {one.value: next(s for s in one.scores if s.metric == "BLEU") for one in (pool, other)}
    alone = [prepared[place] for place in next(part for part in parts if part.value == "pool").places]
    again = compare(evaluate_rows(Oracle(alone, says="On the lower level."), alone, 64, silent, ""),
                    None, ("parrot", None), "id", alone)  # fmt: skip
    assert score["pool"].score == next(s for s in again.scores if s.metric == "BLEU").score
    assert score["pool"].score.value > score["other"].score.value
    assert score["other"].verdict == "worse"


def test_rows_are_kept_with_their_counts(setting):
    _, rows = setting
    knows = evaluate_rows(Oracle(rows), rows, 64, silent, "knows", timed=0)
    kept = rows_of(knows, rows)
    assert [row["answer"] for row in kept] == knows.answers
    summed = np.sum([row["counts"]["BLEU"] for row in kept], axis=0)
    assert float(BLEU_SCORE.of_sums(summed)) == pytest.approx(100)
    assert knows.speed is None
    assert evaluate_rows(Oracle(rows), rows, 64, silent, "knows").speed.rows == 8


def test_the_general_rows_of_ember_are_what_ember_knows():
    """Questions and texts of its own kind: it predicts them far better than a hotel's."""
    contract = load_contract(resolve("ember").folder)
    assert general_files("auto", "ember").keys() == {"general questions", "plain text"}
    assert general_files("auto", "some/model") == general_files("off", "ember") == {}
    assert general_files(["a/b.jsonl"], "ember") == {"b.jsonl": "a/b.jsonl"}
    from tunesmith.infer.local import LocalEngine
    from tunesmith.model.load import LoadSpec, load

    engine = LocalEngine(load(resolve("ember").folder, LoadSpec()).model, contract)
    for what, name in general_files("auto", "ember").items():
        rows = load_general(name, contract, 512)
        assert len(rows) >= 50
        assert not any("hotel" in text.lower() for row in rows for text in row.row.content.texts())
        sample = rows[:20]
        found = evaluate_rows(engine, sample, 16, silent, what)
        perplexity = float(PERPLEXITY.of_sums(found.counts["perplexity"].sum(0)))
        assert 1 < perplexity < 6
        report = compare(found, found, ("a", "b"), "id", sample)
        assert {score.verdict for score in report.scores} == {"no difference shown"}


def test_general_rows_of_another_kind_are_refused(write_rows):
    contract = load_contract(resolve("ember").folder)
    path = write_rows([{"text": f"Good {i}", "label": "good"} for i in range(3)])
    with pytest.raises(DataError, match="general-ability check takes chats or plain text, and these are labelled rows"):
        load_general(str(path), contract, 512)


class Parrot(BaseHTTPRequestHandler):
    """A server of OpenAI's chat completions that says one thing."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"message": {"role": "assistant", "content": "On the lower level."}, "finish_reason": "stop"}
        body = json.dumps({"choices": [choice], "usage": {"completion_tokens": 5}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_remote_model_is_measured_beside_one_of_this_machine(write_rows, tiny, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Parrot)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1#parrot"
    page = tmp_path / "page.html"
    rows = str(write_rows(many_rows(12)))
    options = {"data": rows, "template": None, "format": None, "columns": {}, "bad_rows": "fail", "rows": None,
               "max_new_tokens": 8, "samples": 2, "html": str(page)}  # fmt: skip
    events = []
    report = evaluate_model({**options, "model": url, "against": str(tiny)}, events.append)["report"]
    alone = evaluate_model({**options, "model": url, "against": None}, events.append)["report"]
    server.shutdown()
    server.server_close()
    names = [score["metric"] for score in report["scores"]]
    assert "perplexity" not in names  # nobody can see it from outside
    assert {"BLEU", "exact match", "ends by itself"} <= set(names)
    assert report["scores"][0]["verdict"] == "better"
    assert report["speed"][url]["tokens_per_second"] > 0
    assert {score["other"] is None for score in alone["scores"]} == {True}
    # The three rows of a pool with a short answer are answered exactly; the fourth goes on.
    exact = next(score for score in alone["scores"] if score["metric"] == "exact match")
    want = [row["messages"][-1]["content"].strip() == "On the lower level." for row in many_rows(12)]
    assert exact["score"]["value"] == pytest.approx(100 * np.mean(want))
    assert "On the lower level." in page.read_text()
    with pytest.raises(ConfigError, match="--general"):
        evaluate_model({**options, "model": url, "against": None, "general": ["general-texts"]}, silent)
    with pytest.raises(ConfigError, match="need a model on this machine"):
        evaluate_model({**options, "model": url, "against": None, "harness": ["x"]}, silent)
