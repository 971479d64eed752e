"""Two processes compute what one would, whole or sharded, and go on after a stop."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from conftest import many_rows, save_tiny
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import Stopped, TunesmithError
from tunesmith.core.files import keep_lines, read_json, read_lines, write_text
from tunesmith.data.pack import deal
from tunesmith.exec.executor import Job
from tunesmith.exec.local import LocalExecutor
from tunesmith.exec.supervise import result_of, supervise
from tunesmith.jobs import start
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.start import Run, resume
from tunesmith.train.checkpoint import all_checkpoints
from tunesmith.train.recipe import read_recipe


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A model whose sizes cannot be halved, and whose embedding is its output layer too."""
    sizes = {"vocab_size": 4099, "intermediate_size": 131, "tie_word_embeddings": True}
    return save_tiny(tmp_path_factory.mktemp("odd"), **sizes)


@pytest.fixture
def recipe(tmp_path, write_rows, odd, monkeypatch):
    """A small recipe with some values set otherwise; one thread for each process, or they would crowd two cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = write_rows(many_rows(30))

    def make(**values):
        settings = {
            "model": {"base": str(odd)},
            "data": {"train": str(rows), "test": 0, "validation": 0.1},
            "method": {"type": "lora"},
            "optim": {"learning_rate": 1e-3, "steps": 6, "batch_size": 5},
            "output": {"folder": str(tmp_path / "runs"), "name": "run", "checkpoint_every": 2},
            "evaluate": {"every": 3},
            "precision": "fp32",
            "micro_tokens": 120,
            **values,
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
        return read_recipe(tmp_path / "recipe.yaml")

    return make


def here(recipe, name):
    """The run of a recipe for one process, in this one."""
    folder = Path(recipe.output.folder) / name
    folder.mkdir(parents=True)
    write_text(folder / "config.yaml", to_yaml(recipe))
    torch.set_num_threads(1)
    finetune({"folder": str(folder), "until": "trained"}, lambda event: None)
    return Run(folder)


def start_run(recipe):
    return start.start_run(recipe, until="trained")


def losses(folder):
    steps = [line["loss"] for line in read_lines(folder / "metrics.jsonl")]
    looks = [line["loss"] for line in read_lines(folder / "events.jsonl") if line["kind"] == "validation"]
    return steps + looks


def weights(folder):
    """What was trained, and its moving average."""
    files = all_checkpoints(folder / "checkpoints")[-1].glob("[at]*.safetensors")
    return {f"{file.stem} {name}": tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(
    ("method", "sharding", "other"),
    [
        ("lora", "none", {}),
        ("full", "full", {"checkpointing": "on"}),
        pytest.param("lora", "full", {"precision": "bf16"}, marks=pytest.mark.slow),
        pytest.param("lora", "full", {}, marks=pytest.mark.slow),
        pytest.param("full", "none", {}, marks=pytest.mark.slow),
        pytest.param("full", "full", {"precision": "bf16", "compile": "on"}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_losses_of_one(recipe, method, sharding, other):
    """Full fine-tuning with a moving average too: it changes weights by hand, which a sharded layer must notice.

    The third and the sixth step have one row, so that the other process has nothing but dummy batches.
    In bf16 a token's loss is rounded by about 0.05, otherwise where it stands among other rows. A mean over the 40 and
    more tokens of a step is so by at most a hundredth of it.
    """
    optim = {"learning_rate": 1e-3, "steps": 6, "batch_size": 13, "ema": 0.9 if method == "full" else None}
    values = {"method": {"type": method}, "optim": optim, **other}
    one = here(recipe(**values), "one")
    two = start_run(recipe(**values, processes=2, sharding=sharding))
    alone, exact = losses(one.folder), other.get("precision") != "bf16"
    trained = read_lines(one.folder / "metrics.jsonl")
    assert trained[2]["trained_tokens"] < 0.2 * trained[1]["trained_tokens"]
    assert len(alone) == 8
    assert losses(two.folder) == pytest.approx(alone, rel=1e-5 if exact else 1e-2)
    a, b = weights(one.folder), weights(two.folder)
    assert a.keys() == b.keys()
    for name in a if exact else []:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=2e-5)
    plan = read_json(two.folder / "plan.json")
    assert (plan["processes"], plan["sharding"]) == (2, sharding)
    assert (plan["chunked"], plan["packing"]) == (True, True), plan["reasons"]
    assert plan["compiled"] == (other.get("compile") == "on"), plan["reasons"]


@pytest.mark.parametrize("sharding", [pytest.param("none", marks=pytest.mark.slow), "full"])
def test_two_processes_that_were_ended_go_on_to_the_same_bits(recipe, sharding, tmp_path):
    """From what lies on the disk when their parent dies after three steps; dropout included."""
    output = {"folder": str(tmp_path / "runs"), "name": "run", "checkpoint_every": 2, "keep_last": 3}
    whole = start_run(recipe(method={"type": "lora", "dropout": 0.1}, output=output, processes=2, sharding=sharding))
    folder = Path(shutil.copytree(whole.folder, tmp_path / "runs" / "broken"))
    for later in all_checkpoints(folder / "checkpoints")[1:]:
        shutil.rmtree(later)
    keep_lines(folder / "metrics.jsonl", lambda line: line["step"] <= 3)
    resume(folder, until="trained")
    assert losses(folder) == losses(whole.folder)
    a, b = weights(whole.folder), weights(folder)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [event["step"] for event in read_lines(folder / "events.jsonl") if event["kind"] == "resumed"] == [2]


def test_two_processes_draw_and_learn_from_the_answers_of_one(recipe):
    """PPO, whose advantages are whitened over all answers, with an odd number of prompts and a value head."""
    short = {"type": "length", "most": 3, "unit": "words"}
    objective = {"type": "ppo", "rewards": [short], "passes": 2, "samples": 2, "sampling": {"max_new_tokens": 8}}
    values = {"objective": objective, "evaluate": {"every": 2}, "compile": "off"}
    one, two = here(recipe(**values), "one"), start_run(recipe(**values, processes=2))
    lines = [read_lines(run.folder / "metrics.jsonl") for run in (one, two)]
    watched = [[(line["reward"], line["length"], line["loss"]) for line in some] for some in lines]
    assert watched[1] == [pytest.approx(each, rel=1e-3, abs=1e-4) for each in watched[0]]
    looks = [[line["reward"] for line in read_lines(run.folder / "events.jsonl") if line["kind"] == "validation"]
             for run in (one, two)]  # fmt: skip
    assert looks[0]
    assert looks[1] == pytest.approx(looks[0], abs=1e-6)


def test_two_processes_stop_together_with_a_checkpoint_and_one_alone_cannot_go_on(recipe, tmp_path, in_process):
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    write_text(folder / "config.yaml", to_yaml(recipe(processes=2, optim={"steps": 2000, "batch_size": 5})))
    heard = []

    def hear(event):
        heard.append(event.kind)
        if heard.count("step") == 2 and event.kind == "step":
            raise KeyboardInterrupt

    job = Job("finetune", {"folder": str(folder)}, stoppable=True, processes=2)
    with pytest.raises(Stopped, match="with a checkpoint"):
        result_of(supervise(LocalExecutor(), job, tmp_path, hear))
    assert "stopping" in heard
    assert len(all_checkpoints(folder / "checkpoints")) > 0

    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("processes: 2", "processes: 1"))
    with pytest.raises(TunesmithError, match="processes was 2 and is 1"):
        resume(folder)
    with pytest.raises(TunesmithError, match="it was written by 2 processes, and here are 1"):
        resume(folder, accept_change=True, allow_inexact=True)


def test_what_one_process_alone_finds_ends_all_with_its_sentence(recipe, odd, tmp_path):
    """A base with one weight that is no number, in the part of the second process."""
    broken = tmp_path / "broken"
    shutil.copytree(odd, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][-1, 0] = torch.nan
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    said = r"1 of the base model's tensors hold NaN or infinity .first: model\.layers\.0\.mlp\.up_proj"
    with pytest.raises(TunesmithError, match=said):
        start_run(recipe(model={"base": str(broken)}, processes=2, sharding="full"))


def test_a_process_holds_about_half_of_what_one_would():
    """A model of 15 million weights; beside its half, a process puts two layers together, and their gradients."""
    script = Path(__file__).parents[1] / "benchmarks" / "shards.py"
    command = [sys.executable, str(script), "--layers", "12", "--width", "256", "--only", "bf16", "--json"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    one, two = json.loads(said.splitlines()[-1])["bf16"]
    assert two["loaded"] < 0.65 * one["loaded"], said
    assert two["trained"] < 0.65 * one["trained"], said


def test_rows_are_dealt_evenly():
    lengths = [9, 1, 1, 1, 8, 3, 3, 3]
    hands = deal(lengths, 2)
    assert sorted(index for hand in hands for index in hand) == list(range(8))
    sums = [sum(lengths[i] for i in hand) for hand in hands]
    assert abs(sums[0] - sums[1]) <= 1
    assert deal([5], 3) == [[0], [], []]
