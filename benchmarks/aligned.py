"""What learning from pairs of answers does to a real model: DPO, ORPO, SimPO and KTO, one epoch each, in one table.

    python benchmarks/aligned.py dpo_en_demo.json --base smollm2-135m --write      # -> docs/preferences.md

A fifth of the pairs is kept for the end; KTO learns from the two answers of each other pair as single ones, good and
bad. Beside the base stand: how often the chosen answer has become likelier in comparison with the rejected one (the
implicit reward), by how much, how answers to the held-out prompts compare with the chosen ones, and what was forgotten.
The learning rates are those that `auto` chooses.
A run that has finished is not done again: broken off, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from results import put
from start import processor
from tasks import by_metric, shown

PAGE = Path(__file__).resolve().parents[1] / "docs" / "preferences.md"
HELD_OUT, GENERAL = 0.2, ("general-texts",)
OBJECTIVES = ("dpo", "orpo", "simpo", "kto")
WATCHED = ("reward accuracy", "log probability margin", "perplexity", "chrF", "answer length")


def parted(file: Path, folder: Path) -> dict[str, Path]:
    """The pairs that are learned from, as pairs and as single answers, and those that are kept."""
    text = file.read_text(encoding="utf-8")
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    random.Random(0).shuffle(rows)
    kept = round(HELD_OUT * len(rows))
    parts = {"held-out": rows[:kept], "pairs": rows[kept:]}
    parts["verdicts"] = [single for row in rows[kept:] for single in singles(row)]
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    for name, some in parts.items():
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return files


def singles(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Both answers of a pair, each by itself."""
    if "prompt" in row:
        turns = [{"role": "user", "content": row["prompt"]}]
        text = str
    else:
        roles = {"human": "user", "gpt": "assistant", "system": "system"}
        turns = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]

        def text(side: Any) -> str:
            return side["value"]

    return [
        {"prompt": turns, "completion": [{"role": "assistant", "content": text(row[side])}], "label": side == "chosen"}
        for side in ("chosen", "rejected")
    ]


def settings(name: str, arguments: argparse.Namespace, files: dict[str, Path]) -> dict[str, Any]:
    """The recipe of a run."""
    learned = files["verdicts" if name == "kto" else "pairs"]
    return {
        "model.base": arguments.base, "method": {"type": "lora", "rank": 16}, "objective": {"type": name},
        "data": {"train": str(learned), "test": 0, "validation": 0, "max_length": arguments.max_length,
                 "over_long": "drop", "near_duplicates": "off"},
        "optim": {"epochs": 1, "batch_size": 16 if name == "kto" else 8},
        "evaluate": {"general_ability": "off"}, "precision": "auto",
    }  # fmt: skip


def result_of(name: str, arguments: argparse.Namespace, files: dict[str, Path]) -> dict[str, Any]:
    """What a run has come to: trained and compared with the base, each once."""
    from tasks import trained

    from tunesmith.core.events import read_events
    from tunesmith.core.files import read_json, write_json
    from tunesmith.jobs.start import evaluate_file

    folder = Path(arguments.runs)
    title = f"aligned-{name}"
    run = trained(folder, title, settings(name, arguments, files))
    file = folder / title / "beside-base.json"
    if not file.exists():
        found = evaluate_file(
            {
                "model": str(folder / title), "data": str(files["held-out"]), "against": arguments.base,
                "rows": arguments.rows, "max_new_tokens": arguments.max_new_tokens, "template": None, "samples": 0,
                "general": list(GENERAL), "format": None, "columns": {}, "bad_rows": "fail", "html": None,
                "harness": [],
            }
        )  # fmt: skip
        write_json(file, found)
    rates = [event for event in read_events(folder / title) if event["kind"] == "rates"][-1]  # one an attempt
    return {**run, "rate": rates["groups"][0]["rate"], "found": read_json(file)}


def table(found: dict[str, dict[str, Any]]) -> str:
    """All runs beside the base."""
    named = {"reward accuracy": "right, % of pairs", "log probability margin": "margin, nats", "chrF": "chrF",
             "perplexity": "perplexity of chosen answers", "answer length": "length of answers"}  # fmt: skip
    forgotten = list(next(iter(found.values()))["found"]["general_ability"])
    lines = [
        f"| | {' | '.join(named[name] for name in WATCHED)} | "
        f"{' | '.join(f'forgotten: perplexity of {what}' for what in forgotten)} | rate | steps | training, s |",
        "|---" * (len(WATCHED) + len(forgotten) + 4) + "|",
    ]
    first = by_metric(next(iter(found.values()))["found"])
    general = next(iter(found.values()))["found"]["general_ability"]
    lines.append(
        f"| the base | {' | '.join(shown(first[name]['other']) if name in first else '' for name in WATCHED)} | "
        f"{' | '.join(shown(by_metric(general[what])['perplexity']['other']) for what in forgotten)} | | | |"
    )
    for name, one in found.items():
        scores, general = by_metric(one["found"]), one["found"]["general_ability"]
        cells = [told(scores[metric]) if metric in scores else "" for metric in WATCHED]
        cells += [told(by_metric(general[what])["perplexity"]) for what in forgotten]
        lines.append(f"| {name} | {' | '.join(cells)} | {one['rate']:.2g} | {one['steps']} | {one['seconds']:.0f} |")
    return "\n".join(lines)


def told(score: dict[str, Any]) -> str:
    """A score with its interval, and what its difference to the base shows."""
    return f"{shown(score['score'])} {score['verdict']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", help="pairs: prompt or conversations, chosen, rejected")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--only", nargs="*", default=list(OBJECTIVES), choices=OBJECTIVES)
    parser.add_argument("--max-length", type=int, default=4608, help="tokens of a row; longer ones are left out")
    parser.add_argument("--rows", type=int, default=60, help="held-out pairs")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="of answers that are compared")
    parser.add_argument("--runs", default="runs/aligned", help="folder for the runs")
    parser.add_argument("--write", action="store_true", help="into docs/preferences.md")
    arguments = parser.parse_args()
    files = parted(Path(arguments.file), Path(arguments.runs) / "rows")
    found = {name: result_of(name, arguments, files) for name in arguments.only}
    rows = next(iter(found.values()))["found"]["rows"]
    head = (
        f"{Path(arguments.file).name}, rows of at most {arguments.max_length} tokens, one epoch, {arguments.base}, "
        f"LoRA; {rows} held-out pairs; {os.cpu_count()} cores of {processor()}, torch {version('torch')}, transformers "
        f"{version('transformers')}, {datetime.now(UTC):%Y-%m-%d}."
    )
    text = f"{head}\n\n{table(found)}"
    print(text)
    if arguments.write:
        put("aligned", text, PAGE)


if __name__ == "__main__":
    main()
