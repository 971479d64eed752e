"""What goes wrong in training is mended or stopped: no room, spikes, a worse end, runs that teach nothing."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

import tunesmith
from conftest import chat_row, many_rows
from tunesmith.core import events
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import ConfigError, JobError, OutOfMemory, TrainingError, TunesmithError
from tunesmith.core.events import read_events, silent
from tunesmith.core.files import read_json, read_lines
from tunesmith.exec import local, memory
from tunesmith.exec.executor import Job
from tunesmith.exec.local import LocalExecutor
from tunesmith.exec.supervise import result_of, supervise
from tunesmith.jobs import finetune as job
from tunesmith.jobs import start
from tunesmith.model.export import export
from tunesmith.registry.runs import list_runs, read_run
from tunesmith.train import loop
from tunesmith.train.checkpoint import all_checkpoints
from tunesmith.train.objectives import sft
from tunesmith.train.pace import Slower
from tunesmith.train.planning import planner
from tunesmith.train.planning.plan import in_smaller_pieces
from tunesmith.train.planning.planner import make_plan
from tunesmith.train.recipe import read_recipe
from tunesmith.train.state import TrainerState

COMMAND = [sys.executable, "-c", "from tunesmith.cli.main import run; run()"]


@pytest.fixture
def recipe(tmp_path, write_rows, tiny):
    path = tmp_path / "small.yaml"
    path.write_text(
        f"model: {{base: '{tiny}'}}\n"
        f"data: {{train: '{write_rows(many_rows(40))}', test: 0, validation: 0.1}}\n"
        "optim: {learning_rate: 1.0e-3, epochs: 2, batch_size: 8}\n"
        "precision: fp32\n"
        f"output: {{folder: '{tmp_path / 'runs'}'}}\n"
    )
    return path


def here(recipe, hear=lambda event: None, name="run", until="exported", **changes):
    """The run that a recipe makes, in this process: a child would take seconds to start."""
    folder = recipe.parent / "runs" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(read_recipe(recipe, changes)))
    job.finetune({"folder": str(folder), "until": until}, hear)
    return start.Run(folder)


def losses(folder):
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl")]


def events_of(folder, kind):
    return [line for line in read_events(folder) if line["kind"] == kind]


# No room


@pytest.mark.skipif(sys.platform != "linux", reason="the size of an address space is limited on Linux only")
def test_a_step_without_room_is_done_in_smaller_pieces_with_the_same_losses(recipe, tmp_path, write_rows):
    """The whole command under a limit of its address space: a step needs far more in one piece."""
    rows = write_rows([chat_row(f"Question {i}?", f"Answer {i}. " + "Enjoy your stay. " * 60) for i in range(400)])
    settings = ["data.validation=0", "data.replay=off", "optim.steps=1", "optim.batch_size=400", "micro_tokens=131072"]
    settings += ["checkpointing=off", "output.name=run", f"data.train={rows}"]
    command = [*COMMAND, "train", str(recipe), "--until", "trained"]
    command += [part for setting in settings for part in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (3_400_000_000, resource.RLIM_INFINITY))

    done = subprocess.run(
        command, preexec_fn=limited, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    plan = read_json(tmp_path / "runs" / "run" / "plan.json")
    assert plan["micro_tokens"] < 70_000
    assert "there was no room for" in plan["reasons"]["micro_tokens"]
    assert "there is no memory for a micro-batch" in " ".join(done.stdout.split())
    data = {"train": str(rows), "validation": 0, "replay": "off"}
    optim = {"steps": 1, "batch_size": 400}
    free = here(recipe, name="free", until="trained", data=data, optim=optim, micro_tokens=8192)
    assert losses(tmp_path / "runs" / "run") == pytest.approx(losses(free.folder), rel=1e-5)


def test_a_kill_near_the_end_of_memory_is_answered_and_any_other_is_not(recipe, monkeypatch):
    """The child is really killed; that memory was nearly used up is what the patched limit says."""
    killed = []

    def kill_once(event):
        if event.kind == "step" and event.step == 3 and not killed:
            for child in psutil.Process().children():
                killed.append(child.pid)
                child.send_signal(signal.SIGKILL)

    with pytest.raises(JobError, match="the job was killed by SIGKILL"):
        tunesmith.finetune(recipe, kill_once, "trained", output={"name": "other"})
    killed.clear()
    monkeypatch.setattr(memory, "memory_limit", lambda: 1000)
    monkeypatch.setattr(memory, "EVERY", 0.01)
    run = tunesmith.finetune(recipe, kill_once, "trained", output={"name": "memory"})
    assert killed
    [note] = [event["sentence"] for event in events_of(run.folder, "warning")]
    assert "the system killed the job for lack of memory" in note
    plan = read_json(run.folder / "plan.json")
    assert plan["micro_tokens"] < 300
    assert read_run(run.folder).status == "trained"


class NoRoom:
    """An executor whose jobs say something and then have no room."""

    def __init__(self, *said):
        self.said, self.started = said, []

    def start(self, job, folder):
        self.started.append(job.arguments)
        return SimpleNamespace(
            events=lambda: iter(self.said),
            outcome=lambda: events.OutOfMemory("no room."),
            kill=lambda: None,
            stop=lambda: None,
        )


def test_a_machine_without_room_elsewhere_is_no_reason_for_smaller_pieces(tmp_path):
    job = Job("any", {}, smaller={"smaller": True}, shrinks="training")
    executor = NoRoom(events.Phase("training"), events.Phase("evaluating"))
    outcome = supervise(executor, job, tmp_path, silent)
    assert outcome.sentence.startswith("no room. It was evaluating. Take a smaller base model")
    assert executor.started == [{}]


def test_a_run_that_was_to_stop_is_not_begun_again_where_there_is_no_room(tmp_path):
    job = Job("any", {}, stoppable=True, smaller={"smaller": True}, shrinks="training")
    executor = NoRoom(events.Phase("training"), None)
    assert supervise(executor, job, tmp_path, silent, cancelled=lambda: True) == events.OutOfMemory("no room.")
    assert executor.started == [{}]


def test_pieces_shrink_down_to_one_row():
    plan = make_plan("fp32", "auto", 4096)
    lengths = [100, 300, 50, 20]
    smaller = in_smaller_pieces(plan, 4, lengths)
    assert smaller.micro_tokens == 300
    again = in_smaller_pieces(smaller, 4, lengths)  # then layers are computed again
    assert (again.micro_tokens, again.checkpointing) == (300, True)
    with pytest.raises(TrainingError, match=r"micro-batch of one row \(the longest has 300 tokens\)"):
        in_smaller_pieces(again, 4, lengths)
    assert in_smaller_pieces(plan, 64, [300] * 64).micro_tokens == 2048
    counted, counts = replace(plan, accumulation=1), []
    while counted.accumulation < 6:
        counted = in_smaller_pieces(counted, 6, lengths * 2)
        counts.append(counted.accumulation)
    assert counts == [2, 4, 6]
    with pytest.raises(TrainingError, match="one row"):
        in_smaller_pieces(replace(counted, checkpointing=True), 6, lengths * 2)


def test_a_kernel_that_killed_for_memory_is_believed(monkeypatch):
    watch = memory.MemoryWatch([os.getpid()])
    assert not watch.blames_memory()
    count = memory.kills_for_memory()
    monkeypatch.setattr(memory, "kills_for_memory", lambda: count + 1)
    assert watch.blames_memory()
    watch.close()


# Spikes


def spiky_rows():
    """Rows of one kind, and in the middle of them eight of another."""
    calm = [chat_row(f"Say yes, {i}.", "Yes, yes, yes, yes.") for i in range(120)]
    wild = [chat_row(f"Say {i}.", "%#(@ 84 qz xx 19 ~~ || vv 77 ;; ^^ 5") for i in range(8)]
    return calm + wild


@pytest.mark.parametrize("spikes", ["warn", "skip", "rollback", "off"])
def test_a_spike_is_met_as_the_recipe_says(recipe, write_rows, spikes, monkeypatch):
    rows = write_rows(spiky_rows(), "spiky.jsonl")
    # The eight wild rows make up the 33rd batch.
    calm = [list(range(i, i + 8)) for i in range(0, 120, 8)]
    order = [*(calm * 3)[:32], list(range(120, 128)), *calm]
    monkeypatch.setattr("tunesmith.train.sources.rows.epoch_batches", lambda *_: iter(order))
    data = {"train": str(rows), "validation": 0, "test": 0, "near_duplicates": "off"}
    optim = {"learning_rate": 3e-3, "steps": 38, "batch_size": 8, "spikes": spikes}
    output, method = {"checkpoint_every": 10}, {"type": "full"}
    folder = here(recipe, until="trained", data=data, optim=optim, output=output, method=method).folder
    said = [event["sentence"] for event in events_of(folder, "warning") if "stands far out" in event["sentence"]]
    steps = read_lines(folder / "metrics.jsonl")
    assert [step["step"] for step in steps] == list(range(1, 39))
    assert len(said) == (spikes != "off")
    if spikes == "off":
        return
    assert said[0].startswith("step 33: a loss of")
    if spikes == "skip":
        assert steps[32]["gradient_norm"] == 0
    if spikes == "rollback":
        assert [event["step"] for event in events_of(folder, "rolled_back")] == [30]
        assert max(step["loss"] for step in steps[30:]) < 1.25 * steps[29]["loss"]
        state = read_json(all_checkpoints(folder / "checkpoints")[-1] / "state.json")
        assert state["sources"] == [{"taken": 38 + 3}]
    else:
        assert steps[32]["loss"] > 1.25 * steps[31]["loss"]


def test_what_a_spike_is():
    trainer_state = TrainerState(losses=[2.0, 2.1, 1.9, 2.0, 2.05, 1.95, 2.0])
    assert not trainer_state.spikes(9.0)  # too few to judge by
    trainer_state.note(2.0)
    assert trainer_state.spikes(9.0)
    assert not trainer_state.spikes(2.2)
    assert not TrainerState(losses=[1e-6] * 20).spikes(1e-3)
    assert TrainerState(losses=[1e-6] * 20).spikes(0.5)


# Best, early, averaged


def test_the_best_validation_is_exported_and_waiting_ends_a_run(recipe, tmp_path):
    """Memorising forty rows at a high rate makes the loss on other rows rise after some steps."""
    settings = {"optim": {"learning_rate": 2e-2, "epochs": 40, "batch_size": 8, "scheduler": "constant"}}
    looks = {"every": 3, "patience": 4, "export": "best"}
    run = here(recipe, **settings, evaluate=looks, method={"type": "full"})
    seen = [(event["step"], event["loss"], event["best"]) for event in events_of(run.folder, "validation")]
    [early] = events_of(run.folder, "early")
    best_step, best, _ = min(seen, key=lambda look: look[1])
    assert early["best_step"] == best_step
    assert early["step"] == seen[-1][0] == best_step + 4 * 3
    assert len(losses(run.folder)) == early["step"] < 40 * 5
    assert read_json(run.model / "tunesmith.json")["steps"] == best_step
    assert events_of(run.folder, "exported")[0]["step"] == best_step
    names = [path.name for path in all_checkpoints(run.folder / "checkpoints")]
    assert f"step-{best_step:06d}" in names
    best_one = run.folder / "checkpoints" / f"step-{best_step:06d}"
    saved, exported = load_file(best_one / "trainable.safetensors"), load_file(run.model / "model.safetensors")
    words = load_file(best_one / "method.safetensors")["used_words"]  # the only rows of that table that are trained
    exported["model.embed_tokens.weight"] = exported["model.embed_tokens.weight"][words]
    assert all(torch.equal(saved[name], exported[name]) for name in saved)
    assert best < seen[-1][1]


def test_the_moving_average_is_what_is_watched_and_published(recipe):
    run = here(recipe, optim={"ema": 0.9, "steps": 6}, output={"checkpoint_every": 1, "keep_last": 6})
    decays = [min(0.9, (1 + step) / (10 + step)) for step in range(1, 7)]
    states = [load_file(path / "trainable.safetensors") for path in all_checkpoints(run.folder / "checkpoints")]
    average = load_file(all_checkpoints(run.folder / "checkpoints")[-1] / "average.safetensors")
    name = next(name for name in average if "lora_A" in name)
    # The first state is after step 1; what was before it follows from the first average.
    first = load_file(all_checkpoints(run.folder / "checkpoints")[0] / "average.safetensors")[name]
    expected = first
    for state, decay in zip(states[1:], decays[1:], strict=True):
        expected = decay * expected + (1 - decay) * state[name]
    torch.testing.assert_close(average[name], expected)
    exported = load_file(run.model / "adapter_model.safetensors")
    assert any(torch.equal(average[name], tensor) for tensor in exported.values())
    assert not torch.equal(average[name], states[-1][name])


def test_a_look_that_is_no_number_is_never_the_best():
    trainer_state = TrainerState()
    assert not trainer_state.take_validation(float("nan"), 1, False)
    assert trainer_state.take_validation(2.0, 2, False)
    assert not trainer_state.take_validation(float("nan"), 3, False)
    assert (trainer_state.best, trainer_state.best_step, trainer_state.waited) == (2.0, 2, 1)


def test_the_screen_shows_an_early_end_at_any_step(capsys):
    from tunesmith.cli.screen import live_screen

    with live_screen() as screen:
        for step in (1, 2):
            screen(events.Step(step, 2, {"loss": 1.0}, 1e-3, 0.5, 100, 10.0, 1.0, 2**30))
            screen(events.Early(step, 1))
    assert capsys.readouterr().out.count("ended early") == 2


def test_a_gradient_that_is_not_finite_names_its_rows(recipe, monkeypatch):
    from tunesmith.train.learner import Learner

    honest = Learner.backward

    def spoil(self, loss):
        honest(self, loss)
        next(iter(self.weights.values())).grad.fill_(torch.nan)

    monkeypatch.setattr(Learner, "backward", spoil)
    with pytest.raises(TrainingError, match=r"step 1: the gradient is nan.* Its rows: .*rows\.jsonl:\d+.*"):
        here(recipe)


def test_plain_text_is_trained_on_and_measured(recipe, write_rows):
    rows = [{"text": f"In the year {i} the pool was built. " + "It is deep and blue. " * (i % 3)} for i in range(40)]
    path = write_rows(rows, "texts.jsonl")
    run = here(
        recipe, until="evaluated", data={"train": str(path), "test": 0.3}, evaluate={"general_ability": [str(path)]}
    )
    assert [score["metric"] for score in run.scores] == ["perplexity", "token accuracy"]
    assert read_json(run.folder / "report" / "report.json")["general_ability"]["texts.jsonl"]["rows"] == 40


@pytest.mark.parametrize("by_us", [True, False])
def test_the_kill_of_a_partner_by_us_says_nothing_about_memory(tmp_path, by_us):
    """One process fails by a bug, and the parent kills the other; or nobody knows who killed it, near the limit."""
    (tmp_path / "log").write_text("ValueError: a bug\n")
    killed = local._Child(SimpleNamespace(returncode=-signal.SIGKILL), ended=by_us)
    failed = local._Child(SimpleNamespace(returncode=2), events.Failed("", "ValueError()"))
    watch = SimpleNamespace(blames_memory=lambda: True)
    with pytest.raises(
        JobError if by_us else OutOfMemory, match="exit code 2: ValueError" if by_us else "lack of memory"
    ):
        result_of(local.outcome_of([killed, failed], watch, tmp_path / "log"))


# Continuing


def test_training_goes_on_from_an_adapter_and_from_a_tuned_model(recipe):
    first = here(recipe, name="first")
    adapter = {"type": "lora", "continue_from": str(first.folder), "dropout": 0.1}
    second = here(recipe, name="second", method=adapter)
    assert losses(second.folder)[0] < losses(first.folder)[0]
    assert losses(second.folder)[0] == pytest.approx(losses(first.folder)[-1], rel=0.2)
    assert read_json(second.model / "tunesmith.json")["continue_from"]["card"]["steps"] == len(losses(first.folder))
    with pytest.raises(TunesmithError, match=r"method\.rank = 4, and the adapter in .* has 16"):
        here(recipe, name="other", method={**adapter, "rank": 4})
    with pytest.raises(TunesmithError, match="no adapter there"):
        here(recipe, name="none", method={**adapter, "continue_from": "/none"})
    full = here(recipe, name="full", output={"merge": True})
    third = here(recipe, name="third", model={"base": str(full.folder)})
    assert losses(third.folder)[0] < losses(full.folder)[0]
    with pytest.raises(TunesmithError, match=r"It is an adapter: .*method\.start"):
        here(recipe, name="wrong", model={"base": str(first.folder)})


# Eight ways to learn nothing, none of which may end as a success


def fails(recipe, words, error=TunesmithError, **changes):
    name = f"failing-{len(list((recipe.parent / 'runs').glob('*')))}"
    with pytest.raises(error, match=words):
        here(recipe, name=name, **changes)
    assert not (recipe.parent / "runs" / name / "model").exists()


def test_a_failure_is_on_record(recipe, tmp_path):
    """In a child once: its sentence reaches the caller, and the run's folder keeps it."""
    with pytest.raises(TunesmithError, match="training changed no weight"):
        tunesmith.finetune(recipe, optim={"learning_rate": 1e-30, "steps": 1}, method={"type": "full"})
    [run] = list_runs(tmp_path / "runs")
    assert run.status == "failed"
    assert "training changed no weight" in run.trouble[-1]


def test_1_all_labels_masked(recipe, write_rows):
    rows = many_rows(12)
    for row in rows:
        row["messages"][-1]["weight"] = 0
    fails(recipe, "weight", data={"train": str(write_rows(rows, "masked.jsonl"))})


def test_2_learning_rate_zero(recipe):
    fails(recipe, "must be greater than 0", ConfigError, optim={"learning_rate": 0})
    fails(recipe, "training changed no weight", optim={"learning_rate": 1e-30, "steps": 1}, method={"type": "full"})


def test_3_lora_on_nothing(recipe):
    fails(recipe, "no linear layer of the model is called 'nothing'", method={"type": "lora", "targets": ["nothing"]})
    fails(recipe, r"method\.targets", method={"type": "lora", "targets": []})


def test_4_an_adapter_of_nan(recipe):
    run = here(recipe, name="broken", optim={"steps": 2})
    path = run.model / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[next(iter(tensors))][0, 0] = np.nan
    save_file(tensors, path, metadata={"format": "pt"})
    fails(recipe, "the adapter's weights are not finite", method={"type": "lora", "continue_from": str(run.folder)})


def test_5_no_validation_rows(recipe, write_rows, tmp_path):
    one = str(write_rows([*many_rows(1)], "one.jsonl"))
    fails(recipe, "no row fell into the validation part", data={"train": one})
    (tmp_path / "empty.jsonl").write_text("")
    fails(recipe, "the file is empty", data={"validation": str(tmp_path / "empty.jsonl")})
    for setting in ({"patience": 2}, {"export": "best"}):
        fails(recipe, r"evaluate\.\w+ needs validation rows", data={"validation": 0}, evaluate=setting)


def test_6_no_stop_token(recipe, tmp_path, tiny):
    base = tmp_path / "endless"
    shutil.copytree(tiny, base)
    template = (
        "{% for m in messages %}{{ m.role }}:\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:\n{% endif %}"
    )
    for place in ("tokenizer_config.json", "chat_template.jinja"):
        if (base / place).exists() and place.endswith(".json"):
            config = json.loads((base / place).read_text())
            config.pop("chat_template", None)
            (base / place).write_text(json.dumps(config))
    (base / "chat_template.jinja").write_text(template)
    fails(recipe, "would never (stop|end)", model={"base": str(base)})


def test_7_answers_that_break_off_are_trained_on_where_asked_for_and_spoken_of(recipe):
    fails(recipe, "rows are longer than 12 tokens", data={"max_length": 12})
    said = []
    run = here(recipe, said.append, data={"max_length": 12, "over_long": "truncate", "train_on": "all"})
    assert "the model will not learn to stop" in " ".join(e.sentence for e in said if e.kind == "warning")
    assert read_json(run.folder / "ledger.json")[0]["counts"] == {"read": 40, "cut": 39, "dropped": 1}  # held out


def test_8_the_same_answer_to_everything(recipe, write_rows):
    rows = [chat_row(f"Question {i}?", "I cannot help with that.") for i in range(30)]
    fails(recipe, "have the same answer", data={"train": str(write_rows(rows, "constant.jsonl"))})


def test_9_tokens_without_embeddings(recipe, tmp_path, tiny):
    from transformers import PreTrainedTokenizerFast

    base = shutil.copytree(tiny, tmp_path / "added")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    words = len(tokenizer)
    tokenizer.add_tokens(["<|turn|>", "<|over|>"], special_tokens=True)
    tokenizer.eos_token = "<|over|>"
    tokenizer.chat_template = (
        "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|over|>{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(base)
    words = rf"'<\|over\|>', number {words + 1}, and the model has embeddings for 4096.*resize_token_embeddings"
    fails(recipe, words, model={"base": str(base)})


def test_10_a_base_of_nan(recipe, tmp_path, tiny):
    base = shutil.copytree(tiny, tmp_path / "nan")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.mlp.gate_proj.weight"][2, 2] = np.nan
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    said = r"1 of the base model's tensors hold NaN or infinity .first: model\.layers\.0\.mlp\.gate_proj"
    fails(recipe, said, model={"base": str(base)})


def test_a_published_model_that_computes_something_else_is_no_success(recipe, monkeypatch):
    def spoil(model, base, contract, folder, card):
        export(model, base, contract, folder, card)
        path = folder / "adapter_model.safetensors"
        save_file({name: 3 * tensor + 0.1 for name, tensor in load_file(path).items()}, path, {"format": "pt"})

    monkeypatch.setattr(job, "export", spoil)
    with pytest.raises(TrainingError, match=r"read back, \d+ of \d+ tensors and factors are not what was trained"):
        here(recipe)


def test_a_thread_of_the_watch_ends(tmp_path):
    before = threading.active_count()
    with pytest.raises(JobError):
        result_of(supervise(LocalExecutor(), Job("nonsense", {}), tmp_path, silent))
    assert threading.active_count() == before


# Others take cores


def test_a_run_that_others_disturb_goes_on_with_fewer_threads_from_a_checkpoint(recipe, monkeypatch):
    notes = iter([None, None, None, Slower(4.0, 1.0, 2)])
    monkeypatch.setattr(loop.Pace, "note", lambda pace, rate, seconds: next(notes, None))
    monkeypatch.setattr(loop, "WORTH", 0.0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run = here(recipe, output={"checkpoint_every": 100, "keep_last": 5})
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    plan = read_json(run.folder / "plan.json")
    assert (plan["threads"], plan["reasons"]["threads"].partition(";")[0]) == (1, "2 before")
    assert [path.name for path in all_checkpoints(run.folder / "checkpoints")] == ["step-000004", "step-000010"]
    [said] = events_of(run.folder, "warning")
    assert said["sentence"] == (
        "a step takes 4.0 times as long as before: other programs use 1.0 of 2 cores. It goes on with 1 of 2 threads, "
        "after a checkpoint."
    )
    assert len(losses(run.folder)) == 10


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_checked_is_the_model_as_it_is_trained(recipe, monkeypatch, method):
    seen, trained = {}, {}

    def note(name, model):
        seen[name] = (id(model), model.config._attn_implementation, {w.dtype for w in model.parameters()})

    def looks_ahead(folder, model, row):
        note("looks_ahead", model)
        refuse_looking_ahead(folder, model, row)

    def why_not_packed(objective, models, rows):
        note("why_not_packed", models.policy)
        return planner_check(objective, models, rows)

    def why_not_chunked(models, rows, collate):
        note("why_not_chunked", models.policy)
        return chunked_check(models, rows, collate)

    def note_and_train(objective, models, learner, *others):
        model = learner.model
        assert models.policy is model
        trained.update(model=(id(model), model.config._attn_implementation, {w.dtype for w in model.parameters()}))
        return loop.train(objective, models, learner, *others)

    refuse_looking_ahead, planner_check, chunked_check = (
        job.refuse_looking_ahead, planner.why_not_packed, sft.why_not_chunked
    )  # fmt: skip
    monkeypatch.setattr(job, "refuse_looking_ahead", looks_ahead)
    monkeypatch.setattr(planner, "why_not_packed", why_not_packed)
    monkeypatch.setattr(sft, "why_not_chunked", why_not_chunked)
    monkeypatch.setattr(job, "train", note_and_train)
    changes = {"data": {"test": 0, "validation": 0}, "optim": {"steps": 1}, "method": {"type": method}}
    run = here(recipe, precision="bf16", **changes)
    assert seen["why_not_chunked"] == trained["model"]
    assert seen["looks_ahead"][::2] == seen["why_not_packed"][::2] == trained["model"][::2]
    assert trained["model"][2] == {torch.bfloat16}
    plan = read_json(run.folder / "plan.json")
    assert (plan["packing"], plan["chunked"]) == (True, True)
    assert not [
        event for event in events_of(run.folder, "warning") if "packing" in str(event) or "logits" in str(event)
    ]
