"""Supervised fine-tuning on one GPU: tunesmith beside TRL, TRL with Liger kernels and Unsloth, on the same shapes.

    python benchmarks/sft_gpu.py --write            # every case, within 8 minutes; what has no time left says so
    python benchmarks/sft_gpu.py --case 1b-full-2048 --only tunesmith Liger --seconds 90
    python benchmarks/sft_gpu.py --size tiny        # every line of it, on a CPU

Weights are random and made in place: nothing is fetched. Each contender runs in a process of its own, on rows of the
same lengths, every token trained, about the same number of tokens a step; one that is not installed is a line that says
so. TRL and Unsloth go without activation checkpointing, tunesmith as its plan says. Where all rows are as long as a
sequence, nothing is padded; the case `mixed` has shorter rows, which packing is for.

Utilisation is model FLOPs a second over the rate of a large bf16 matrix product (8192 x 8192 x 8192), measured first in
the same process. Counted are, for each token, 6 for each weight of a matrix that multiplies it (the output layer among
them, the embedding table not) in full fine-tuning, where forward and both backward products are needed; and in LoRA 4
for each such frozen weight and 6 for each of the adapters. Attention adds 6 L^2 times the width of all heads for each
layer and row of L tokens: two products forward and four backward, half of each, since no token looks ahead. Optimizer,
norms and what is computed twice count nothing.

Memory is the most that torch had allocated on the GPU (on a CPU, what the process held). TRL is given fp32 weights
under bf16 autocast for full fine-tuning and a bf16 base for LoRA, which is what tunesmith keeps too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_cases import CASES, Case, Contender
from gpu_ours import run_tunesmith
from gpu_peers import run_trl, run_unsloth
from results import put

LONGEST = 120  # seconds that one contender may take for one case
LINES = 40  # of what a contender said that failed
CONTENDERS = {
    "tunesmith": Contender(run_tunesmith),
    "TRL, rows in batches": Contender(run_trl, ("trl",), {}, "full"),
    "TRL, packed": Contender(run_trl, ("trl",), {"packing": True}),
    "TRL with Liger, rows in batches": Contender(run_trl, ("trl", "liger_kernel"), {"use_liger_kernel": True}, "full"),
    "TRL with Liger, packed": Contender(
        run_trl, ("trl", "liger_kernel"), {"use_liger_kernel": True, "packing": True}, "mixed"
    ),
    "Unsloth": Contender(run_unsloth, ("unsloth", "trl"), {}, "full"),
    "Unsloth, packed": Contender(run_unsloth, ("unsloth", "trl"), {"packing": True}, "mixed"),
}


def in_a_process(case: Case, name: str, deadline: float, longest: float = LONGEST) -> dict[str, Any]:
    """What a contender found, or why it found nothing; then the end of what it said is on stderr.

    Args:
        case: what is trained.
        name: of the contender.
        deadline: of all of them, by the monotonic clock.
        longest: seconds that this one may take.
    """
    absent = [package for package in CONTENDERS[name].needs if find_spec(package) is None]
    if absent:
        return {"failed": f"not installed ({', '.join(absent)})"}
    left = deadline - time.monotonic()
    if left < 5:
        return {"failed": "no time was left"}
    limit = min(left, longest)
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "stderr").open("w+") as said:
        command = [sys.executable, __file__, "--contender", name, "--case", case.name, "--folder", folder]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TUNESMITH_HOME": f"{folder}/home"}
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment, check=False,
                                  timeout=limit)  # fmt: skip
        except subprocess.TimeoutExpired:
            done = None
        if done is not None and not done.returncode:
            return json.loads(done.stdout.strip().splitlines()[-1])
        said.seek(0)
        words = said.read().strip().splitlines() or ["no word"]
    print("\n".join([f"{name}:", *words[-LINES:]]), file=sys.stderr, flush=True)
    if done is None:
        return {"failed": f"not done after {limit:.0f} s"}
    if done.returncode < 0:
        return {"failed": f"killed by signal {-done.returncode}"}
    return {"failed": words[-1][:160].replace("|", " ")}


def contenders_for(case: Case) -> list[str]:
    kind = "mixed" if case.mixed else "full"
    return [name for name, contender in CONTENDERS.items() if contender.wants in (kind, "any")]


def table(case: Case, found: dict[str, dict[str, Any]]) -> str:
    ours = found.get("tunesmith", {"failed": "not asked"})
    lines = [
        f"| {case.name} | tokens/s | tunesmith is | peak memory | model FLOPs utilisation | first step |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        if "failed" in one:
            lines.append(f"| {name} | {one['failed']} | | | | |")
            continue
        compared = name != "tunesmith" and "failed" not in ours
        times = f"{ours['tokens_per_second'] / one['tokens_per_second']:.2f} times as fast" if compared else ""
        lines.append(
            f"| {name} | {one['tokens_per_second']:,.0f} | {times} | {one['memory'] / 2**30:.1f} GiB | "
            f"{one['utilisation']:.0%} | {one['first_step']:.0f} s |"
        )
    there = [one for one in found.values() if "failed" not in one]
    if there:
        rates = sorted(one["rate"] / 1e12 for one in there)
        lines += ["", f"{there[0]['device']}: {rates[0]:,.1f} to {rates[-1]:,.1f} TFLOP/s in the matrix product."]
        steps = [f"{name} {one['losses'][0]:.3f} to {one['losses'][-1]:.3f}" for name, one in found.items()
                 if "failed" not in one]  # fmt: skip
        lines.append(f"Losses, first to last: {'; '.join(steps)}.")
    return "\n".join(lines)


def versions() -> str:
    said: list[str] = []
    for name in ("torch", "transformers", "peft", "trl", "liger-kernel", "unsloth"):
        try:
            said.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["1b", "8b", "tiny"], help="the cases of one shape; 1b and 8b if absent")
    parser.add_argument("--case", choices=[case.name for case in CASES], help="one case")
    parser.add_argument("--minutes", type=float, default=8, help="of all contenders together")
    parser.add_argument("--only", nargs="+", default=[], help="words; only contenders that hold one of them run")
    parser.add_argument("--seconds", type=float, default=LONGEST, help="of one contender")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        case = next(case for case in CASES if case.name == options.case)
        contender = CONTENDERS[options.contender]
        print(json.dumps(contender.run(case, contender, options.folder)))
        return
    sizes = [options.size] if options.size else ["1b", "8b"]
    cases = [case for case in CASES if case.name == options.case or (not options.case and case.shape in sizes)]
    deadline = time.monotonic() + 60 * options.minutes
    for case in cases:
        found: dict[str, dict[str, Any]] = {}
        for name in contenders_for(case):
            if not options.only or any(word in name for word in options.only):
                found[name] = in_a_process(case, name, deadline, options.seconds)
                print(json.dumps({"case": case.name, "contender": name, **found[name]}), file=sys.stderr, flush=True)
        text = table(case, found)
        print(f"{text}\n", flush=True)
        if options.write:
            put(f"sft_gpu-{case.name}", f"{versions()}, {datetime.now(UTC).date()}.\n\n{text}")


if __name__ == "__main__":
    main()
