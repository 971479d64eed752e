"""Taking on a domain's language: this project's own pages, learned as plain text, and what is forgotten elsewhere.

`python benchmarks/tasks.py domain --write` runs it. The domain is what the pages below say; held out are sections of
them that no model has seen. Outside are tunesmith's own plain texts, small stories and notices.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = ("data", "evaluate", "how-it-works", "infer", "jobs", "methods", "model", "operations", "prompt", "registry",
         "serve", "speed", "train")  # fmt: skip
OUTSIDE = "plain text"
DATA = {
    "train": [str(DOCS / f"{page}.md") for page in PAGES], "validation": 0, "test": 0.2, "max_length": 256,
}  # fmt: skip
SHARED: dict[str, Any] = {
    "objective": {"type": "pretrain"}, "data": DATA, "evaluate": {"general_ability": "auto", "rows": 400},
    "precision": "auto", "seed": 0,
}  # fmt: skip
EMBER: dict[str, dict[str, Any]] = {
    "full": {"method": {"type": "full"}, "optim": {"learning_rate": 1e-3, "epochs": 3, "batch_size": 8}},
    "lora": {
        "method": {"type": "lora", "rank": 16}, "optim": {"learning_rate": 5e-3, "epochs": 3, "batch_size": 8},
    },
}  # fmt: skip
OTHERS: dict[str, dict[str, Any]] = {  # models of 100 million weights: a few steps
    "full": {"method": {"type": "full"}, "optim": {"learning_rate": 5e-5, "steps": 20, "batch_size": 8}},
    "lora": {
        "method": {"type": "lora", "rank": 16}, "optim": {"learning_rate": 5e-4, "steps": 20, "batch_size": 8},
    },
}  # fmt: skip


def settings(base: str, name: str) -> dict[str, Any]:
    """The recipe of a run."""
    return {**SHARED, "model.base": base, **(EMBER if base == "ember" else OTHERS)[name]}


def table(found: list[dict[str, Any]]) -> str:
    """All runs: in the domain and outside, before and after."""
    lines = [
        "| | rows | in the domain, before | after | difference | outside, before | after | difference | steps "
        "| training, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for one in found:
        report = one["report"]
        outside = report["general_ability"][OUTSIDE]
        cells = [
            f"{one['base']}, {one['name']}", str(report["rows"]),
            *_shown(report["scores"][0]), *_shown(outside["scores"][0]), str(one["steps"]), f"{one['seconds']:.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(score: dict[str, Any]) -> list[str]:
    """Perplexity before, after, and their difference, with intervals."""
    return [
        f"{one['value']:,.2f} [{one['low']:,.2f}, {one['high']:,.2f}]"
        for one in (score["other"], score["score"], score["difference"])
    ]
