"""Comparison and the page."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from conftest import many_rows
from tunesmith.core.errors import ConfigError, DataError
from tunesmith.core.events import silent
from tunesmith.data.load import load_dataset
from tunesmith.data.prepare import prepare
from tunesmith.evaluate.compare import compare, rows_of, verdict
from tunesmith.evaluate.probe import load_probe, probe_files
from tunesmith.evaluate.report import Story, pick_samples, render_page
from tunesmith.evaluate.slices import parts_of
from tunesmith.evaluate.suite import Measured, measure
from tunesmith.infer.engine import Completion, RowScore
from tunesmith.jobs.measure import evaluate_model
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.score.interval import Interval, show
from tunesmith.score.metrics import BLEU_SCORE, METRICS, PERPLEXITY


class Oracle:
    """An engine that knows the answers, or says one thing to everything."""

    def __init__(self, contract, rows, says=None):
        self.contract, self.says = contract, says
        self.answers = {tuple(contract.prompt(row.row.prompt)): row.row.answer for row in rows}

    def generate(self, prompts, sampling):
        texts = [self.says or self.answers[tuple(prompt)] for prompt in prompts]
        return [Completion(self.contract.tokenizer.encode(text), self.says is None) for text in texts]

    def stream(self, prompt, sampling):
        yield from self.generate([prompt], sampling)[0].ids

    def score(self, rows):
        return [RowScore(2.0 * sum(mask[1:]), sum(mask[1:]), sum(mask[1:]) // 2) for _, mask in rows]


@pytest.fixture
def setting(write_rows):
    contract = load_contract(resolve("ember").folder)
    dataset = load_dataset(str(write_rows(many_rows(30))))
    return contract, list(prepare(dataset.rows, dataset.reading.ledgers, contract, 500))


def test_measuring_and_comparing(setting):
    contract, rows = setting
    knows = measure(Oracle(contract, rows), contract, rows, 64, silent, "knows")
    parrot = measure(Oracle(contract, rows, says="Hello."), contract, rows, 64, silent, "parrot")
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
    contract, rows = setting
    evil = "<script>alert(1)</script>"
    counts = measure(Oracle(contract, rows), contract, rows, 64, silent, "knows").counts
    report = compare(Measured([evil] * 30, counts), None, ("m", None), "id", rows)
    step = {"loss": 2.0, "tokens_per_second": 100.0, "memory_bytes": 2**30}
    page = render_page(
        Story(
            title="run<1>", lead="x", steps=[{"step": i, **step} for i in range(1, 9)],
            validations=[{"step": 8, "loss": 1.5}], lengths=[5, 9, 7], trained=[2, 3, 4], ledger="3 rows read.",
            recipe="seed: 0", plan={"device": "cpu"}, report=report, probes={"general": report}, samples=3,
        )
    )  # fmt: skip
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<svg") == 4
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert all(metric.name in page for metric in METRICS)


def test_parts_of_the_rows_have_scores_of_their_own(write_rows):
    rows = many_rows(40)
    for i, row in enumerate(rows):
        row["intent"], row["number"] = ("pool" if i % 4 == 1 else "other"), i
    contract = load_contract(resolve("ember").folder)
    dataset = load_dataset(str(write_rows(rows)))
    prepared = list(prepare(dataset.rows, dataset.reading.ledgers, contract, 500))
    parts = parts_of(prepared)
    assert {part.by for part in parts} == {"intent", "length"}  # a number names each row, and there is one file
    for by in ("intent", "length"):
        places = [place for part in parts if part.by == by for place in part.places]
        assert sorted(places) == list(range(40))
    knows = measure(Oracle(contract, prepared), contract, prepared, 64, silent, "knows")
    parrot = measure(Oracle(contract, prepared, says="On the lower level."), contract, prepared, 64, silent, "parrot")
    report = compare(parrot, knows, ("parrot", "knows"), "id", prepared)
    pool = next(one for one in report.slices if one.value == "pool")
    other = next(one for one in report.slices if one.value == "other")
    assert (pool.rows, other.rows) == (10, 30)
    score = {one.value: next(s for s in one.scores if s.metric == "BLEU") for one in (pool, other)}
    alone = [prepared[place] for place in next(part for part in parts if part.value == "pool").places]
    again = compare(measure(Oracle(contract, alone, says="On the lower level."), contract, alone, 64, silent, ""),
                    None, ("parrot", None), "id", alone)  # fmt: skip
    assert score["pool"].score == next(s for s in again.scores if s.metric == "BLEU").score
    assert score["pool"].score.value > score["other"].score.value
    assert score["other"].verdict == "worse"


def test_rows_are_kept_with_their_counts(setting):
    contract, rows = setting
    knows = measure(Oracle(contract, rows), contract, rows, 64, silent, "knows", timed=0)
    kept = rows_of(knows, rows)
    assert [row["answer"] for row in kept] == knows.answers
    summed = np.sum([row["counts"]["BLEU"] for row in kept], axis=0)
    assert float(BLEU_SCORE.of_sums(summed)) == pytest.approx(100)
    assert knows.speed is None
    assert measure(Oracle(contract, rows), contract, rows, 64, silent, "knows").speed.rows == 8


def test_the_probe_of_ember_is_what_ember_knows():
    """Questions and texts of its own kind: it predicts them far better than a hotel's."""
    contract = load_contract(resolve("ember").folder)
    assert probe_files("auto", "ember").keys() == {"general questions", "plain text"}
    assert probe_files("auto", "some/model") == probe_files("off", "ember") == {}
    assert probe_files(["a/b.jsonl"], "ember") == {"b.jsonl": "a/b.jsonl"}
    from tunesmith.infer.local import LocalEngine
    from tunesmith.model.load import load_model

    engine = LocalEngine(load_model(resolve("ember").folder, torch.float32), contract.stop_ids)
    for what, name in probe_files("auto", "ember").items():
        rows = load_probe(name, contract, 512)
        assert len(rows) >= 50
        assert not any("hotel" in text.lower() for row in rows for text in row.row.content.texts())
        sample = rows[:20]
        found = measure(engine, contract, sample, 16, silent, what)
        perplexity = float(PERPLEXITY.of_sums(found.counts["perplexity"].sum(0)))
        assert 1 < perplexity < 6
        report = compare(found, found, ("a", "b"), "id", sample)
        assert {score.verdict for score in report.scores} == {"no difference shown"}


def test_a_probe_of_another_kind_is_refused(write_rows):
    contract = load_contract(resolve("ember").folder)
    path = write_rows([{"text": f"Good {i}", "label": "good"} for i in range(3)])
    with pytest.raises(DataError, match="a probe takes chats or plain text, and these are labelled rows"):
        load_probe(str(path), contract, 512)


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
    with pytest.raises(ConfigError, match="--probe"):
        evaluate_model({**options, "model": url, "against": None, "probe": ["probe-texts"]}, silent)
    with pytest.raises(ConfigError, match="need a model on this machine"):
        evaluate_model({**options, "model": url, "against": None, "harness": ["x"]}, silent)
