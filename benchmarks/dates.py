"""Dates written out become ISO dates: a small T5 with random weights learns it from scratch, on the usual road.

    python benchmarks/dates.py --write

The rows are made here: a date of 1900 to 2049 in one of seven ways of writing, and what it is: `Friday, the 3rd of July
2020` becomes `2020-07-03`. No date of the test rows is among the training rows in any way of writing. The tokenizer is
made from the training rows (bytes, merged to 400 pieces, digits apart), the model from nothing. About five minutes of
one core. A run that has finished is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from results import put
from start import processor

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tasks" / "seq2seq.md"
FIRST, DAYS = date(1900, 1, 1), 54_787  # to the end of 2049
TRAINING, TEST = 12_000, 500
PIECES = 400
SETTINGS: dict[str, Any] = {
    "method": {"type": "full"},
    "objective": {"type": "seq2seq"},
    "model": {"dropout": 0.0},
    "optim": {"learning_rate": 2e-3, "epochs": 8, "batch_size": 64, "warmup": 0.05},
    "evaluate": {"rows": TEST, "max_new_tokens": 16},
    "precision": "fp32",
}


def ordinal(day: int) -> str:
    """1st, 2nd, 3rd, 4th."""
    ending = "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def written(day: date, chance: random.Random) -> str:
    """A date as people write it."""
    month, short, week = day.strftime("%B"), day.strftime("%b"), day.strftime("%A")
    return chance.choice(
        (
            f"{day.day} {month} {day.year}", f"{month} {day.day}, {day.year}",
            f"the {ordinal(day.day)} of {month} {day.year}",
            f"{week}, the {ordinal(day.day)} of {month} {day.year}", f"{short} {ordinal(day.day)} {day.year}",
            f"{week[:3]} {day.day} {short} {day.year}", f"{day.day}.{day.month}.{day.year}",
        )
    )  # fmt: skip


def rows(count: int, skip: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows of so many different dates, after those that were skipped of an order that the seed makes."""
    order = list(range(DAYS))
    random.Random(seed).shuffle(order)
    chance = random.Random(f"{seed}/{skip}")
    days = [FIRST + timedelta(days=place) for place in order[skip : skip + count]]
    return [{"source": written(day, chance), "target": day.isoformat()} for day in days]


def save_rows(folder: Path, training: int, test: int) -> dict[str, str]:
    """The files of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": rows(training, 0), "validation": rows(200, training), "test": rows(test, training + 200)}
    for name, some in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in some), encoding="utf-8")
    return {name: str(folder / f"{name}.jsonl") for name in parts}


def save_base(folder: Path, training: Path) -> None:
    """A T5 with random weights, and a tokenizer made from the training rows."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    texts = [text for line in training.read_text(encoding="utf-8").splitlines() for text in json.loads(line).values()]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<unk>"]
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=PIECES, special_tokens=special))
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=backend.get_vocab_size(), d_model=128, d_kv=32, d_ff=384, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)


def run(folder: Path, training: int = TRAINING, test: int = TEST, epochs: float = 8) -> dict[str, Any]:
    """What the run has found: its report, its seconds of training, its tokens a second and its share of padding."""
    from tunesmith.core.config import to_yaml
    from tunesmith.core.events import METRICS
    from tunesmith.core.files import read_json, read_lines
    from tunesmith.jobs.compare_methods import go_on
    from tunesmith.train.recipe import read_recipe

    data = save_rows(folder / "dates-rows", training, test)
    if not (folder / "dates-base" / "config.json").exists():
        save_base(folder / "dates-base", Path(data["train"]))
    settings = {
        **SETTINGS,
        "model": {**SETTINGS["model"], "base": str(folder / "dates-base")},
        "optim": {**SETTINGS["optim"], "epochs": epochs},
        "data": {**data, "near_duplicates": "off"},
        "output": {"folder": str(folder), "name": "dates"},
    }
    recipe_file = folder / "dates.yaml"
    recipe_file.write_text("{}", encoding="utf-8")
    recipe = read_recipe(recipe_file, settings)
    recipe_file.write_text(to_yaml(recipe), encoding="utf-8")
    go_on(folder / "dates", recipe, lambda event: None)
    steps = read_lines(folder / "dates" / METRICS)
    speeds = sorted(step["tokens_per_second"] for step in steps)
    return {
        "report": read_json(folder / "dates" / "report" / "report.json"),
        "padding": read_json(folder / "dates" / "plan.json")["padding"],
        "seconds": sum(step["seconds"] for step in steps),
        "tokens_per_second": speeds[len(speeds) // 2],
        "rows": training,
        "steps": len(steps),
    }


def shown(score: dict[str, Any] | None) -> str:
    """A score with its interval."""
    return "" if score is None else f"{score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def table(found: dict[str, Any]) -> str:
    """The trained model, the base, and the source as it is."""
    report = found["report"]
    tuned = {one["metric"]: one for one in report["scores"]}
    beside = {name: {one["metric"]: one for one in other["scores"]} for name, other in report["beside"].items()}
    columns = ("exact match", "chrF", "token accuracy", "ends by itself")
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines.append(f"| trained | {' | '.join(shown(tuned[name]['score']) for name in columns)} |")
    lines.append(f"| before | {' | '.join(shown(tuned[name]['other']) for name in columns)} |")
    for name, scores in beside.items():
        cells = [shown(scores[column]["other"]) if column in scores else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", default="runs/tasks", help="folder for the run")
    parser.add_argument("--write", action="store_true", help="into docs/tasks/seq2seq.md")
    arguments = parser.parse_args()
    found = run(Path(arguments.runs))
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    told = f"{found['seconds']:.0f} s of training at {found['tokens_per_second']:,.0f} tokens/s"
    head = (
        f"{found['report']['rows']} test rows; {found['rows']:,} training rows, {found['steps']:,} steps, {told}, "
        f"{found['padding']:.0%} of it padding;\n{threads} threads of {processor()}; torch "
        f"{version('torch')}, transformers {version('transformers')}, {datetime.now(UTC):%Y-%m-%d}."
    )
    text = f"{head}\n\n{table(found)}"
    print(text)
    if arguments.write:
        put("dates", text, PAGE)


if __name__ == "__main__":
    main()
