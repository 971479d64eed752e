"""What a run says of itself: its data in numbers, the account of its rows, the page of its report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.core.events import EVENTS, METRICS
from tunesmith.core.files import read_lines, write_json, write_text
from tunesmith.core.names import counted
from tunesmith.data.prepare import spread
from tunesmith.data.quality.ledger import total
from tunesmith.data.split import Splits
from tunesmith.evaluate.report import Story, render_page
from tunesmith.jobs.final_evaluation import Found
from tunesmith.train.planning.plan import Plan
from tunesmith.train.recipe import Recipe
from tunesmith.train.schedules import schedule


def describe(splits: Splits) -> dict[str, Any]:
    """What the data is, in numbers."""
    return {
        "format": splits.format,
        "ledgers": [
            {"file": ledger.file, "sentence": " ".join((ledger.sentence(), *ledger.remarks))}
            for ledger in splits.ledgers
        ],
        "rows": {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)},
        "tokens": asdict(spread(splits.train.lengths)),
        "trained_tokens": int(splits.train.trained.sum()),
        "id": splits.train.dataset.id,
        "replay": splits.replay.to_json() if splits.replay else None,
    }


def ledgers_of(splits: Splits) -> list[dict[str, Any]]:
    """The account of every row that was read, for ledger.json; files of replayed rows are marked."""
    replayed = splits.replay.ledgers if splits.replay else []
    return [
        *(ledger.to_json() for ledger in splits.ledgers),
        *({**one.to_json(), "replayed": True} for one in replayed),
    ]


def write_report(folder: Path, recipe: Recipe, splits: Splits, plan: Plan, found: Found) -> None:
    """report/report.html and report/report.json, with what is behind its scores in rows.jsonl."""
    target = folder / "report"
    target.mkdir(exist_ok=True)
    method, said, taken = recipe.method.type, read_lines(folder / EVENTS), read_lines(folder / METRICS)
    factor = schedule(recipe.optim.scheduler, recipe.optim.warmup, taken[-1]["steps"])
    peak = [event["learning_rate"] for event in said if event["kind"] == "plan"][-1]
    names = ", ".join(Path(ledger.file).name for ledger in splits.ledgers[:3])
    story = Story(
        title=folder.name,
        lead=f"{recipe.model.base}, {method}, {counted(len(splits.train), f'row of {names}')}",
        steps=taken,
        rates=[peak * factor(step) for step in range(taken[-1]["steps"])],
        groups=[event["groups"] for event in said if event["kind"] == "rates"][-1],
        validations=[event for event in said if event["kind"] == "validation"],
        notes=list(dict.fromkeys(event["sentence"] for event in said if event["kind"] == "warning")),
        lengths=splits.train.lengths.tolist(),
        trained=splits.train.trained.tolist(),
        ledger=total(splits.ledgers, "all files").sentence(),
        replayed=splits.replay.sentence() if splits.replay else "",
        recipe=(folder / "config.yaml").read_text(encoding="utf-8"),
        plan=plan.to_json(),
        report=found.report,
        general=found.general,
        samples=recipe.evaluate.samples,
        beside=found.beside,
        pictures=found.pictures,
    )
    write_text(target / "report.html", render_page(story))
    if found.report is not None:
        write_json(target / "report.json", found.to_json())
        write_text(target / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in found.rows))
