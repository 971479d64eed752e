"""The embedded model and data: what they promise, and the demo that stands on them."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from itertools import islice
from pathlib import Path

import tunesmith
from tunesmith.core.files import read_json
from tunesmith.jobs.start import start_run
from tunesmith.prompt.base import resolve
from tunesmith.train.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "src" / "tunesmith" / "assets"


def rows(name):
    return [json.loads(line) for line in (ASSETS / "hotel" / f"{name}.jsonl").read_text().splitlines()]


def questions(row):
    return [turn["content"] for turn in row["messages"] if turn["role"] == "user"]


def test_the_hotel_data_is_large_and_its_test_rows_are_new_wordings_of_known_intents():
    train, test = rows("train"), rows("test")
    wordings = defaultdict(set)
    for row in train:
        if len(questions(row)) == 1:
            wordings[row["intent"]].add(questions(row)[0])
    assert len(train) + len(test) >= 700
    assert len(wordings) >= 60
    assert min(map(len, wordings.values())) >= 10
    assert sum(len(questions(row)) > 1 for row in train) >= 50
    assert sum(name.startswith("off_topic") for name in wordings) >= 5
    seen = {re.sub(r"\W+", " ", question.lower()) for row in train for question in questions(row)}
    for row in test:
        assert row["intent"] in wordings
        assert re.sub(r"\W+", " ", questions(row)[0].lower()) not in seen
    assert len({row["messages"][0]["content"] for row in train + test}) == 1  # one persona


def test_one_intent_has_one_answer():
    answers = defaultdict(set)
    for row in rows("train") + rows("test"):
        if len(questions(row)) == 1:
            answers[row["intent"]].add(row["messages"][-1]["content"])
    assert {len(texts) for texts in answers.values()} == {1}


def test_ember_is_small_and_never_heard_of_the_hotel():
    assert (ASSETS / "base" / "model.safetensors").stat().st_size <= 12_000_000
    sys.path.insert(0, str(ROOT / "scripts" / "base_model"))
    from corpus import documents

    asked = {question.lower() for row in rows("train") + rows("test") for question in questions(row)}
    answers = {row["messages"][-1]["content"] for row in rows("train")}
    told = set()
    for document in islice(documents(7), 20_000):
        turns = [document] if isinstance(document, str) else [turn["content"] for turn in document]
        for text in turns:
            assert not re.search(r"Larkspur|Port Ellery|\bWren\b", text)
            assert text not in answers
            told.add(text.lower())
    # Short everyday questions ("do you take cash") come from anyone; many more would be a leak.
    assert len(asked & told) <= 0.05 * len(asked)


def test_ember_speaks_english_before_tuning():
    model = tunesmith.load("ember")
    known = set(re.findall(r"[a-z]+", json.dumps(rows("train")).lower()))
    for question in ("What time is breakfast?", "Is there a swimming pool?", "Can I park my car here?"):
        answer = model.generate(question, max_new_tokens=60)
        words = re.findall(r"[a-z]+", answer.lower())
        assert answer[0].isupper()
        assert answer.endswith((".", "!", "?"))
        assert 4 <= len(words) <= 50
        assert sum(word in known for word in words) >= 0.6 * len(words)


def test_the_demo_reaches_its_goals(tmp_path):
    recipe = read_recipe(ASSETS / "demo.yaml", {"output.folder": str(tmp_path)})
    events = []
    run = start_run(recipe, events.append)
    scores = {score["metric"]: score for score in run.scores}
    assert scores["perplexity"]["score"]["value"] <= scores["perplexity"]["other"]["value"] / 2
    assert scores["BLEU"]["score"]["value"] >= 90
    assert scores["BLEU"]["verdict"] == "better"
    assert scores["ends by itself"]["score"]["value"] >= 98
    probes = read_json(run.folder / "report" / "report.json")["general_ability"]
    kept = {score["metric"]: score for score in probes["general questions"]["scores"]}
    assert kept["BLEU"]["score"]["value"] >= 50  # without replay it falls to 2
    [shown] = [event.samples for event in events if event.kind == "samples"]
    assert len(shown) == 5
    right = [sample["answer"] == sample["reference"] for sample in shown]
    assert sum(right) >= 4, shown  # another processor rounds otherwise, and may say one of them in other words


def test_the_embedded_model_is_unpacked_once_and_by_hash(home):
    folder = resolve("ember").folder
    assert folder.parent == home / "models"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve("ember").folder == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
