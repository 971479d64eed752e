"""Runs that end early go on to the same bits; damaged checkpoints are never used; changes are never unseen."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import many_rows
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import ConfigError, Stopped, TrainingError, TunesmithError
from tunesmith.core.events import Phase
from tunesmith.core.files import read_lines, write_json, write_text
from tunesmith.exec.child import heeding
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.resume import DECIDED_BY, find_resumed
from tunesmith.jobs.start import resume
from tunesmith.registry.runs import read_run
from tunesmith.train.checkpoint import all_checkpoints, find_checkpoint, manifest_of, save_checkpoint, why_damaged
from tunesmith.train.planning.plan import Plan
from tunesmith.train.recipe import Recipe, read_recipe

COMMAND = [sys.executable, "-c", "from tunesmith.cli.main import run; run()"]


def hear(event):
    pass


@pytest.fixture
def begin(tmp_path, write_rows, tiny):
    """Makes the folder of a run that is ready to be trained; settings are set over a small recipe."""
    rows = write_rows(many_rows(40))

    def make(name, **settings):
        values = {
            "model": {"base": str(tiny)},
            "data": {"train": str(rows), "test": 0, "validation": 0.1},
            "method": {"type": "lora", "dropout": 0.1},
            "optim": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 8, "accumulation": 2},
            "output": {"folder": str(tmp_path / "runs"), "name": "run", "checkpoint_every": 2, "keep_last": 2},
            "precision": "fp32",
            **settings,
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        write_text(folder / "config.yaml", to_yaml(read_recipe(tmp_path / f"{name}.yaml")))
        return folder

    return make


def run(folder, stop=lambda: False, until="trained", **options):
    return finetune({"folder": str(folder), "until": until, **options}, hear, stop)


def after(steps):
    """A wish to stop after so many steps."""
    left = iter(range(steps - 1))
    return lambda: next(left, None) is None


def losses(folder):
    return [(line["step"], line["loss"], line["gradient_norm"]) for line in read_lines(folder / "metrics.jsonl")]


def weights(folder):
    """All tensors of the last checkpoint, and of the model where it was exported."""
    files = [*all_checkpoints(folder / "checkpoints")[-1].glob("*.safetensors"), *folder.glob("model/*.safetensors")]
    return {f"{file.name} {name}": tensor for file in files for name, tensor in load_file(file).items()}


def equal(one, two):
    assert losses(one) == losses(two)
    watched = [
        [line["loss"] for line in read_lines(folder / "events.jsonl") if line["kind"] == "validation"]
        for folder in (one, two)
    ]
    assert watched[0] == watched[1]
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


METHODS = {"lora": {"type": "lora", "dropout": 0.1}, "full": {"type": "full"}}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_stopped_anywhere_goes_on_to_the_same_bits(begin, method):
    settings = {"method": METHODS[method]}
    whole = begin("whole", **settings)
    run(whole)
    assert len(losses(whole)) > 6
    for step in (1, 3, len(losses(whole)) - 1):
        broken = begin(f"broken-{step}", **settings)
        with pytest.raises(Stopped, match=f"stopped after step {step} of"):
            run(broken, after(step))
        run(broken, resume=True)
        equal(whole, broken)


def test_average_best_validation_and_patience_go_on_as_they_stood(begin):
    settings = {
        "method": {"type": "full"},
        "optim": {"learning_rate": 2e-2, "epochs": 12, "batch_size": 8, "ema": 0.9, "scheduler": "constant"},
        "evaluate": {"every": 2, "patience": 3, "export": "best"},
    }
    whole = begin("whole", **settings)
    run(whole, until="exported")
    steps = len(losses(whole))
    assert steps < 12 * 5  # patience ended it
    for step in (2, 3, steps - 1):
        broken = begin(f"broken-{step}", **settings)
        with pytest.raises(Stopped):
            run(broken, after(step))
        run(broken, until="exported", resume=True)
        equal(whole, broken)
    done = begin("done", **settings)
    heard = []
    with pytest.raises(Stopped, match="stopped at exporting"):  # at its end, but not exported
        finetune({"folder": str(done)}, heeding(heard.append, lambda: heard[-1] == Phase("exporting")))
    run(done, until="exported", resume=True)
    equal(whole, done)


def test_perturbed_steps_and_averaging_optimizers_go_on_to_the_same_bits(begin):
    """What is random in a perturbation depends on nothing that a stop could lose; nor does the average."""
    pytest.importorskip("schedulefree")
    settings = {
        "optim": {
            "optimizer": "schedule_free",
            "learning_rate": 1e-2,
            "epochs": 2,
            "batch_size": 8,
            "layer_decay": 0.8,
        },
        "perturb": {"type": "freelb", "epsilon": 0.5},
        "objective": {"label_smoothing": 0.1},
        "evaluate": {"every": 2},
    }
    whole, broken = begin("whole", **settings), begin("broken", **settings)
    run(whole)
    with pytest.raises(Stopped):
        run(broken, after(3))
    run(broken, resume=True)
    equal(whole, broken)
    rates = [event for event in read_lines(whole / "events.jsonl") if event["kind"] == "rates"]
    assert [group["what"] for group in rates[0]["groups"]][:2] == ["layer 1", "layer 2"]


def test_a_run_that_lost_its_last_steps_does_them_again(begin):
    whole, broken = begin("whole"), begin("broken")
    run(whole)
    with pytest.raises(Stopped):
        run(broken, after(5))
    shutil.rmtree(all_checkpoints(broken / "checkpoints")[-1])  # as a kill before the save leaves it
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')  # and in the middle of a line
    run(broken, resume=True)
    equal(whole, broken)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(begin):
    whole, broken = begin("whole"), begin("broken")
    run(whole)
    with pytest.raises(Stopped):
        run(broken, after(1))
    shutil.rmtree(broken / "checkpoints")
    run(broken, resume=True)
    equal(whole, broken)


def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_is_used(begin):
    whole, broken = begin("whole"), begin("broken")
    run(whole)
    with pytest.raises(Stopped):
        run(broken, after(6))
    last = all_checkpoints(broken / "checkpoints")[-1]
    flip(last, "optimizer.safetensors", 1000)
    run(broken, resume=True)
    [note] = [line["sentence"] for line in read_lines(broken / "events.jsonl") if line["kind"] == "warning"]
    assert f"{last.name} is damaged" in note
    assert (broken / "checkpoints" / f"damaged-{last.name}").exists()
    equal(whole, broken)


def test_a_run_whose_checkpoints_are_all_damaged_never_begins_anew_in_silence(begin):
    folder = begin("run")
    with pytest.raises(Stopped):
        run(folder, after(5))
    for path in all_checkpoints(folder / "checkpoints"):
        flip(path, "state.json", 0)
    for _ in range(2):
        with pytest.raises(TrainingError, match="none of its checkpoints is whole"):
            run(folder, resume=True)


def test_a_change_is_refused_by_name_unless_it_is_accepted(begin, tmp_path):
    folder = begin("run")
    with pytest.raises(Stopped):
        run(folder, after(3))
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("learning_rate: 0.001", "learning_rate: 0.002"))
    with pytest.raises(ConfigError, match=r"optim\.learning_rate was 0\.001 and is 0\.002"):
        run(folder, resume=True)
    run(folder, resume=True, accept_change=True)
    [event] = [line for line in read_lines(folder / "events.jsonl") if line["kind"] == "resumed"]
    assert event["changes"] == [{"name": "optim.learning_rate", "before": 0.001, "now": 0.002}]
    assert event["inexact"] == []


def change(folder, was, now):
    config = folder / "config.yaml"
    assert was in config.read_text()
    config.write_text(config.read_text().replace(was, now))


def test_accepted_changes_have_their_effect(begin):
    """Fewer steps than were taken, more than there were, another precision."""
    folder = begin("run")
    with pytest.raises(Stopped):
        run(folder, after(6))
    change(folder, "steps: null", "steps: 4")
    run(folder, resume=True, accept_change=True)
    assert len(losses(folder)) == 6
    more = begin("more")
    heard = []
    with pytest.raises(Stopped, match="stopped at exporting"):
        finetune({"folder": str(more)}, heeding(heard.append, lambda: heard[-1] == Phase("exporting")))
    steps = len(losses(more))
    change(more, "epochs: 2.0", "epochs: 3.0")
    change(more, "precision: fp32", "precision: bf16")
    run(more, until="exported", resume=True, accept_change=True)
    assert len(losses(more)) == steps * 3 // 2
    assert json.loads((more / "plan.json").read_text())["precision"] == "bf16"
    card = json.loads((more / "model" / "tunesmith.json").read_text())
    [again] = card["resumed"]
    assert again["step"] == steps
    assert {"name": "optim.epochs", "before": 2.0, "now": 3.0} in again["changes"]


def test_a_damaged_best_validation_is_not_the_end(begin):
    settings = {
        "evaluate": {"every": 2, "export": "best", "metric": "token_accuracy"},  # soon as good as it can be
        "optim": {"learning_rate": 0.02, "epochs": 8, "batch_size": 8},
    }
    folder = begin("run", **settings, method={"type": "full"})
    heard = []
    with pytest.raises(Stopped, match="stopped at exporting"):
        finetune({"folder": str(folder)}, heeding(heard.append, lambda: heard[-1] == Phase("exporting")))
    best = [
        line["step"] for line in read_lines(folder / "events.jsonl") if line["kind"] == "validation" and line["best"]
    ]
    assert best[-1] < len(losses(folder))
    flip(folder / "checkpoints" / f"step-{best[-1]:06d}", "trainable.safetensors", 500)
    run(folder, until="exported", resume=True)
    assert "The weights of the last step are exported instead" in read_run(folder).trouble[-1]
    assert read_run(folder).status == "exported"


@pytest.mark.parametrize("spikes", ["skip", "rollback"])
def test_spikes_and_stops_together_change_nothing(begin, spikes, monkeypatch):
    """A loss is called a spike at the eighth batch; a stop before it must not move the place to go back to."""
    from tunesmith.train.sources.rows import RowSource
    from tunesmith.train.state import TrainerState

    settings = {"optim": {"learning_rate": 1e-3, "epochs": 3, "batch_size": 8, "ema": 0.9, "spikes": spikes}}
    sources = []

    def noted(*arguments):
        sources.append(RowSource(*arguments))
        return sources[-1]

    monkeypatch.setattr("tunesmith.jobs.finetune.RowSource", noted)
    monkeypatch.setattr(TrainerState, "spikes", lambda self, loss: sources[-1].taken == 8)
    settings["output"] = {"checkpoint_every": 4, "keep_last": 1}
    whole = begin("whole", **settings)
    run(whole)
    for step in (3, 5, 7):
        broken = begin(f"broken-{step}", **settings)
        with pytest.raises(Stopped):
            run(broken, after(step))
        run(broken, resume=True)
        equal(whole, broken)
    back = [line["step"] for line in read_lines(whole / "events.jsonl") if line["kind"] == "rolled_back"]
    assert back == ([4] if spikes == "rollback" else [])


def test_changed_rows_and_another_machine_are_refused(begin, tmp_path):
    folder = begin("run")
    with pytest.raises(Stopped):
        run(folder, after(3))
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "machine": "a PDP-11"}))
    with pytest.raises(ConfigError, match=r"machine was 'a PDP-11' and is .*--allow-inexact"):
        run(folder, resume=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    rows = yaml.safe_load((folder / "config.yaml").read_text())["data"]["train"]
    with Path(rows).open("a") as file:
        file.write(json.dumps(many_rows(41)[-1]) + "\n")
    with pytest.raises(ConfigError, match=r"rows\.train was"):
        run(folder, resume=True)


PLAN = Plan(
    device="cpu", precision="fp32", packing=True, micro_tokens=300, accumulation=None, processes=1, sharding="none",
    threads=2, reasons={"precision": "measured"}, versions={"torch": "2.11"}, machine="a PDP-11", chunked=True,
    compiled=True, checkpointing=False,
)  # fmt: skip
HERE = replace(PLAN, chunked=None, compiled=None, checkpointing=None)
MADE_FROM = {"recipe": {"precision": "auto", "compile": "auto", "optim": {"epochs": 1}}, "rows": {"train": "abc"}}


def go_on(folder, recipe=MADE_FROM["recipe"], here=HERE, **arguments):
    """Resume a run that has a checkpoint, but no training, under another recipe and another machine."""
    step = folder / "checkpoints" / "step-000007"
    if not step.exists():
        step.mkdir(parents=True)
        write_json(step / "state.json", {"step": 7, "made_from": MADE_FROM})
        write_json(step / "MANIFEST.json", manifest_of(step))
        write_json(folder / "plan.json", PLAN.to_json())
    events = []
    found = find_resumed(folder, {**MADE_FROM, "recipe": recipe}, here, {"resume": True, **arguments}, events.append)
    return found, events[-1]


@pytest.mark.parametrize("setting", [{"precision": "bf16"}, {"compile": "off"}, {"optim": {"epochs": 2}}])
def test_an_accepted_change_accepts_nothing_else(tmp_path, setting):
    recipe = {**MADE_FROM["recipe"], **setting}
    there = replace(HERE, machine="a VAX", versions={"torch": "2.13"}, threads=8, precision="bf16")
    with pytest.raises(ConfigError, match=r"machine was 'a PDP-11' and is 'a VAX'.*--allow-inexact") as refused:
        go_on(tmp_path, recipe, there, accept_change=True)
    assert "versions.torch was '2.11' and is '2.13'" in str(refused.value)
    with pytest.raises(ConfigError, match="--accept-change") as refused:
        go_on(tmp_path, recipe, there, allow_inexact=True)
    assert "--allow-inexact" not in str(refused.value)
    with pytest.raises(ConfigError, match=r"--accept-change.*--allow-inexact"):
        go_on(tmp_path, recipe, there)
    found, event = go_on(tmp_path, recipe, there, accept_change=True, allow_inexact=True)
    assert found.plan.surroundings() == there.surroundings()
    assert [one["name"] for one in event.inexact] == ["machine", "threads", "versions.torch"]
    assert [one["name"] for one in event.changes] == ["optim.epochs" if "optim" in setting else next(iter(setting))]
    assert found.changed


def test_only_what_a_changed_setting_decides_is_decided_anew(tmp_path):
    there = replace(HERE, micro_tokens=9999, precision="bf16", reasons={"precision": "given"})
    found, event = go_on(tmp_path, {**MADE_FROM["recipe"], "precision": "bf16"}, there, accept_change=True)
    assert found.plan == replace(PLAN, precision="bf16", chunked=None, compiled=None, checkpointing=None,
                                 reasons={"precision": "given"})  # fmt: skip
    assert event.changes == [{"name": "precision", "before": "auto", "now": "bf16"}]
    found, _ = go_on(tmp_path, {**MADE_FROM["recipe"], "compile": "off"}, there, accept_change=True)
    assert found.plan == replace(PLAN, compiled=None)
    found, _ = go_on(tmp_path, {**MADE_FROM["recipe"], "optim": {"epochs": 3}}, there, accept_change=True)
    assert found.plan == PLAN


def test_a_plan_brings_its_threads_along(tmp_path):
    found, event = go_on(tmp_path, here=replace(HERE, threads=64))
    assert (found.plan, found.changed, event.inexact, event.changes) == (PLAN, False, [], [])


def test_every_field_that_a_setting_decides_is_one_of_the_plan():
    recipe = Recipe(data={"train": "hotel"}).model_dump()
    for name, decided in DECIDED_BY.items():
        section, _, field = name.rpartition(".")
        assert field in (recipe[section] if section else recipe)
        assert set(PLAN.to_json()) >= set(decided)


def test_a_finished_run_and_one_that_is_being_worked_on_are_not_resumed(begin):
    from filelock import FileLock

    folder = begin("run")
    run(folder, until="evaluated")
    with pytest.raises(TunesmithError, match="this run is finished"):
        resume(folder)
    other = begin("other")
    with FileLock(other / ".lock"), pytest.raises(TunesmithError, match="another process works on this run"):
        resume(other)


def test_a_stop_outside_of_training_is_heeded_and_nothing_is_done_twice(begin):
    whole, broken = begin("whole"), begin("broken")
    run(whole, until="exported")
    for phase in ("loading the model", "exporting"):
        heard = []

        def stop(phase=phase, heard=heard):
            return Phase(phase) in heard

        with pytest.raises(Stopped, match=f"stopped at {phase}"):
            finetune({"folder": str(broken), "resume": True}, heeding(heard.append, stop), lambda: False)
    steps = losses(broken)
    (broken / "checkpoints" / ".step-000099.1.tmp").mkdir()  # what a kill inside a save leaves
    run(broken, until="exported", resume=True)
    assert losses(broken) == steps
    assert not list((broken / "checkpoints").glob(".step-*"))
    equal(whole, broken)


def flip(folder, name, place):
    data = bytearray((folder / name).read_bytes())
    data[place % len(data)] ^= 1
    (folder / name).write_bytes(bytes(data))


def mutations(folder, other, draw):
    """Every way to damage each file of a checkpoint, as functions of a copy of its folder."""
    for name in sorted(path.name for path in folder.iterdir()):
        yield from [partial(flip, name=name, place=draw.randrange(1 << 30)) for _ in range(12)]
        yield from [partial(cut, name=name, share=draw.random()) for _ in range(5)]
        yield from [partial(zero, name=name, place=draw.random()) for _ in range(5)]
        yield lambda copy, name=name: (copy / name).unlink()
        yield lambda copy, name=name: (copy / name).write_bytes(b"")
        yield lambda copy, name=name: shutil.copy(other / name, copy / name)  # a file of another step
        yield lambda copy, name=name: (copy / name).write_bytes((copy / name).read_bytes() + b"\n")
    yield lambda copy: (copy / "more.bin").write_bytes(b"x")
    yield lambda copy: [shutil.copy(path, copy / path.name) for path in other.iterdir()]  # all of another step


def cut(folder, name, share):
    os.truncate(folder / name, int(share * (folder / name).stat().st_size))


def zero(folder, name, place):
    """Sixteen bytes of nothing, as a lost page leaves them (in a place that was not nothing before)."""
    data = bytearray((folder / name).read_bytes())
    start = min(int(place * len(data)), len(data) - 1)
    while not any(data[start : start + 16]):
        start -= 16
    data[start : start + 16] = bytes(len(data[start : start + 16]))
    (folder / name).write_bytes(bytes(data))


def test_every_mutation_of_a_checkpoint_is_detected(begin, tmp_path):
    folder = begin("run")
    with pytest.raises(Stopped):
        run(folder, after(4))
    other, last = all_checkpoints(folder / "checkpoints")[-2:]
    assert why_damaged(last) is None
    count, draw = 0, random.Random(0)
    while count < 300:
        for damage in mutations(last, other, draw):
            copy = tmp_path / "copies" / last.name
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(last, copy)
            damage(copy)
            assert why_damaged(copy) is not None, count
            count += 1


def test_a_full_disk_leaves_the_earlier_checkpoint_and_the_run_goes_on_with_room(begin, monkeypatch):
    from tunesmith.jobs import finetune as job

    whole, broken = begin("whole"), begin("broken")
    run(whole)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(learner, *others):
        if learner.step_number == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # no file can grow further
        try:
            return save_checkpoint(learner, *others)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with monkeypatch.context() as patched:
        patched.setattr(job, "save_checkpoint", save)
        with pytest.raises(TrainingError, match=r"step-000004: the checkpoint cannot be written .* needs [\d,]+ bytes"):
            run(broken)
    checkpoint, damaged = find_checkpoint(broken / "checkpoints")
    assert checkpoint is not None
    assert (checkpoint.step, damaged) == (2, [])
    assert [path.name for path in (broken / "checkpoints").iterdir()] == ["step-000002"]
    run(broken, resume=True)
    equal(whole, broken)


def test_a_run_that_will_not_fit_on_the_disk_is_refused_before_its_first_step(begin, monkeypatch):
    folder = begin("run")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(TrainingError, match=r"2 checkpoints and the next one need [\d,]+ bytes, and 1,000 are free"):
        run(folder)
    assert not losses(folder)


def wait_for_steps(folder, count, child):
    for _ in range(600):
        if len(read_lines(folder / "metrics.jsonl")) >= count:
            return
        assert child.poll() is None, child.communicate()
        time.sleep(0.1)
    raise AssertionError("no steps were taken")


@pytest.mark.parametrize("sign", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_leaves_a_checkpoint_and_an_exit_code_of_its_own(begin, tmp_path, sign):
    optim = {"learning_rate": 1e-3, "epochs": 60, "batch_size": 8, "accumulation": 2}
    begin("unused", optim=optim, output={"folder": str(tmp_path / "runs"), "name": "long", "checkpoint_every": 1000})
    child = subprocess.Popen(
        [*COMMAND, "train", tmp_path / "unused.yaml"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    folder = tmp_path / "runs" / "long"
    wait_for_steps(folder, 3, child)
    child.send_signal(sign)
    out, error = child.communicate(timeout=60)
    assert child.returncode == 75, (out, error)
    assert "with a checkpoint. Go on with: tunesmith train --resume" in error
    assert "stopping as soon as it can" in out
    assert read_run(folder).status == "stopped"
    done = len(losses(folder))
    checkpoint, _ = find_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == done
    if sign == signal.SIGTERM:  # once is enough
        again = subprocess.run([*COMMAND, "train", "--resume", folder], capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        assert f"going on after step {done}" in again.stdout
        assert read_run(folder).status == "succeeded"


KILLS = [
    (0, ["--kills", "1", "--points", "0", "--method", "lora"]),
    *(pytest.param(seed, ["--kills", "10", "--points", "0"], marks=pytest.mark.kills) for seed in range(1, 11)),
    *(pytest.param(seed, ["--kills", "0", "--points", "1"], marks=pytest.mark.kills) for seed in range(11, 14)),
]


@pytest.mark.parametrize(("seed", "options"), KILLS)
def test_killed_runs_become_what_unbroken_ones_do(seed, options):
    script = Path(__file__).resolve().parents[1] / "scripts" / "kill_test.py"
    command = [sys.executable, script, "--seed", str(seed), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) kills in", done.stdout)[1]) >= int(options[1])
    assert "0 corrupt, 0 not the same" in done.stdout


def test_the_fast_path_goes_on_to_the_same_bits(begin):
    """Compiled layers, bf16 copies of fp32 masters, moments in 8 bits, dropout in compiled code."""
    settings = {
        "precision": "bf16",
        "compile": "on",
        "checkpointing": "on",
        "optim": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 8, "optimizer": "adamw_8bit", "ema": 0.9},
    }
    whole = begin("whole", **settings)
    run(whole)
    plan = json.loads((whole / "plan.json").read_text())
    assert plan["compiled"], plan["reasons"]["compiled"]
    broken = begin("broken", **settings)
    with pytest.raises(Stopped):
        run(broken, after(3))
    run(broken, resume=True)
    equal(whole, broken)
