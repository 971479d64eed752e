"""A prompt around every row: what is learned, which examples a row sees, the same parts as without, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from classifiers import class_rows
from conftest import READS, chat_row, many_rows
from test_prompts import options
from tunesmith.cli.main import app
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import ConfigError, DataError, MissingError, TunesmithError
from tunesmith.core.events import silent
from tunesmith.core.files import read_json, write_text
from tunesmith.data.config import DataConfig
from tunesmith.data.formats.label_names import label_names
from tunesmith.data.formats.values import Values
from tunesmith.data.kinds.labelled import Labelled
from tunesmith.data.kinds.row import Row
from tunesmith.data.prompting.around import put_around
from tunesmith.data.prompting.choose import words_of
from tunesmith.data.prompting.schema import label_schema
from tunesmith.data.prompting.version import Version, read_version
from tunesmith.data.quality.ledger import Source
from tunesmith.data.split import load_splits
from tunesmith.deploy.bundle import pack
from tunesmith.jobs.evaluate import evaluate_model
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.merge import rows_of_run
from tunesmith.jobs.prompts import try_prompts
from tunesmith.jobs.submit import gather
from tunesmith.model.export import find_model
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.registry.lineage import trace
from tunesmith.train.recipe import read_recipe

LABELLED = frozenset({"labelled"})


@pytest.fixture(scope="module")
def contract():
    return load_contract(resolve("ember").folder)


@pytest.fixture
def mails(write_rows):
    return write_rows(class_rows(90), "mails.jsonl")


@pytest.fixture
def chats(write_rows):
    return write_rows(many_rows(40), "chats.jsonl")


@pytest.fixture
def version(tmp_path):
    """Writes a version as `tunesmith prompts` keeps one; returns its folder."""

    def write(name="best", schema=None, **prompt):
        folder = tmp_path / "prompts" / name
        folder.mkdir(parents=True, exist_ok=True)
        whole = {"template": None, "instruction": None, "shots": 0, "examples": None, "seed": 0, "chosen": None}
        values: Values = {"id": "0001", "parent": None, "made": "2026-01-01", "note": "a first one", "model": "ember",
                          "prompt": {**whole, **prompt}, "schema": schema, "rows": 20, "scores": {}}  # fmt: skip
        (folder / "best.yaml").write_text(yaml.safe_dump(values))
        return str(folder)

    return write


def splits_of(file, contract, prompt=None, reads=READS, **more):
    return load_splits(DataConfig(train=str(file), prompt=prompt, **more), contract, 1024, reads)


def learned(row, contract):
    """The text that a row trains."""
    return contract.tokenizer.decode(row.ids[row.mask]).replace("<|im_end|>", "").strip()


def said(row):
    return [(turn.role, turn.content) for turn in row.row.conversation]


# What becomes of a row.


def test_of_a_row_with_a_class_its_own_answer_alone_is_learned(mails, contract, version):
    prompt = version(instruction="Which is it? One of {labels}.", shots=3, examples="balanced")
    found = splits_of(mails, contract, prompt)
    assert found.kind.name == "chat"
    for row in found.train:
        plain = row.row.unprompted.content
        assert learned(row, contract) == plain.label
        roles = [role for role, _ in said(row)]
        assert roles[-2:] == ["user", "assistant"]
        assert said(row)[0][1].startswith("Which is it? One of dog, pool, wifi.\n\n")
        assert said(row)[-2][1].endswith(plain.text)
        assert [turn.weight for turn in row.row.conversation if turn.role == "assistant"][:-1] == [0] * (
            len(roles) // 2 - 1
        )
        assert row.row.answer == plain.label
    assert {len(said(row)) for row in found.train} == {6, 8}  # three are examples themselves, and see two


def test_a_chat_keeps_its_own_turns(write_rows, contract, version):
    rows = [
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"Hi {i}?"},
                      {"role": "assistant", "content": f"Hello {i}."}, {"role": "user", "content": f"And {i}?"},
                      {"role": "assistant", "content": f"Bye {i}."}]} for i in range(8)
    ]  # fmt: skip
    file, example = write_rows(rows), [["Where?", "There."]]
    found = splits_of(file, contract, version(instruction="Shortly.", shots=1, chosen=example), validation=0, test=0)
    assert said(found.train[0]) == [
        ("system", "Be kind."), ("user", "Shortly.\n\nWhere?"), ("assistant", "There."), ("user", "Hi 0?"),
        ("assistant", "Hello 0."), ("user", "And 0?"), ("assistant", "Bye 0."),
    ]  # fmt: skip
    tokens = learned(found.train[0], contract)
    assert ("Hello 0." in tokens, "Bye 0." in tokens, "There." in tokens) == (True, True, False)
    last = splits_of(file, contract, version(shots=1, chosen=example), validation=0, test=0, train_on="last")
    assert len(last.train) == 8


def test_a_template_writes_one_turn_which_is_what_is_answered(mails, write_rows, contract, tmp_path, version):
    (tmp_path / "prompt.txt").write_text("Labels: {labels}\nText: {text}\nLabel:\n")
    found = splits_of(mails, contract, str(tmp_path / "prompt.txt"))
    row = found.train[0]
    assert said(row)[:-1] == [("user", f"Labels: dog, pool, wifi\nText: {row.row.unprompted.content.text}\nLabel:")]
    assert learned(row, contract) == row.row.unprompted.content.label
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."},
             {"role": "user", "content": "And?"}, {"role": "assistant", "content": "Bye."}]  # fmt: skip
    file = write_rows([{"messages": turns}, chat_row("A?", "B.")])
    prompt = version(template="{instruction} Q: {text}", instruction="Shortly.")
    several = splits_of(file, contract, prompt, validation=0, test=0)
    assert said(several.train[0])[2] == ("user", "Shortly. Q: And?")
    assert learned(several.train[0], contract) == "Bye."  # what comes before was not asked by the template


def test_a_pair_is_asked_as_two_texts(write_rows, contract, tmp_path):
    rows = [{"text": f"a {i}", "text_pair": f"b {i}", "label": "yn"[i % 2]} for i in range(30)]
    (tmp_path / "prompt.txt").write_text("{text_pair} after {text}?")
    found = splits_of(write_rows(rows), contract, str(tmp_path / "prompt.txt"), validation=0, test=0)
    pair = found.train[0].row.unprompted.content
    assert said(found.train[0])[0] == ("user", f"{pair.second} after {pair.text}\n{pair.second}?")


def test_a_class_that_is_asked_for_as_json_is_learned_as_json(mails, contract, version):
    schema = label_schema(["dog", "pool", "wifi"])
    chosen = [["my cat", '{"label": "dog"}']]
    found = splits_of(mails, contract, version(schema=schema, instruction='As {"label": ...}.', shots=1, chosen=chosen))
    row = found.train[0]
    assert learned(row, contract) == json.dumps({"label": row.row.unprompted.content.label})
    assert said(row)[:2] == [("user", 'As {"label": ...}.\n\nmy cat'), ("assistant", '{"label": "dog"}')]
    with pytest.raises(ConfigError, match="its schema has other labels than the rows"):
        splits_of(mails, contract, version(schema=label_schema(["cat", "pool"])))


# Which examples.


def test_the_nearest_are_bm25s_own_without_the_row_itself(mails, contract, version):
    bm25s = pytest.importorskip("bm25s")
    shots = 4
    found = splits_of(mails, contract, version(shots=shots, examples="nearest"))
    plain = splits_of(mails, contract, reads=LABELLED)
    texts = [row.row.content.text for row in plain.train]
    assert [row.row.unprompted.content.text for row in found.train] == texts
    index = bm25s.BM25()
    index.index(words_of(texts), show_progress=False)
    for part in (found.train, found.validation, found.test):
        for row in part:
            own = row.row.unprompted.content.text
            scores = index.get_scores(words_of([own])[0])
            if own in texts:
                scores[texts.index(own)] = -1
            wanted = [texts[place] for place in np.argsort(-scores, kind="stable")[:shots]]
            shown = [text for role, text in said(row) if role == "user"][:-1]
            assert shown == wanted[::-1]
            assert own not in shown
    drawn = index.retrieve(words_of([texts[0]]), k=shots + 1, show_progress=False, n_threads=0)[1][0]
    ours = index.get_scores(words_of([texts[0]])[0])[[texts.index(text) for text in
                            [text for role, text in said(found.train[0]) if role == "user"][:-1]]]  # fmt: skip
    assert sorted(ours.tolist()) == pytest.approx(sorted(drawn.tolist())[:shots])  # the library's best is the row


def test_a_row_is_never_its_own_example(mails, contract, version):
    row = splits_of(mails, contract, reads=LABELLED).train[0].row
    chosen = [[row.content.text, row.content.label], ["my cat", "dog"]]
    found = splits_of(mails, contract, version(shots=2, chosen=chosen))
    assert len(said(found.train[0])) == 4
    assert len(said(found.train[1])) == 6


def test_two_rows_that_ask_the_same_do_not_see_each_other():
    pytest.importorskip("bm25s")
    texts = ["my dog", "my dog", "the dog", "a pool"]
    rows = [Row(Labelled(text, f"label {i}"), Source("f", i)) for i, text in enumerate(texts)]
    around = put_around(Version(shots=2, examples="nearest"), "p", "labelled", ["a", "b"], rows)
    assert [row.content.text for row in around.examples(rows[0])] == ["a pool", "the dog"]


def test_what_is_drawn_is_the_same_for_all_and_changes_with_the_seed(mails, contract, version):
    some = [splits_of(mails, contract, version(str(seed), shots=4, examples="random", seed=seed)) for seed in (0, 0, 1)]
    cards = [one.around.to_card() for one in some]
    assert cards[0] == cards[1] != cards[2]
    assert len(cards[0]["own_words"]["chosen"]) == 4
    again = version("again", shots=4, chosen=cards[0]["own_words"]["chosen"])
    assert splits_of(mails, contract, again).train.dataset.id == some[0].train.dataset.id
    training = {row.row.content.text for row in splits_of(mails, contract, reads=LABELLED).train}
    assert {question for question, _ in cards[0]["own_words"]["chosen"]} <= training


def test_drawn_chats_of_several_turns_are_found_again_by_their_seed(write_rows, contract, version):
    rows = [
        {"messages": [{"role": "user", "content": f"Hi {i}?"}, {"role": "assistant", "content": f"Hello {i}."},
                      {"role": "user", "content": f"And {i}?"}, {"role": "assistant", "content": f"Bye {i}."}]}
        for i in range(12)
    ]  # fmt: skip
    found = splits_of(write_rows(rows), contract, version(shots=1, examples="random", seed=3), validation=0, test=0)
    card = found.around.to_card()
    assert (card["own_words"]["chosen"], card["examples"], card["seed"]) == (None, "random", 3)
    assert {len(said(row)) for row in found.train} == {4, 8}
    for row in found.train:  # its own two answers, and none of the example's
        own = row.row.unprompted.conversation
        assert learned(row, contract) == own[1].content + own[3].content


# Parts and identities.


def test_parts_are_those_without_a_prompt_and_ids_are_of_its_content(mails, contract, version, tmp_path):
    plain = splits_of(mails, contract, reads=LABELLED)
    found = splits_of(mails, contract, version(instruction="Which?"))
    for name in ("train", "validation", "test"):
        ours, theirs = getattr(found, name), getattr(plain, name)
        assert [row.row.unprompted.key for row in ours] == [row.row.key for row in theirs]
        assert [row.row.asked for row in ours] == [row.row.asked for row in theirs]
    assert found.train.dataset.id != plain.train.dataset.id
    other = splits_of(mails, contract, version(instruction="Which one?"))  # the same name, another content
    assert other.train.dataset.id != found.train.dataset.id
    noted = yaml.safe_load((tmp_path / "prompts" / "best" / "best.yaml").read_text())
    (tmp_path / "prompts" / "best" / "best.yaml").write_text(yaml.safe_dump({**noted, "note": "x", "scores": {"a": 1}}))
    same = splits_of(mails, contract, str(tmp_path / "prompts" / "best"))
    assert same.train.dataset.folder == other.train.dataset.folder
    assert splits_of(mails, contract, str(tmp_path / "prompts" / "best" / "best")).around.id == other.around.id
    assert label_names(plain.train.dataset.facts) == other.around.to_card()["own_words"]["labels"]


def test_a_held_out_file_is_asked_with_training_rows_as_examples(mails, write_rows, contract, version):
    pytest.importorskip("bm25s")
    test = write_rows(class_rows(12), "test.jsonl")
    found = splits_of(mails, contract, version(shots=2, examples="nearest"), test=str(test), validation=0)
    training = {row.row.unprompted.content.text for row in found.train}
    assert len(found.test) == 12
    for row in found.test:
        assert {text for role, text in said(row)[:-2] if role == "user"} <= training


# Mistakes.


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ({"template": "{text} {name}"}, r"unknown field \{name\}"),
        ({"template": "{labels}"}, r"has no \{text\}"),
        ({"template": "{text}", "instruction": "Shortly."}, r"has no \{instruction\}, and the version has instruction"),
        ({"template": "{text}", "shots": 1, "examples": "random"}, r"has no \{examples\}"),
        ({"shots": 2}, "says neither which"),
        ({"shots": 500, "examples": "random"}, r"asks for 500 examples, and the training part has \d+ rows to choose"),
        ({"shots": -1}, "shots = -1"),
        ({"shots": 1, "examples": "next"}, "examples = 'next'"),
        ({"template": "{text} {text_pair}"}, "has no second text"),
    ],
)
def test_a_version_that_does_not_fit_gets_a_sentence(mails, contract, version, prompt, sentence):
    with pytest.raises(TunesmithError, match=sentence):
        splits_of(mails, contract, version(**prompt))


def test_files_that_are_no_prompts(mails, chats, write_rows, contract, version, tmp_path):
    with pytest.raises(MissingError, match=r"data\.prompt = nowhere: no such file\. Name a version"):
        splits_of(mails, contract, "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match=r"this folder has no best\.yaml"):
        splits_of(mails, contract, str(tmp_path / "empty"))
    (tmp_path / "other.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match="has no section `prompt`"):
        splits_of(mails, contract, str(tmp_path / "other.yaml"))
    (tmp_path / "blank.txt").write_text("\n")
    with pytest.raises(ConfigError, match="the file is empty"):
        splits_of(mails, contract, str(tmp_path / "blank.txt"))
    (tmp_path / "shots.txt").write_text("{examples} {text}")
    with pytest.raises(ConfigError, match=r"gives nothing to stand for \{examples\}"):
        splits_of(mails, contract, str(tmp_path / "shots.txt"))
    with pytest.raises(ConfigError, match="balanced examples take the classes in turn"):
        splits_of(chats, contract, version(shots=1, examples="balanced"))
    with pytest.raises(DataError, match="holds plain text"):
        splits_of(write_rows([{"text": f"a text {i}"} for i in range(9)], "texts.jsonl"), contract, version())
    several = [{"text": f"a text {i}", "labels": ["a", "b"][: i % 2 + 1]} for i in range(30)]
    with pytest.raises(DataError, match="has several classes or a number"):
        splits_of(write_rows(several, "several.jsonl"), contract, version())


def test_long_rows_are_told_what_makes_them_long(mails, contract, version):
    prompt, config = version(shots=8, examples="random"), {"train": str(mails)}
    with pytest.raises(DataError, match=r"longer than 60 tokens.*data\.prompt = .*\(8 random examples\)"):
        load_splits(DataConfig(**config, prompt=prompt), contract, 60, READS)
    assert len(load_splits(DataConfig(**config), contract, 60, LABELLED).train)


def test_nearest_without_the_library(mails, contract, version, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bm25s", None)
    with pytest.raises(ConfigError, match=r"asks for the nearest examples, which needs bm25s\. Install it"):
        splits_of(mails, contract, version(shots=2, examples="nearest"))


# A run.


@pytest.fixture
def begin(tmp_path, tiny):
    def make(name, data, **settings):
        values = {
            "model": {"base": str(tiny)}, "data": data, "method": {"type": "lora"},
            "optim": {"learning_rate": 1e-3, "epochs": 1, "batch_size": 8},
            "output": {"folder": str(tmp_path / "runs"), "name": "run", "checkpoint_every": 2},
            "evaluate": {"max_new_tokens": 4, "rows": 6}, "precision": "fp32", **settings,
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        write_text(folder / "config.yaml", to_yaml(read_recipe(tmp_path / f"{name}.yaml")))
        return folder

    return make


def evaluated(model, data, **changes):
    asked = {"model": str(model), "data": str(data), "against": None, "template": None, "format": None, "columns": {},
             "bad_rows": "fail", "rows": 5, "max_new_tokens": 4, "samples": 0, "general": [], "baseline": "none",
             "html": None, "device": "cpu"}  # fmt: skip
    heard = []
    report = evaluate_model({**asked, **changes}, heard.append)["report"]
    return report, [event.sentence for event in heard if event.kind == "warning"]


def test_a_run_is_trained_and_evaluated_with_its_prompt(mails, write_rows, begin, version):
    pytest.importorskip("bm25s")
    prompt, heard = version(instruction="Which of {labels}?", shots=2, examples="nearest"), []
    folder = begin("run", {"train": str(mails), "prompt": prompt}, method={"type": "full"})
    finetune({"folder": str(folder)}, silent)
    card = read_json(folder / "model" / "tunesmith.json")
    assert card["asked_with"]["told"] == "an instruction, 2 nearest examples"
    assert card["asked_with"]["version"] == read_version(prompt, "").id
    report = read_json(folder / "report" / "report.json")
    first = report["samples"][0]["messages"]
    assert first[0]["content"].startswith("Which of dog, pool, wifi?\n\n")
    assert len(first) == 5
    assert [fact.state for fact in trace(str(folder)).facts if fact.label == "prompt"] == ["same"]

    other = write_rows(class_rows(9), "other.jsonl")
    found, notes = evaluated(folder, other, samples=2, against=str(card["base"]["name"]))
    assert notes == [f"rows are asked with the prompt that {folder} was trained with: an instruction, 2 nearest "
                     "examples."]  # fmt: skip
    assert found["rows"] == 5
    assert found["samples"][0]["messages"][0]["content"].startswith("Which of dog, pool, wifi?")
    with pytest.raises(DataError, match="holds labelled rows, which this objective cannot train on"):
        evaluated(folder, other, bare=True)

    bundle = pack(str(folder / "model"), "me/mails")
    assert "## How it wants to be asked" in bundle.card
    assert "The prompt's words are not part of this repository." in bundle.card
    assert "Which of" not in bundle.card + str(bundle.files["tunesmith.json"])
    quoted = pack(str(folder / "model"), "me/mails", with_samples=True)
    assert "Its instruction:\n\n    Which of {labels}?\n" in quoted.card
    assert json.loads(quoted.files["tunesmith.json"])["asked_with"]["own_words"]["chosen"] is None

    version(instruction="Which?")
    assert [fact.state for fact in trace(str(folder)).facts if fact.label == "prompt"] == ["changed"]
    (Path(prompt) / "best.yaml").unlink()  # the card has its words
    again, said = evaluated(folder, other, samples=2, against=str(card["base"]["name"]))
    assert said == notes
    assert again["samples"] == found["samples"]
    assert rows_of_run(find_model(str(folder)), heard.append)[0][0].row.conversation[0].content.startswith("Which of ")
    assert not [event for event in heard if event.kind == "warning"]
    mails.write_text(mails.read_text() + json.dumps({"text": "Is the dog in the pool?", "label": "pool"}) + "\n")
    _, said = evaluated(folder, other)
    assert said == [f"the prompt of {folder} takes its examples from the training rows, and these have changed: rows "
                    "are asked with others.", *notes]  # fmt: skip
    mails.unlink()
    with pytest.raises(DataError, match="the run's rows cannot be read again"):
        evaluated(folder, other)


def test_a_run_does_not_go_on_with_another_prompt(chats, begin, version):
    prompt = version(instruction="Shortly.")
    folder = begin("run", {"train": str(chats), "prompt": prompt, "replay": "off"})
    stops = iter(range(1))
    with pytest.raises(TunesmithError, match="stopped after step"):
        finetune({"folder": str(folder), "until": "trained"}, silent, lambda: next(stops, None) is None)
    version(instruction="At length.")
    with pytest.raises(ConfigError, match=r"prompt was .* and is "):
        finetune({"folder": str(folder), "until": "trained", "resume": True}, silent)
    version(instruction="Shortly.")
    finetune({"folder": str(folder), "until": "trained", "resume": True}, silent)


def test_objectives_that_do_not_chat_refuse_it(mails, begin, version):
    folder = begin("run", {"train": str(mails), "prompt": version()}, objective={"type": "classify"})
    with pytest.raises(ConfigError, match=r"data\.prompt and objective\.type = classify do not go together"):
        finetune({"folder": str(folder)}, silent)
    folder = begin("all", {"train": str(mails), "prompt": version(), "train_on": "all"})
    with pytest.raises(ConfigError, match=r"data\.prompt and data\.train_on = all do not go together"):
        finetune({"folder": str(folder)}, silent)


def test_a_queued_run_takes_its_prompt_along(mails, begin, version):
    folder = begin("run", {"train": str(mails), "prompt": version(instruction="Which?")})
    recipe, paths = gather(read_recipe(folder / "config.yaml"))
    assert recipe.data.prompt == "inputs/prompt/best.yaml"
    assert read_version(str(paths[recipe.data.prompt]), "").instruction == "Which?"


def test_the_command_refuses_a_prompt_that_is_not_there(mails, begin, tmp_path):
    begin("run", {"train": str(mails)})
    done = CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml"), "--set", "data.prompt=nowhere"])
    assert isinstance(done.exception, MissingError)
    assert json.dumps(str(done.exception)).startswith('"data.prompt = nowhere: no such file.')


# Prompts that `tunesmith prompts` has kept.


@pytest.mark.parametrize("kind", ["mails", "chats"])
@pytest.mark.parametrize(
    "way",
    [
        {"shots": [2], "examples": ["random"], "instruction": "Say it as {{this}}."},
        {"shots": [2], "examples": ["nearest"]},
        {"shots": [0], "template": "T: {text}\n{instruction}{examples}|"},
    ],
)
def test_rows_are_asked_as_the_table_asked_them(kind, way, request, contract, tmp_path, tiny):
    pytest.importorskip("bm25s")
    file, into = request.getfixturevalue(kind), str(tmp_path / "kept")
    if "template" in way:
        (tmp_path / "prompt.txt").write_text(way["template"])
        way = {**way, "template": str(tmp_path / "prompt.txt")}
    asked = options(file, models=[str(tiny)], into=into, rows=500, max_new_tokens=2, validate_only=True, seed=5, **way)
    entries = try_prompts(asked, silent)["report"]["validation"]["entries"]
    kept = read_version(into, "it")
    [entry] = [one for one in entries if one["variant"]["instructed"] == bool(kept.instruction)]
    found = splits_of(file, contract, into)
    assert [{"role": role, "content": text} for role, text in said(found.validation[0])[:-1]] == entry["example"]
    assert sum(len(said(row)) for row in found.train) > 0
