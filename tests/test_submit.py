"""A recipe in the queue: what goes along, what a user types, and what comes back."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

from conftest import COMMAND, many_rows
from tunesmith.core.errors import MissingError
from tunesmith.core.files import sha256_of
from tunesmith.exec.executor import Job
from tunesmith.exec.queue.submit import Submission, submit
from tunesmith.infer.chat import Chat
from tunesmith.jobs.start import load
from tunesmith.jobs.submit import fetch_run, gather
from tunesmith.store.stores import open_stores
from tunesmith.train.recipe import read_recipe

pytestmark = pytest.mark.usefixtures("connections")


def test_a_recipe_takes_along_what_it_names_here(tmp_path, tiny, write_rows, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = write_rows(many_rows(4), "a.jsonl")
    (tmp_path / "deep").mkdir()
    shutil.copy(rows, tmp_path / "deep" / "a.jsonl")
    shutil.copy(rows, tmp_path / "deep" / "b.jsonl")
    (tmp_path / "r.yaml").write_text(
        f"model: {{base: '{tiny}'}}\n"
        "data: {train: {a.jsonl: 2.0, deep: 0.5, hotel: 1.0}, validation: [deep/b.jsonl, 'hf:a/b'], test: 0.1,\n"
        "  replay: a.jsonl}\n"
        "evaluate: {general_ability: [a.jsonl]}\n"
    )
    recipe, paths = gather(read_recipe(tmp_path / "r.yaml"))
    assert recipe.data.train == {
        "inputs/train/a.jsonl": 2.0, "inputs/train-2/a.jsonl": 0.5, "inputs/train/b.jsonl": 0.5, "hotel": 1.0
    }  # fmt: skip
    assert recipe.data.validation == ["inputs/validation/b.jsonl", "hf:a/b"]
    assert recipe.data.test == 0.1
    assert recipe.data.replay == "inputs/replay/a.jsonl"
    assert recipe.evaluate.general_ability == ["inputs/general/a.jsonl"]
    assert recipe.model.base == "inputs/base"
    assert (recipe.output.folder, recipe.output.name) == ("runs", "r")
    assert {name.partition("/base/")[2] for name in paths if "/base/" in name} >= {"config.json", "tokenizer.json"}
    assert sha256_of(paths["inputs/train-2/a.jsonl"]) == sha256_of(rows)


def tunesmith(folder, *arguments, code=0):
    environment = {**os.environ, "TUNESMITH_HOME": str(folder / "home")}
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_recipe_is_queued_trained_and_fetched(tmp_path, tiny):
    """The commands, as a user types them; the files that the recipe named are gone before a worker begins."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many_rows(40)))
    shutil.copytree(tiny, tmp_path / "base")
    (tmp_path / "small.yaml").write_text(
        "model: {base: base}\ndata: {train: rows.jsonl, test: 0.1}\nprecision: fp32\n"
        "optim: {learning_rate: 1.0e-3, epochs: 1, batch_size: 8}\nevaluate: {max_new_tokens: 4}\n"
    )
    said = tunesmith(tmp_path, "submit", "small.yaml", "--key", "once")
    id = said.split()[0]
    assert tunesmith(tmp_path, "submit", "small.yaml", "--key", "once").split()[0] == id
    for name in ("base", "rows.jsonl", "small.yaml"):
        (tmp_path / name).rename(tmp_path / f"gone-{name}")
    assert "has published nothing yet" in tunesmith(tmp_path, "fetch", id, code=1)
    assert f"{id}: succeeded" in tunesmith(tmp_path, "worker", "--until-empty")
    assert re.search(rf"{id} +small +default +succeeded +4 +1", tunesmith(tmp_path, "jobs"))
    words = tunesmith(tmp_path, "logs", id[:12])
    assert "step 4/4" in words
    assert "attempt 1 on" in words
    assert "tunesmith chat runs/small" in tunesmith(tmp_path, "fetch", id)
    run = tmp_path / "runs" / "small"
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["train"] == "inputs/train/rows.jsonl"
    assert json.loads((run / "model" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        run / "inputs" / "base"
    )
    assert isinstance(load(run), Chat)
    assert re.search(r"small +succeeded", tunesmith(tmp_path, "runs"))
    assert "0 different" in tunesmith(tmp_path, "merge", "runs/small", "--output", "merged")  # finds the run's rows
    assert "it is succeeded already" in tunesmith(tmp_path, "cancel", id, code=1)
    assert "indexed 1 run of runs" in tunesmith(tmp_path, "runs", "--rebuild")
    assert "runs/small" in tunesmith(tmp_path, "runs", "--indexed")
    assert "would go: 0 checkpoints" in tunesmith(tmp_path, "gc", "--dry-run")
    assert "records.sqlite" in tunesmith(tmp_path, "backup", "copy")
    new = ("--records", f"sqlite:///{tmp_path}/new/r.sqlite")
    assert "restored records.sqlite" in tunesmith(tmp_path, "restore", "copy", *new)
    assert "runs/small-2" in tunesmith(tmp_path, "fetch", id, *new)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["submit", "none.yaml"], "none.yaml: no such recipe"),
        (["logs", "nonsense"], "job 'nonsense': there is none"),
        (["jobs", "--state", "runing"], "unknown state 'runing': did you mean 'running'?"),
        (["worker", "--records", "postgresql://localhost/x"], "--blobs is missing: name the folder or bucket"),
        (["restore", "nowhere"], "nowhere: no whole backup"),
        (["submit", "r.yaml", "--until", "x"], "a run cannot go until 'x'"),
        (["submit", "r.yaml", "--set", "data.train=none.jsonl"], "none.jsonl: no such file"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, arguments, reason):
    (tmp_path / "r.yaml").write_text("data: {train: hotel}\n")
    words = tunesmith(tmp_path, *arguments, code=1)
    assert reason in words
    assert "Traceback" not in words


def test_a_job_that_is_only_trained_is_fetched_and_gone_on_with(tmp_path, tiny):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many_rows(40)))
    (tmp_path / "small.yaml").write_text(
        f"model: {{base: '{tiny}'}}\ndata: {{train: rows.jsonl, test: 0}}\nprecision: fp32\n"
        "optim: {steps: 2, batch_size: 8}\n"
    )
    id = tunesmith(tmp_path, "submit", "small.yaml", "--until", "trained").split()[0]
    tunesmith(tmp_path, "worker", "--until-empty")
    (tmp_path / "rows.jsonl").unlink()
    assert "train --resume runs/small" in tunesmith(tmp_path, "fetch", id)
    words = tunesmith(tmp_path, "train", "--resume", "runs/small", "--until", "exported")
    assert "going on after step 2" in words
    assert (tmp_path / "runs" / "small" / "model" / "adapter_config.json").exists()


def test_what_was_not_published_cannot_be_fetched(tmp_path):
    stores = open_stores(f"sqlite:///{tmp_path / 'records.sqlite'}", str(tmp_path / "blobs"))
    id = submit(stores.records, Submission(Job("finetune", {})))
    with pytest.raises(MissingError, match="it is queued, and has published nothing yet"):
        fetch_run(stores, id, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
