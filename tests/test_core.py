"""Config sections, names and files."""

from __future__ import annotations

import json
import sys
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.core.config import parse_overrides, read_yaml, to_yaml, with_overrides
from tunesmith.core.errors import ConfigError, MissingError, TunesmithError
from tunesmith.core.files import append_line, keep_lines, publish_folder, read_lines, read_object, write_text
from tunesmith.core.names import did_you_mean, look_up
from tunesmith.core.quiet import hush_libraries
from tunesmith.train.recipe import read_recipe


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_text("data: {train: hotel}\n")
    return path


def test_a_recipe_takes_its_name_from_its_file_and_survives_a_round_trip(recipe_file, tmp_path):
    recipe = read_recipe(recipe_file)
    assert recipe.output.name == "chat"
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(recipe))
    assert read_recipe(again) == recipe


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"optim.learning_rate": -0.1}, ["optim.learning_rate = -0.1", "greater than 0", "LoRA runs usually take"]),
        ({"optim.learning_rate": 5}, ["optim.learning_rate = 5", "less than or equal to 1"]),
        ({"optim.learnin_rate": 1}, ["optim.learnin_rate: unknown key", "did you mean 'learning_rate'?"]),
        ({"method": {"type": "lora", "rnk": 4}}, ["method.rnk: unknown key", "did you mean 'rank'?"]),
        ({"method.type": "lorra"}, ["method.type", "must be one of full, freeze"]),
        ({"method.rank": 0, "method.type": "lora"}, ["method.rank = 0", "greater than or equal to 1"]),
        ({"dta": {}}, ["dta: unknown key", "did you mean 'data'?"]),
        ({"data.over_long": "cut"}, ["data.over_long = 'cut'", "'fail', 'drop', 'truncate' or 'split'"]),
        ({"optim.optimizer.betas": [0.9, 1.5]}, ["optim.optimizer.betas", "less than 1"]),
        ({"optim.optimizer": "adamm"}, ["optim.optimizer.type = 'adamm'", "must be one of adamw, adamw_8bit"]),
        ({"optim.scheduler": {"type": "wsd", "decai": 1}}, ["optim.scheduler.decai: unknown key", "mean 'decay'?"]),
        (
            {"optim.optimizer": "schedule_free", "optim.scheduler": "linear"},
            ["give schedule_free the scheduler"],
        ),
        ({"optim.scheduler": 3}, ["optim.scheduler = 3: must be one of constant, linear"]),
        ({"perturb": None}, ["perturb = None: must be one of none, neftune"]),
        ({"model.dropout": 1.5}, ["model.dropout = 1.5: must be less than 1"]),
        ({"model.dropout": {"attention": 2}}, ["model.dropout.attention = 2: must be less than 1"]),
        ({"optim.groups": {"*x*": {"rat": 2}}}, ["optim.groups.*x*.rat: unknown key", "mean 'rate'?"]),
        ({"optim.optimizer": {"type": "schedule_free", "betas": [0, 0.9]}}, ["betas.0 = 0: must be greater than 0"]),
        ({"optim.warmup": 1.5}, ["give warmup as"]),
        ({"output.name": "../up"}, ["output.name = '../up'", "must match"]),
    ],
)
def test_a_bad_field_is_named_with_what_is_allowed(recipe_file, override, words):
    with pytest.raises(ConfigError) as caught:
        read_recipe(recipe_file, override)
    for word in [str(recipe_file), *words]:
        assert word in str(caught.value)


def test_a_missing_recipe_and_a_missing_section_are_named(tmp_path, recipe_file):
    with pytest.raises(MissingError, match="no such recipe"):
        read_recipe(tmp_path / "none.yaml")
    recipe_file.write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=r"data: missing\. The rows, such as"):
        read_recipe(recipe_file)
    recipe_file.write_text("data: [\n")
    with pytest.raises(ConfigError, match=r"chat\.yaml:2:1: not YAML"):
        read_recipe(recipe_file)
    recipe_file.write_text("- 1\n")
    with pytest.raises(ConfigError, match="a recipe is a mapping"):
        read_recipe(recipe_file)


def test_on_and_off_are_words_and_true_and_false_are_not(tmp_path):
    (tmp_path / "recipe.yaml").write_text("compile: on\npacking: off\nmerge: true\nname: yes\n")
    assert read_yaml(tmp_path / "recipe.yaml") == {"compile": "on", "packing": "off", "merge": True, "name": "yes"}
    assert parse_overrides(["compile=off", "merge=False"]) == {"compile": "off", "merge": False}


def test_overrides_set_dotted_keys_and_a_new_type_starts_afresh(tmp_path):
    values = {"method": {"type": "lora", "rank": 8}, "optim": {"epochs": 1}}
    changed = with_overrides(values, {"method.type": "full", "optim": {"steps": 3}, "a.b.c": 1})
    assert changed == {"method": {"type": "full"}, "optim": {"epochs": 1, "steps": 3}, "a": {"b": {"c": 1}}}
    assert values["method"] == {"type": "lora", "rank": 8}
    assert parse_overrides(["optim.steps=5", "a.b=[x, y]", "c.d=1=2"]) == {
        "optim.steps": 5, "a.b": ["x", "y"], "c.d": "1=2",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"write --set section\.field=value"):
        parse_overrides(["optim.steps"])
    path = tmp_path / "small.yaml"
    path.write_text("data: {train: hotel}")
    assert read_recipe(path, {"method.rank": 8}).method.rank == 8  # lora, the default type
    later = {"method.rank": 64, "method.type": "lora"}
    assert with_overrides({"method": {"type": "full"}}, later) == {"method": {"type": "lora", "rank": 64}}
    with pytest.raises(ConfigError, match="is a value, not a section"):
        with_overrides({"seed": 1}, {"seed.x": 2})


@pytest.mark.parametrize(
    ("written", "override", "want"),
    [
        ("optim: {optimizer: muon}", {"optim.optimizer.momentum": 0.8}, "muon 0.8"),
        ("", {"optim.optimizer.momentum": 0.8, "optim.optimizer": "muon"}, "muon 0.8"),
        ("optim: {optimizer: lion}", {"optim.optimizer": {"type": "muon"}}, "muon 0.95"),
        ("optim: {optimizer: {betas: [0.8, 0.9]}}", {"optim.optimizer.type": "muon"}, "muon 0.95"),
        ("optim: {optimizer: {type: muon, momentum: 0.7}}", {"optim.optimizer": "muon"}, "muon 0.7"),
    ],
)
def test_a_name_stands_for_a_section_of_that_type(tmp_path, written, override, want):
    (tmp_path / "a.yaml").write_text(f"data: {{train: hotel}}\n{written}\n")
    optimizer = read_recipe(tmp_path / "a.yaml", override).optim.optimizer
    assert f"{optimizer.type} {optimizer.momentum}" == want


def test_what_replaces_a_word_may_be_a_section(tmp_path):
    (tmp_path / "a.yaml").write_text("data: {train: hotel, replay: auto}\nobjective: sft\nmethod: {rank: 8}\n")
    recipe = read_recipe(tmp_path / "a.yaml", {"data.replay.prompts": "x.txt", "method.type": "full"})
    assert (recipe.data.replay.prompts, recipe.method.type, recipe.objective.type) == ("x.txt", "full", "sft")


@pytest.mark.parametrize("kind", [FutureWarning, DeprecationWarning, PendingDeprecationWarning])
def test_what_libraries_warn_of_among_themselves_is_left_out_and_the_rest_is_shown(kind, monkeypatch):
    def shown():
        with warnings.catch_warnings(record=True) as heard:
            warnings.resetwarnings()
            hush_libraries()
            for module in ("peft.peft_model", "tunesmith.model.load", "tunesmithy"):
                warnings.warn_explicit("soon", kind, "file.py", 1, module)
            warnings.warn_explicit("look", UserWarning, "file.py", 1, "peft.peft_model")
        return [(one.category, str(one.message)) for one in heard]

    monkeypatch.setattr(sys, "warnoptions", [])
    assert shown() == [(kind, "soon"), (UserWarning, "look")]
    monkeypatch.setattr(sys, "warnoptions", ["default"])  # as a user's -W leaves it
    assert len(shown()) == 4


def test_an_unknown_name_gets_a_suggestion_or_the_list():
    assert did_you_mean("lorra", ["lora", "full"]) == "did you mean 'lora'?"
    assert did_you_mean("zzz", ["lora", "full"]) == "known: full, lora."
    with pytest.raises(ConfigError, match="unknown method 'x'"):
        look_up({"lora": 1}, "x", "method")


def test_a_folder_is_published_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with publish_folder(target) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(RuntimeError), publish_folder(target) as temporary:  # noqa: PT012
        (temporary / "b").write_text("2")
        raise RuntimeError
    assert [p.name for p in target.iterdir()] == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_run_is_named_after_its_recipe_whatever_that_is_called(tmp_path):
    for stem, name in (("my recipe", "my-recipe"), ("_draft", "draft"), ("über", "ber"), ("日本", "run")):
        path = tmp_path / f"{stem}.yaml"
        path.write_text("data: {train: hotel}")
        assert read_recipe(path).output.name == name


@pytest.mark.parametrize("text", ["output: {name: 2024-13-45}", "optim: {warmup: .inf}", "seed: 99999999999999999999",
                                  "optim: {epochs: .inf}", "{1: 2}", "[" * 5000])  # fmt: skip
def test_odd_yaml_is_refused_in_a_sentence(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_recipe(path)


@given(st.lists(st.text(min_size=1), max_size=5), st.integers(min_value=0, max_value=30))
def test_a_log_cut_anywhere_still_gives_its_whole_lines(tmp_path_factory, words, cut):
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    for word in words:
        append_line(path, {"word": word})
    text = path.read_text() if words else ""
    write_text(path, text[: max(0, len(text) - cut)])
    read = [line["word"] for line in read_lines(path)]
    assert read == words[: len(read)]
    assert len(read) >= text[: max(0, len(text) - cut)].count("\n")


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.integers(min_value=0, max_value=40))
def test_what_is_appended_after_half_a_line_is_not_lost_with_it(tmp_path_factory, words, cut):
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    for word in words:
        append_line(path, {"word": word})
    text = path.read_text()
    left = text[: max(0, len(text) - cut)]
    write_text(path, left)
    for word in ("after", "and after"):
        append_line(path, {"word": word})
    whole = [line["word"] for line in map(json.loads, left.split("\n")[:-1])]
    read = [line["word"] for line in read_lines(path)]
    assert read[-2:] == ["after", "and after"]
    assert read[: len(whole)] == whole
    assert len(read) - 2 - len(whole) in (0, 1)  # a line that lacks only its end is whole
    keep_lines(path, lambda line: line["word"] != "after")
    assert [line["word"] for line in read_lines(path)] == [word for word in read if word != "after"]


@pytest.mark.parametrize("rest", [b"\0\0\0", b'{"word": "\xc3', b"12", b'"word"', b"[1]", b"\xff\xfe"])
def test_what_a_crash_leaves_in_a_log_is_passed_over(tmp_path, rest):
    path = tmp_path / "events.jsonl"
    append_line(path, {"word": "before"})
    path.write_bytes(path.read_bytes() + rest)
    append_line(path, {"word": "after"})
    assert [line["word"] for line in read_lines(path)] == ["before", "after"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"{", "1:2: not JSON"), (b"\xff\xfe{", "no UTF-8"), (b"[" * 100_000, "too deeply nested"),
     (b"[1]", "JSON object"), (b"null", "JSON object"), (b"", "not JSON"), (None, "no such file")],
)  # fmt: skip
def test_a_broken_json_file_is_named_in_a_sentence(tmp_path, content, words):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TunesmithError, match=words) as caught:
        read_object(path)
    assert "config.json" in str(caught.value)
    with pytest.raises(TunesmithError, match="cannot be read"):
        read_object(tmp_path)
