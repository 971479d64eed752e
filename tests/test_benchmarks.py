"""Every benchmark and script runs, on the smallest thing it takes; what it measures is not asserted."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch

from classifiers import class_rows, save_base
from conftest import many_rows
from spans import tagged_rows
from tunesmith.infer.engine import network
from tunesmith.jobs import words
from tunesmith.model.native import library
from tunesmith.train.planning import compiled
from tunesmith.train.planning.compiled import why_not_compiled
from tunesmith.train.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.compile:UserWarning")


@pytest.fixture(autouse=True)
def uncompiled():
    """Compiling takes most of a small benchmark's time, and other tests compile."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture
def load(monkeypatch):
    """Imports a benchmark as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def options(load, tmp_path, write_rows):
    """What the benchmarks of training take, with a model in the folder."""
    from conftest import many_rows

    load("sft_cpu").make_model(tmp_path / "model", "tiny")
    return argparse.Namespace(folder=str(tmp_path), rows=str(write_rows(many_rows(40))), size="tiny", method="lora",
                              steps=2, precision="fp32", profile=False, dtype="float32", seconds=0.0)  # fmt: skip


def columns(table):
    """How many cells the lines of a table have: as many in each, or it is none."""
    return {line.count("|") for line in table.splitlines() if line.startswith("|")}


def test_training_beside_trl(load, options, in_process):
    bench = load("sft_cpu")
    folder = Path(options.folder)
    rows = bench.rows_in_order(folder / "model", options.rows, options.steps)
    (folder / "rows.json").write_text(json.dumps(rows))
    padded, packed, *_ = list(bench.CONTENDERS)[1:]
    found = {
        "tunesmith": bench.run_tunesmith(options),
        padded: bench.run_trl(options, bench.CONTENDERS[padded]),
        packed: bench.run_trl(options, bench.CONTENDERS[packed]),
        "floor": bench.in_a_process(options, "floor"),
    }
    shown = bench.table(options, found)
    assert columns(shown) == {6}
    assert "Losses of the 2 steps: within" in shown
    assert found["tunesmith"]["losses"] == pytest.approx(found[padded]["losses"], rel=1e-4)


def test_what_each_lever_gains(load, options, capsys, monkeypatch):
    bench = load("levers")
    monkeypatch.setattr(compiled, "why_not_compiled", create_autospec(why_not_compiled, return_value=None))
    found = {name: bench.run(options, levers) for name, levers in bench.STEPS.items()}
    assert columns(bench.table(options, found)) == {6}
    assert len({round(one["loss"], 1) for one in found.values()}) == 1
    bench.print_shares(lambda: torch.ones(8, 8) @ torch.ones(8, 8))
    assert "attention 0%" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no such file"):
        bench.in_a_process(argparse.Namespace(**{**vars(options), "rows": "none.jsonl"}), "loss without logits")


@pytest.mark.skipif(library() is None, reason="no g++, or another processor")
def test_attention_on_a_cpu(load):
    assert columns(load("attention_cpu").main(["--rounds", "1", "--cases", "2"])) == {6}


def test_the_loss_beside_other_kernels(load, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["loss", "--device", "cpu", "--positions", "40", "--width", "16", "--words", "300"])
    load("loss").main()
    lines = capsys.readouterr().out.splitlines()
    assert columns("\n".join(lines)) == {6}
    table = {tuple(cell.strip() for cell in line.split("|")[1:3]): line for line in lines if line.startswith("| ")}
    for layer in ("frozen", "trained"):
        for loss in ("tunesmith", "tunesmith, compiled", "torch, all logits"):
            off = float(table[layer, loss].split("|")[-2])
            assert off < 0.02


def test_decoding_beside_others(load, options, monkeypatch):
    bench = load("decode")
    found = {}
    monkeypatch.setattr(bench, "TOGETHER", (1, 2))
    monkeypatch.setattr(bench, "ROUNDS", 1)
    options.device, options.new = "cpu", 4
    for name in ("PACKED_SHARE", "can_step"):  # which some of them change
        monkeypatch.setattr(network, name, getattr(network, name))
    for name in ("transformers", "tunesmith, slots alone", "tunesmith, slots and packed weights"):
        options.contender = name
        found[name] = bench.CONTENDERS[name](options)
    found["tunesmith"] = found["tunesmith, slots and packed weights"] | {"compiled in": 1.0}
    for name in ("llama.cpp", "vLLM"):
        found[name] = bench.in_a_process(options, name)
    assert "failed" in found["llama.cpp"]
    assert columns(bench.table("tiny", "float32", found)) == {4}


def test_decoding_on_a_gpu(load, monkeypatch):
    """The same on whatever is here, with the weights made in place."""
    bench = load("decode")
    monkeypatch.setattr(bench, "TOGETHER", (1, 2))
    monkeypatch.setattr(bench, "ENOUGH", 0.0)
    options = argparse.Namespace(folder=None, size="tiny", device="cuda", new=4, dtype="bfloat16")

    def here(options, name, longest):
        assert 5 < longest <= bench.LONGEST
        options.contender = name
        return bench.ON_A_GPU[name](options)

    monkeypatch.setattr(bench, "in_a_process", here)
    shown = bench.on_a_gpu(options)
    assert columns(shown) == {4}
    assert shown.count(" times)") == 6
    assert bench.speed({"1": 300.0}, {"1": 100.0}, "1") == "300 (3.00 times)"
    assert bench.speed({"1": 300.0}, {"failed": "no"}, "1") == "300"
    assert bench.speed({}, {"1": 100.0}, "1") == "no time was left"


def test_what_an_update_takes(load, monkeypatch, capsys):
    bench = load("optimizer")
    monkeypatch.setattr(bench, "SHAPES", [(64, 32), (32,)])
    bench.main()
    assert columns(capsys.readouterr().out) == {5}


def test_how_long_things_take_to_start(load, monkeypatch, tmp_path):
    bench = load("start")
    monkeypatch.setattr(bench, "RUNS", 1)
    assert bench.whole_process("--help") > 0
    assert bench.first_step("off", str(tmp_path)) > 0
    assert bench.processor()


def test_preparing_data(load, tmp_path, monkeypatch, capsys):
    bench = load("data")
    path = tmp_path / "rows.jsonl"
    bench.write_rows(path, 30, "hotel")
    assert columns(bench.table(path, 30, 1, "ember", list(bench.TASKS))) == {7}
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    bench.profile(path, "ember")
    assert "encode alone" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tiny-full-64", "tiny-lora-64-mixed"])
def test_training_on_a_gpu(load, tmp_path, name):
    """On a CPU here."""
    bench, cases = load("sft_gpu"), load("gpu_cases")
    [case] = [case for case in bench.CASES if case.name == name]
    found = {}
    for who in bench.contenders_for(case):
        contender = bench.CONTENDERS[who]
        there = set(contender.needs) <= {"trl"} and who != "TRL, rows in batches"
        found[who] = contender.run(case, contender, tmp_path) if there else bench.in_a_process(case, who, 0.0)
    assert {"tunesmith", "TRL, packed"} <= {who for who, one in found.items() if "failed" not in one}
    assert columns(bench.table(case, found)) == {7}
    losses = found["tunesmith"]["losses"]
    assert len(losses) == cases.WARM + cases.TIMED
    assert losses[0] == pytest.approx(found["TRL, packed"]["losses"][0], rel=0.05)


def test_a_busy_machine(load, options, monkeypatch, in_process):
    bench = load("busy")
    for name, value in (("ROWS_A_STEP", 2), ("PROMPTS", 2), ("NEW", 2), ("MIDWAY_STEPS", 8), ("QUIET_STEPS", 4)):
        monkeypatch.setattr(bench, name, value)
    with bench.beside(0):
        one = {**bench.measure(options), "threads": "1"}
    assert columns(bench.table("tiny", {(ours, busy): one for ours in (0, 1) for busy in (0, 1)})) == {8}
    assert columns(bench.run_midway(options, "tiny")) == {4}


def test_what_looking_costs(load, options, in_process):
    text = load("validation").main(["--base", f"{options.folder}/model", "--rows", options.rows, "--steps", "2"])
    assert len(columns(text)) == 1
    assert all(f"| {what} |" in text for what in ("training", "validation", "comparison"))


def test_what_each_hyperparameter_changes(load, tmp_path, in_process, monkeypatch):
    """Every setting of the table is one that a recipe takes; two of them are run."""
    bench = load("hyperparameters")
    for cases in bench.CASES.values():
        for settings in cases.values():
            read_recipe(bench.DEMO, {**bench.SHARED, **settings})
    monkeypatch.setattr(bench, "SHARED", {**bench.SHARED, "optim.steps": 1, "evaluate.rows": 4, "data.replay": "off"})
    muon = bench.run("muon", {"optim.optimizer": "muon"}, tmp_path)
    found = {"chance": [bench.run("as it is", {}, tmp_path)], "optimizer": [muon]}
    assert not found["chance"][0].trouble
    assert columns(bench.table(found)) == {8}
    assert re.fullmatch(
        r"ember: 40 words are \d+ long; of a change of 0.1, \d+% is lost in bf16", bench.embeddings_of("ember", 40)
    )


def test_what_tasks_reach(load, tmp_path, in_process, monkeypatch):
    bench = load("tasks")
    monkeypatch.setattr(
        bench, "CASES", {"hotel": {"full": {"method": {"type": "full"}, "optim": {"steps": 1}, "compile": "off"}}}
    )
    monkeypatch.setattr(bench, "SHARED", {"objective": "classify", "evaluate": {}})
    found = bench.run("hotel", "full", 0, argparse.Namespace(runs=str(tmp_path), folder=None, choose=False))
    assert found["report"]["rows"] == 192
    assert columns(bench.table([found])) == {10}
    assert columns(bench.chosen_by([found])) == {5}


def test_dates_from_scratch(load, tmp_path, in_process):
    bench = load("dates")
    learned, asked = bench.rows(40, 0), bench.rows(40, 40)
    assert not {row["target"] for row in learned} & {row["target"] for row in asked}
    found = bench.run(tmp_path, training=64, test=16, epochs=1)
    assert found["report"]["rows"] == 16
    assert columns(bench.table(found)) == {6}


def test_prompts_beside_tuned_models(load, tmp_path, in_process, write_rows):
    bench = load("prompts")
    rows = write_rows([{"text": row["text"], "category": row["label"]} for row in class_rows(60)])
    given = argparse.Namespace(
        what="banking77", train=str(rows), test=str(write_rows([{"text": "my dog", "category": "dog"}], "test.jsonl")),
        folder=str(tmp_path), models="ember", shots="0", rows=2, scoring="sum", price=[], max_requests=None,
        max_cost=None, chat_template=None, device="cpu",
    )  # fmt: skip
    text = bench.text_of(bench.find(given), "sum")
    assert text.count("| ember | zero-shot") == 3  # two on validation rows, one on test rows
    assert "The test rows took no part in choosing" in text


def test_what_a_domain_teaches(load, tmp_path, in_process, monkeypatch):
    bench = load("tasks")
    quick = {"method": {"type": "lora"}, "optim": {"steps": 1}, "compile": "off", "precision": "fp32"}
    monkeypatch.setattr(bench.domain, "EMBER", {"lora": quick})
    monkeypatch.setattr(bench.domain, "DATA", {**bench.domain.DATA, "train": bench.domain.DATA["train"][:2]})
    monkeypatch.setattr(bench.domain, "SHARED", {**bench.domain.SHARED, "data": bench.domain.DATA})
    found = bench.in_domain(argparse.Namespace(runs=str(tmp_path), base=None, only=None))
    assert columns(bench.domain.table(found)) == {11}
    assert found[0]["report"]["scores"][0]["metric"] == "perplexity"


@pytest.fixture
def sorted_texts(tmp_path):
    """A small encoder, and a CSV of texts with their classes."""
    base = save_base(tmp_path / "bert", "bert")
    lines = [f"{row['text']},{row['label']}" for row in class_rows(24)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,category", *lines]) + "\n")
    return {"base": str(base), "train": str(tmp_path / "rows.csv"), "test": str(tmp_path / "rows.csv")}


def test_classifiers_beside_trainer_and_pipeline(load, sorted_texts, tmp_path, monkeypatch):
    bench = load("classify_speed")
    monkeypatch.setattr(words, "part_words", words.part_words)  # put back afterwards

    def measured(side, batch, fast, options, *more):
        here = {
            "side": side,
            "batch": batch or 8,
            "fast": fast,
            "all_words": "--all-words" in more,
            "own_dropout": "--own-dropout" in more,
        }
        options = argparse.Namespace(**{**vars(options), **here})
        run = {"ours": bench.ours, "theirs": bench.theirs}.get(side, bench.asked)
        (folder := tmp_path / f"{side}-{batch}-{fast}{''.join(more)}").mkdir()
        return run(options, folder)

    monkeypatch.setattr(bench, "measured", measured)
    text = bench.table(argparse.Namespace(**sorted_texts, rows=24, batches=[8], compile="off", rounds=1))
    training, answering = text.split("\n\n")
    assert (columns(training), columns(answering)) == ({5}, {6})
    assert [line.split("|")[2].strip() for line in answering.splitlines()[2:]] == ["fp32"] * 3 + ["bf16"] * 3
    assert answering.count("100.00%") >= 3  # all in fp32


def test_classifiers_of_mistyped_texts(load, sorted_texts, tmp_path, in_process):
    bench = load("robustness")
    options = argparse.Namespace(**sorted_texts, rows=24, asked=24, epochs=1, noise=[0.0, 0.5], seed=0,
                                 kinds=["plain", "FGM"], runs=str(tmp_path / "runs"))  # fmt: skip
    assert columns(bench.table(options)) == {5}
    chance = bench.random.Random(0)
    assert bench.noisy("where is it?", 0.0, chance) == "where is it?"
    assert bench.noisy("where is it?", 1.0, chance) not in ("where is it?", "")
    assert bench.noisy("12 ? !", 1.0, chance) == "12 ? !"


def test_a_queue_with_many_jobs(load, tmp_path):
    bench = load("job_queue")
    with closing(bench.open_records(f"sqlite:///{tmp_path / 'r.sqlite'}")) as records:
        text = bench.table("SQLite", bench.measure(records, 30, 10), 30)
    assert columns(text) == {4}
    assert all(f"| {what} " in text for what in ("submit", "claim", "beat for 8 leases", "end"))


def test_files_of_the_api(load, tmp_path):
    bench = load("api_files")
    results = bench.measure(2, tmp_path)
    assert set(results) == {"upload", "upload in parts of 32 MB", "download"}
    assert columns(bench.table(results, 2)) == {6}


def test_serving(load):
    short = ["--size", "tiny", "--seconds", "0.3", "--warm", "0.3", "--users", "1", "3"]
    text = load("serve").main([*short, "--only", "tunesmith serve, 16 adapters"])
    assert columns(text) == {8}
    assert text.count("| tunesmith serve, 16 adapters | ") == 2
    assert re.search(r"First token of a cold adapter: \d\.\d\d s, at most \d\.\d\d s\.", text)


@pytest.mark.slow
def test_overload(load):
    """Ten times too much for a second: whoever is not answered is told so."""
    text = load("overload").main(["--size", "tiny", "--seconds", "1", "--warm", "0.4"])
    assert columns(text) == {9}
    rows = [[part.strip() for part in line.split("|")] for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 3
    assert all(int(row[2]) > 0 for row in rows)
    assert all(row[5] == "0" for row in rows), text
    assert int(rows[2][3]) + int(rows[2][4]) > 0


def test_results_are_put_between_their_marks(load, tmp_path, monkeypatch):
    bench = load("results")
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "RESULTS.md")
    for name, text in (("a", "one"), ("b", "two"), ("a", "three")):
        bench.put(name, text)
    said = (tmp_path / "RESULTS.md").read_text()
    assert said == "# Benchmarks\n\n<!-- a -->\nthree\n<!-- /a -->\n\n<!-- b -->\ntwo\n<!-- /b -->\n"


# Scripts


@pytest.mark.slow
def test_the_walk_of_openais_users(tmp_path, tiny, write_rows):
    """As a user has it: a server and a worker in processes of their own, the unmodified client, each step."""
    rows = write_rows(many_rows(40))
    command = [sys.executable, str(ROOT / "scripts" / "openai_walkthrough.py"), "--file", str(rows)]
    done = subprocess.run([*command, "--model", f"tiny={tiny}"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line for line in done.stdout.splitlines() if line[:1].isdigit()]
    assert [line[0] for line in steps] == list("12345678")
    assert "4. succeeded" in done.stdout
    assert "but " not in done.stdout
    assert steps[-1] == "8. deleted: True"


def script(name):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / "scripts" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "constant", "folder"), [("hotel/build.py", "TARGET", "hotel"),
                                                          ("hotel/preferences.py", "TARGET", "hotel_pairs"),
                                                          ("base_model/general_ability.py", "ASSETS",
                                                           "general_ability")])  # fmt: skip
def test_the_files_that_ship_are_what_their_script_writes(tmp_path, monkeypatch, name, constant, folder):
    module = script(name)
    monkeypatch.setattr(module, constant, tmp_path)
    module.main()
    shipped = ROOT / "src" / "tunesmith" / "assets" / folder
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (shipped / path.name).read_bytes(), path.name
    assert {path.name for path in tmp_path.iterdir()} >= {path.name for path in shipped.glob("*.jsonl")}


def test_the_embedded_model_can_be_built(tmp_path, monkeypatch):
    """Its whole script, on little text and for two steps."""
    module = script("base_model/build.py")
    whole = module.corpus
    monkeypatch.setattr(module, "corpus", lambda seed: islice(whole(seed), 400))
    for name in ("WORK", "ASSETS"):
        monkeypatch.setattr(module, name, tmp_path / name.lower())
    for arguments in ("prepare --tokens 5000", "train --steps 2 --batch-tokens 1024", "publish"):
        monkeypatch.setattr(sys, "argv", ["build.py", *arguments.split()])
        module.main()
    assert (tmp_path / "assets" / "model.safetensors").stat().st_size > 1_000_000


def test_what_slots_reach(load, tmp_path, in_process, monkeypatch):
    bench = load("tasks")
    rows = [{"text": " ".join(row["tokens"]), "slots": {"pool": {"span": [0, len(row["tokens"][0])]}}}
            for row in tagged_rows(60)]  # fmt: skip
    for fold in range(20):
        (tmp_path / f"fold{fold}.json").write_text(json.dumps(rows[3 * fold : 3 * fold + 3]))
    optim = {"steps": 1, "batch_size": 8}
    monkeypatch.setattr(bench, "CASES", {"slots": {"full": {"method": {"type": "full"}, "optim": optim}}})
    base = save_base(tmp_path / "bert", "bert")
    options = argparse.Namespace(runs=str(tmp_path / "runs"), base=str(base), folder=str(tmp_path), choose=False)
    found = bench.run("slots", "full", 0, options)
    assert found["report"]["rows"] > 0
    assert columns(bench.slot_table([found])) == {10}


@pytest.mark.parametrize("what", ["dpo", "grpo"])
def test_preferences_beside_trl(load, options, what, in_process):
    bench = load("preference_speed")
    options.what, options.steps = what, 3
    bench.pairs_file(Path(options.folder), "")
    ours, theirs = bench.run_tunesmith(options), bench.run_trl(options, bench.PEERS["TRL, fp32"])
    shown = bench.table(what, options, {"tunesmith": ours, "TRL, fp32": theirs, "other": {"failed": "no room"}})
    assert columns(shown) == {5}
    assert "times as fast" in shown


def test_drawing_beside_training(load, options):
    bench = load("preference_speed")
    bench.pairs_file(Path(options.folder), "")
    found = bench.run_drawing(options)
    assert 30 * bench.LONGEST_ANSWER < found["tokens"] <= 32 * bench.LONGEST_ANSWER
    assert "drawing takes" in bench.drawn(options, found)


def test_pairs_on_a_real_model(load, tmp_path):
    bench = load("aligned")
    told = [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Where?"}]
    sides = [{side: {"from": "gpt", "value": f"{side} {i}"} for side in ("chosen", "rejected")} for i in range(10)]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"conversations": told, **side} for side in sides]))
    files = bench.parted(path, tmp_path / "rows")
    rows = {name: [json.loads(line) for line in file.read_text().splitlines()] for name, file in files.items()}
    assert {name: len(some) for name, some in rows.items()} == {"held-out": 2, "pairs": 8, "verdicts": 16}
    assert not {str(row) for row in rows["held-out"]} & {str(row) for row in rows["pairs"]}
    good, bad = rows["verdicts"][:2]
    assert (good["label"], bad["label"]) == (True, False)
    assert good["completion"][0]["content"] == rows["pairs"][0]["chosen"]["value"]
    interval = {"value": 1.0, "low": 0.5, "high": 1.5}
    scores = [{"metric": name, "score": interval, "other": interval, "verdict": "better"} for name in bench.WATCHED]
    found = {"scores": scores, "general_ability": {"texts": {"scores": scores}}}
    shown = bench.table({"dpo": {"found": found, "rate": 1e-5, "steps": 3, "seconds": 1.0}})
    assert columns(shown) == {11}
