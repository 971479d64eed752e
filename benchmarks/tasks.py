"""Tasks that are no chats, on real rows and models: how good, beside honest baselines, and how long.

    python benchmarks/tasks.py hotel --write
    python benchmarks/tasks.py banking77 --base FOLDER --train train.csv --test test.csv --write
    python benchmarks/tasks.py banking77 ... --choose       # on validation rows alone; the test file is not read
    python benchmarks/tasks.py intents --base FOLDER --folder NLUPP_FOLDER --write
    python benchmarks/tasks.py slots --base FOLDER --folder NLUPP_FOLDER --write
    python benchmarks/tasks.py domain --base FOLDER --write

`hotel`: the intents of the demo's questions, with the embedded model. `banking77`: 77 intents of a bank's customers
(Casanueva et al., 2020, CC BY 4.0; PolyAI-LDN/task-specific-datasets), with a small encoder such as all-MiniLM-L6-v2.
`intents`: what guests of a hotel want, several things at once or none, and `slots`: what they name (NLU++; Casanueva et
al., 2022, CC BY 4.0; the same repository); folds 0 to 14 for training and 15 to 19 for the end. `domain`: see
domain.py; with the embedded model, and with another where a base is named.
Settings were chosen on validation rows cut from the training file; the test file is read by the final evaluation alone.
A run that has finished is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import domain
from results import put
from start import processor

PAGES = Path(__file__).resolve().parents[1] / "docs" / "tasks"
PAGE_OF = {"slots": "token_classify", "domain": "pretrain"}  # of all others: classify
ASSETS = Path(__file__).resolve().parents[1] / "src" / "tunesmith" / "assets" / "hotel"
SHARED: dict[str, Any] = {
    "objective": {"type": "classify"},
    "evaluate": {"metric": "accuracy", "export": "best", "baseline": "all"},
    "precision": "auto",
}
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "banking77": {
        "full": {
            "method": {"type": "full"}, "model.dropout": {"hidden": 0.1, "attention": 0.0},
            "objective": {"type": "classify", "pool": "mean", "label_smoothing": 0.1},
            "perturb": {"type": "fgm", "epsilon": 0.5},
            "optim": {"learning_rate": 3e-4, "epochs": 4, "batch_size": 64, "warmup": 0.1, "weight_decay": 0.01,
                      "groups": {"classifier*": {"rate": 5}}},
        },
        "lora": {
            "method": {"type": "lora", "rank": 32, "alpha": 64}, "model.dropout": 0.0,
            "optim": {"learning_rate": 2e-3, "epochs": 6, "batch_size": 32, "warmup": 0.1},
        },
    },
    "intents": {
        "full": {
            "method": {"type": "full"}, "model.dropout": {"hidden": 0.1, "attention": 0.0},
            "objective": {"type": "classify", "pool": "mean"},
            "optim": {"learning_rate": 1e-4, "epochs": 30, "batch_size": 16, "warmup": 0.1, "weight_decay": 0.01,
                      "groups": {"classifier*": {"rate": 10}}},
        },
        "lora": {
            "method": {"type": "lora", "rank": 32, "alpha": 64}, "model.dropout": 0.0,
            "optim": {"learning_rate": 1e-3, "epochs": 40, "batch_size": 16, "warmup": 0.1},
        },
    },
    "slots": {
        "full": {
            "method": {"type": "full"}, "model.dropout": 0.0,
            "optim": {"learning_rate": 5e-4, "epochs": 8, "batch_size": 32, "warmup": 0.1, "weight_decay": 0.01},
        },
        "lora": {
            "method": {"type": "lora", "rank": 32, "alpha": 64}, "model.dropout": 0.0,
            "optim": {"learning_rate": 5e-4, "epochs": 12, "batch_size": 32, "warmup": 0.1},
        },
    },
    "hotel": {
        "full": {
            "method": {"type": "full"},
            "optim": {"learning_rate": 1e-3, "epochs": 20, "batch_size": 32, "warmup": 0.1},
        },
        "lora": {
            "method": {"type": "lora", "rank": 16}, "optim": {"learning_rate": 5e-3, "epochs": 20, "batch_size": 32},
        },
    },
}  # fmt: skip


def data_of(what: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The settings that name base and rows."""
    if what == "banking77":
        columns = {"label": "category"}
        data = {"train": arguments.train, "test": arguments.test, "validation": 0, "columns": columns}
        evaluate = {"export": "last", "baseline": "all"}
        return {"model.base": arguments.base, "data": {**data, "near_duplicates": "off"}, "evaluate": evaluate}
    folds = [str(Path(arguments.folder or ".") / f"fold{fold}.json") for fold in range(20)]
    if what == "intents":
        data = {"train": folds[:15], "test": folds[15:], "validation": 0.1, "format": "text-labels"}
        data |= {"columns": {"labels": "intents"}, "near_duplicates": "off"}
        return {"model.base": arguments.base, "data": data, "evaluate": {"metric": "loss", "baseline": "all"}}
    if what == "slots":
        # Two rows of 1,009 mark one word twice, which tags cannot say: they are left out.
        data = {"train": folds[:15], "test": folds[15:], "validation": 0.1, "format": "text-spans", "bad_rows": "drop"}
        evaluate = {"metric": "f1", "export": "best"}
        return {"model.base": arguments.base, "data": {**data, "near_duplicates": "off"},
                "objective": {"type": "token_classify"}, "evaluate": evaluate}  # fmt: skip
    named = {"train": "train.jsonl", "test": "test.jsonl"}
    paths = {part: str(intents(ASSETS / name, folder / f"intents-{name}")) for part, name in named.items()}
    # 96 intents with eleven wordings each: none of them can be spared for validation.
    return {"model.base": "ember", "data": {**paths, "validation": 0}, "evaluate": {"baseline": "all"}}


def intents(chats: Path, file: Path) -> Path:
    """Questions of chats with one turn, each with its intent."""
    rows = [json.loads(line) for line in chats.read_text(encoding="utf-8").splitlines()]
    asked = [([turn["content"] for turn in row["messages"] if turn["role"] == "user"], row["intent"]) for row in rows]
    lines = [json.dumps({"text": texts[0], "label": intent}) for texts, intent in asked if len(texts) == 1]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def run(what: str, name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """What one run of a case has found: its report, its seconds of training, and what it was validated at."""
    folder = Path(arguments.runs)
    settings = {**SHARED, **CASES[what][name], **data_of(what, arguments, folder), "seed": seed}
    title = f"{what}-{name}-{seed}"
    if arguments.choose:
        settings["data"] |= {"test": 0, "validation": 0.2}
        title += "-choose"
    return {"name": name, "seed": seed, **trained(folder, title, settings)}


def trained(folder: Path, title: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a run of this name has found; it is not done again."""
    from tunesmith.core.config import to_yaml
    from tunesmith.core.events import METRICS, read_events
    from tunesmith.core.files import read_json, read_lines
    from tunesmith.jobs.compare_methods import go_on
    from tunesmith.train.recipe import read_recipe

    recipe_file = folder / f"{title}.yaml"
    recipe_file.parent.mkdir(parents=True, exist_ok=True)
    recipe_file.write_text("{}", encoding="utf-8")
    recipe = read_recipe(recipe_file, {**settings, "output": {"folder": str(folder), "name": title}})
    recipe_file.write_text(to_yaml(recipe), encoding="utf-8")
    done = folder / title
    go_on(done, recipe, lambda event: None)
    steps = read_lines(done / METRICS)
    metric = recipe.evaluate.metric
    validations = [event[metric] for event in read_events(done) if event["kind"] == "validation"]
    report = done / "report" / "report.json"
    found = read_json(report) if report.exists() else None  # none where no row is kept for the end
    speeds = sorted(step["tokens_per_second"] for step in steps)
    return {
        "report": found, "seconds": sum(step["seconds"] for step in steps), "steps": len(steps),
        "validation": "" if not validations else f"{min(validations):.4f}" if metric == "loss" else
        f"{100 * max(validations):.2f}",
        "tokens_per_second": speeds[len(speeds) // 2],
    }  # fmt: skip


def in_domain(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The runs of `domain`: of the embedded model and, where one is named, of another base."""
    bases = {"ember": "ember"} | ({Path(arguments.base).name: arguments.base} if arguments.base else {})
    return [
        {"base": short, "name": name}
        | trained(Path(arguments.runs), f"domain-{short}-{name}", domain.settings(base, name))
        for short, base in bases.items()
        for name in arguments.only or domain.EMBER
    ]


def shown(score: dict[str, Any] | None) -> str:
    """A score with its interval."""
    return "" if score is None else f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def table(found: list[dict[str, Any]]) -> str:
    """All runs, and the baselines on the same rows."""
    first = by_metric(found[0]["report"])
    measures = ("micro F1", "macro F1", "accuracy") if "micro F1" in first else ("accuracy", "macro F1",
                                                                                 "calibration error")  # fmt: skip
    others = ("TF-IDF", "the frozen base")
    lines = [
        f"| | {' | '.join(measures)} | {' | '.join(f'{measures[0]} above {other}' for other in others)} | validation | "
        "training, s | tokens/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        scores = by_metric(one["report"])
        above = [by_metric(one["report"]["beside"][other])[measures[0]]["difference"] for other in others]
        cells = [
            f"{one['name']}, seed {one['seed']}", *(shown(scores[name]["score"]) for name in measures),
            *(f"{gain['value']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]" for gain in above), one["validation"],
            f"{one['seconds']:.0f}", f"{one['tokens_per_second']:,.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    beside = {other: by_metric(found[0]["report"]["beside"][other]) for other in others}
    for name, scores in (
        ("TF-IDF and linear SVM", beside["TF-IDF"]), ("the frozen base and logistic regression", beside[others[1]]),
        (found[0]["report"]["against"], first),
    ):  # fmt: skip
        cells = [shown(scores[measure]["other"]) if measure in scores else "" for measure in measures]
        lines.append(f"| {name} | {' | '.join(cells)} |  |  |  |  |  |")
    return "\n".join(lines)


def by_metric(report: dict[str, Any]) -> dict[str, Any]:
    """The scores of a report by their names."""
    return {score["metric"]: score for score in report["scores"]}


def chosen_by(found: list[dict[str, Any]]) -> str:
    """What each run was validated at."""
    lines = ["| | validation | training, s | tokens/s |", "|---|---|---|---|"]
    lines += [
        f"| {one['name']}, seed {one['seed']} | {one['validation']} | {one['seconds']:.0f} | "
        f"{one['tokens_per_second']:,.0f} |"
        for one in found
    ]
    return "\n".join(lines)


def slot_table(found: list[dict[str, Any]]) -> str:
    """All runs over slots, and each word's most frequent tag on the same rows."""
    named = ("entity F1", "entity precision", "entity recall", "macro entity F1", "word accuracy")
    lines = [
        "| | entity F1 | precision | recall | macro F1 | word accuracy, % | validation F1 | training, s | tokens/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        scores = {score["metric"]: score["score"] for score in one["report"]["scores"]}
        cells = [
            f"{one['name']}, seed {one['seed']}", *(shown(scores[name]) for name in named), one["validation"],
            f"{one['seconds']:.0f}", f"{one['tokens_per_second']:,.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    others = {score["metric"]: score["other"] for score in found[0]["report"]["scores"]}
    lines.append(f"| each word's most frequent tag | {' | '.join(shown(others[name]) for name in named)} |  |  |  |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=sorted([*CASES, "domain"]))
    parser.add_argument("--base", help="folder of the encoder; of domain, a further base")
    parser.add_argument("--train", help="CSV with text and category")
    parser.add_argument("--test", help="the same, for the end")
    parser.add_argument("--folder", help="folder with fold0.json to fold19.json")
    parser.add_argument("--only", nargs="*", help="names of runs")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--runs", default="runs/tasks", help="folder for the runs")
    parser.add_argument("--choose", action="store_true", help="only validate, on a fifth of the training rows")
    parser.add_argument("--write", action="store_true", help="into the page of the task in docs/tasks")
    arguments = parser.parse_args()
    if arguments.what == "banking77" and not (arguments.base and arguments.train and arguments.test):
        parser.error("banking77 needs --base, --train and --test")
    if arguments.what in ("intents", "slots") and not (arguments.base and arguments.folder):
        parser.error(f"{arguments.what} needs --base and --folder")
    if arguments.what == "domain":
        found, shown_in = in_domain(arguments), domain.table
    else:
        names = arguments.only or list(CASES[arguments.what])
        found = [run(arguments.what, name, seed, arguments) for name in names for seed in arguments.seeds]
        shown_in = slot_table if arguments.what == "slots" else table
    if arguments.choose:
        print(chosen_by(found))
        return
    rows = found[0]["report"]["rows"]
    head = (
        f"{rows:,} test rows; {os.cpu_count()} cores of {processor()}, torch {version('torch')}, transformers "
        f"{version('transformers')}, {datetime.now(UTC):%Y-%m-%d}."
    )
    text = f"{head}\n\n{shown_in(found)}"
    print(text)
    if arguments.write:
        put(arguments.what, text, PAGES / f"{PAGE_OF.get(arguments.what, 'classify')}.md")


if __name__ == "__main__":
    main()
