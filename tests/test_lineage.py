"""Lineage: what a card tells, what of it is found to be true, and that the printed commands make the model again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from conftest import many_rows, save_tiny
from tunesmith.cli.main import app
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import MissingError, ModelError
from tunesmith.core.events import silent
from tunesmith.core.files import read_json, sha256_of, write_json, write_text
from tunesmith.exec.machine import gpu
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.start import claim_folder
from tunesmith.prompt.base import resolve
from tunesmith.registry.lineage import trace, unusual
from tunesmith.registry.rerun import rerun, would_differ
from tunesmith.train.recipe import Recipe, read_recipe

RECIPE = """
model: {base: ./base}
data: {train: rows.jsonl, validation: 0, test: 0}
optim: {learning_rate: 5.0e-3, steps: 2, batch_size: 4}
precision: fp32
"""


def run_here(name: str, **changes) -> Path:
    """A whole run, in this process and in the current folder."""
    Path(f"{name}.yaml").write_text(RECIPE)
    recipe = read_recipe(Path(f"{name}.yaml"), changes)
    run = claim_folder(recipe)
    write_text(run / "config.yaml", to_yaml(recipe))
    finetune({"folder": str(run)}, silent)
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a base, rows, a full model `first` of that base, and an adapter `second` on the first's model."""
    folder = tmp_path_factory.mktemp("made")
    save_tiny(folder / "base")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many_rows(20)))
    before = Path.cwd()
    os.chdir(folder)
    try:
        run_here("first", method={"type": "full"})
        run_here("second", model={"base": "runs/first/model"}, method={"rank": 4})
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """The same folder, to do anything with, as if all had been made in it; and the current one."""
    place = Path(shutil.copytree(made, tmp_path / "place"))
    for path in place.rglob("tunesmith.json"):
        path.write_text(path.read_text().replace(str(made), str(place)))
    monkeypatch.chdir(place)
    return place


def states(generation) -> dict[str, str]:
    return {fact.label: fact.state for fact in generation.facts if fact.state}


def say(*arguments) -> str:
    done = CliRunner().invoke(app, ["lineage", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def paste(script: str, folder: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Give a script to a shell, as somebody who pastes it."""
    environment = {**os.environ, "PATH": path or f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash"], input=script, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


NOTES = """#!/bin/sh
printf '%s\\0' "$PWD" "$@" >> "$(dirname "$0")/commands"
printf '\\n' >> "$(dirname "$0")/commands"
"""


def paste_and_run_here(script: str, folder: Path, monkeypatch) -> None:
    """Give a script to a shell that notes the commands of tunesmith in it, and run these in this process."""
    place = folder / "bin"
    place.mkdir()
    (place / "tunesmith").write_text(NOTES)
    (place / "tunesmith").chmod(0o755)
    done = paste(script, folder, f"{place}:/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    for line in (place / "commands").read_text().splitlines():
        where, *arguments, _ = line.split("\0")
        monkeypatch.chdir(where)
        ran = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert ran.exit_code == 0, ran.output


def test_what_only_reads_loads_no_torch(place):
    """All commands one after the other in one process."""
    code = """
import json, sys
from tunesmith.cli.main import app
for command in json.loads(sys.argv[1]):
    try:
        app(command)
    except SystemExit as end:
        assert not end.code, (command, end.code)
    assert "torch" not in sys.modules, command
"""
    commands = [
        ["--help"], ["runs"], ["show", "runs/second"], ["check", "rows.jsonl"], ["lineage", "ember"],
        ["lineage", "runs/second"], ["lineage", "runs/second", "--json"], ["lineage", "runs/first", "--rerun"],
        ["compare", "runs/first", "runs/second"],
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "20 rows read: 20 kept." in done.stdout


def test_a_gpu_is_named_as_its_driver_names_it(tmp_path):
    assert gpu(tmp_path) is None
    (tmp_path / "0000:65:00.0").mkdir()
    (tmp_path / "0000:65:00.0" / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 42\n")
    assert gpu(tmp_path) == "NVIDIA H100 80GB HBM3"


def test_a_change_on_the_way_is_told_with_what_it_was(place):
    path = place / "runs" / "second" / "model" / "tunesmith.json"
    change = {"name": "optim.learning_rate", "before": 0.1, "now": 0.2}
    machine = {"name": "machine", "before": "a PDP-11", "now": "a VAX"}
    card = read_json(path)
    write_json(path, {**card, "resumed": [{"step": 7, "changes": [change], "inexact": [machine]}]})
    [told] = [sentence for sentence in would_differ(trace("runs/second")) if "changed on the way" in sentence]
    assert told.endswith("after step 7: optim.learning_rate was 0.1 and is 0.2; machine was 'a PDP-11' and is 'a VAX'")
    write_json(path, {**card, "resumed": ["after step 7"]})
    with pytest.raises(ModelError, match="cannot be understood"):
        would_differ(trace("runs/second"))


def test_a_card_says_enough_to_trace_a_model(place):
    card = read_json(place / "runs" / "second" / "model" / "tunesmith.json")
    first = read_json(place / "runs" / "first" / "model" / "tunesmith.json")
    sha256 = sha256_of(place / "rows.jsonl")
    assert card["data"]["files"] == [{"file": "rows.jsonl", "sha256": sha256, "read": 20, "kept": 20}]
    assert card["data"]["rows"] == 20
    assert card["recipe"] == yaml.safe_load((place / "runs" / "second" / "config.yaml").read_text())
    assert Recipe.model_validate(card["recipe"]).method.rank == 4
    assert (card["steps"], card["seed"], card["method"]["type"]) == (2, 0, "lora")
    assert {"precision", "device", "packing", "micro_tokens", "threads", "machine"} <= set(card["plan"])
    assert card["parent"] == {"name": "runs/first/model", "sha256": card["base"]["sha256"], "card": first}
    assert first["parent"] is None
    assert card["directory"] == str(place)


def test_the_lineage_of_a_chain_goes_down_to_the_base(place):
    second = trace("runs/second")
    [first] = second.origins
    [base] = first.origins
    assert [one.name for one in (second, first, base)] == ["runs/second", "runs/first/model", "./base"]
    assert set(states(second).values()) == set(states(first).values()) == set(states(base).values()) == {"same"}
    assert {"contract", "versions", "machine", "file rows.jsonl"} <= states(second).keys()
    assert "sha256" in states(first).keys() & states(base).keys()
    assert second.doubts() == []
    shown = say("runs/second")
    for words in ("runs/second", "lora: rank 4", "20 read, 20 kept", "└─ base runs/first/model", "└─ base ./base"):
        assert words in shown
    assert "optim.steps 2" in shown
    assert "optim.warmup" not in shown  # a default
    assert "come out the same to the last bit" in shown
    told = json.loads(say("runs/second/model", "--json"))
    assert told["origins"][0]["origins"][0]["card"] is None
    assert told["origins"][0]["card"]["method"] == {"type": "full"}
    assert told["differences"] == []
    assert "parent" not in told["card"]


def test_what_was_changed_or_is_gone_is_told_line_by_line(place):
    rows = place / "rows.jsonl"
    rows.write_text(rows.read_text() + "\n")
    config = place / "runs" / "first" / "model" / "config.json"
    config.write_text(config.read_text() + " ")
    template = place / "runs" / "second" / "model" / "chat_template.jinja"
    template.write_text("{{ 'Hello.\\n' }}" + template.read_text())
    card = read_json(place / "runs" / "second" / "model" / "tunesmith.json")
    card["versions"]["torch"], card["plan"]["machine"] = "1.0", "a mainframe"
    write_json(place / "runs" / "second" / "model" / "tunesmith.json", card)
    second = trace("runs/second")
    for label in ("file rows.jsonl", "contract", "versions", "machine"):
        assert states(second)[label] == "changed", label
    assert states(second.origins[0])["sha256"] == "changed"
    assert states(second.origins[0].origins[0])["sha256"] == "same"
    shown = say("runs/second")
    assert "other here: torch 2." in shown
    assert f"changed since: now {sha256_of(rows)[:16]}" in shown
    ending = shown.partition("Made again here, the result would differ")[2]
    for words in ("file rows.jsonl", "versions", "machine", "base runs/first/model"):
        assert words in ending
    rows.unlink()
    shutil.rmtree(place / "base")
    second = trace("runs/second")
    assert states(second)["file rows.jsonl"] == "missing"
    assert states(second.origins[0].origins[0])["sha256"] == "missing"


def test_a_model_that_was_moved_is_traced_and_made_again_from_elsewhere(place, tmp_path, monkeypatch):
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    shutil.move(place / "runs" / "second" / "model", elsewhere / "mine")
    monkeypatch.chdir(elsewhere)
    mine = trace("mine")
    assert mine.doubts() == []
    script = say("mine", "--rerun")
    assert script == (
        f"(\ncd {place} &&\nOMP_NUM_THREADS={mine.card['plan']['threads']} tunesmith train runs/second/config.yaml "
        "--set 'device=\"cpu\"' --set micro_tokens=4096 --set 'compile=\"off\"'\n)\n"
    )
    done = paste(script, elsewhere)
    assert done.returncode == 0, done.stderr
    again = place / "runs" / "second-2" / "model" / "adapter_model.safetensors"
    assert again.read_bytes() == (elsewhere / "mine" / "adapter_model.safetensors").read_bytes()


def test_a_chain_whose_runs_are_gone_is_made_again_from_its_card_alone(place, tmp_path, monkeypatch, in_process):
    shutil.move(place / "runs" / "second" / "model", tmp_path / "mine")
    shutil.rmtree(place / "runs")
    mine = trace(str(tmp_path / "mine"))
    assert [fact.state for fact in mine.doubts()] == ["missing"]
    script = rerun(mine)
    assert script.count("<<'RECIPE'") == 2
    assert "runs/first/model is not here and is made again first" in script
    assert not (place / "runs").exists()
    assert not list(place.glob("*again*"))  # nothing is written by asking
    paste_and_run_here(script, place, monkeypatch)
    again = place / "runs" / "second" / "model" / "adapter_model.safetensors"
    assert again.read_bytes() == (tmp_path / "mine" / "adapter_model.safetensors").read_bytes()
    assert trace(str(tmp_path / "mine")).doubts() == []


def test_the_commands_settle_what_the_run_decided(place):
    path = place / "runs" / "second" / "model" / "tunesmith.json"
    card = read_json(path)
    card["recipe"]["precision"], card["base"]["commit"] = "auto", "ab12"
    card["plan"] |= {"micro_tokens": 512, "threads": 3}
    merge = {"largest_logit_difference": {"value": 1e-6, "limit": 1e-3}, "answers": None, "made": "2026-01-01"}
    write_json(path, {**card, "merge": merge})
    script = rerun(trace("runs/second"))
    assert "OMP_NUM_THREADS=3 tunesmith train second-again-1.yaml" in script  # config.yaml says otherwise now
    for setting in ('precision="fp32"', "micro_tokens=512", 'model.revision="ab12"', "output.merge=true"):
        assert setting in script
    assert "logits within 1e-06 of the adapter's (limit 0.001)" in say("runs/second")
    (place / "second-again-1.yaml").touch()
    assert "tunesmith train second-again-2.yaml" in rerun(trace("runs/second"))


def test_a_foreign_card_cannot_run_anything(place):
    """Names in a card reach a shell and a terminal; they stay names."""
    path = place / "runs" / "second" / "model" / "tunesmith.json"
    card = read_json(path)
    harm = "x'\n touch harmed; $(touch harmed) `touch harmed` \x1b[2J\nRECIPE\ntouch harmed\n"
    card["recipe"]["output"]["name"] = card["recipe"]["data"]["system"] = harm
    card["recipe"]["precision"], card["plan"]["precision"] = "auto", harm
    card["data"]["files"][0]["file"] = card["base"]["name"] = card["parent"]["name"] = card["base"]["commit"] = harm
    card["parent"]["card"]["recipe"]["data"]["system"] = harm
    card["directory"] = str(place / "it's; touch harmed")
    write_json(path, card)
    Path(card["directory"]).mkdir()
    script, shown = rerun(trace("runs/second")), say("runs/second")
    assert "\x1b" not in script + shown
    stub = place / "bin"
    stub.mkdir()
    (stub / "tunesmith").write_text('#!/bin/sh\nprintf "%s\\n" "$2" >> called\n')
    (stub / "tunesmith").chmod(0o755)
    done = paste(script, place, f"{stub}:/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    assert not list(place.rglob("harmed"))
    called = (Path(card["directory"]) / "called").read_text().splitlines()
    recipe = yaml.safe_load((Path(card["directory"]) / called[-1]).read_text())
    assert recipe == card["recipe"]


def test_a_file_that_changed_under_a_run_has_no_hash(made, tmp_path, monkeypatch):
    from tunesmith.jobs import finetune as road

    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "base", "base")
    shutil.copy(made / "rows.jsonl", "rows.jsonl")

    def train_and_touch(*arguments, train=road.train):
        train(*arguments)
        Path("rows.jsonl").write_text("other\n")

    monkeypatch.setattr(road, "train", train_and_touch)
    run = run_here("small")
    assert read_json(run / "model" / "tunesmith.json")["data"]["files"][0]["sha256"] is None
    assert states(trace(str(run)))["file rows.jsonl"] == "unknown"


def test_an_adapter_that_training_went_on_from_is_an_origin_too(place):
    run = run_here("third", model={"base": "runs/first/model"}, method={"rank": 4, "continue_from": "runs/second"})
    third = trace(str(run))
    assert [(one.role, one.name) for one in third.origins] == [
        ("base", "runs/first/model"),
        ("continue_from", "runs/second"),
    ]
    assert third.origins[1].origins[0].name == "runs/first/model"
    assert third.doubts() == []
    weights = place / "runs" / "second" / "model" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert [(fact.label, fact.state) for fact in trace(str(run)).doubts()] == [("continue_from runs/second", "changed")]


def test_a_base_of_the_hub_is_looked_for_in_the_cache_alone(place, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "ab" * 20
    path = place / "runs" / "first" / "model" / "tunesmith.json"
    card = read_json(path)
    write_json(path, {**card, "base": {**card["base"], "name": "owner/tiny", "commit": commit}})
    assert states(trace("runs/first").origins[0])["sha256"] == "missing"
    shutil.copytree("base", tmp_path / "hub" / "models--owner--tiny" / "snapshots" / commit)
    [base] = trace("runs/first").origins
    assert base.facts[0].text.endswith(f", commit {commit}")
    assert states(base)["sha256"] == "same"
    assert f'model.revision="{commit}"' in rerun(trace("runs/first"))


def test_a_base_says_that_it_is_one(tmp_path):
    assert resolve("ember").fingerprint() in say("ember")
    assert "a base model: no card says how it was made" in say("ember")
    with pytest.raises(ModelError, match="a base model without a card"):
        rerun(trace("ember"))
    with pytest.raises(MissingError, match="no such folder"):
        trace("./nothing")


def test_what_has_no_lineage_is_a_sentence(place):
    path = place / "runs" / "second" / "model" / "tunesmith.json"
    card = read_json(path)
    for wrong, words in (
        ([1], "not a card of this version"),
        ({"base": {}}, "not a card of this version"),
        ({**card, "data": 3}, "cannot be understood"),
    ):
        write_json(path, wrong)
        with pytest.raises(ModelError, match=words):
            trace("runs/second")
    write_json(path, {**card, "plan": {**card["plan"], "threads": "many"}})
    with pytest.raises(ModelError, match=r"runs/second: its card cannot be understood"):
        rerun(trace("runs/second"))
    card["parent"]["card"] = {"base": {}}
    write_json(path, card)
    assert states(trace("runs/second").origins[0]) == {"sha256": "same", "card": "unknown"}
    shutil.rmtree(path.parent)
    with pytest.raises(MissingError, match="this run has no model yet"):
        trace("runs/second")


def test_only_what_differs_from_the_defaults_is_unusual():
    optim = {"optimizer": {"betas": [0.8, 0.99]}, "scheduler": "wsd"}
    recipe = Recipe.model_validate({"data": {"train": "hotel", "train_on": "last"}, "optim": optim})
    found = unusual({**recipe.model_dump(mode="json"), "seed": 3, "novel": {"a": 1}, "other": 2})
    assert found == {
        "data.train_on": "last", "optim.optimizer.betas": [0.8, 0.99], "optim.scheduler": "wsd", "novel.a": 1,
        "other": 2,
    }  # fmt: skip
