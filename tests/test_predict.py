"""`tunesmith predict`: a line of JSON for each row of a file, streamed, and gone on with where it broke off."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from classifiers import begin, class_rows, save_base
from conftest import made_once
from tunesmith import load
from tunesmith.cli.main import app
from tunesmith.core.errors import ConfigError, DataError, ModelError
from tunesmith.core.events import silent
from tunesmith.infer.local import LocalEngine
from tunesmith.infer.predict.classes import best_threshold
from tunesmith.infer.predict.table import load_predictor
from tunesmith.jobs.finetune import finetune
from tunesmith.model.attention import PACKED
from tunesmith.model.export import find_model


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    def make(folder):
        base = save_base(folder / "bert", "bert")
        run = begin(folder / "run", base, class_rows(120))
        finetune({"folder": str(run), "until": "exported"}, silent, lambda: False)

    return made_once(tmp_path_factory, "classifier", make) / "run"


def predict(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], catch_exceptions=False)


def test_every_row_gets_a_line(classifier, tmp_path):
    path = tmp_path / "mails.csv"
    path.write_text("id,text\n1,where is my dog\n2,\n3,we swim today\n")
    lines = [json.loads(line) for line in predict(classifier, path).stdout.splitlines()]
    assert [(line["row"], line["line"]) for line in lines] == [(1, 2), (2, 3), (3, 4)]
    assert [line.get("label") for line in lines] == ["dog", None, "pool"]
    assert "error" in lines[1]
    assert lines[0]["text"] == "where is my dog"
    assert lines[0]["probabilities"].keys() == {"dog", "pool", "wifi"}
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1)
    [one] = load(classifier).predict(["where is my dog"])
    assert one.probabilities["dog"] == pytest.approx(lines[0]["probabilities"]["dog"], abs=1e-5)


def test_in_bf16_rows_are_packed_too_and_answers_are_nearly_the_same(classifier):
    texts = [row["text"] for row in class_rows(40, 7)]
    exact, fast = load(classifier), load(classifier, precision="bf16")
    said = fast.predict(texts)
    assert fast.model.dtype == torch.bfloat16
    assert exact.model.dtype == torch.float32
    assert fast.model.config._attn_implementation == PACKED
    for one, other in zip(exact.predict(texts), said, strict=True):
        assert one.label == other.label
        assert other.probabilities == pytest.approx(one.probabilities, abs=0.03)


def test_what_broke_off_is_gone_on_with(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr("tunesmith.jobs.predict.ROWS_AT_ONCE", 8)
    path, out, whole = tmp_path / "rows.jsonl", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in class_rows(20, 7)))
    assert "20 rows written" in predict(classifier, path, "--out", whole).stdout
    lines = whole.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:8]) + lines[8][:10])
    assert "12 rows written, 8 were there" in predict(classifier, path, "--out", out).stdout
    assert out.read_text() == whole.read_text()
    assert "0 rows written, 20 were there" in predict(classifier, path, "--out", out).stdout
    path.write_text(json.dumps({"text": "another"}) + "\n")
    with pytest.raises(DataError, match=r"its line 1 is not of this file's row 1\. Name another --out"):
        predict(classifier, path, "--out", out)


def test_columns_and_what_cannot_be_read(classifier, tmp_path):
    path = tmp_path / "mails.jsonl"
    path.write_text(json.dumps({"Frage": "my dog"}) + "\n")
    assert json.loads(predict(classifier, path, "--column", "text=Frage").stdout)["label"] == "dog"
    with pytest.raises(DataError, match="no column called 'text'; it has 'Frage'"):
        predict(classifier, path)
    model = load(classifier)
    with pytest.raises(DataError, match="72 tokens, and the model takes 64"):
        model.predict(["dog " * 70])
    with pytest.raises(DataError, match="give a text, or a pair"):
        model.predict([("a", "b", "c")])
    assert model.predict([]) == []


def test_who_says_what_texts_are_writes_none(classifier):
    with pytest.raises(ConfigError, match=r"does not chat\. Use `tunesmith predict"):
        CliRunner().invoke(app, ["chat", str(classifier), "--once", "Hi?"], catch_exceptions=False)
    with pytest.raises(ModelError, match="says what texts are"):
        LocalEngine(find_model(str(classifier)).load(), None)


def test_a_model_that_writes_predicts_nothing(tiny):
    with pytest.raises(ModelError, match="writes on from what it has read"):
        load_predictor(find_model(str(tiny)))


def test_the_threshold_with_the_best_f1():
    import numpy as np

    share = np.array([[0.9, 0.3], [0.35, 0.1], [0.2, 0.8]])
    true = np.array([[1, 1], [1, 0], [0, 1]])
    assert 0.2 < best_threshold(share, true) <= 0.3
    assert best_threshold(np.array([[0.9]]), np.array([[1]])) == 0.5
