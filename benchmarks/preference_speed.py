"""Learning from preferences and from rewards on this CPU: tunesmith and TRL in turn, and what drawing answers costs.

    python benchmarks/preference_speed.py dpo reward grpo --write      # -> benchmarks/RESULTS.md
    python benchmarks/preference_speed.py drawing                      # drawing beside training, on the same tokens
    python benchmarks/preference_speed.py dpo --size 135m --steps 4

Each contender runs in a process of its own, one after another, on the same random model, rows and rows a step, with all
weights trained. Tokens/s are of real tokens, of all steps but the first third: of both answers to a pair with their
prompts; of prompts and answers that are drawn, which a random model never ends, so that all are equally long. The time
is that of whole steps: with what the reference says, if it is asked in training, and with all that is drawn and scored.
With `--rounds` all run so many times, in turn, and the median counts: machines have slow minutes.
Of TRL the settings are shown that keep rows apart: padding-free batches do so on GPUs alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from results import put
from sft_cpu import SIZES, make_model
from start import processor

ROWS = {"dpo": 16, "reward": 16, "grpo": 4}  # pairs or prompts a step
ANSWERS, LONGEST_ANSWER = 8, 64  # of a prompt; tokens of each
PAIRS = 400  # that are read, at most
PEERS = {
    "TRL, fp32": {"bf16": False},
    "TRL, bf16": {"bf16": True},
    "TRL, bf16, weights in bf16": {"bf16": True, "weights": "bfloat16"},
}


def pairs_file(folder: Path, given: str) -> Path:
    """Pairs as all contenders read them: the hotel's own, or those of a file."""
    from tunesmith.data.source import find_files

    files = [Path(given)] if given else [file.path for file in find_files("hotel-preferences")]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [json.loads(line) for line in lines[:PAIRS]]
    target = folder / "pairs.jsonl"
    keep = ("prompt", "chosen", "rejected")
    target.write_text("".join(json.dumps({key: row[key] for key in keep}) + "\n" for row in rows))
    return target


def run_tunesmith(options: argparse.Namespace) -> dict[str, Any]:
    """Steps of ours, and when each ended."""
    from tunesmith import finetune
    from tunesmith.core.files import read_lines

    home, what = Path(options.folder), options.what
    objective: dict[str, Any] = {"type": what}
    if what == "grpo":
        objective |= {
            "rewards": [{"type": "length", "most": 20}], "samples": ANSWERS, "beta": 0.0, "max_kl": None,
            "sampling": {"max_new_tokens": LONGEST_ANSWER},
        }  # fmt: skip
    recipe = home / "recipe.yaml"
    recipe.write_text(json.dumps({
        "model": {"base": str(home / "model")}, "method": {"type": "full"}, "objective": objective,
        "data": {"train": str(home / "pairs.jsonl"), "test": 0, "validation": 0, "near_duplicates": "off"},
        "optim": {"steps": options.steps, "batch_size": ROWS[what], "learning_rate": 1e-6, "scheduler": "constant",
                  "warmup": 0},
        "output": {"folder": str(home / "runs"), "checkpoint_every": 10**6},
        "evaluate": {"general_ability": "off"}, "compile": "on", "precision": options.precision,
    }))  # fmt: skip
    run = finetune(recipe, until="trained")
    steps = read_lines(run.folder / "metrics.jsonl")
    tokens = [step["tokens_per_second"] * step["seconds"] for step in steps]
    return measured(tokens, [step["time"] for step in steps], max(step["memory_bytes"] for step in steps))


def measured(tokens: list[float], ends: list[float], memory: float) -> dict[str, Any]:
    """Tokens/s of all steps but the first third."""
    warm = -(-len(ends) // 3) - 1
    return {"tokens_per_second": sum(tokens[warm + 1 :]) / (ends[-1] - ends[warm]), "memory": memory}


def run_trl(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Steps of TRL's trainer."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback

    settings, home, what = dict(settings), Path(options.folder), options.what
    dtype = getattr(torch, settings.pop("weights", "float32"))
    tokenizer = AutoTokenizer.from_pretrained(home / "model")
    rows = [json.loads(line) for line in (home / "pairs.jsonl").read_text().splitlines()]
    rows = [as_turns(row) for row in rows]
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.time())

    common = {
        "output_dir": str(home / "trl"), "max_steps": options.steps, "learning_rate": 1e-6, "use_cpu": True, "seed": 0,
        "lr_scheduler_type": "constant", "warmup_steps": 0, "report_to": [], "save_strategy": "no", "logging_steps": 1,
        "gradient_checkpointing": False, "disable_tqdm": True, **settings,
    }  # fmt: skip
    trainer = TRAINERS[what](home / "model", dtype, common, rows, tokenizer, Dataset, [Clock()])
    trainer.train()
    if what == "grpo":
        a_step = ROWS[what] * ANSWERS * (LONGEST_ANSWER + mean_tokens(tokenizer, rows, asks=True))
    else:
        a_step = ROWS[what] * mean_tokens(tokenizer, rows, asks=False)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return measured([a_step] * len(ends), ends, memory)


def as_turns(row: dict[str, Any]) -> dict[str, Any]:
    """A pair as TRL reads it."""
    sides = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
    return {"prompt": [{"role": "user", "content": row["prompt"]}], **sides}


def mean_tokens(tokenizer: Any, rows: list[dict[str, Any]], asks: bool) -> float:
    """Tokens of a prompt; or of a pair, with the prompt before each side."""

    def length(turns: Any) -> int:
        return len(tokenizer.apply_chat_template(turns, add_generation_prompt=asks, return_dict=False))

    if asks:
        return statistics.fmean(length(row["prompt"]) for row in rows)
    return statistics.fmean(sum(length(row["prompt"] + row[side]) for side in ("chosen", "rejected")) for row in rows)


def dpo_trainer(
    folder: Path, dtype: Any, common: dict[str, Any], rows: Any, tokenizer: Any, dataset: Any, calls: Any
) -> Any:  # fmt: skip
    """TRL's, which asks the reference beforehand, as ours does."""
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    model, reference = (AutoModelForCausalLM.from_pretrained(folder, dtype=dtype) for _ in range(2))
    config = DPOConfig(per_device_train_batch_size=8, gradient_accumulation_steps=ROWS["dpo"] // 8,
                       precompute_ref_log_probs=True, **common)  # fmt: skip
    return DPOTrainer(model, reference, config, train_dataset=dataset.from_list(rows), processing_class=tokenizer,
                      callbacks=calls)  # fmt: skip


def reward_trainer(
    folder: Path, dtype: Any, common: dict[str, Any], rows: Any, tokenizer: Any, dataset: Any, calls: Any
) -> Any:  # fmt: skip
    """TRL's reward model."""
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=dtype)
    config = RewardConfig(per_device_train_batch_size=8, gradient_accumulation_steps=ROWS["reward"] // 8, **common)
    return RewardTrainer(model, config, train_dataset=dataset.from_list(rows), processing_class=tokenizer,
                         callbacks=calls)  # fmt: skip


def grpo_trainer(
    folder: Path, dtype: Any, common: dict[str, Any], rows: Any, tokenizer: Any, dataset: Any, calls: Any
) -> Any:  # fmt: skip
    """TRL's GRPO, with transformers' own generation."""
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    def short(completions: Any, **_: Any) -> list[float]:
        return [float(len(str(one[0]["content"]).split()) <= 20) for one in completions]

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    config = GRPOConfig(
        per_device_train_batch_size=ROWS["grpo"] * ANSWERS, num_generations=ANSWERS, beta=0.0, loss_type="grpo",
        max_completion_length=LONGEST_ANSWER, gradient_accumulation_steps=1, **common,
    )  # fmt: skip
    asked = dataset.from_list([{"prompt": row["prompt"]} for row in rows])
    return GRPOTrainer(model, short, config, train_dataset=asked, processing_class=tokenizer, callbacks=calls)


TRAINERS = {"dpo": dpo_trainer, "reward": reward_trainer, "grpo": grpo_trainer}


def run_drawing(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of drawing 32 answers together, and of learning from them: forward, backward and the update."""
    import torch

    from tunesmith.data.config import DataConfig
    from tunesmith.data.split import load_splits
    from tunesmith.infer.generator import Options, answer_all
    from tunesmith.infer.local import LocalEngine
    from tunesmith.model.load import LoadSpec, load
    from tunesmith.prompt.load import load_contract
    from tunesmith.score.rewards.sample import asked_of
    from tunesmith.train.config import OptimConfig, SftConfig
    from tunesmith.train.learner import Learner
    from tunesmith.train.objective import Draw, Models
    from tunesmith.train.objectives.sft import make_sft
    from tunesmith.train.planning.planner import Wishes, complete_plan, make_plan
    from tunesmith.train.sources.rows import RowSource
    from tunesmith.train.sources.turn import answered
    from tunesmith.train.weights.placed import Placed

    home = Path(options.folder)
    contract = load_contract(home / "model")
    config = DataConfig(train=str(home / "pairs.jsonl"), test=0, validation=0, near_duplicates="off")
    rows = load_splits(config, contract, 512, frozenset({"preference"})).train[:32]
    model = load(home / "model", LoadSpec()).model
    plan = make_plan(options.precision, "auto", "auto")
    placed = Placed(model, plan)
    engine = LocalEngine(model.eval(), contract, compile_after=None)
    prompts = [contract.prompt(asked_of(row.row)[0]) for row in rows]
    wanted = [(ids, Options(max_new_tokens=LONGEST_ANSWER, temperature=1.0, seed=i)) for i, ids in enumerate(prompts)]
    answer_all(engine, wanted[:1])
    engine.compile()
    drawing = []
    for _ in range(3):
        started = time.perf_counter()
        found = answer_all(engine, wanted)
        drawing.append(time.perf_counter() - started)
    answers = [answered(row, [*ids, *one.choice.ids], len(ids))
               for row, ids, one in zip(rows, prompts, found, strict=True)]  # fmt: skip
    objective = make_sft(SftConfig())
    mixture = type("Rows", (list,), {"lengths": property(lambda self: torch.tensor([r.length for r in self]).numpy())})
    mixture.every_length = mixture.lengths
    plan = complete_plan(plan, Wishes("on", "off", 32, 1000), placed, objective, mixture(answers))
    learner = Learner(placed, OptimConfig(), 1e-6, 100)
    model.train()
    learning = []
    for _ in range(5):
        started = time.perf_counter()
        for batch in RowSource(answers, objective, plan, 32).cut(answers, Draw()):
            loss = objective.loss(Models(model, plan), batch, None)
            learner.backward(loss.terms[0].total)
        learner.step()
        learning.append(time.perf_counter() - started)
    tokens = sum(len(one.choice.ids) for one in found)
    return {"drawing": min(drawing), "learning": min(learning[2:]), "tokens": tokens, "why slow": engine.reason}


def in_a_process(options: argparse.Namespace, what: str, name: str) -> dict[str, Any]:
    """What a contender finds, or why it failed."""
    command = [sys.executable, __file__, what, "--contender", name, "--folder", options.folder, "--size", options.size,
               "--steps", str(options.steps), "--precision", options.precision]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TUNESMITH_HOME": f"{options.folder}/home"}
    environment["TORCHINDUCTOR_CACHE_DIR"] = f"{options.folder}/compiled"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"failed": next((line for line in reversed(done.stderr.splitlines()) if "Error" in line), "no word")}
    return json.loads(done.stdout.strip().splitlines()[-1])


def over_rounds(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of a contender's rounds, and its most memory; the failure, if one failed."""
    failed = next((one for one in rounds if "failed" in one), None)
    rates, memory = ([one.get(key, 0.0) for one in rounds] for key in ("tokens_per_second", "memory"))
    return failed or {"tokens_per_second": statistics.median(rates), "memory": max(memory)}


def table(what: str, options: argparse.Namespace, found: dict[str, dict[str, Any]]) -> str:
    """The contenders of one objective."""
    lines = [f"| {what}, {options.size} Llama, full | tokens/s | ours is | memory |", "|---|---|---|---|"]
    ours = found["tunesmith"]
    for name, one in found.items():
        if "failed" in one:
            lines.append(f"| {name} | failed: {one['failed'][:80]} | | |")
            continue
        times = ""
        if name != "tunesmith" and "failed" not in ours:
            times = f"{ours['tokens_per_second'] / one['tokens_per_second']:.1f} times as fast"
        lines.append(f"| {name} | {one['tokens_per_second']:,.0f} | {times} | {one['memory'] / 2**30:.1f} GB |")
    return "\n".join(lines)


def drawn(options: argparse.Namespace, one: dict[str, Any]) -> str:
    """What drawing costs."""
    if "failed" in one:
        return f"drawing: failed: {one['failed']}"
    ratio = one["drawing"] / one["learning"]
    return (
        f"Drawing 32 answers of {LONGEST_ANSWER} tokens together, {options.size}: {one['drawing']:.2f} s "
        f"({one['tokens'] / one['drawing']:,.0f} tokens/s); learning from them: {one['learning']:.2f} s; drawing takes "
        f"{ratio:.2f} times as long.{' ' + one['why slow'] if one['why slow'] else ''}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=[*ROWS, "drawing"])
    parser.add_argument("--size", choices=SIZES, default="10m")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=1, help="in turn; the median of each contender counts")
    parser.add_argument(
        "--rows", default="", help="JSONL with prompt, chosen, rejected as texts; the hotel's if absent"
    )
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="of ours")
    parser.add_argument("--only", nargs="+", default=[], help="words; only contenders that hold one of them run")
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        [options.what] = options.what
        works = {"tunesmith": run_drawing if options.what == "drawing" else run_tunesmith}
        work = works.get(options.contender) or partial(run_trl, settings=PEERS[options.contender])
        print(json.dumps(work(options)))
        return
    parts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        options.folder = folder
        os.environ["TUNESMITH_HOME"] = f"{folder}/home"
        make_model(Path(folder) / "model", options.size)
        pairs_file(Path(folder), options.rows)
        for what in options.what:
            names = [name for name in ("tunesmith", *PEERS) if not options.only or any(w in name for w in options.only)]
            if what == "drawing":
                parts.append(drawn(options, in_a_process(options, what, "tunesmith")))
            else:
                rounds = [{name: in_a_process(options, what, name) for name in names} for _ in range(options.rounds)]
                found = {name: over_rounds([one[name] for one in rounds]) for name in names}
                parts.append(table(what, options, found))
            print(parts[-1], flush=True)
    if options.write:
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
        lead = (
            f"{os.cpu_count()} cores of {processor()}, {versions}, {datetime.now(UTC).date()}. {options.steps} steps, "
            f"rounds: {options.rounds}."
        )
        put(f"preferences-{options.size}", "\n\n".join([lead, *parts]))


if __name__ == "__main__":
    main()
