"""Prompting beside tuned models, on real rows: all variants, one table.

    python benchmarks/prompts.py hotel --write
    python benchmarks/prompts.py hotel --models ember,runs/tasks/hotel-full-0,https://host/v1#model --write
    python benchmarks/prompts.py banking77 --train train.csv --test test.csv --models ember,FOLDER --write

`hotel`: the intents of the demo's questions, as `tasks.py` has them. `banking77`: 77 intents of a bank's customers
(Casanueva et al., 2020, CC BY 4.0; PolyAI-LDN/task-specific-datasets). Runs that `tasks.py` made stand beside prompts
when they are named. What was answered once is kept: called again, it goes on.
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
from tasks import ASSETS, intents

PAGE = Path(__file__).resolve().parents[1] / "docs" / "prompting.md"
METRICS = ("accuracy", "macro F1", "unmatched answers")


def files_of(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Which rows are asked about."""
    if arguments.what == "banking77":
        return {"data": arguments.train, "test": arguments.test, "columns": {"label": "category"}}
    train, test = (intents(ASSETS / f"{name}.jsonl", folder / f"intents-{name}.jsonl") for name in ("train", "test"))
    return {"data": str(train), "test": str(test), "columns": {}}


def find(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `tunesmith prompts` finds."""
    from tunesmith.cli.screen import live_screen
    from tunesmith.jobs.start import try_prompts

    options = {
        **files_of(arguments, Path(arguments.folder)), "models": arguments.models.split(","),
        "shots": [int(one) for one in arguments.shots.split(",")], "examples": [], "instruction": None,
        "template": None, "rows": arguments.rows, "validation": None, "validate_only": False, "metric": None,
        "scoring": arguments.scoring, "against": "best", "max_new_tokens": None, "price": arguments.price,
        "max_requests": arguments.max_requests, "max_cost": arguments.max_cost, "format": None, "label_names": None,
        "chat_template": arguments.chat_template, "seed": 0, "device": arguments.device,
    }  # fmt: skip
    with live_screen() as screen:
        return try_prompts(options, screen)


def text_of(found: dict[str, Any], scoring: str) -> str:
    """Both tables, and what they were made with."""
    from tunesmith.evaluate.prompts.page import as_markdown, legend, titles

    head = (
        f"{len(found['labels'])} labels, scoring `{scoring}`; {os.cpu_count()} cores of {processor()}, torch "
        f"{version('torch')}, {datetime.now(UTC):%Y-%m-%d}."
    )
    parts = [
        f"{title[0].upper()}{title[1:]}:\n\n{as_markdown(found, part, METRICS)}"
        for part, title in titles(found).items()
    ]
    return "\n\n".join([head, *parts, " ".join([*legend(found), *found["notes"]])])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("hotel", "banking77"))
    parser.add_argument(
        "--models", default="ember", help="parted by commas; the first ones as `tunesmith prompts` takes them"
    )
    parser.add_argument("--train", help="CSV with text and category")
    parser.add_argument("--test", help="the same, for the end")
    parser.add_argument("--shots", default="0,1,4,8")
    parser.add_argument("--rows", type=int, default=200, help="most rows of each held-out part")
    parser.add_argument("--scoring", default="sum", choices=("sum", "mean", "pmi"))
    parser.add_argument("--price", nargs="*", default=[])
    parser.add_argument("--max-requests", type=int)
    parser.add_argument("--max-cost", type=float)
    parser.add_argument("--chat-template")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", default="runs/prompts", help="for the files of rows")
    parser.add_argument("--write", action="store_true", help="into docs/prompting.md")
    arguments = parser.parse_args()
    if arguments.what == "banking77" and not (arguments.train and arguments.test):
        parser.error("banking77 needs --train and --test")
    text = text_of(find(arguments), arguments.scoring)
    print(text)
    if arguments.write:
        put(arguments.what, text, PAGE)


if __name__ == "__main__":
    main()
