"""What each hyperparameter changes on the demo: quality with its interval, what was forgotten, speed, memory.

    python benchmarks/hyperparameters.py --write          # -> docs/hyperparameters.md, about half an hour on two cores
    python benchmarks/hyperparameters.py --only muon "full, muon"
    python benchmarks/hyperparameters.py --embeddings ember smollm2-135m    # how long they are, to choose an epsilon

All runs share the demo's rows, base and LoRA, for one of its four epochs, so that there is something left to learn;
each row differs from the first in what it says alone. A run that has finished is not done again.
"""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from results import put
from start import processor

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "src" / "tunesmith" / "assets" / "demo.yaml"
PAGE = HERE.parent / "docs" / "hyperparameters.md"
SHARED = {"optim.epochs": 1, "compile": "off", "evaluate.rows": 192, "data.validation": 0}
RATE = 6e-3  # the demo's

# What is said of each row, under a heading each: the settings beside the shared ones.
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "chance": {"as it is": {}, "seed 1": {"seed": 1}, "seed 2": {"seed": 2}},
    "learning rate": {
        "a third": {"optim.learning_rate": RATE / 3},
        "three times": {"optim.learning_rate": RATE * 3},
        "warmup 0": {"optim.warmup": 0},
        "warmup 0.3": {"optim.warmup": 0.3},
    },
    "scheduler": {
        "constant": {"optim.scheduler": "constant"},
        "linear": {"optim.scheduler": "linear"},
        "cosine, minimum 0.1": {"optim.scheduler": {"minimum": 0.1}},
        "polynomial": {"optim.scheduler": "polynomial"},
        "inverse_sqrt": {"optim.scheduler": "inverse_sqrt"},
        "wsd": {"optim.scheduler": "wsd"},
    },
    "batch": {
        "batch_size 8": {"optim.batch_size": 8},
        "batch_size 72": {"optim.batch_size": 72},
        "accumulation 6": {"optim.accumulation": 6},
    },
    "optimizer": {
        "adamw_8bit": {"optim.optimizer": "adamw_8bit"},
        "schedule_free": {"optim.optimizer": "schedule_free"},
        "adafactor, 100 times the rate": {"optim.optimizer": "adafactor", "optim.learning_rate": RATE * 100},
        "lion, 0.3 of the rate": {"optim.optimizer": "lion", "optim.learning_rate": RATE * 0.3},
        "sgd, 50 times the rate": {"optim.optimizer": "sgd", "optim.learning_rate": RATE * 50},
        "muon": {"optim.optimizer": "muon"},
        "muon, 3 times the rate": {"optim.optimizer": "muon", "optim.learning_rate": RATE * 3},
    },
    "regularisation": {
        "weight_decay 0.1": {"optim.weight_decay": 0.1},
        "method.dropout 0.1": {"method.dropout": 0.1},
        "model.dropout.attention 0.1": {"model.dropout": {"attention": 0.1}},
        "label_smoothing 0.1": {"objective.label_smoothing": 0.1},
        "clip 0": {"optim.clip": 0},
        "clip 0.1": {"optim.clip": 0.1},
        "ema 0.98": {"optim.ema": 0.98},
        "layer_decay 0.8": {"optim.layer_decay": 0.8},
    },
    "perturbed embeddings": {
        "neftune, alpha 5": {"perturb": "neftune"},
        "fgm, epsilon 0.5": {"perturb": {"type": "fgm", "epsilon": 0.5}},
        "pgd, epsilon 0.5, 3 steps": {"perturb": {"type": "pgd", "epsilon": 0.5, "step_size": 0.2}},
        "freelb, epsilon 0.5, 3 steps": {"perturb": {"type": "freelb", "epsilon": 0.5, "step_size": 0.2}},
    },
    "all weights trained": {
        "full": {"method": {"type": "full"}, "optim.learning_rate": 6e-4},
        "full, layer_decay 0.8": {
            "method": {"type": "full"}, "optim.learning_rate": 6e-4, "optim.layer_decay": 0.8,
        },
        "full, muon": {"method": {"type": "full"}, "optim.learning_rate": 6e-4, "optim.optimizer": "muon"},
        "full, adafactor": {"method": {"type": "full"}, "optim.learning_rate": 6e-2, "optim.optimizer": "adafactor"},
    },
}  # fmt: skip


def run(name: str, settings: dict[str, Any], folder: Path) -> Any:
    """The outcome of one run."""
    from tunesmith.jobs.compare_methods import outcome_of
    from tunesmith.train.recipe import read_recipe

    output = {"output.folder": str(folder), "output.name": name.replace(" ", "-").replace(",", "")}
    recipe = read_recipe(DEMO, {**SHARED, **settings, **output})
    found = outcome_of(name, recipe, lambda event: None)
    print(f"{name}: {found.trouble or line_of(found, False)}", flush=True)
    return found


def line_of(found: Any, marked: bool) -> str:
    """A row of the table; its name in bold where it is `marked`."""
    from tunesmith.score.interval import show

    scores = {score.metric: score for score in found.scores}
    general = {score.metric: score for score in found.general}
    cells = [
        f"{show(scores[name].score.value)} [{show(scores[name].score.low)}, {show(scores[name].score.high)}]"
        for name in ("perplexity", "exact match")
    ]
    difference = general["perplexity"].difference
    cells += [
        f"{show(general['perplexity'].score.value)} ({difference.value:+.2f})",
        f"{found.tokens_per_second:,.0f}", f"{found.seconds:.0f}", f"{found.memory_bytes / 2**30:.2f}",
    ]  # fmt: skip
    mark = "**" if marked else ""
    return f"| {mark}{found.name}{mark} | {' | '.join(cells)} |"


def embeddings_of(base: str, tokens: int = 100, epsilon: float = 0.1) -> str:
    """How long the embeddings of a row are, and how much of a change of length `epsilon` bf16 rounds away."""
    import torch

    from tunesmith.model.load import LoadSpec, load
    from tunesmith.prompt.base import resolve

    table_VC = load(resolve(base).folder, LoadSpec()).model.get_input_embeddings().weight.detach()
    row_TC = table_VC[torch.randint(len(table_VC), (tokens,), generator=torch.Generator().manual_seed(0))].bfloat16()
    change_TC = torch.randn(row_TC.shape, generator=torch.Generator().manual_seed(1))
    change_TC *= epsilon / change_TC.norm()
    still = (row_TC + change_TC.bfloat16() == row_TC).float().mean().item()
    length = row_TC.float().norm()
    return f"{base}: {tokens} words are {length:.0f} long; of a change of {epsilon:g}, {still:.0%} is lost in bf16"


def perplexity(found: Any) -> Any:
    """On the rows that were held out, with its interval."""
    return next(score.score for score in found.scores if score.metric == "perplexity")


def table(found: dict[str, list[Any]]) -> str:
    """All of it, in Markdown; bold is what lies apart from all that chance gives, intervals and all."""
    alone = [perplexity(one) for one in found.get("chance", []) if not one.trouble]
    heads = ["setting", "perplexity", "exact match, %", "general perplexity (to the base)", "tokens/s", "seconds", "GB"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for title, outcomes in found.items():
        lines.append(f"| *{title}* |{' |' * (len(heads) - 1)}")
        for one in outcomes:
            if one.trouble:
                lines.append(f"| {one.name} | {one.trouble} |{' |' * (len(heads) - 2)}")
                continue
            mine = perplexity(one)
            apart = all(mine.low > other.high or mine.high < other.low for other in alone) and bool(alone)
            lines.append(line_of(one, apart))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="*", help="settings by their names")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "hyperparameters")
    parser.add_argument("--write", action="store_true", help="put the table into docs/hyperparameters.md")
    parser.add_argument("--embeddings", nargs="*", default=[], help="base models to measure, and nothing else")
    options = parser.parse_args()
    if options.embeddings:
        print("\n".join(map(embeddings_of, options.embeddings)))
        return
    wanted = {
        title: {name: cases[name] for name in cases if not options.only or name in options.only}
        for title, cases in CASES.items()
    }
    found = {
        title: [run(name, settings, options.folder) for name, settings in cases.items()]
        for title, cases in wanted.items()
        if cases
    }
    said = (
        f"{processor()}, {os.cpu_count()} cores, torch {version('torch')}, {datetime.now(UTC):%Y-%m-%d}. "
        "Printed by `python benchmarks/hyperparameters.py --write`."
    )
    text = f"{table(found)}\n\n({said})"
    print(text)
    if options.write:
        put("measured", text, PAGE)


if __name__ == "__main__":
    main()
