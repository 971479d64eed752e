"""What adversarial training gains where people mistype: accuracy under noise in characters, for each kind of it.

    python benchmarks/robustness.py --base FOLDER --train train.csv --test test.csv --write

into docs/tasks/classify.md.

One small encoder is trained on the same rows plainly and with FGM, PGD and FreeLB (see docs/hyperparameters.md), then
asked about the same test rows as they are and with letters swapped, left out, doubled or replaced by their neighbours
on the keyboard, each with the given probability, the same ones for all models. Differences from plain training are
paired over rows. A run that has finished is not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from results import put
from start import processor

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tasks" / "classify.md"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"type": "none"},
    "FGM": {"type": "fgm", "epsilon": 0.5},
    "PGD": {"type": "pgd", "epsilon": 0.5, "step_size": 0.25, "steps": 2},
    "FreeLB": {"type": "freelb", "epsilon": 0.5, "step_size": 0.25, "steps": 2},
}
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEAR = {key: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in KEYBOARD for i, key in enumerate(row)}


def noisy(text: str, share: float, chance: random.Random) -> str:
    """The text, each letter of it mistyped with this probability."""
    found: list[str] = []
    for character in text:
        if character.lower() not in NEAR or chance.random() >= share:
            found.append(character)
            continue
        way = chance.randrange(4)
        if way == 0 and found:  # typed before the one that came before it
            found.insert(-1, character)
        elif way == 1:
            found.append(character * 2)
        elif way == 2:
            found.append(chance.choice(NEAR[character.lower()]))
        # else left out
    return "".join(found)


def read(file: str, most: int) -> list[dict[str, str]]:
    """Rows of a CSV with text and category, spread over the file."""
    with Path(file).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return rows[:: max(1, len(rows) // most)][:most]


def trained(name: str, options: argparse.Namespace, data: Path) -> dict[str, Any]:
    """A run with this kind of perturbation: its folder and seconds."""
    from tunesmith.core.events import METRICS
    from tunesmith.core.files import read_lines
    from tunesmith.jobs.compare_methods import go_on
    from tunesmith.train.recipe import read_recipe

    folder = Path(options.runs)
    settings = {
        "objective": {"type": "classify"}, "method": {"type": "full"}, "model": {"base": options.base, "dropout": 0.0},
        "data": {"train": str(data), "validation": 0, "test": 0, "near_duplicates": "off"},
        "optim": {"learning_rate": 2e-4, "epochs": options.epochs, "batch_size": 32, "warmup": 0.1},
        "perturb": KINDS[name], "output": {"folder": str(folder), "name": name}, "seed": options.seed,
    }  # fmt: skip
    file = folder / f"{name}.yaml"
    file.write_text("{}")
    go_on(folder / name, read_recipe(file, settings), lambda event: None)
    return {"folder": folder / name, "seconds": sum(step["seconds"] for step in read_lines(folder / name / METRICS))}


def table(options: argparse.Namespace) -> str:
    """Accuracy of each kind at each share of noise, with what it is above plain training."""
    from tunesmith.jobs.start import load
    from tunesmith.score.interval import difference_interval, score_interval
    from tunesmith.score.metrics import ACCURACY

    Path(options.runs).mkdir(parents=True, exist_ok=True)
    data = Path(options.runs) / "rows.jsonl"
    rows, asked = read(options.train, options.rows), read(options.test, options.asked)
    data.write_text("".join(json.dumps({"text": row["text"], "label": row["category"]}) + "\n" for row in rows))
    lines = ["| | training, s |" + "".join(f" {share:.0%} of letters |" for share in options.noise)]
    lines.append("|---|---|" + "---|" * len(options.noise))
    plain: list[np.ndarray] = []
    for name in (name for name in KINDS if name in {"plain", *options.kinds}):
        run = trained(name, options, data)
        model = load(run["folder"])
        cells: list[str] = []
        for place, share in enumerate(options.noise):
            chance = random.Random(f"{options.seed}/{share}")
            texts = [noisy(row["text"], share, chance) for row in asked]
            right = [said.label == row["category"] for said, row in zip(model.predict(texts), asked, strict=True)]
            counts = np.stack([np.array(right, dtype=np.float64), np.ones(len(right))], -1)
            if name == "plain":
                plain.append(counts)
                score = score_interval(ACCURACY, counts)
                cells.append(f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}]")
            else:
                value, above = ACCURACY.of_sums(counts.sum(0)), difference_interval(ACCURACY, counts, plain[place])
                cells.append(f"{value:.1f} ({above.value:+.1f} [{above.low:+.1f}, {above.high:+.1f}])")
        lines.append(f"| {name} | {run['seconds']:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train, ask and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base", required=True, help="folder of an encoder")
    parser.add_argument("--train", required=True, help="CSV with text and category")
    parser.add_argument("--test", required=True, help="the same, to ask about")
    parser.add_argument("--rows", type=int, default=2000, help="to train on, spread over the file")
    parser.add_argument("--asked", type=int, default=1540, help="to ask about, spread over the file")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.05, 0.1, 0.2])
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=list(KINDS), help="of training beside plain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="runs/robustness", help="folder for the runs")
    parser.add_argument("--write", action="store_true", help="into docs/tasks/classify.md")
    options = parser.parse_args()
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    found = table(options)
    where = (
        f"{options.rows} training rows, {options.epochs:g} epochs, seed {options.seed}, {options.asked} rows asked "
        f"about; {threads} threads of {processor()}; torch {version('torch')}, {datetime.now(UTC):%Y-%m-%d}."
    )
    print(f"{where}\n\n{found}")
    if options.write:
        put("robustness", f"{where}\n\n{found}", PAGE)


if __name__ == "__main__":
    main()
