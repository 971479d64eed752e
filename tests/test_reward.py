"""Reward models on the whole road: trained, exported as the library's classifiers, asked, and measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
import yaml

from preferences import asked, pair_rows, prepared_rows
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import ConfigError, DataError
from tunesmith.core.files import read_json, write_text
from tunesmith.infer.predict.table import load_predictor
from tunesmith.jobs.evaluate import evaluate_model
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.predict import predict_to
from tunesmith.jobs.tasks.rewards import LONGER, longer
from tunesmith.jobs.tasks.task import Asked
from tunesmith.model.export import find_model
from tunesmith.score import metrics
from tunesmith.score.pairs import hits, likelihood_counts, reward_counts
from tunesmith.train.recipe import read_recipe


def begin(folder, base, rows, **sections):
    """A run's folder, ready to be trained."""
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "model": {"base": str(base)},
        "objective": {"type": "reward"},
        "data": {"train": str(folder / "rows.jsonl"), "test": 0.3, "validation": 0.1, "near_duplicates": "off"},
        "optim": {"learning_rate": 3e-3, "epochs": 3, "batch_size": 8, "warmup": 0},
        "evaluate": {"metric": "rewards/accuracies", "export": "best"},
        "output": {"folder": str(folder.parent), "name": folder.name},
        "precision": "fp32",
        "compile": "off",
    }
    for section, given in sections.items():
        values[section] = {**values[section], **given} if isinstance(values.get(section), dict) else given
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    write_text(folder / "config.yaml", to_yaml(read_recipe(folder / "recipe.yaml")))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny):
    """A whole run, and what it returned."""
    folder = begin(tmp_path_factory.mktemp("reward") / "run", tiny, pair_rows(48))
    return folder, finetune({"folder": str(folder)}, lambda event: None)


def test_held_out_pairs_are_told_apart_beside_their_lengths(trained):
    folder, result = trained
    scores = {one["metric"]: one for one in result["scores"]}
    assert list(scores) == ["reward accuracy", "reward margin", "calibration error"]
    assert scores["reward accuracy"]["score"]["value"] > 90
    assert scores["reward accuracy"]["score"]["low"] > scores["reward accuracy"]["other"]["value"]
    report = read_json(folder / "report" / "report.json")
    assert report["against"] == LONGER
    assert report["samples"][0]["answer"].endswith("rejected")
    assert read_json(folder / "plan.json")["packing"]


def test_what_is_exported_loads_as_the_librarys_classifier_and_gives_the_same_rewards(trained):
    import peft

    folder, _ = trained
    model = load_predictor(find_model(str(folder)), "cpu")
    chats = [
        [{"role": "user", "content": asked(1)}, {"role": "assistant", "content": text}]
        for text in ("On the lower level.", "Why do you ask?")
    ]
    found = [one.reward for one in model.predict(chats)]
    assert found[0] > found[1]
    theirs = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    for chat, reward in zip(chats, found, strict=True):
        ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            assert theirs(**ids).logits.item() == pytest.approx(reward, rel=1e-4, abs=1e-4)


def test_predict_reads_chats_and_prompts_with_answers_and_says_what_it_cannot(trained, tmp_path):
    folder, _ = trained
    model = load_predictor(find_model(str(folder)), "cpu")
    rows = [
        {"prompt": asked(2), "completion": "Yes, it is free."},
        {"messages": [{"role": "user", "content": asked(2)}, {"role": "assistant", "content": "Yes, it is free."}]},
        {"prompt": asked(2)},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = predict_to(model, str(tmp_path / "rows.jsonl"), {}, tmp_path / "out.jsonl")
    first, second, third = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert (done.written, done.faulty) == (3, 1)
    assert first["reward"] == pytest.approx(second["reward"], rel=1e-5)
    assert first["messages"] == second["messages"] == rows[1]["messages"]
    assert "a prompt without an answer" in third["error"]
    assert isinstance(model.predict(["as it is"])[0].reward, float)
    with pytest.raises(DataError, match="give a list of turns, or a text"):
        model.predict([3])


def test_predict_reads_all_of_what_is_asked_and_demands_an_answer(trained, tmp_path):
    model = load_predictor(find_model(str(trained[0])), "cpu")
    turns = [{"role": "user", "content": "Say it.\nWhere is the pool?"}, {"role": "assistant", "content": "Here."}]
    rows = [
        {"messages": turns},
        {"instruction": "Say it.", "input": "Where is the pool?", "output": "Here."},
        {"prompt": turns[:1], "completion": turns[1:]},
        {"conversations": [{"from": "human", "value": turns[0]["content"]}, {"from": "gpt", "value": "Here."}]},
        {"conversations": [{"from": "human", "value": "Hm?"}], "chosen": turns[1], "rejected": turns[1]},
        {"prompt": "Hm?", "chosen": "Yes.", "rejected": "No."},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict_to(model, str(tmp_path / "rows.jsonl"), {}, tmp_path / "out.jsonl")
    *same, pair, other = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert [line["messages"] for line in same] == [turns] * 4
    assert [line["reward"] for line in same] == pytest.approx([same[0]["reward"]] * 4, rel=1e-5)
    assert pair["error"].startswith("the last turn is not the assistant's. Give one answer a row")
    assert other["error"].startswith("a prompt without an answer. Give one answer a row")
    with pytest.raises(DataError, match="the last turn is not the assistant's"):
        model.predict([turns[:1]])


def test_evaluate_takes_pairs_and_compares_two_reward_models(trained, tmp_path):
    folder, _ = trained
    rows = tmp_path / "asked.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in pair_rows(70)[50:]))
    arguments = {"model": str(folder), "against": None, "data": str(rows), "format": None, "columns": {},
                 "bad_rows": "fail", "rows": None, "samples": 1, "html": None, "general": None}  # fmt: skip
    alone = evaluate_model(arguments, lambda event: None)["report"]
    assert alone["scores"][0]["score"]["rows"] == 20
    both = evaluate_model({**arguments, "against": str(folder)}, lambda event: None)["report"]
    assert both["scores"][0]["difference"]["value"] == 0


@pytest.mark.parametrize("margin", ["much", "nan", "inf", True])
def test_a_margin_that_is_no_number_is_refused(tmp_path, tiny, margin):
    folder = begin(tmp_path / "run", tiny, [{**row, "margin": margin} for row in pair_rows(12)])
    with pytest.raises(DataError, match=rf"'margin' is '{margin}'. Give a number"):
        finetune({"folder": str(folder)}, lambda event: None)


def test_a_method_without_a_place_for_a_head_is_refused(tmp_path, tiny):
    folder = begin(tmp_path / "run", tiny, pair_rows(12), method={"type": "prompt_tuning"})
    with pytest.raises(ConfigError, match=r"objective.type = reward and method.type = prompt_tuning"):
        finetune({"folder": str(folder)}, lambda event: None)


def test_the_longer_answer_is_told_by_tokens(write_rows, tiny):
    rows = prepared_rows(write_rows, tiny, pair_rows(6), "preference")
    name, found = longer(Asked(None, rows, rows))
    want = [np.sign(row.sequences[0].trained - row.sequences[1].trained) for row in rows]
    said = {1: "the chosen one", -1: "the rejected one", 0: "neither"}
    assert (name, found.answers) == (LONGER, [said[one] for one in want])
    counts = found.counts[metrics.REWARD_ACCURACY.name]
    assert counts[:, 0].tolist() == [(one + 1) / 2 for one in want]


def test_metrics_of_pairs():
    chosen, rejected = np.array([2.0, 0.0, 1.0, -1.0]), np.array([0.0, 1.0, 1.0, -3.0])
    found = {
        metric.name: float(metric.of_sums(reward_counts(chosen, rejected)[metric.name].sum(0)))
        for metric in (metrics.REWARD_ACCURACY, metrics.REWARD_MARGIN)
    }
    assert found == {"reward accuracy": 62.5, "reward margin": 0.75}
    likely = likelihood_counts(chosen, rejected)
    assert float(metrics.LOGP_MARGIN.of_sums(likely[metrics.LOGP_MARGIN.name].sum(0))) == 0.75
    assert hits(np.array([1.0, 0.0, -1.0]))[:, 0].tolist() == [1.0, 0.5, 0.0]
    # As sure as the sigmoid of the difference: 0.88, 0.73 (wrong), 0.5 (wrong), 0.88.
    error = metrics.CALIBRATION.of_sums(reward_counts(chosen, rejected)[metrics.CALIBRATION.name].sum(0))
    assert float(error) == pytest.approx(100 * (2 * (1 - 0.8808) + 0.7311 + 0.5) / 4, rel=1e-3)
