"""What full fine-tuning takes in each process for weights, gradients and moments: whole in one, and in parts.

    python benchmarks/shards.py                  # a model of 100M weights, 1 and 2 processes
    python benchmarks/shards.py --width 256

A Llama with random weights in bf16 files is loaded and trained for three steps on a few tokens, so that little else is
in memory. What is counted is the anonymous memory of each process (`RssAnon` of /proc/self/status, Linux alone), looked
at every two milliseconds: files that are mapped do not count, what was read out of them does. Memory that is freed goes
back to the system at once, or what the C library keeps for later would be counted too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from start import processor

STEPS = 3
TOKENS = 32
FREED_AT_ONCE = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"}
CASES = ["bf16", "fp32"]


class Peak:
    """The largest anonymous memory of this process, in a thread of its own."""

    def __init__(self) -> None:
        self.bytes = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self.bytes = max(self.bytes, anonymous())
            time.sleep(0.002)


def anonymous() -> int:
    """Bytes that this process holds by itself."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def make_model(folder: Path, layers: int, width: int) -> int:
    """Random weights in bf16; how many there are."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=4096, hidden_size=width, num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=8,
        intermediate_size=4 * width, max_position_embeddings=512,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def train_here(arguments: dict[str, Any]) -> dict[str, int]:
    """Load and train as `finetune` does; bytes at the peak of each, above those of a process without a model."""
    import torch
    import torch._dynamo  # or FSDP2 would, later

    from tunesmith.model.load import LoadSpec, load
    from tunesmith.model.methods.full import FullConfig
    from tunesmith.model.methods.table import method_for
    from tunesmith.train.batch import TokenBatch
    from tunesmith.train.config import OptimConfig
    from tunesmith.train.learner import Learner
    from tunesmith.train.objective import Models
    from tunesmith.train.objectives.sft import make_sft
    from tunesmith.train.planning.planner import make_plan
    from tunesmith.train.weights.placed import Placed
    from tunesmith.train.weights.ranks import join_ranks

    torch.set_num_threads(1)
    ranks = join_ranks(arguments, "cpu")
    plan = make_plan(arguments["precision"], "off", 4096, device="cpu", ranks=ranks, sharding="full")
    folder, before, peak = Path(arguments["folder"]), anonymous(), Peak()
    loaded_model = load(folder, LoadSpec(shard=plan.sharding == "full"))
    model = method_for(FullConfig()).apply(loaded_model.model, FullConfig())
    learner = Learner(Placed(model, plan, ranks, loaded_model.sources), OptimConfig(), 1e-4, STEPS)
    del model, loaded_model
    loaded = peak.bytes
    learner.model.train()
    ids = torch.arange(TOKENS)[None]
    inputs: dict[str, object] = {"input_ids": ids, "use_cache": False}
    batch = TokenBatch(inputs, torch.arange(TOKENS - 1), ids[0, 1:], (), TOKENS)
    objective, models = make_sft(), Models(learner.model, replace(plan, chunked=True))
    for _ in range(STEPS):
        [term] = objective.loss(models, batch, None).terms
        learner.backward(term.total / TOKENS)
        learner.step()
    time.sleep(0.01)
    ranks.leave()
    return {"loaded": loaded - before, "trained": peak.bytes - before}


def measure(folder: Path, precision: str, processes: int) -> dict[str, int]:
    """The most that any of so many processes held."""
    settings = {**os.environ, **FREED_AT_ONCE, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as meeting:
        children: list[subprocess.Popen[str]] = []
        for rank in range(processes):
            arguments: dict[str, Any] = {"folder": str(folder), "precision": precision, "rank": rank}
            arguments |= {"ranks": processes, "meeting": f"{meeting}/store"}
            command = [sys.executable, __file__, "--child", json.dumps(arguments)]
            children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=settings))
        said = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit(f"{precision}, {processes} processes: a child failed")
    found = [json.loads(text.splitlines()[-1]) for text in said]
    return {name: max(one[name] for one in found) for name in found[0]}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", choices=CASES, help="one precision")
    parser.add_argument("--json", action="store_true", help="figures for a program, as the last line")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.child:
        print(json.dumps(train_here(json.loads(options.child))))
        return
    with tempfile.TemporaryDirectory() as name:
        count = make_model(Path(name), options.layers, options.width)
        print(f"{os.cpu_count()} cores of {processor()}, torch {version('torch')}, {datetime.now(UTC).date()}; "
              f"{count:,} weights, MB at the peak of a process.\n")  # fmt: skip
        print("| | processes | loading | training | of one |\n|---|---|---|---|---|")
        figures: dict[str, list[dict[str, int]]] = {}
        for precision in [options.only] if options.only else CASES:
            for processes in (1, options.processes):
                found = measure(Path(name), precision, processes)
                figures.setdefault(precision, []).append(found)
                share = found["trained"] / figures[precision][0]["trained"]
                print(f"| {precision} | {processes} | {found['loaded'] / 1e6:.0f} | {found['trained'] / 1e6:.0f} | "
                      f"{share:.2f} |", flush=True)  # fmt: skip
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
