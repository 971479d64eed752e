"""Kill runs and compare what they become with one that was never broken, bit by bit.

    python scripts/kill_test.py                    100 kills at random, then each named point three times
    python scripts/kill_test.py --kills 1 --points 0 --method lora

A run of a small Llama (LoRA with dropout, or full) is killed by SIGKILL, resumed, perhaps killed again, and
at last left to its end. Then every loss, gradient norm and exported weight must equal the unbroken run's,
and at no moment may a checkpoint lie under its name that is not whole. Of the random kills at least a third
strike inside a save: before or after one of the things that a save does. The named points are all of these.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from safetensors.numpy import load_file  # not torch's: whoever forks must not have computed with it
from transformers import LlamaConfig, LlamaForCausalLM

from tunesmith.core import files
from tunesmith.core.config import to_yaml
from tunesmith.core.files import read_lines, write_text
from tunesmith.jobs import finetune as job
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.train import checkpoint
from tunesmith.train.recipe import read_recipe

METHODS = {"lora": "{type: lora, dropout: 0.1}", "full": "{type: full}"}
RECIPE = """
model: {{base: {base}}}
method: {method}
data: {{train: hotel, test: 0, validation: 0.02, max_length: 512, replay: ember-general}}
optim: {{learning_rate: 1.0e-3, steps: 14, batch_size: 8, accumulation: 2}}
output: {{folder: {folder}, name: run, checkpoint_every: 2, keep_last: 2}}
precision: fp32
"""
THINGS = (
    "weights", "moments", "state.json", "MANIFEST.json", "fsync of a file", "rename", "fsync of the folder",
    "retention rename", "retention delete",
)  # fmt: skip
POINTS = [f"{when} {thing}" for thing in THINGS for when in ("before", "after")]


def in_child(work: Callable[[], None], deadline: float | None = None) -> int:
    """Do `work` in a forked process, which is killed after `deadline` seconds; returns its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if deadline is not None:
        time.sleep(deadline)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def train(folder: Path, resume: bool) -> None:
    job.finetune({"folder": str(folder), "resume": resume}, lambda event: None)


def prepare(home: Path, name: str, method: str) -> Path:
    """The folder of a run that has not begun."""
    recipe = home / f"{name}.yaml"
    recipe.write_text(RECIPE.format(base=home / "base", method=METHODS[method], folder=home / "runs"))
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    write_text(folder / "config.yaml", to_yaml(read_recipe(recipe)))
    return folder


def save_base(folder: Path) -> None:
    """A two-layer Llama with random weights and ember's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=128, max_position_embeddings=512, eos_token_id=2, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    load_contract(resolve("ember").folder).save(folder)


class Trap:
    """Kills its own process at one of `POINTS` in the n-th save that comes there."""

    def __init__(self, point: str, number: int) -> None:
        self.point, self.number, self.seen = point, number, Counter[str]()

    def reached(self, point: str) -> None:
        self.seen[point] += 1
        if point == self.point and self.seen[point] == self.number:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Callable[..., Any], name_of: Callable[..., str | None]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            name = name_of(*arguments)
            if name is None:
                return call(*arguments, **options)
            self.reached(f"before {name}")
            result = call(*arguments, **options)
            self.reached(f"after {name}")
            return result

        return wrapped

    def set(self) -> None:
        """Lay the trap in this process."""
        saves = {"trainable.safetensors": "weights", "optimizer.safetensors": "moments"}
        checkpoint._save = self.around(checkpoint._save, lambda tensors, path: saves[path.name])
        checkpoint.write_json = self.around(checkpoint.write_json, lambda path, value: path.name)
        files.to_disk = self.around(files.to_disk, fsync_of)
        Path.rename = self.around(Path.rename, rename_of)  # pyright: ignore[reportAttributeAccessIssue]
        checkpoint.shutil.rmtree = self.around(checkpoint.shutil.rmtree, delete_of)


def fsync_of(path: Path) -> str | None:
    if path.name == "checkpoints":
        return "fsync of the folder"
    return "fsync of a file" if path.parent.name.startswith(".step-") else None


def rename_of(path: Path, target: Path) -> str | None:
    if path.name.startswith(".step-") and path.name.endswith(".tmp"):
        return "rename"
    return "retention rename" if path.name.startswith("step-") and target.name.endswith(".gone") else None


def delete_of(path: Path, *rest: Any) -> str | None:
    return "retention delete" if str(path).endswith(".gone") else None


def result_of(folder: Path) -> tuple[list[Any], dict[str, np.ndarray]]:
    lines = read_lines(folder / "metrics.jsonl")
    [weights] = (folder / "model").glob("*.safetensors")
    return [(line["step"], line["loss"], line["gradient_norm"]) for line in lines], load_file(weights)


def damaged(folder: Path) -> list[str]:
    """Checkpoints that lie under their name and are not whole."""
    paths = checkpoint.all_checkpoints(folder / "checkpoints")
    return [f"{path}: {reason}" for path in paths if (reason := checkpoint.why_damaged(path)) is not None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="at random moments")
    parser.add_argument("--points", type=int, default=3, help="times that each named point is tried")
    parser.add_argument("--method", choices=METHODS, help="both, if not given")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        os.environ["TUNESMITH_HOME"] = str(home / "home")
        in_child(lambda: save_base(home / "base"))  # this process itself never computes, so that it can fork
        methods = [options.method] if options.method else list(METHODS)
        whole, seconds = {}, {}
        for method in methods:
            folder = prepare(home, f"whole-{method}", method)
            started = time.perf_counter()
            assert in_child(lambda folder=folder: train(folder, False)) == 0
            seconds[method] = time.perf_counter() - started
            whole[method] = result_of(folder)
        queue = [(point, draw.randint(1, 3)) for point in POINTS for _ in range(options.points)]
        queue += [(draw.choice(POINTS), draw.randint(1, 4)) if i % 5 < 2 else None for i in range(options.kills)]
        draw.shuffle(queue)
        where, corrupt, different, runs = Counter[str](), list[str](), list[str](), 0
        while queue:
            method = draw.choice(methods)
            folder = prepare(home, f"run-{runs}", method)
            runs += 1
            resume, left = False, draw.randint(1, 4)
            while True:
                taken = left > 0 and bool(queue)
                kill = queue.pop() if taken else None
                code = attempt(folder, resume, kill, taken, seconds[method], draw)
                left -= 1
                corrupt += damaged(folder)
                if code == 0 and taken:  # it was done before it could be killed: another time
                    queue.insert(0, (kill[0], 1) if kill else None)
                if code == 0:
                    break
                if code != -signal.SIGKILL:
                    different.append(f"{folder.name}: ended with {code}")
                    break
                inside = any((folder / "checkpoints").glob(".step-*"))
                where[f"{kill[0]}" if kill else f"at random, {'inside a save' if inside else 'elsewhere'}"] += 1
                resume = True
            if code == 0:
                losses, weights = result_of(folder)
                same = losses == whole[method][0] and all(
                    np.array_equal(tensor, weights[key]) for key, tensor in whole[method][1].items()
                )
                different += [] if same else [folder.name]
    count = sum(where.values())
    print(f"seed {options.seed}: {count} kills in {runs} runs, {len(corrupt)} corrupt, {len(different)} not the same")
    for point, number in where.most_common():
        print(f"  {number:4} {point}")
    inside = count - where["at random, elsewhere"]
    print(f"{inside} of them inside a save")
    if count and not corrupt and not different:
        print(f"none lost in {count}: at most {3 / count:.1%} are (95%)")
    for line in corrupt + different:
        print("  " + line)
    return int(bool(corrupt or different))


def attempt(
    folder: Path, resume: bool, kill: tuple[str, int] | None, wanted: bool, seconds: float, draw: random.Random
) -> int:
    """One process of a run, killed at a point, at a random moment, or (not `wanted`) not at all."""
    if kill is not None:
        trap = Trap(*kill)

        def trapped() -> None:
            trap.set()
            train(folder, resume)

        return in_child(trapped)
    return in_child(lambda: train(folder, resume), draw.uniform(0.0, seconds) if wanted else None)


if __name__ == "__main__":
    sys.exit(main())
