"""Comparison and the page."""

from __future__ import annotations

import re

import numpy as np
import pytest

from conftest import many_rows
from tunesmith.core.events import silent
from tunesmith.data.load import load_dataset
from tunesmith.data.prepare import prepare
from tunesmith.evaluate.compare import compare, verdict
from tunesmith.evaluate.report import Story, pick_samples, render_page
from tunesmith.evaluate.suite import METRICS, Measured, measure
from tunesmith.infer.engine import Completion, RowScore
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.score.interval import Interval, show
from tunesmith.score.metrics import BLEU_SCORE, PERPLEXITY


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
            recipe="seed: 0", plan={"device": "cpu"}, report=report, samples=3,
        )
    )  # fmt: skip
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<svg") == 2
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert all(metric.name in page for metric in METRICS)
