"""The main road on real files, in real child processes; what it publishes loads elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

import tunesmith
from conftest import many_rows
from tunesmith.core.errors import JobError, TunesmithError
from tunesmith.core.events import silent
from tunesmith.core.files import read_json, read_lines, sha256_of
from tunesmith.exec import local
from tunesmith.exec.cores import Cores, allowed_cores, count_free, idle_shares, look_at_cores, quota
from tunesmith.exec.executor import Job
from tunesmith.exec.local import SETTINGS, LocalExecutor, environment
from tunesmith.exec.supervise import result_of, supervise
from tunesmith.jobs.start import Run
from tunesmith.registry.runs import list_runs, read_run
from tunesmith.score.metrics import METRICS

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "Where is the pool? I am guest 5."


@pytest.fixture
def recipe(tmp_path, write_rows, tiny):
    path = tmp_path / "small.yaml"
    path.write_text(
        f"model: {{base: '{tiny}'}}\n"
        f"data: {{train: '{write_rows(many_rows(40))}'}}\n"
        "optim: {learning_rate: 1.0e-3, epochs: 2, batch_size: 8}\n"
        "evaluate: {max_new_tokens: 8}\n"
        "precision: fp32\n"
        f"output: {{folder: '{tmp_path / 'runs'}'}}\n"
    )
    return path


def greedy_with_transformers(folder, question):
    from transformers import pipeline

    pipe = pipeline("text-generation", model=str(folder), dtype=torch.float32, device="cpu")
    said = pipe([{"role": "user", "content": question}], max_new_tokens=20, do_sample=False)
    return said[0]["generated_text"][-1]["content"].strip()


def test_a_run_leaves_what_it_promises_and_loads_in_peft(finished):
    from peft import AutoPeftModelForCausalLM

    run = Run(finished / "runs" / "small")
    check_promises(run)
    model = AutoPeftModelForCausalLM.from_pretrained(run.model, dtype=torch.float32)
    contract = tunesmith.load(run.folder).generator.contract
    ids = torch.tensor([contract.prompt(tunesmith.prompt.messages.as_conversation(QUESTION))])
    said = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
    ours = tunesmith.load(run.folder).generate(QUESTION, max_new_tokens=20)
    assert contract.decode(said[0, ids.shape[1] :]).strip() == ours


@pytest.mark.parametrize("changes", [{"output": {"merge": True}}, {"method": {"type": "full"}}], ids=["merged", "full"])
def test_a_full_model_is_left_too(recipe, changes, in_process):
    events = []
    run = tunesmith.finetune(recipe, events.append, **changes)
    check_promises(run)
    assert events[-1].kind == "done"


def check_promises(run):
    names = {path.name for path in run.folder.iterdir()}
    assert {"config.yaml", "plan.json", "metrics.jsonl", "events.jsonl", "checkpoints", "model", "report"} <= names
    steps = read_lines(run.folder / "metrics.jsonl")
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert [score["metric"] for score in run.scores] == [metric.name for metric in METRICS]
    assert run.page.read_text().startswith("<!doctype html>")
    card = read_json(run.model / "tunesmith.json")
    assert card["data"]["rows"] + 2 <= 40
    assert len(card["base"]["sha256"]) == len(card["contract"]["id"]) == len(card["data"]["id"]) == 64
    assert not list(run.folder.rglob("*.bin")) + list(run.folder.rglob("*.pt")) + list(run.folder.rglob("*.pkl"))
    assert read_run(run.folder).status == "succeeded"
    ours = tunesmith.load(run.folder).generate(QUESTION, max_new_tokens=20)
    assert greedy_with_transformers(run.model, QUESTION) == ours


def test_the_flat_example_gives_the_same_losses(recipe, tmp_path, tiny, capsys, in_process):
    optim = {"learning_rate": 5e-3, "steps": 12}
    run = tunesmith.finetune(recipe, until="trained", data={"validation": 0, "test": 0}, optim=optim)
    ours = [step["loss"] for step in read_lines(run.folder / "metrics.jsonl")]
    spec = importlib.util.spec_from_file_location("sft_loop", ROOT / "examples" / "sft_loop.py")
    example = importlib.util.module_from_spec(spec)
    sys.modules["sft_loop"] = example
    spec.loader.exec_module(example)
    from transformers import AutoTokenizer

    settings = example.Settings(steps=12, learning_rate=5e-3)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    rows = [example.render(tokenizer, json.loads(line)["messages"]) for line in lines]
    theirs = example.train(example.load(str(tiny), settings), rows, settings)
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert ours[-1] < ours[0] - 0.3
    source = (ROOT / "examples" / "sft_loop.py").read_text()
    assert "import tunesmith" not in source
    assert source.count("\n") <= 150


def test_a_second_run_takes_the_next_name(recipe, tmp_path, in_process):
    quick = {"optim": {"steps": 1}, "data": {"validation": 0, "test": 0}}
    names = [tunesmith.finetune(recipe, until="trained", **quick).folder.name for _ in range(2)]
    assert names == ["small", "small-2"]
    assert [run.folder.name for run in list_runs(tmp_path / "runs")] == names


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"max_length": 8}}, r"longer than 8 tokens.*Raise data\.max_length"),
        ({"method": {"targets": ["nothing"], "type": "lora"}}, "no linear layer of the model is called 'nothing'"),
        ({"optim": {"learning_rate": 1e-30, "steps": 1}, "method": {"type": "full"}}, "training changed no weight"),
        ({"model": {"template": "plan"}}, "did you mean 'plain'"),
        ({"data": {"max_length": 1000}}, "takes at most 512 tokens"),
    ],
)
def test_a_run_that_cannot_succeed_fails_with_a_sentence_on_record(recipe, tmp_path, in_process, changes, words):
    with pytest.raises(TunesmithError, match=words):
        tunesmith.finetune(recipe, **changes)
    [run] = list_runs(tmp_path / "runs")
    assert run.status == "failed"
    assert not (run.folder / "model").exists()


def test_nothing_is_written_when_the_recipe_names_what_is_not_there(recipe, tmp_path):
    with pytest.raises(TunesmithError, match="no such file"):
        tunesmith.finetune(recipe, data={"train": str(tmp_path / "none.jsonl")})
    with pytest.raises(TunesmithError, match="no such folder"):
        tunesmith.finetune(recipe, model={"base": "./none"})
    assert not (tmp_path / "runs").exists()


def test_a_run_ends_where_it_is_asked_to_and_goes_on_to_the_same_end(recipe, in_process):
    whole = tunesmith.finetune(recipe)
    for until, then in (("trained", ("exported", "evaluated")), ("exported", ("evaluated",))):
        run = tunesmith.finetune(recipe, until=until)
        assert read_run(run.folder).status == until
        assert (run.model.exists(), run.scores) == (until == "exported", [])
        for later in then:
            tunesmith.resume(run.folder, until=later)
            assert read_run(run.folder).status == ("succeeded" if later == "evaluated" else later)
        assert [step["loss"] for step in read_lines(run.folder / "metrics.jsonl")] == [
            step["loss"] for step in read_lines(whole.folder / "metrics.jsonl")
        ]
        assert sha256_of(run.model / "adapter_model.safetensors") == sha256_of(
            whole.model / "adapter_model.safetensors"
        )
        assert run.scores == whole.scores
    for go in (tunesmith.finetune, lambda _, until: tunesmith.resume(run.folder, until=until)):
        with pytest.raises(TunesmithError, match=r"cannot go until 'train': did you mean 'trained'\?"):
            go(recipe, until="train")


def test_a_changed_template_refuses_to_answer(finished, tmp_path):
    run = Run(Path(shutil.copytree(finished / "runs" / "small", tmp_path / "small")))
    template = run.model / "chat_template.jinja"
    template.write_text("{{ 'Hello.\\n' }}" + template.read_text())
    with pytest.raises(TunesmithError, match="the prompt contract differs"):
        tunesmith.load(run.folder)


@pytest.mark.slow
def test_few_rows_are_learned_by_heart_from_a_headerless_csv(tmp_path):
    """Eighteen chats in quoted cells behind a byte order mark, as people upload them."""
    facts = ["on the second floor", "from six to ten", "at the bar", "by the lift", "for nine dollars", "until noon"]
    things = ["gym", "pool", "sauna"]
    rows = [
        {"messages": [{"role": "system", "content": "You are a very friendly hotel chatbot."},
                      {"role": "user", "content": f"Tell me about the {thing}, number {i}"},
                      {"role": "assistant", "content": f"Our {thing} number {i} is {fact}. Enjoy!"}]}
        for thing in things for i, fact in enumerate(facts)
    ]  # fmt: skip
    cells = [json.dumps(row).replace('"', '""') for row in rows]
    path = tmp_path / "hotel.csv"
    path.write_text("\ufeff" + "\n".join(f'"{cell}"' for cell in cells), encoding="utf-8")
    run = tunesmith.finetune(
        ROOT / "recipes" / "memorise.yaml", data={"train": str(path)}, output={"folder": str(tmp_path / "runs")}
    )
    model = tunesmith.load(run.folder)
    said = [model.generate(row["messages"][:-1]) for row in rows]
    assert said == [row["messages"][-1]["content"] for row in rows]


def test_a_child_that_dies_is_reported_with_its_last_words(tmp_path):
    with pytest.raises(JobError, match=r"exit code 1: .*unknown job 'nonsense'.*Its log: .*log"):
        result_of(supervise(LocalExecutor(), Job("nonsense", {}), tmp_path, silent))


def test_what_the_user_has_set_counts_for_children_too(monkeypatch):
    for name in (*SETTINGS, "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(local, "look_at_cores", lambda: Cores(there=4, free=3))
    given, warning = environment(1)
    assert SETTINGS.items() <= given.items()
    assert given["GOMP_SPINCOUNT"] == "5000"
    assert [environment(count)[0]["OMP_NUM_THREADS"] for count in (1, 2, 8)] == ["3", "1", "1"]
    assert warning.sentence.startswith("other programs use 1 of 4 cores, so this takes 3 threads.")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    given, warning = environment(1)
    assert warning is None
    assert given["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert given["GLIBC_TUNABLES"] == SETTINGS["GLIBC_TUNABLES"] + ":glibc.malloc.hugetlb=0"
    assert (given["OMP_NUM_THREADS"], "GOMP_SPINCOUNT" in given) == ("2", False)


def test_free_cores_are_counted_to_the_nearest_whole_one():
    assert count_free(2, [1.0, 0.98]) == Cores(2, 2)
    assert count_free(2, [0.95, 0.02]) == Cores(2, 1)
    assert count_free(2, [0.1, 0.1]) == Cores(2, 1)  # at least one
    assert count_free(2, [0.9] * 64) == Cores(2, 2)  # a container on a large machine
    assert count_free(8, [1.0] * 15 + [0.0]) == Cores(8, 8)  # two threads a core
    assert idle_shares([(10.0, 5.0), (10.0, 5.0)], [(11.0, 5.25), (11.0, 6.0)]) == [0.25, 1.0]
    assert [quota(text) for text in ("max 100000", "250000 100000", "50000 100000", "")] == [None, 2, 1, None]


def test_another_program_at_full_load_takes_a_core():
    cores = len(allowed_cores())
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        time.sleep(0.3)
        assert look_at_cores(0.3) == Cores(look_at_cores(0).there, 1)
    finally:
        for one in busy:
            one.kill()
            one.wait()


def test_a_child_ends_with_its_parent(recipe, tmp_path):
    """The parent is killed with no chance to say so; its child must not live on."""
    code = f"""
import tunesmith
tunesmith.finetune({str(recipe)!r}, optim={{"epochs": 100000}}, compile="off")
"""
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ})
    metrics = tmp_path / "runs" / "small" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert metrics.exists()
    [child] = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    assert child.wait(timeout=20) is None or not child.is_running()
    assert read_run(tmp_path / "runs" / "small").status == "unfinished"
