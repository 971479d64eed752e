"""The page about a run, or about an evaluation alone: self-contained HTML that opens from disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.core.events import watched
from tunesmith.core.names import counted, shortest_ends
from tunesmith.core.pages import render
from tunesmith.evaluate.compare import Comparison, EvalReport, Sample
from tunesmith.evaluate.pictures import curve_over_steps, length_histogram, other_curves, schedule_curve
from tunesmith.evaluate.score_pictures import run_colours, score_dots
from tunesmith.score.interval import VERDICTS, show

IN_SLICES = (
    "perplexity",
    "BLEU",
    "token F1",
    "accuracy",
    "macro F1",
    "Pearson",
)  # the metrics that tables of parts show

NO_REPORTS: Mapping[str, EvalReport] = {}


@dataclass(frozen=True)
class Picture:
    """A picture with its heading and a sentence."""

    title: str
    said: str
    svg: str


@dataclass(frozen=True)
class Story:
    """All that the page of a run tells.

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
        general: what was found on rows that the run is not about, by what they are.
        samples: how many samples to show.
        replayed: what was replayed beside the training rows, a sentence; empty if nothing was.
        notes: what else the run had to say, in sentences.
        rates: learning rate of each step of the whole schedule.
        groups: which weights learn how fast, as the `rates` event has it.
        beside: the same rows beside further models, by their names.
        pictures: of what was said.
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
    general: dict[str, EvalReport]
    samples: int
    replayed: str = ""
    notes: Sequence[str] = ()
    rates: Sequence[float] = ()
    groups: Sequence[dict[str, Any]] = ()
    beside: Mapping[str, EvalReport] = field(default_factory=dict[str, EvalReport])
    pictures: Sequence[Picture] = ()


def pick_samples(report: EvalReport | None, count: int) -> list[Sample]:
    """The first `count` samples."""
    return [] if report is None else report.samples[:count]


def render_page(story: Story) -> str:
    """The page of a run as HTML text. Everything from data or models is escaped."""
    name = watched(story.steps)
    last = [step for step in story.steps if name in step][-1]
    tiles = {
        "steps": story.steps[-1]["step"],
        f"final {name}": f"{last[name]:.3f}",
        "training rows": len(story.lengths),
        "tokens/s": f"{median_speed(story.steps):,.0f}",
        "memory, most seen": f"{max(step['memory_bytes'] for step in story.steps) / 2**30:.2f} GB",
    }
    sections = [_section(f"Scores on {story.report.rows} held-out rows", story.report)] if story.report else []
    return _render(
        story.title,
        story.lead,
        tiles,
        [*sections, *beside_others(story.beside), *forgetting(story.general)],
        pick_samples(story.report, story.samples),
        watched=name.capitalize(),
        loss_svg=curve_over_steps(name, story.steps, story.validations),
        other_svg=other_curves(name, story.steps, story.validations),
        schedule_svg=schedule_curve(story.rates, len(story.steps)) if story.rates else "",
        groups=list(story.groups) if len(story.groups) > 1 else [],
        length_svg=length_histogram(story.lengths, story.trained),
        pictures=story.pictures,
        ledger=story.ledger,
        replayed=story.replayed,
        notes=list(story.notes),
        recipe=story.recipe,
        plan=json.dumps(story.plan, indent=2),
    )


def render_evaluation(
    report: EvalReport, general: Mapping[str, EvalReport], samples: int, beside: Mapping[str, EvalReport] = NO_REPORTS,
    pictures: Sequence[Picture] = (),
) -> str:  # fmt: skip
    """The page of an evaluation alone as HTML text."""
    lead = f"beside {report.against}, on the same rows" if report.against else "measured alone"
    first = _section(f"Scores on {counted(report.rows, 'row')}", report)
    sections = [first, *beside_others(beside), *forgetting(general)]
    return _render(report.model, lead, {}, sections, pick_samples(report, samples), pictures=pictures)


def beside_others(reports: Mapping[str, EvalReport]) -> list[dict[str, Any]]:
    """A section for each further model that the same rows were given to."""
    return [_section(f"Beside {name}", report) for name, report in reports.items()]


def forgetting(general: Mapping[str, EvalReport]) -> list[dict[str, Any]]:
    """A section for each set of general rows: what the model can still do that it was not tuned for."""
    lead = "Nobody trained on these. A model that gets worse here has forgotten something."
    return [
        _section(f"What was forgotten: {what}, {counted(report.rows, 'row')}", report, lead)
        for what, report in general.items()
    ]


def models_of(report: EvalReport) -> list[dict[str, str]]:
    """The models of a report, the one beside first, each with a name as short as tells them apart, and its colour."""
    names = [report.against, report.model] if report.against else [report.model]
    return [
        {"name": name, "colour": colour}
        for name, colour in zip(shortest_ends(names), run_colours(len(names)), strict=True)
    ]


def grouped(scores: Sequence[Comparison]) -> list[tuple[str, list[Comparison]]]:
    """The metrics by what their differences show: what got better, what got worse, then the rest."""
    verdicts = [verdict for verdict in VERDICTS if any(score.verdict == verdict for score in scores)]
    found = [(verdict, [score for score in scores if score.verdict == verdict]) for verdict in verdicts]
    without = [score for score in scores if not score.verdict]
    return [*found, ("", without)] if without else found


def _section(title: str, report: EvalReport, lead: str = "") -> dict[str, Any]:
    models, groups = models_of(report), grouped(report.scores)
    first = [group for group in groups if group[0] in ("better", "worse")] or groups
    panels = [
        (row.metric, [row.other, row.score] if report.against else [row.score]) for _, rows in first for row in rows
    ]
    return {
        "title": title,
        "lead": lead,
        "report": report,
        "models": models,
        "said": ", ".join(f"{verdict} in {counted(len(rows), 'metric')}" for verdict, rows in groups if verdict),
        "first": first,
        "rest": [group for group in groups if group not in first],
        "dots": score_dots(panels, [model["name"] for model in models]) if panels else "",
        "in_slices": [row.metric for row in report.scores if row.metric in IN_SLICES],
    }


def _render(
    title: str, lead: str, tiles: dict[str, Any], sections: list[dict[str, Any]], samples: list[Sample], **rest: Any
) -> str:
    absent = {
        "watched": "",
        "loss_svg": "",
        "other_svg": "",
        "schedule_svg": "",
        "groups": [],
        "length_svg": "",
        "pictures": [],
        "ledger": "",
        "replayed": "",
        "notes": [],
        "recipe": "",
        "plan": "",
    }
    return render(
        "tunesmith.evaluate",
        "report.html.jinja",
        number=show,
        title=title,
        lead=lead,
        tiles=[{"name": name, "value": value} for name, value in tiles.items()],
        sections=sections,
        samples=samples,
        **{**absent, **rest},
    )


def median_speed(steps: Sequence[dict[str, Any]]) -> float:
    """Tokens per second of the median step: untouched by the slow first one."""
    return sorted(step["tokens_per_second"] for step in steps)[len(steps) // 2]
