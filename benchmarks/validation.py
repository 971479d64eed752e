"""What validation costs: seconds of training, of validations and of the final comparison of a run.

    python benchmarks/validation.py --base SmolLM2-135M-Instruct --rows alpaca.json --write   # -> benchmarks/RESULTS.md
    python benchmarks/validation.py --steps 4

All is as a recipe without `evaluate` has it. The seconds are those between the events of the run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from results import put
from start import processor

VALIDATION, COMPARISON = 0.1, 0.25  # of the seconds of training, that each may take


def run(options: argparse.Namespace, folder: Path) -> Path:
    """A finished run; its folder."""
    from tunesmith.jobs.start import start_run
    from tunesmith.train.recipe import Recipe

    recipe = Recipe.model_validate({
        "model": {"base": options.base}, "data": {"train": options.rows, "replay": "off"},
        "optim": {"steps": options.steps, "batch_size": options.batch_size}, "output": {"folder": str(folder)},
    })  # fmt: skip
    return start_run(
        recipe, lambda event: print("  ", event.name, flush=True) if event.kind == "phase" else None
    ).folder


def seconds_of(folder: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """How long each part of a run took; how often and on how many rows it was validated, and how many it answered."""
    from tunesmith.core.files import read_lines

    steps, events = read_lines(folder / "metrics.jsonl"), read_lines(folder / "events.jsonl")
    ended = {step["step"]: step["time"] for step in steps}
    validations = [event for event in events if event["kind"] == "validation"]
    [planned] = [event for event in events if event["kind"] == "validation_plan"]
    [chosen] = [event for event in events if event["kind"] == "comparison"]
    [scored] = [event for event in events if event["kind"] == "scores"]
    [evaluating] = [event for event in events if event["kind"] == "phase" and event["name"] == "evaluating"]
    seconds = {
        "training": sum(step["seconds"] for step in steps),
        "validation": sum(one["time"] - ended[one["step"]] for one in validations),
        "comparison": scored["time"] - evaluating["time"],
    }
    counts = {"validations": len(validations), "rows": planned["rows"], "of": planned["of"], "answered": chosen["sets"]}
    return seconds, {**counts, "steps": len(steps)}


def table(options: argparse.Namespace, seconds: dict[str, float], counts: dict[str, Any]) -> str:
    sets = ", ".join(f"{one['rows']} of {one['of']} {what}" for what, one in counts["answered"].items())
    done = {
        "training": f"{counts['steps']} steps of {options.batch_size} rows of {Path(options.rows).name}",
        "validation": f"{counts['validations']} on {counts['rows']} of {counts['of']} rows",
        "comparison": f"answers of both models to {sets}",
    }
    allowed = {"training": "", "validation": f"{VALIDATION:.0%}", "comparison": f"{COMPARISON:.0%}"}
    lines = [f"| {Path(options.base).name}, LoRA | done | seconds | of training | goal |", "|---|---|---|---|---|"]
    for what, took in seconds.items():
        lines.append(f"| {what} | {done[what]} | {took:.1f} | {took / seconds['training']:.0%} | {allowed[what]} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="ember", help="a name, a folder or a hub id")
    parser.add_argument("--rows", default="hotel")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        text = table(options, *seconds_of(run(options, Path(folder))))
    print(text)
    if options.write:
        lead = f"{os.cpu_count()} cores of {processor()}, torch {version('torch')}, {datetime.now(UTC).date()}."
        put("validation_plan", f"{lead}\n\n{text}")
    return text


if __name__ == "__main__":
    main()
