"""Versions of prompts: kept by a table, changed in an editor, scored beside their parents, measured at the end."""

from __future__ import annotations

import re
import sys

import pytest
import yaml
from typer.testing import CliRunner

from classifiers import class_rows
from conftest import many_rows
from test_prompts import knows, mails, options, said  # noqa: F401  fixtures
from tunesmith.cli.main import app
from tunesmith.core.errors import ConfigError, DataError, MissingError
from tunesmith.core.events import silent
from tunesmith.core.files import read_json
from tunesmith.data.config import DataConfig
from tunesmith.evaluate.prompts.edited import opened, prompt_from, text_of, typed
from tunesmith.evaluate.prompts.rows import prompt_rows
from tunesmith.evaluate.prompts.versions import Prompt, Version, Versions, as_yaml, folder_of, read_version
from tunesmith.jobs.prompt_versions import measure_prompt, score_prompt
from tunesmith.jobs.prompts import try_prompts


@pytest.fixture
def there(mails, monkeypatch, in_process):  # noqa: F811
    """The folder of the rows, as the current one."""
    monkeypatch.chdir(mails.parent)
    monkeypatch.setenv("TUNESMITH_HOME", str(mails.parent / "home"))  # where it is noted how often rows were looked at
    for name in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    return mails.parent


def run(*words):
    return CliRunner().invoke(app, ["prompts", "mails.jsonl", *words], catch_exceptions=False)


def refused(*words):
    result = CliRunner().invoke(app, ["prompts", "mails.jsonl", *words])
    assert result.exception is not None
    return str(result.exception)


def table(server, *words):
    return run("--models", f"{server.url}#small", "--shots", "0,2", "--examples", "balanced", "--rows", "9",
               "--validate-only", *words)  # fmt: skip


def version(**changes):
    values = {
        "id": "0001", "parent": None, "made": "2026-01-01T00:00:00+00:00", "note": "", "prompt": Prompt(None, "Which?"),
        "schema": None, "model": "ember", "metric": "accuracy", "options": {"rows": 9},
        "rows": {"file": "mails.jsonl", "content": "c", "kind": "labelled", "pairs": False, "validation": "v",
                 "test": "t"},
        "scores": {"accuracy": {"value": 50.0, "low": 40.0, "high": 60.0, "rows": 9}},
    }  # fmt: skip
    return Version(**{**values, **changes})


# Files.


def test_a_version_is_a_file_that_people_can_read(tmp_path):
    prompt = Prompt("{instruction}\n\n{text}", "Which of {labels}?", 1, "random", 3, [["Where is my dog?", "dog"]])
    kept = Versions(tmp_path).keep(version(id="", prompt=prompt, note="Grüße: first"))
    text = (tmp_path / "0001.yaml").read_text()
    assert text == as_yaml(kept)
    assert "  template: |-\n    {instruction}\n\n    {text}\n  instruction: Which of {labels}?\n" in text
    assert "Grüße" in text
    assert list(yaml.safe_load(text)) == [
        "id", "parent", "made", "note", "prompt", "schema", "model", "rows", "metric", "scores", "options",
    ]  # fmt: skip
    assert yaml.safe_load(text)["prompt"]["chosen"] == [["Where is my dog?", "dog"]]
    assert read_version(tmp_path / "0001.yaml") == kept
    assert (tmp_path / "best.yaml").read_text() == text
    nearest = Prompt(None, "", 2, "nearest", 0)
    assert "chosen" not in nearest.to_plain()


def test_the_best_is_that_of_the_rows_of_the_last(tmp_path):
    versions = Versions(tmp_path)

    def scored(value, **changes):
        scores = {"accuracy": {"value": value, "low": value, "high": value, "rows": 9}}
        return versions.keep(version(id="", prompt=Prompt(None, f"{value}"), scores=scores, **changes)).id

    assert [scored(50.0), scored(70.0), scored(60.0), scored(70.0, note="again")] == ["0001", "0002", "0003", "0002"]
    assert versions.find("best").id == "0002"
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["id"] == "0002"
    other = {**version().rows, "validation": "other"}
    assert scored(40.0, rows=other) == "0004"
    assert versions.find("best").id == "0004"
    assert versions.find("3").id == versions.find("0003").id == "0003"
    with pytest.raises(MissingError, match=r"has no version 9\. Known: best, 0001, 0002, 0003, 0004"):
        versions.find("9")
    with pytest.raises(MissingError, match="no prompt is kept there yet"):
        Versions(tmp_path / "none").find("best")
    with pytest.raises(ConfigError, match=r"holds versions of prompts for mails\.jsonl, not for cats\.csv\. Choose"):
        versions.keep(version(rows={**other, "file": "cats.csv"}))
    (tmp_path / "0005.yaml").write_text("id: [")
    with pytest.raises(ConfigError, match=r"0005\.yaml: no version of a prompt"):
        Versions(tmp_path)
    (tmp_path / "0005.yaml").write_text(as_yaml(version(id="0005")).replace("shots: 0", "shots: four"))
    with pytest.raises(ConfigError, match=r"0005\.yaml: prompt\. ?shots = 'four'"):
        Versions(tmp_path)
    (tmp_path / "0005.yaml").write_text("id: 5\nschema: null\n")
    with pytest.raises(ConfigError, match=r"0005\.yaml: has no section `prompt`"):
        Versions(tmp_path)


def test_a_folder_for_each_file(tmp_path):
    names = ["mails.csv", "data/mails.jsonl.gz", "hotel", "https://host/a/b.csv?x=1", "data/*.csv", "hub:x/y z"]
    assert [folder_of(name, None).name for name in names] == ["mails", "mails", "hotel", "b", "rows", "y-z"]
    assert folder_of("a", "there").name == "there"


# What is typed.


def test_a_prompt_is_opened_with_what_explains_it_and_comes_back_unchanged():
    for prompt in (
        Prompt(None, 'Which of {labels}? Say {"label": "x"}.'),
        Prompt("{instruction}\n# {{x}}\n\n{examples}\n{text}\nLabel:", "Which of {labels}? {y}", 2, "random", 0, []),
    ):
        text = opened(version(prompt=prompt))
        assert all(line.startswith("#: ") for line in text.split("\n")[:6])
        assert "version 0001" in text
        assert "{labels}: the classes" in text
        assert typed(text) == text_of(prompt)
        again = prompt_from(typed(text), version(prompt=prompt), "t")
        assert text_of(again) == text_of(prompt)
    assert again.instruction == ""
    assert again.template == "Which of {labels}? {{y}}\n# {{x}}\n\n{examples}\n{text}\nLabel:"
    kept = prompt_from('Of {labels}, as {{"label": 1}}', version(), "t")
    assert kept.instruction == 'Of {labels}, as {"label": 1}'
    assert typed("#: a\n# A heading\n#: b\n") == "# A heading\n#: b"
    assert prompt_from("{text}?", version(), "t").template == "{text}?"
    more = prompt_from("Which?", version(), "t", shots=2, examples="random", seed=4)
    assert (more.shots, more.examples, more.seed, more.chosen) == (2, "random", 4, None)


@pytest.mark.parametrize(
    ("text", "changes", "sentence"),
    [
        ("Which of {lable}?", {}, r"the prompt: unknown field {lable}: did you mean 'labels'\? Write {{ and }} for "
         r"braces that are text\."),
        ("Which {", {}, r"the prompt: a brace stands alone \(.*\)\. Write {{ and }} for braces that are text\."),
        ("Which? {examples}", {}, r"the prompt: has {examples} and no {text}\. Put {text} in, which makes it a "
         r"template; or take {examples} out, so that it is an instruction\."),
        ("{text}", {"shots": 2, "examples": "random"}, r"the prompt: has no {examples}, and --shots asks for some\. "
         r"Put it in, or ask for --shots 0\."),
        ("Which?", {"shots": 2}, r"--shots 2: say how they are chosen with --examples\."),
        ("Which?", {"shots": 2, "examples": "near"}, r"--examples near: did you mean 'nearest'\?"),
    ],
)  # fmt: skip
def test_mistakes_in_what_is_typed(text, changes, sentence):
    with pytest.raises(ConfigError, match=f"^{sentence}$"):
        prompt_from(text, version(), "the prompt", **changes)


def test_a_template_stays_one():
    with pytest.raises(ConfigError, match=r"^the prompt: has no {text}, so every row would be asked the same\. Put"):
        prompt_from("Which of {labels}?", version(prompt=Prompt("{text}", "")), "the prompt")


# The whole of it.


def test_a_table_keeps_its_best_and_an_edit_its_child(there, serve):
    server = serve(knows)
    shown = table(server)
    folder = there / "runs" / "prompts" / "mails"
    assert "prompt  kept as runs/prompts/mails/0001.yaml, the best so far" in shown.stdout
    first = read_version(folder / "0001.yaml")
    assert (first.model, first.metric, first.parent) == (f"{server.url}#small", "accuracy", None)
    assert re.match(r"the best by accuracy of a table of 4 lines \(1 model\): ", first.note)
    assert first.options["rows"] == 9
    assert "prompt  is already runs/prompts/mails/0001.yaml" in table(server).stdout
    (there / "new.txt").write_text("Say which of {labels} it is about. One word.\n")
    sent = len(server.requests)
    shown = run("--edit-with", "new.txt", "--note", "shorter", "--json", "out.json")
    assert "kept as runs/prompts/mails/0002.yaml" in shown.stdout
    found = read_json(there / "out.json")
    before, after = found["validation"]["entries"]
    assert before["asked_now"] == 0
    assert before["beside"]
    assert after["asked_now"] == after["rows"] == len(server.requests) - sent
    difference = {one["metric"]: one["difference"] for one in after["scores"]}["accuracy"]
    assert difference["low"] <= difference["value"] <= difference["high"]
    second = read_version(folder / "0002.yaml")
    assert (second.parent, second.note, second.model) == ("0001", "shorter", first.model)
    assert second.prompt.instruction == "Say which of {labels} it is about. One word."
    assert second.options == first.options
    assert not found["test"]["entries"]
    history = run("--history", "--json", "history.json").stdout
    assert "0002" in history
    assert "shorter" in history
    assert "The test rows were not looked at yet. When you have chosen: --final best." in history
    assert [one["id"] for one in read_json(there / "history.json")["versions"]] == ["0001", "0002"]


def test_examples_are_kept_and_asked_as_they_were(there, serve):
    server = serve(knows)
    run("--models", f"{server.url}#small", "--shots", "2", "--examples", "balanced", "--rows", "9", "--validate-only")
    kept = Versions(there / "runs" / "prompts" / "mails").find("best").prompt
    assert (kept.shots, kept.examples, len(kept.chosen)) == (2, "balanced", 2)
    bodies = len(server.requests)
    asked = options(
        "mails.jsonl", models=[f"{server.url}#small"], rows=9, into="runs/prompts/mails", parent="1", schema=None,
        prompt={**kept.to_plain(), "instruction": "Which?"}, note="",
    )  # fmt: skip
    found = score_prompt(asked, silent)["report"]
    assert found["validation"]["entries"][0]["asked_now"] == 0  # the parent's questions are the very same
    turns = server.requests[bodies]["body"]["messages"]
    assert [turn["content"] for turn in turns[:2]] == [f"Which?\n\n{kept.chosen[0][0]}", kept.chosen[0][1]]


def test_an_editor_is_opened_and_nothing_typed_is_lost(there, serve, monkeypatch):
    table(serve(knows))
    folder = there / "runs" / "prompts" / "mails"
    script = there / "editor.py"
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")

    def types(code):
        script.write_text(f"import pathlib, sys\nfile = pathlib.Path(sys.argv[1])\ntext = file.read_text()\n{code}\n")

    (there / "new.txt").write_text("Which of {labels}?")
    run("--edit-with", "new.txt")
    types("pass")
    assert "Nothing was changed in 0002: no version is made." in run("--edit", "--from", "2").stdout
    types("file.write_text('')")
    assert "The text is empty: no version is made." in run("--edit", "--from", "2").stdout
    types("file.write_text(text + 'Which {lable}?')")
    sentence = refused("--edit")
    assert "unknown field {lable}: did you mean 'labels'?" in sentence
    assert "What was typed is kept in runs/prompts/mails/unfinished.txt: go on with --edit-with" in sentence
    assert (folder / "unfinished.txt").read_text().endswith("Which {lable}?")
    types("file.write_text(text.rstrip() + ' Which one?')")
    assert "kept as runs/prompts/mails/0003.yaml" in run("--edit", "--from", "2").stdout
    assert (folder / "unfinished.txt").exists()
    assert not (folder / "unfinished-2.txt").exists()
    types("sys.exit(3)")
    assert "ended with 3. What was typed is kept in" in refused("--edit")
    monkeypatch.setenv("EDITOR", "/nowhere/editor")
    assert "cannot be started" in refused("--edit")
    monkeypatch.delenv("EDITOR")
    assert "no editor is named. Set VISUAL or EDITOR" in refused("--edit")


def test_what_cannot_be_scored_is_not_lost_either(there, serve, monkeypatch):
    fails = []
    server = serve(lambda request: (400, {"error": {"message": "no"}}) if fails else knows(request))
    table(server)
    script = there / "editor.py"
    script.write_text("import pathlib, sys\npathlib.Path(sys.argv[1]).write_text('Which one is it?')\n")
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")
    fails.append(True)
    kept = "refuses the request (400): no. What was typed is kept in runs/prompts/mails/unfinished.txt"
    assert kept in refused("--edit")
    fails.clear()
    assert "is not kept: the budget ended after 4 of 9 rows" in refused("--edit", "--max-requests", "4")
    assert "kept as" in run("--edit-with", "runs/prompts/mails/unfinished.txt").stdout


def test_test_rows_are_looked_at_once_and_a_second_time_is_told(there, serve):
    server = serve(knows)
    table(server)
    (there / "new.txt").write_text("Which of {labels}?")
    run("--edit-with", "new.txt")
    shown = run("--final", "best", "--json", "out.json")
    assert "The test rows took no part in choosing" in shown.stdout
    [line] = read_json(there / "out.json")["test"]["entries"]
    assert line["rows"] == line["of"] > 4
    assert "1 look at test rows" in run("--history").stdout
    base = options("mails.jsonl", models=[f"{server.url}#small"], rows=9, into="runs/prompts/mails")
    best = Versions(there / "runs" / "prompts" / "mails").find("best").id
    [note] = measure_prompt({**base, "version": best}, silent)["report"]["notes"]
    before = rf"{best} was measured on these test rows before, on \S+"
    assert re.fullmatch(rf"{before}: this is look number 2, and it tells nothing new\.", note)
    other = "0001" if best == "0002" else "0002"
    [note] = measure_prompt({**base, "version": other}, silent)["report"]["notes"]
    assert note.startswith(f"these test rows were looked at for {best} before. Who chooses by them measures")
    history = run("--history").stdout
    assert "2 looks at test rows" in history
    assert "These test rows were looked at with 2 prompts in all" in history


def test_a_look_by_a_table_and_one_by_its_version_are_one_prompt(there, serve):
    server = serve(knows)
    run("--models", f"{server.url}#small", "--shots", "2", "--examples", "balanced", "--rows", "9")
    base = options("mails.jsonl", models=[f"{server.url}#small"], rows=9, into="runs/prompts/mails")
    assert measure_prompt({**base, "version": "0001"}, silent)["report"]["notes"] == []
    assert "These test rows were looked at with 1 prompt in all" in run("--history").stdout
    (there / "new.txt").write_text("Which of these: {labels}?")
    run("--edit-with", "new.txt")
    (there / "runs" / "prompts" / "mails" / "tested.jsonl").unlink()  # as after a table alone
    [note] = measure_prompt({**base, "version": "0002"}, silent)["report"]["notes"]
    assert "these test rows were used 1 time before, for other prompts" in note


def test_options_that_do_not_go_together(there, serve):
    assert refused("--edit", "--history") == "--edit and --history: one at a time."
    assert refused("--gain") == "--gain goes with --lint."
    assert refused("--note", "x") == "--note goes with --edit."
    assert refused("--edit", "--template", "t") == (
        "--template does not go with --edit, which asks as the version says. Leave it out."
    )
    assert "no prompt is kept there yet. `tunesmith prompts FILE` tries some and keeps the best" in refused("--edit")
    table(serve(knows))
    assert "a version has one number of examples. Give one." in refused("--edit", "--shots", "1,2")
    assert "in one way. Give one." in refused("--edit", "--examples", "random,nearest")
    assert "is asked of one model, and --models names 2" in refused(
        "--final", "best", "--models", "http://127.0.0.1:9/v1#a,http://127.0.0.1:9/v1#b"
    )


def test_a_version_of_chats(write_rows, serve, tmp_path):
    file = str(write_rows(many_rows(60), "chats.jsonl"))
    server = serve(lambda request: said("From seven to ten."))
    base = options(file, models=[f"{server.url}#small"], shots=[0, 1], validate_only=True, max_new_tokens=8,
                   into=str(tmp_path / "v"))  # fmt: skip
    kept = try_prompts(base, silent)["report"]["kept"]
    assert kept["id"] == "0001"
    (tmp_path / "t.txt").write_text("{text}\nAnswer:")
    prompt = Prompt("{examples}\n\n{text}\nShortly:", "", 1, "random")
    asked = {**base, "parent": "1", "prompt": prompt.to_plain(), "schema": None, "note": ""}
    scored = score_prompt(asked, silent)["report"]
    child = Versions(tmp_path / "v").find("2")
    assert scored["kept"]["id"] == "0002"
    assert len(child.prompt.chosen) == 1
    assert child.metric == "chrF"


def test_without_test_rows_there_is_a_sentence(write_rows, serve, tmp_path):
    files = (str(write_rows(class_rows(8, seed), f"few-{seed}.jsonl")) for seed in range(40))
    rows = next(file for file in files if not prompt_rows(DataConfig(train=file), 9, 0).test)
    base = options(rows, models=[f"{serve(knows).url}#small"], into=str(tmp_path / "v"))
    assert try_prompts(base, silent)["report"]["kept"]["id"] == "0001"
    with pytest.raises(DataError, match=r"there are no test rows\. Give more rows, or a file with --test\.$"):
        measure_prompt({**base, "version": "best"}, silent)


def test_examples_of_several_turns_are_found_again_by_their_seed(write_rows, serve, tmp_path):
    rows = [{"messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."},
                          *row["messages"]]} for row in many_rows(40)]  # fmt: skip
    base = options(write_rows(rows, "talks.jsonl"), models=[f"{serve(lambda request: said('Yes.')).url}#small"],
                   shots=[2], validate_only=True, rows=3, into=str(tmp_path / "v"))  # fmt: skip
    try_prompts(base, silent)
    [kept] = Versions(tmp_path / "v").all
    assert (kept.prompt.shots, kept.prompt.examples, kept.prompt.chosen) == (2, "random", None)
    asked = {**base, "parent": "1", "schema": None, "note": ""}
    lines = score_prompt({**asked, "prompt": {**kept.prompt.to_plain(), "instruction": "Be kind."}}, silent)["report"]
    assert [line["asked_now"] for line in lines["validation"]["entries"]] == [0, 3]
