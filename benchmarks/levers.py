"""What each lever gains: supervised fine-tuning on this CPU, one lever more a row.

    python benchmarks/levers.py --rows alpaca.jsonl --rounds 3 --write       # -> benchmarks/RESULTS.md
    python benchmarks/levers.py --size 135m --steps 4
    python benchmarks/levers.py --size 135m --steps 4 --profile   # where the time of the last row's step goes

Each row runs in a process of its own, on the model, the rows and the settings of benchmarks/sft_cpu.py. Tokens/s are of
the median step, the first third left out; memory is the most that the process held.
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
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from results import put
from sft_cpu import LEARNING_RATE, LONGEST, ROWS_A_STEP, SIZES, make_model
from start import processor

NOW = {"chunked": True, "kept": True, "together": 4096}
STEPS = {
    "fp32, rows padded": {"precision": "fp32", "packing": False},
    "bf16, rows padded": {"packing": False},
    "rows packed, torch's attention for each": {"attention": "rows"},
    "attention of rows in C++": {},
    "loss without logits": {"chunked": True},
    "freed memory kept": {"chunked": True, "kept": True},
    "4,096 tokens together, not 2,048": NOW,
    "layers compiled": {**NOW, "compiled": True},
    "all that, rows padded (layers cannot be compiled)": {**NOW, "packing": False},
}


def run(options: argparse.Namespace, levers: dict[str, Any]) -> dict[str, Any]:
    import torch
    from transformers import AttentionInterface

    from tunesmith.data.config import DataConfig
    from tunesmith.data.split import load_splits
    from tunesmith.model.attention import PACKED, row_by_row
    from tunesmith.model.device import keep_freed_memory
    from tunesmith.model.load import LoadSpec, load
    from tunesmith.model.methods.full import FullConfig
    from tunesmith.model.methods.lora import LoraConfig
    from tunesmith.model.methods.table import METHODS
    from tunesmith.prompt.load import load_contract
    from tunesmith.train.config import OptimConfig
    from tunesmith.train.learner import Learner
    from tunesmith.train.loop import LoopSettings, train
    from tunesmith.train.objective import Models
    from tunesmith.train.objectives.sft import make_sft
    from tunesmith.train.planning.compiled import why_not_compiled
    from tunesmith.train.planning.planner import FEW, make_plan, one_backward
    from tunesmith.train.sources.rows import RowSource
    from tunesmith.train.state import TrainerState
    from tunesmith.train.weights.placed import Placed

    def for_each_row(module: Any, q: Any, k: Any, v: Any, mask: Any, cu_seq_lens_q: Any = None, **other: Any) -> Any:
        return row_by_row(q, k, v, cu_seq_lens_q, 0.0, other["scaling"]), None

    AttentionInterface.register("rows", for_each_row)
    torch.manual_seed(0)
    if levers.get("kept"):
        keep_freed_memory()
    folder = Path(options.folder) / "model"
    data = DataConfig(train=options.rows, test=0, validation=0, near_duplicates="off", over_long="drop")
    rows = load_splits(data, load_contract(folder), LONGEST, frozenset({"chat", "text"})).train
    plan = make_plan(levers.get("precision", "bf16"), "auto" if levers.get("packing", True) else "off",
                     levers.get("together", 2048))  # fmt: skip
    plan = replace(plan, chunked=levers.get("chunked", False), compiled=levers.get("compiled", False))
    full = options.method == "full"
    model = load(folder, LoadSpec(precision="fp32" if full else plan.precision)).model
    if plan.packing:
        model.set_attn_implementation(levers.get("attention", PACKED))
    model = METHODS[options.method].apply(model, FullConfig() if full else LoraConfig())
    optim = OptimConfig(scheduler="constant", warmup=0)
    learner = Learner(Placed(model, plan), optim, LEARNING_RATE[options.method], options.steps)
    objective, steps = make_sft(), []
    source, models = RowSource(rows, objective, plan, ROWS_A_STEP), Models(learner.model, plan)
    started = time.time()
    if plan.compiled:
        batch = source.cut(rows[:FEW])[0]
        backward = partial(one_backward, plan, learner.placed, objective, batch)
        reason = why_not_compiled(model, learner.weights, backward)
        assert reason is None, reason
    compiling = time.time() - started
    settings = LoopSettings(options.steps, validate_every=10**6, checkpoint_every=10**6)
    train(objective, models, learner, source, settings, TrainerState(), [], lambda: None, steps.append)
    if options.profile:
        micro = next(source.steps())
        print_shares(
            lambda: ([one_backward(plan, learner.placed, objective, batch) for batch in micro], learner.step())
        )
    return {
        "tokens_per_second": statistics.median(step.tokens_per_second for step in steps[-(-options.steps // 3) :]),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "loss": steps[-1].loss,
        "compiling": compiling,
    }


def print_shares(step: Callable[[], Any]) -> None:
    """Print the shares of a step's time, as a profiler counts them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as watched:
        step()
    events = watched.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    shares = {
        "matrix products of layers and output": sum(e.self_cpu_time_total for e in events if e.key == "aten::mm"),
        "attention": sum(e.cpu_time_total for e in events if e.key.startswith("tunesmith::attend")),
        "of that, softmax": sum(e.self_cpu_time_total for e in events if "softmax" in e.key),
        "compiled loops": sum(e.self_cpu_time_total for e in events if "CompiledFxGraph" in e.key),
    }
    print(f"{whole / 1e6:.2f} s", *(f"{name} {time / whole:.0%}" for name, time in shares.items()), sep="; ")


def in_a_process(options: argparse.Namespace, name: str) -> dict[str, Any]:
    from tunesmith.exec.local import SETTINGS

    command = [sys.executable, __file__, "--lever", name, "--folder", options.folder, "--size", options.size,
               "--method", options.method, "--steps", str(options.steps), "--rows", options.rows]  # fmt: skip
    environment = {**os.environ, **SETTINGS, "TUNESMITH_HOME": f"{options.folder}/home"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def middle(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What the run of median speed found, and the least that any took to compile."""
    chosen = sorted(found, key=lambda one: one["tokens_per_second"])[len(found) // 2]
    return {**chosen, "compiling": min(one["compiling"] for one in found)}


def table(options: argparse.Namespace, found: dict[str, dict[str, Any]]) -> str:
    lines = [
        f"| {options.size} Llama, {options.method} | tokens/s | of the row above | memory | loss of the last step |",
        "|---|---|---|---|---|",
    ]
    before = None
    for name, one in found.items():
        times = "" if before is None else f"{one['tokens_per_second'] / before:.2f} times"
        before = one["tokens_per_second"]
        lines.append(f"| {name} | {before:,.0f} | {times} | {one['memory'] / 2**30:.1f} GB | {one['loss']:.4f} |")
    return "\n".join([*lines, "", f"Compiling and comparing: {found['layers compiled']['compiling']:.0f} s."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="hotel", help="file of chats or instructions")
    parser.add_argument("--size", choices=SIZES, default="10m")
    parser.add_argument("--method", choices=LEARNING_RATE, default="lora")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1, help="times that all rows run, in turn; the median counts")
    parser.add_argument("--profile", action="store_true", help="of the row with layers compiled alone")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--lever", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.lever:
        print(json.dumps(run(options, STEPS[options.lever])))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.folder = folder
        os.environ["TUNESMITH_HOME"] = f"{folder}/home"
        make_model(Path(folder) / "model", options.size)
        if options.profile:
            run(options, STEPS["layers compiled"])
            return
        rounds = [{name: in_a_process(options, name) for name in STEPS} for _ in range(options.rounds)]
    found = {name: middle([one[name] for one in rounds]) for name in STEPS}
    text = table(options, found)
    print(text)
    if options.write:
        lead = f"{os.cpu_count()} cores of {processor()}, torch {version('torch')}, {datetime.now(UTC).date()}. "
        lead += f"{options.steps} steps of {ROWS_A_STEP} rows of {Path(options.rows).name}, median of {options.rounds}."
        put(f"levers-{options.size}-{options.method}", f"{lead}\n\n{text}")


if __name__ == "__main__":
    main()
