"""What tuning makes a model forget, and what replay of its own answers keeps: the table of docs/training.md.

    python benchmarks/replay.py --base SmolLM2-135M-Instruct --folder build/replay
    python benchmarks/replay.py --base a-small-model --folder /tmp/replay --rows few.jsonl --test few.jsonl --steps 2 \
        --prompts 40 --held-out 40

The base model answers general prompts once. Then it is tuned twice on the same rows, once with nothing replayed and
once with these answers beside the rows. Forgetting is the perplexity of the tuned model on the base model's own answers
to other prompts, held out, as a ratio to what it was. Begun again in the same folder, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHANGES = {"off": "off", "own answers": "prompts.txt"}
SHOWN = ("BLEU", "exact match", "perplexity")  # of the rows that are learned


def recipe_of(options: argparse.Namespace, name: str, replay: str) -> Any:
    from tunesmith.train.recipe import Recipe

    prompts = str(options.folder / replay)
    return Recipe.model_validate({
        "model": {"base": options.base},
        "method": {"type": "lora", "rank": 16, "alpha": 32},
        "data": {"train": options.rows, "test": options.test, "validation": 0, "replay_share": options.share,
                 "replay": "off" if replay == "off" else {"prompts": prompts}},
        "optim": {"learning_rate": options.rate, "steps": options.steps, "batch_size": 16},
        "evaluate": {"rows": options.test_rows, "max_new_tokens": options.max_new_tokens, "samples": 0,
                     "general_ability": "off"},
        "output": {"folder": str(options.folder), "name": name.replace(" ", "-")},
    })  # fmt: skip


def tuned(options: argparse.Namespace, name: str, replay: str) -> dict[str, Any]:
    """The run with this kind of replay: found finished, gone on with, or begun."""
    from tunesmith.jobs.start import Run, resume, start_run
    from tunesmith.registry.runs import is_run, read_run

    folder = options.folder / name.replace(" ", "-")
    if not is_run(folder):
        run = start_run(recipe_of(options, name, replay), said)
    elif read_run(folder).status == "succeeded":
        run = Run(folder)
    else:
        run = resume(folder, said)
    card = json.loads((run.model / "tunesmith.json").read_text(encoding="utf-8"))
    scores = {score["metric"]: score["score"]["value"] for score in run.scores}
    return {"model": run.model, "scores": scores, "replay": card["replay"], "seconds": seconds_of(folder)}


def said(event: Any) -> None:
    if event.kind in ("phase", "replay", "warning"):
        print("  ", getattr(event, "name", "") or event.sentence, flush=True)


def seconds_of(folder: Path) -> float:
    """How long the steps took."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    times = [json.loads(line)["time"] for line in lines]
    return times[-1] - times[0]


def held_out_answers(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the base model says to prompts that nothing is trained on."""
    from tunesmith.data.prompts import read_prompts
    from tunesmith.jobs.own_answers import own_answers
    from tunesmith.jobs.replay import speaker_of
    from tunesmith.prompt.base import resolve
    from tunesmith.prompt.load import load_contract
    from tunesmith.train.recipe import longest_row

    recipe, base = recipe_of(options, "off", "off"), resolve(options.base)
    prompts = read_prompts("held-out-prompts")[0][: options.held_out]
    speaker = speaker_of(recipe, base, load_contract(base.folder))
    return own_answers(speaker, prompts, longest_row(recipe, base), said).rows


def perplexity(model: str, rows: Sequence[dict[str, Any]]) -> float:
    """Of answers, given what was asked."""
    from tunesmith.infer.local import LocalEngine
    from tunesmith.model.export import find_model
    from tunesmith.prompt.messages import as_conversation

    exported = find_model(model)
    contract = exported.contract()
    rendered = [contract.render(as_conversation(row["messages"])) for row in rows]
    asked = []
    for one in rendered:
        mask = [False] * len(one.ids)
        for begin, end in one.spans:
            mask[begin:end] = [True] * (end - begin)
        asked.append((list(one.ids), mask))
    scores = LocalEngine(exported.load(), contract).score(asked)
    return math.exp(sum(score.loss for score in scores) / sum(score.tokens for score in scores))


def table(options: argparse.Namespace, before: float, found: dict[str, dict[str, Any]], answers: int) -> str:
    lines = [
        f"| replay | {' | '.join(SHOWN)} | perplexity on its own answers before | after | ratio | steps took |",
        f"|---|{'---|' * len(SHOWN)}---|---|---|---|",
    ]
    for name, one in found.items():
        replay = one["replay"]
        what = f"{name} ({replay['rows']}, {replay['an_epoch']} an epoch)" if replay else name
        scores = " | ".join(f"{one['scores'].get(metric, math.nan):.3g}" for metric in SHOWN)
        after = one["perplexity"]
        lines.append(
            f"| {what} | {scores} | {before:.3f} | {after:.3f} | {after / before:.2f} | {one['seconds']:.0f} s |"
        )
    lead = f"{Path(options.base).name}, LoRA, {options.steps} steps of 16 rows of {Path(options.rows).name}"
    return "\n".join([f"{lead}; {answers} held-out answers.", "", *lines])


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder or hub id of a model with a chat template of its own")
    parser.add_argument("--folder", type=Path, default=Path("build/replay"), help="where runs and answers are kept")
    parser.add_argument("--rows", default="hotel")
    parser.add_argument("--test", default="hotel-test")
    parser.add_argument("--test-rows", type=int, default=48)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--steps", type=int, default=72)
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate")
    parser.add_argument("--share", type=float, default=0.25, help="of replayed rows in an epoch")
    parser.add_argument("--prompts", type=int, default=320, help="that the base model answers for replay")
    parser.add_argument("--held-out", type=int, default=120, help="that it answers to be measured on")
    options = parser.parse_args(arguments)
    from tunesmith.data.prompts import read_prompts

    os.environ.setdefault("TUNESMITH_HOME", str(options.folder / "home"))
    options.folder.mkdir(parents=True, exist_ok=True)
    prompts = [prompt[-1].content for prompt in read_prompts("general-prompts")[0][: options.prompts]]
    (options.folder / CHANGES["own answers"]).write_text("\n".join(prompts) + "\n", encoding="utf-8")
    started = time.perf_counter()
    rows = held_out_answers(options)
    before = perplexity(options.base, rows)
    found = {}
    for name, replay in CHANGES.items():
        print(f"replay: {name}", flush=True)
        found[name] = tuned(options, name, replay)
        found[name]["perplexity"] = perplexity(str(found[name]["model"]), rows)
    text = table(options, before, found, len(rows))
    print(f"\n{text}\n\nIn all {time.perf_counter() - started:.0f} s.")
    return text


if __name__ == "__main__":
    main()
