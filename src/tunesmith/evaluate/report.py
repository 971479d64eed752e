"""The page about a run: self-contained HTML that opens from disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.core.pages import render
from tunesmith.evaluate.compare import EvalReport, Sample
from tunesmith.evaluate.pictures import length_histogram, loss_curve
from tunesmith.score.interval import show


@dataclass(frozen=True)
class Story:
    """All that the page tells.

    Attributes:
        title: its heading.
        lead: one sentence below it.
        steps: `step` events.
        validations: `validation` events.
        lengths: tokens of each training row.
        trained: trained tokens of each training row.
        ledger: the ledger's sentence.
        recipe: YAML.
        plan: plain values of plan.json.
        report: the comparison, or None if there were no rows for it.
        samples: how many of its samples to show.
    """

    title: str
    lead: str
    steps: Sequence[dict[str, Any]]
    validations: Sequence[dict[str, Any]]
    lengths: Sequence[int]
    trained: Sequence[int]
    ledger: str
    recipe: str
    plan: dict[str, Any]
    report: EvalReport | None
    samples: int


def pick_samples(report: EvalReport | None, count: int) -> list[Sample]:
    """The first `count` samples."""
    return [] if report is None else report.samples[:count]


def render_page(story: Story) -> str:
    """The page as HTML text. Everything from data or models is escaped."""
    last = story.steps[-1]
    return render(
        "tunesmith.evaluate",
        "report.html.jinja",
        number=show,
        title=story.title,
        lead=story.lead,
        tiles=[
            {"name": "steps", "value": last["step"]},
            {"name": "final loss", "value": f"{last['loss']:.3f}"},
            {"name": "training rows", "value": len(story.lengths)},
            {"name": "tokens/s", "value": f"{median_speed(story.steps):,.0f}"},
            {
                "name": "memory, most seen",
                "value": f"{max(step['memory_bytes'] for step in story.steps) / 2**30:.2f} GB",
            },
        ],
        report=story.report,
        samples=pick_samples(story.report, story.samples),
        loss_svg=loss_curve(story.steps, story.validations),
        length_svg=length_histogram(story.lengths, story.trained),
        ledger=story.ledger,
        recipe=story.recipe,
        plan=json.dumps(story.plan, indent=2),
    )


def median_speed(steps: Sequence[dict[str, Any]]) -> float:
    """Tokens per second of the middle step: untouched by the slow first one."""
    return sorted(step["tokens_per_second"] for step in steps)[len(steps) // 2]
