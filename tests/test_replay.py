"""Replay: general rows beside the user's, from files or from the base model's own answers, counted apart."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import QUESTIONS, READS, chat_row, many_rows
from test_train import PLAN
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import ConfigError, DataError, MissingError
from tunesmith.core.events import Pulse
from tunesmith.core.files import read_json, read_lines
from tunesmith.data.config import DataConfig
from tunesmith.data.kinds.table import KINDS
from tunesmith.data.prompts import read_prompts
from tunesmith.data.replay import Mixture, in_epoch, load_replay, refuse_none
from tunesmith.data.source import find_files
from tunesmith.data.split import load_splits
from tunesmith.jobs import own_answers as distil
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.own_answers import Speaker, own_answers
from tunesmith.jobs.replay import OWN_PROMPTS, affordable, choose_source
from tunesmith.model.load import LoadSpec, load
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.prompt.messages import as_conversation
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.recipe import Recipe, read_recipe
from tunesmith.train.sources.rows import RowSource, steps_per_epoch

ROOT = Path(__file__).resolve().parents[1]
REPLAY = ROOT / "src" / "tunesmith" / "assets" / "replay"
GENERAL = REPLAY.parent / "general_ability"


@pytest.fixture(scope="module")
def contract():
    return load_contract(resolve("ember").folder)


def general_rows(count):
    return [chat_row(f"What is {i} plus one?", f"{i} plus one is {i + 1}.") for i in range(count)]


def replayed(path, splits, contract, **fields):
    config = DataConfig(train="unused", **fields)
    held_out = [splits.validation, splits.test]
    files = find_files(str(path))
    return load_replay(files, "general rows", config, contract, 500, splits.train, held_out, seed=3, reads=READS)


@pytest.fixture
def splits(write_rows, contract):
    config = DataConfig(train=str(write_rows(many_rows(40))), validation=0.1, test=0.2)
    return load_splits(config, contract, 500, READS)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"replay": ["a.jsonl"]},
            r"data\.replay = \['a\.jsonl'\]: must be auto, off, a file of rows, or \{prompts: FI",
        ),
        ({"replay": {"prompts": "p.txt", "share": 1}}, "must be auto, off, a file of rows, or"),
        ({"replay": False}, "must be auto, off, a file of rows, or"),
        ({"replay": ""}, "must be auto, off, a file of rows, or"),
        ({"replay_share": 1}, r"data\.replay_share = 1: must be less than 1\. Usually 0\.1 to 0\.5"),
        ({"replay_share": 0}, "must be greater than 0"),
    ],
)
def test_a_wrong_replay_is_one_sentence(tmp_path, given, words):
    (tmp_path / "r.yaml").write_text("data: {train: hotel}")
    with pytest.raises(ConfigError, match=words) as caught:
        read_recipe(tmp_path / "r.yaml", {"data": given})
    assert "Also:" not in str(caught.value)


def test_every_epoch_sees_all_own_rows_and_takes_turns_with_the_replayed_ones(write_rows, splits, contract):
    path = write_rows(general_rows(30), "general.jsonl")
    replay = replayed(path, splits, contract, replay_share=0.3)
    own = len(splits.train)
    assert replay.an_epoch == round(own * 0.3 / 0.7) < 30
    mixture = Mixture(splits.train, replay)
    assert len(mixture) == own + replay.an_epoch
    seen = Counter()
    for epoch in range(30):
        rows = in_epoch(mixture, epoch)
        sources = [row.source for row in rows]
        assert sources[:own] == [row.source for row in splits.train]
        assert [rows[i].source for i in range(len(rows))] == [row.source for row in rows[:]] == sources
        assert rows[-1].source == sources[-1]
        assert rows.lengths.tolist() == [len(row.ids) for row in rows]
        assert len(set(sources[own:])) == replay.an_epoch
        seen.update(sources[own:])
    assert set(seen.values()) == {replay.an_epoch}  # thirty epochs, thirty rows: each as often as any other
    assert mixture.every_length.tolist() == [len(row.ids) for row in [*splits.train, *replay.rows]]
    rows = list(splits.train)
    assert in_epoch(rows, 3) is rows
    assert Mixture(splits.train).lengths.tolist() == splits.train.lengths.tolist()


def test_a_small_source_gives_each_row_once_an_epoch(write_rows, splits, contract):
    replay = replayed(write_rows(general_rows(5), "general.jsonl"), splits, contract, replay_share=0.9)
    assert (len(replay.rows), replay.an_epoch) == (5, 5)


def test_steps_go_on_with_the_rows_that_a_run_without_a_break_would_see(write_rows, splits, contract):
    replay = replayed(write_rows(general_rows(30), "general.jsonl"), splits, contract, replay_share=0.4)
    rows = Mixture(splits.train, replay)
    source = RowSource(rows, make_sft(), PLAN, 8)
    named = [[str(row.source) for batch in micro for row in batch.rows] for micro in islice(source.steps(), 14)]
    epoch = steps_per_epoch(rows, 8)
    assert epoch < 14 / 2
    for done in (1, epoch, epoch + 2):
        source.restore({}, {"taken": done})
        micro = next(source.steps())
        assert [str(row.source) for batch in micro for row in batch.rows] == named[done]


def test_replayed_rows_that_give_a_held_out_row_away_are_left_out_and_counted(write_rows, splits, contract):
    told = splits.test[0].row
    near = told.answer + " " + " ".join(f"Word {i} of a long answer that goes on." for i in range(30))
    long = [chat_row("Anything else, please?", near, "Be kind."), chat_row("Anything more, please?", near + " So.")]
    config = DataConfig(
        train=str(write_rows(many_rows(40), "own.jsonl")),
        test=str(write_rows([long[0], chat_row("Who is there?", "Me.")], "test.jsonl")),
        validation=0,
    )
    held = load_splits(config, contract, 500, READS)
    rows = [
        *general_rows(6),
        chat_row("Who is there?", "The night porter."),  # what a test row asks
        chat_row("Who is there?", "Nobody.", "Be rude."),  # the same under a system message
        long[1],  # nearly what a test row says
        many_rows(40)[0],  # what a training row asks
    ]
    replay = replayed(write_rows(rows, "general.jsonl"), held, contract, replay_share=0.5)
    [ledger] = replay.ledgers
    assert len(replay.rows) == 6
    assert ledger.balanced()
    assert ledger.counts() == {"read": 10, "kept": 6, "dropped": 4}
    assert ledger.by_code("dropped") == {"near_held_out": 3, "asked_by_you": 1}
    assert "4 more are left out" in replay.sentence()
    everything = replayed(write_rows(rows[6:9], "leaks.jsonl"), held, contract)
    assert everything is None
    with pytest.raises(DataError, match=r"data\.replay = 'leaks\.jsonl': no row is left"):
        refuse_none(everything, "leaks.jsonl")


def test_embers_rows_are_what_the_script_writes_and_give_nothing_of_the_check_away():
    sys.path.insert(0, str(ROOT / "scripts" / "base_model"))
    import replay as script

    chats, left_out = script.draw()
    lines = (REPLAY / "ember.jsonl").read_text().splitlines()
    assert [json.loads(line)["messages"] for line in lines] == chats
    assert sum(left_out.values()) > 1000
    probe = [json.loads(line)["messages"] for line in (GENERAL / "questions.jsonl").read_text().splitlines()]
    worded = {script.skeleton(question) for turns in probe for question in script.said(turns, "user")}
    assert script.skeleton("Hi, what is the opposite of cold?") == script.skeleton("what's the opposite of happy")
    assert script.skeleton("What is a twin?") in worded
    assert not worded & {script.skeleton(question) for turns in chats for question in script.said(turns, "user")}


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("p.txt", "Hi?\n\nHow are you?\nHi?\n", ["Hi?", "How are you?"]),
        ("p.jsonl", '{"prompt": "Hi?"}\n{"prompt": "Bye?"}\n', ["Hi?", "Bye?"]),
        ("p.jsonl", '{"prompt": "Hi?", "completion": "No."}\n', ["Hi?"]),
        ("p.jsonl", '{"prompt": [{"role": "user", "content": "Hi?"}]}\n', ["Hi?"]),
        ("p.jsonl", json.dumps(chat_row("Hi?", "Hello.")) + "\n", ["Hi?"]),
        ("p.json", json.dumps([{"messages": [{"role": "user", "content": "Hi?"}]}]), ["Hi?"]),
        (
            "p.jsonl",
            '{"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes."}]}',
            ["Hi?"],
        ),
        ("p.jsonl", '{"instruction": "Translate.", "input": "Bonjour", "output": "Hello"}', ["Translate.\nBonjour"]),
        ("p.csv", "question,answer\nHi?,Hello.\n", ["Hi?"]),
        ("p.csv", "prompt\nHi?\nBye?\n", ["Hi?", "Bye?"]),
    ],
)
def test_prompts_are_read_from_any_file(tmp_path, name, text, want):
    path = tmp_path / name
    path.write_text(text)
    prompts, ledger = read_prompts(str(path))
    assert [prompt[-1].content for prompt in prompts] == want
    assert ledger.balanced()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"prompt": "Hi?"}\n{"answer": "No."}\n',
            r"1 of 2 rows hold no prompt\. First: .*:2:1: nothing is asked\. Give",
        ),
        ('{"messages": [{"role": "assistant", "content": "Hi."}]}', "nothing is asked"),
        ('{"prompt": 3}', "'prompt' is a number"),
        ("", "empty"),
    ],
)
def test_a_file_without_prompts_is_refused_with_the_place(tmp_path, text, words):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_prompts(str(path))


def test_the_project_lists_are_full_of_different_prompts():
    prompts, held_out = (read_prompts(name)[0] for name in (OWN_PROMPTS, "held-out-prompts"))
    assert (len(prompts), len(held_out)) == (320, 120)
    assert len(prompts) % distil.TOGETHER == len(held_out) % distil.TOGETHER == 0
    assert not set(prompts) & set(held_out)


@pytest.fixture
def speaker(contract, tmp_path, monkeypatch):
    """Ember, whose answers are counted as they are made, in a cache of its own."""
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(distil, "TOGETHER", 3)
    loads = []

    def make():
        loads.append(1)
        return load(resolve("ember").folder, LoadSpec()).model

    return Speaker("ember", make, contract), loads


PROMPTS = [as_conversation(text) for text in (*QUESTIONS, "What is the opposite of cold?", "How are you?", "Hello.")]


def test_own_answers_are_the_models_and_are_made_once(speaker, tmp_path):
    who, loads = speaker
    events = []
    first = own_answers(who, PROMPTS, 500, events.append)
    assert [event.done for event in events if event.kind == "pulse"] == [3, 6, 7]
    assert len(first.rows) + sum(first.lost.values()) == first.asked == 7
    model, contract = who.load(), who.contract
    for row in first.rows[:2]:
        ids = torch.tensor([contract.prompt(as_conversation(row["messages"][:-1]))])
        said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=192, do_sample=False)
        assert contract.decode(said[0, ids.shape[1] :].tolist()).strip() == row["messages"][-1]["content"]
    loads.clear()
    assert own_answers(who, PROMPTS, 500, lambda event: None).rows == first.rows
    assert not loads
    parts = sorted((tmp_path / "home" / "answers").iterdir())
    assert len(parts) == 3
    parts[0].write_text("[")  # damaged
    parts[1].unlink()
    assert own_answers(who, PROMPTS, 500, lambda event: None).rows == first.rows
    assert loads == [1]


def test_prompts_that_get_no_answer_are_counted_and_a_model_that_never_ends_is_not_asked_on(speaker, tiny, monkeypatch):
    who, _ = speaker
    monkeypatch.setattr(distil, "FEWEST_ENDED", 0.5)
    endless = Speaker("tiny", lambda: load(tiny, LoadSpec()).model, who.contract)
    found = own_answers(endless, PROMPTS, 500, lambda event: None)
    assert found.asked == 3
    assert found.lost["no end within 192 tokens"] >= 2
    found = own_answers(who, PROMPTS, 12, lambda event: None)
    assert found.lost["the prompt has 12 tokens or more"] >= 1


def test_a_model_stopped_on_the_way_goes_on_with_the_part_it_was_at(speaker):
    who, _ = speaker

    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        own_answers(who, PROMPTS, 500, stop)
    asked = []
    whole = Speaker(who.id, lambda: asked.append(1) or load(resolve("ember").folder, LoadSpec()).model, who.contract)
    events = []
    own_answers(whole, PROMPTS, 500, events.append)
    assert asked == [1]
    assert events[0] == Pulse("the base model answers", 3, 7)


class Shape(list):
    """What a choice of source looks at: so many rows of one kind, all as long."""

    def __init__(self, rows=1000, tokens=80, kind="chat"):
        super().__init__([None] * rows)
        self.lengths, self.train, self.kind = np.full(rows, tokens), self, KINDS[kind]


@pytest.mark.parametrize(
    ("changes", "splits", "name", "why"),
    [
        ({"model": {"base": "ember"}}, Shape(), "ember-general", ""),
        ({"model": {"base": "ember"}, "data": {"replay": "off"}}, Shape(), "", ""),
        ({"data": {"replay": "mine.jsonl"}}, Shape(kind="text"), "mine.jsonl", ""),
        ({"model": {"base": "ember"}}, Shape(kind="text"), "", "beside plain text it is not done unasked"),
        ({"model": {"template": "plain"}}, Shape(), "", "was given its chat template here"),
        ({}, Shape(), OWN_PROMPTS, ""),
        ({}, Shape(rows=40, tokens=40), "", "so short that answering prompts would take longer"),
        ({"sharding": "full", "processes": 2}, Shape(), "", "a sharded base may not fit"),
        ({"data": {"replay": {"prompts": OWN_PROMPTS}}}, Shape(rows=40, tokens=40), OWN_PROMPTS, ""),
    ],
)
def test_auto_takes_what_is_there_and_says_why_nothing_is(changes, splits, name, why):
    base = {"model": {"base": "some/model"}, "data": {"train": "hotel"}, "method": {"type": "lora"}}
    values = {**base, **changes, "data": {"train": "hotel", **changes.get("data", {})}}
    source = choose_source(Recipe.model_validate(values), splits)
    assert source.name == name
    assert why in source.why_none
    assert bool(why) == bool(source.why_none)


def test_prompts_are_asked_in_whole_parts_as_far_as_the_training_is_longer():
    def count(rows, tokens, **changes):
        recipe = Recipe.model_validate({"data": {"train": "hotel", **changes.pop("data", {})}, **changes})
        return affordable(recipe, Shape(rows, tokens), 320)

    assert count(1000, 80) == 320
    assert count(1000, 80, optim={"steps": 100}) == 200  # 128,000 tokens, half of them at 300 a prompt: 213
    assert count(100, 1000, data={"replay_share": 0.1}) == 40  # 33 replayed rows in all: more would never be seen
    assert count(40, 40) == 0


def test_a_run_records_what_it_replayed_apart_from_the_users_rows(tiny, write_rows, tmp_path, contract):
    path = write_rows(many_rows(40))
    own = write_rows(general_rows(20), "general.jsonl")
    found = {}
    for name, replay in (("off", "off"), ("with", str(own))):
        recipe = Recipe.model_validate({
            "model": {"base": str(tiny)}, "method": {"type": "lora"}, "precision": "fp32", "compile": "off",
            "data": {"train": str(path), "replay": replay, "replay_share": 0.3},
            "optim": {"steps": 4, "batch_size": 16, "learning_rate": 1e-3},
            "evaluate": {"max_new_tokens": 2, "general_ability": "off"}, "output": {"name": name},
        })  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(to_yaml(recipe))
        events = []
        finetune({"folder": str(folder)}, events.append)
        [data] = [event.to_json() for event in events if event.kind == "data"]
        found[name] = (folder, read_json(folder / "model" / "tunesmith.json"), data, events)
    folder, card, data, events = found["with"]
    _, plain_card, plain_data, plain_events = found["off"]
    assert card["data"] == {**plain_card["data"], "files": card["data"]["files"]}  # id and rows are the user's
    assert {**data, "replay": None} == plain_data
    assert (plain_card["replay"], plain_data["replay"]) == (None, None)
    replay = card["replay"]
    assert replay == data["replay"]
    assert replay["rows"] == 20
    assert replay["an_epoch"] == round(data["rows"]["train"] * 0.3 / 0.7)
    assert replay["files"][0]["file"] == str(own)
    ledgers = read_json(folder / "ledger.json")
    assert [(one["file"], one.get("replayed", False)) for one in ledgers] == [(str(path), False), (str(own), True)]
    [said] = [event.sentence for event in events if event.kind == "replay"]
    assert said.startswith("20 general rows, 13 in each epoch, are replayed beside yours so that the model keeps")
    assert "data.replay=off leaves them out" in said
    assert not [event for event in plain_events if event.kind == "replay"]
    assert said in (folder / "report" / "report.html").read_text()
    losses = [[step["loss"] for step in read_lines(one[0] / "metrics.jsonl")] for one in found.values()]
    assert losses[0] != losses[1]


def test_a_replayed_file_that_is_not_there_is_missed_before_anything_is_written(tmp_path, tiny):
    from tunesmith.jobs.start import start_run

    for replay in ("none.jsonl", {"prompts": "none.txt"}):
        recipe = Recipe.model_validate({
            "model": {"base": str(tiny)}, "method": {"type": "lora"}, "data": {"train": "hotel", "replay": replay},
            "output": {"folder": str(tmp_path / "runs")},
        })  # fmt: skip
        with pytest.raises(MissingError, match="no such file"):
            start_run(recipe)
    assert not (tmp_path / "runs").exists()


def test_the_benchmarks_smallest_case_measures_both_runs_and_goes_on_where_it_was(
    write_rows, tmp_path, capsys, in_process
):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("replay_benchmark", ROOT / "benchmarks" / "replay.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    rows = str(write_rows(many_rows(16)))
    arguments = ["--base", str(resolve("ember").folder), "--folder", str(tmp_path / "made"), "--rows", rows,
                 "--test", str(write_rows(many_rows(3), "test.jsonl")), "--steps", "2", "--prompts", "40",
                 "--held-out", "40", "--max-new-tokens", "4"]  # fmt: skip
    text = benchmark.main(arguments)
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| o")]
    assert [line[0].split(" (")[0] for line in lines] == ["| off", "| own answers"]
    for line in lines:
        before, after, ratio = (float(cell) for cell in line[4:7])
        assert ratio == pytest.approx(after / before, abs=0.01)
        assert before > 1
    assert "are replayed beside yours" in capsys.readouterr().out
    assert benchmark.main(arguments) == text
    assert "phase" not in capsys.readouterr().out
