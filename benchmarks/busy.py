"""A busy machine: training, answering and scoring beside another program at full load on one core.

    python benchmarks/busy.py --write                      # -> benchmarks/RESULTS.md, about twenty minutes
    python benchmarks/busy.py --sizes 10m --seconds 4

Each figure is of a process of its own: once with the threads and the waiting that OpenMP takes by itself, once with
those that tunesmith starts its children with, each on a quiet machine and beside one Python process that counts. The
quiet ones take turns, several times, and their median counts: processes differ from one another by up to a tenth. The
last table is a run that was begun on a quiet machine, beside which the other program starts later.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from results import put
from sft_cpu import LONGEST, SIZES, make_model
from start import processor

ROWS_A_STEP, PROMPTS, NEW = 4, 8, 32
WORK = ("training", "answering", "scoring")
MIDWAY_STEPS, QUIET_STEPS = 150, 15


def rate(work: Callable[[], float], seconds: float) -> float:
    """Units a second of `work`, which returns how many it did: after one to warm up, for `seconds`, at least twice."""
    work()
    rates: list[float] = []
    started = time.perf_counter()
    while len(rates) < 2 or time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        rates.append(work() / (time.perf_counter() - begun))
    return statistics.median(rates)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Tokens a second of each kind of work."""
    import torch

    from tunesmith.data.config import DataConfig
    from tunesmith.data.split import load_splits
    from tunesmith.infer.generator import Options, answer_all
    from tunesmith.infer.local import LocalEngine
    from tunesmith.model.attention import PACKED
    from tunesmith.model.load import LoadSpec, load
    from tunesmith.model.methods.lora import LoraConfig
    from tunesmith.model.methods.table import METHODS
    from tunesmith.prompt.load import load_contract
    from tunesmith.train.config import OptimConfig
    from tunesmith.train.learner import Learner
    from tunesmith.train.loop import LoopSettings, train
    from tunesmith.train.objective import Models
    from tunesmith.train.objectives.sft import make_sft
    from tunesmith.train.planning.planner import make_plan
    from tunesmith.train.sources.rows import RowSource
    from tunesmith.train.state import TrainerState
    from tunesmith.train.weights.placed import Placed

    torch.manual_seed(0)
    folder = Path(options.folder) / "model"
    data = DataConfig(train="hotel", test=0, validation=0, near_duplicates="off", over_long="drop")
    rows = load_splits(data, load_contract(folder), LONGEST, frozenset({"chat", "text"})).train
    plan = replace(make_plan("bf16", "auto", 2048), chunked=True, compiled=False)
    model = load(folder, LoadSpec(precision=plan.precision)).model
    model.set_attn_implementation(PACKED)
    placed = Placed(METHODS["lora"].apply(model, LoraConfig()), plan)
    learner = Learner(placed, OptimConfig(scheduler="constant"), 1e-4, 10**6)
    objective, state = make_sft(), TrainerState()
    source, models = RowSource(rows, objective, plan, ROWS_A_STEP), Models(learner.model, plan)

    def one_step() -> float:
        heard: list[Any] = []
        settings = LoopSettings(learner.step_number + 1, validate_every=10**6, checkpoint_every=10**6)
        train(objective, models, learner, source, settings, state, [], lambda: None, heard.append)
        return heard[0].tokens_per_second * heard[0].seconds

    found = {"training": rate(one_step, options.seconds)}
    engine = LocalEngine(load(folder, LoadSpec(precision=plan.precision)).model, None, compile_after=None)
    asked = [[(7919 * row + 31 * place + 5) % 4000 for place in range(32)] for row in range(PROMPTS)]

    def answer() -> float:
        completions = answer_all(engine, [(prompt, Options(max_new_tokens=NEW)) for prompt in asked])
        return sum(len(one.choice.ids) for one in completions)

    def score() -> float:
        some = [(row.ids.tolist(), row.mask.tolist()) for row in rows[:PROMPTS]]
        engine.score(some)
        return sum(len(ids) for ids, _ in some)

    return {**found, "answering": rate(answer, options.seconds), "scoring": rate(score, options.seconds)}


@contextmanager
def beside(programs: int) -> Generator[None]:
    """Other programs at full load while the block lasts."""
    burning = [burn() for _ in range(programs)]
    try:
        yield
    finally:
        end(burning)


def burn() -> subprocess.Popen[bytes]:
    """Another program at full load."""
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])


def end(programs: Sequence[subprocess.Popen[bytes]]) -> None:
    for program in programs:
        program.kill()
        program.wait()


def in_a_process(options: argparse.Namespace, size: str, ours: bool) -> dict[str, Any]:
    from tunesmith.exec.local import SETTINGS, environment

    unset = {name: text for name, text in os.environ.items() if name not in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")}
    given = environment(1)[0] if ours else {**unset, **SETTINGS}
    command = [sys.executable, __file__, "--measure", size, "--folder", options.folder, "--seconds",
               str(options.seconds)]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**given, "TUNESMITH_HOME": f"{options.folder}/home"}
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "threads": given.get("OMP_NUM_THREADS", "all")}


def run_midway(options: argparse.Namespace, size: str) -> str:
    """Train, and start the other program when `QUIET_STEPS` are done."""
    from tunesmith import finetune

    recipe = Path(options.folder) / "recipe.yaml"
    recipe.write_text(json.dumps({
        "model": {"base": f"{options.folder}/model"}, "data": {"train": "hotel", "test": 0, "validation": 0},
        "optim": {"steps": MIDWAY_STEPS, "batch_size": 16}, "evaluate": {"general_ability": "off"}, "compile": "off",
        "output": {"folder": f"{options.folder}/runs"},
    }))  # fmt: skip
    speeds: list[float] = []
    said: list[tuple[int, str]] = []
    burning: list[subprocess.Popen[bytes]] = []

    def hear(event: Any) -> None:
        if event.kind == "step":
            speeds.append(event.tokens_per_second)
            if len(speeds) == QUIET_STEPS:
                burning.append(burn())
        if event.kind == "warning":
            said.append((len(speeds), event.sentence))

    try:
        finetune(recipe, hear)
    finally:
        end(burning)
    told = next((step for step, sentence in said if "as long as before" in sentence), len(speeds))
    parts = {"quiet": speeds[3:QUIET_STEPS], "busy, as it was": speeds[QUIET_STEPS + 1 : told],
             "busy, after it went on with the threads that were free": speeds[told + 1 :]}  # fmt: skip
    usual = statistics.median(parts["quiet"])
    lines = [f"| {size} Llama, a run that others begin to disturb | tokens/s | of quiet |", "|---|---|---|"]
    for name, part in parts.items():
        if part:
            lines.append(f"| {name} ({len(part)} steps) | {statistics.median(part):,.0f} | "
                         f"{statistics.median(part) / usual:.0%} |")  # fmt: skip
    return "\n".join([*lines, "", *(f"It said: {sentence}" for _, sentence in said)])


def median(some: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median of each kind of work."""
    return {**some[0], **{work: statistics.median(one[work] for one in some) for work in WORK}}


def table(size: str, found: dict[tuple[bool, bool], dict[str, Any]]) -> str:
    lines = [
        f"| {size} Llama, tokens/s | OpenMP's own: quiet | busy | ours: quiet | busy | busy of quiet | quiet lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for work in WORK:
        old, ours = ([found[mine, busy][work] for busy in (False, True)] for mine in (False, True))
        lines.append(
            f"| {work} | {old[0]:,.0f} | {old[1]:,.0f} | {ours[0]:,.0f} | {ours[1]:,.0f} | {ours[1] / ours[0]:.0%} "
            f"(was {old[1] / old[0]:.0%}) | {1 - ours[0] / old[0]:.0%} |"
        )
    threads = [found[True, busy]["threads"] for busy in (False, True)]
    return "\n".join([*lines, "", f"Threads: {threads[0]} when quiet, {threads[1]} beside the other program."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=SIZES, nargs="+", default=["10m", "135m"])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each kind of work")
    parser.add_argument("--turns", type=int, default=3, help="how often each is measured on a quiet machine")
    parser.add_argument("--no-midway", action="store_true", help="leave the last table out")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    texts: list[str] = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as options.folder:
            os.environ["TUNESMITH_HOME"] = f"{options.folder}/home"
            make_model(Path(options.folder) / "model", size)
            quiet: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
            for turn in range(2 * options.turns):  # ours, theirs, theirs, ours, ...
                ours = turn % 4 in (0, 3)
                quiet[ours].append(in_a_process(options, size, ours))
            found = {(ours, False): median(some) for ours, some in quiet.items()}
            for ours in (False, True):
                with beside(1):
                    found[ours, True] = in_a_process(options, size, ours)
            texts.append(table(size, found))
            print(texts[-1], flush=True)
            if size == options.sizes[0] and not options.no_midway:
                texts.append(run_midway(options, size))
                print(texts[-1], flush=True)
    if options.write:
        lead = f"{os.cpu_count()} cores of {processor()}, torch {version('torch')}, {datetime.now(UTC).date()}."
        put("busy", "\n\n".join([lead, *texts]))


if __name__ == "__main__":
    main()
