"""Training and asking a classifier: rows a second beside transformers' Trainer and pipeline, in one run.

    python benchmarks/classify_speed.py --base FOLDER --train train.csv --write      # -> docs/tasks/classify.md

Both train all weights of the same base on the same rows, without dropout (and once with the encoder's own), with each
of --batches: `Trainer` in bf16 with rows grouped by length, and with its defaults too (fp32, 8 rows a step, padded as
they come). Another run of ours trains the words, too, that no row has, as it would without `model/used_words`. The
pipeline answers with its default, one text at a time, and in batches; both sides answer in fp32 and in bf16. Each takes
a process of its own, one after the other. Training goes twice over the rows, and the second time counts, all of it:
where rows are grouped by length, one step takes ten times as long as another. Reading and padding rows counts on
tunesmith's side alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from results import put
from start import processor

from tunesmith.core.names import counted

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tasks" / "classify.md"
EPOCHS = 2  # the last one counts: what is made once is made before
LONGEST = 128  # tokens


def rows_of(file: str, most: int) -> list[dict[str, str]]:
    """The first rows of a CSV with text and category, spread over the file."""
    with Path(file).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return rows[:: max(1, len(rows) // most)][:most]


def ours(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """tunesmith, by a recipe."""
    from tunesmith.core.config import to_yaml
    from tunesmith.core.events import METRICS, silent
    from tunesmith.core.files import read_json, read_lines
    from tunesmith.jobs import words
    from tunesmith.jobs.finetune import finetune
    from tunesmith.train.recipe import read_recipe

    data = folder / "rows.jsonl"
    rows = rows_of(options.train, options.rows)
    data.write_text("".join(json.dumps({"text": row["text"], "label": row["category"]}) + "\n" for row in rows))
    settings = {
        "objective": {"type": "classify"}, "method": {"type": "full"},
        "model": {"base": options.base, "dropout": None if options.own_dropout else 0.0},
        "data": {"train": str(data), "validation": 0, "test": 0, "near_duplicates": "off", "duplicates": "keep"},
        "optim": {"learning_rate": 2e-4, "epochs": EPOCHS, "batch_size": options.batch, "warmup": 0},
        "output": {"folder": str(folder), "name": "run", "checkpoint_every": 10**6}, "compile": options.compile,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text("{}")
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(read_recipe(folder / "recipe.yaml", settings)))
    if options.all_words:
        words.part_words = lambda model, ids: 0
    finetune({"folder": str(run), "until": "trained"}, silent, lambda: False)
    seconds = [step["seconds"] for step in read_lines(run / METRICS)]
    plan = read_json(run / "plan.json")
    return {"rows": rate(seconds, len(rows)), "precision": plan["precision"]}


def rate(seconds: list[float], rows: int) -> float:
    """Rows a second of the last pass over them."""
    return rows / sum(seconds[-(len(seconds) // EPOCHS) :])


def theirs(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """transformers' Trainer."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    rows = rows_of(options.train, options.rows)
    names = sorted({row["category"] for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    encoded = [tokenizer(row["text"], truncation=True, max_length=LONGEST) for row in rows]
    data = [{**one, "labels": names.index(row["category"])} for one, row in zip(encoded, rows, strict=True)]
    torch.manual_seed(0)
    rates = () if options.own_dropout else ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    model = AutoModelForSequenceClassification.from_pretrained(
        options.base, num_labels=len(names), ignore_mismatched_sizes=True, **dict.fromkeys(rates, 0.0)
    )
    seconds: list[float] = []

    class Clock(TrainerCallback):
        """Notes how long each step takes."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            """A step begins."""
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            """It has ended."""
            seconds.append(time.perf_counter() - self.began)

    fast = {"bf16": True, "train_sampling_strategy": "group_by_length"} if options.fast else {}
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, num_train_epochs=EPOCHS, per_device_train_batch_size=options.batch,
        report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no", learning_rate=2e-4, **fast,
    )  # fmt: skip
    Trainer(
        model=model, args=arguments, train_dataset=data,  # pyright: ignore[reportArgumentType]
        data_collator=DataCollatorWithPadding(tokenizer), callbacks=[Clock()],
    ).train()  # fmt: skip
    return {"rows": rate(seconds, len(rows)), "precision": "bf16" if options.fast else "fp32"}


def asked(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Answers: tunesmith's, or the pipeline's in batches of `options.batch`, of one model with a fresh head."""
    import torch

    from tunesmith.infer.predict.classes import Classifier
    from tunesmith.model.load import LoadSpec, load
    from tunesmith.prompt.load import load_contract

    rows = rows_of(options.train, options.rows)
    facts = {"labels": dict.fromkeys(sorted({row["category"] for row in rows}), 1)}
    precision = "bf16" if options.fast else "fp32"
    model = load(Path(options.base), LoadSpec(task="classify", facts=facts, precision=precision)).model.eval()
    texts = [row["text"] for row in rows]
    if options.side == "predict":
        classifier = Classifier(model, load_contract(Path(options.base), chat=False), {})
        ask = classifier.predict
    else:
        from transformers import AutoTokenizer, pipeline

        pipe = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(options.base),
                        device="cpu", batch_size=options.batch)  # fmt: skip

        def ask(texts: list[str]) -> list[Any]:
            with torch.inference_mode():
                return list(pipe(texts))

    ask(texts[:64])
    began = time.perf_counter()
    said = ask(texts)
    seconds = time.perf_counter() - began
    labels = [one["label"] if isinstance(one, dict) else one.label for one in said]
    return {"rows": len(texts) / seconds, "precision": precision, "said": labels}


def measured(side: str, batch: int, fast: bool, options: argparse.Namespace, *more: str) -> dict[str, Any]:
    """One side, in a process of its own."""
    command = [
        sys.executable, str(Path(__file__).resolve()), "--side", side, "--batch", str(batch), "--base", options.base,
        "--train", options.train, "--rows", str(options.rows), "--compile", options.compile,
        *(["--fast"] if fast else []), *more,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def table(options: argparse.Namespace) -> str:
    """All sides, with how much faster tunesmith is than each."""
    training = in_turn(options)
    said = [answers(fast, options) for fast in (False, True)]
    lines = ["| training | precision | rows/s | tunesmith is so many times as fast |", "|---|---|---|---|"]
    lines += _rows(training)
    lines += [
        "",
        "| answering | precision | rows/s | tunesmith is so many times as fast | label as tunesmith's in fp32 |",
        "|---|---|---|---|---|",
    ]
    exact = said[0][0][1]["said"]
    for some in said:
        same = [sum(map(str.__eq__, exact, one["said"])) / len(exact) for _, one in some]
        lines += [f"{line} {share:.2%} |" for line, share in zip(_rows(some), same, strict=True)]
    return "\n".join(lines)


def in_turn(options: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """All sides of training, the fastest of ours first: of each the median round, since a machine has slow minutes."""
    sides: dict[str, tuple[Any, ...]] = {}
    for batch in options.batches:
        sides[f"tunesmith, {batch} rows a step"] = "ours", batch, False
    sides[f"tunesmith, {options.batches[-1]}, all words trained"] = "ours", options.batches[-1], False, "--all-words"
    for batch in options.batches:
        sides[f"Trainer, rows grouped by length, {batch}"] = "theirs", batch, True
    middle = options.batches[len(options.batches) // 2]
    brought = f"tunesmith, {middle}, dropout as the encoder brings it", f"Trainer, so too, {middle}"
    for name, side, fast in zip(brought, ("ours", "theirs"), (False, True), strict=True):
        sides[name] = side, middle, fast, "--own-dropout"
    sides["Trainer, its defaults"] = "theirs", 8, False
    rounds = [
        {name: measured(side, batch, fast, options, *more) for name, (side, batch, fast, *more) in sides.items()}
        for _ in range(options.rounds)
    ]
    found = {name: rounds[0][name] | {"rows": statistics.median(one[name]["rows"] for one in rounds)} for name in sides}
    for name in brought:
        found[name]["like"] = found[brought[0]]["rows"]
    ours = [name for name in found if name.startswith("tunesmith") and name not in brought]
    best = max(ours, key=lambda name: found[name]["rows"])
    return [(best, found.pop(best)), *found.items()]


def answers(fast: bool, options: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """Both sides in one precision, ours first."""
    found = [("tunesmith predict", measured("predict", 0, fast, options))]
    found += [
        (f"pipeline, batches of {batch}", measured("pipeline", batch, fast, options)) for batch in options.batches
    ]
    return [*found, ("pipeline, its default batch", measured("pipeline", 1, fast, options))]


def _rows(found: list[tuple[str, dict[str, Any]]]) -> list[str]:
    first = found[0][1]["rows"]
    return [
        f"| {name} | {one['precision']} | {one['rows']:.1f} | {one.get('like', first) / one['rows']:.2f} |"
        for name, one in found
    ]


def main() -> None:
    """Measure all sides, or be one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base", required=True, help="folder of an encoder")
    parser.add_argument("--train", required=True, help="CSV with text and category")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--rounds", type=int, default=1, help="of training, all sides in turn")
    parser.add_argument("--compile", default="auto", choices=["auto", "on", "off"], help="layers of tunesmith's side")
    parser.add_argument("--write", action="store_true", help="into docs/tasks/classify.md")
    parser.add_argument("--side", choices=["ours", "theirs", "predict", "pipeline"], help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--all-words", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--own-dropout", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--fast", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side = {"ours": ours, "theirs": theirs}.get(options.side, asked)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(side(options, Path(folder))))
        return
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    libraries = f"torch {version('torch')}, transformers {version('transformers')}"
    where = (
        f"{len(rows_of(options.train, options.rows))} rows, {counted(options.rounds, 'round')}; {threads} threads of "
        f"{processor()}; {libraries}, {datetime.now(UTC):%Y-%m-%d}."
    )
    text = f"{where}\n\n{table(options)}"
    print(text)
    if options.write:
        put("classify-speed", text, PAGE)


if __name__ == "__main__":
    main()
