"""The end of a run: base and published model, loaded from their folders, on held-out rows and on the probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.core.events import Report
from tunesmith.data.prepare import Prepared, dataset_id
from tunesmith.evaluate.budget import choose_sample, seconds_a_row
from tunesmith.evaluate.compare import EvalReport, compare, rows_of
from tunesmith.evaluate.probe import load_probe, probe_files
from tunesmith.evaluate.report import pick_samples
from tunesmith.evaluate.suite import Measured, measure
from tunesmith.infer.local import LocalEngine
from tunesmith.jobs.recipe import Recipe
from tunesmith.model.load import answering, load_model
from tunesmith.model.publish import find_published
from tunesmith.prompt.base import Base
from tunesmith.prompt.contract import Contract

LONGEST_PROBE = 512  # tokens of a probe's row, within what the model takes


@dataclass(frozen=True)
class Found:
    """What the end of a run showed.

    Attributes:
        report: on the held-out rows; None where there are none.
        probes: on rows that the run is not about, by what they are.
        rows: what the tuned model did on each held-out row.
    """

    report: EvalReport | None = None
    probes: dict[str, EvalReport] = field(default_factory=dict[str, EvalReport])
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def probes_json(self) -> dict[str, Any]:
        """The probes as plain values."""
        return {name: probe.to_json() for name, probe in self.probes.items()}


def evaluate_both(
    recipe: Recipe, folder: Path, base: Base, contract: Contract, rows: Sequence[Prepared], seconds: float,
    report: Report,
) -> Found:  # fmt: skip
    """Measure the base and the published model on the same rows, one after the other.

    Where no rows were held out, only a probe that somebody named is measured.

    Args:
        recipe: of the run.
        folder: of the run.
        base: where the run began.
        contract: how both are prompted.
        rows: that were held out.
        seconds: that training took; how many rows are answered depends on it.
        report: hears what is done, and what was found.
    """
    files = probe_files(recipe.evaluate.probe, recipe.model.base)
    if not len(rows) and (recipe.evaluate.probe == "auto" or not files):
        return Found()
    report({"kind": "phase", "name": "evaluating"})
    asked = {"": rows} if len(rows) else {}
    asked |= {what: load_probe(name, contract, LONGEST_PROBE) for what, name in files.items()}
    measured: dict[str, dict[str, Measured]] = {}
    timed = 0
    for label in ("base", "tuned"):
        tuned = label == "tuned"
        published = find_published(str(folder / "model"))
        device = recipe.device
        model = published.load(device) if tuned else load_model(base.folder, *answering(device))
        engine = LocalEngine(model, contract.stop_ids)
        if not tuned:
            asked, timed = affordable(recipe, engine, contract, asked, seconds, report)
        measured[label] = {
            what: measure(
                engine, contract, some, recipe.evaluate.max_new_tokens, report,
                f"{label} on {what}" if what else label, timed,
            )
            for what, some in asked.items()
        }  # fmt: skip
        if engine.reason:
            report({"kind": "warning", "sentence": engine.reason})
        del model, engine
    names = ("tuned", recipe.model.base)
    reports = {
        what: compare(measured["tuned"][what], measured["base"][what], names, dataset_id(some), some)
        for what, some in asked.items()
    }
    found = Found(reports.pop("", None), reports, rows_of(measured["tuned"][""], asked[""]) if len(rows) else [])
    say(found, recipe.evaluate.samples, report)
    return found


def affordable(
    recipe: Recipe, engine: LocalEngine, contract: Contract, asked: dict[str, Sequence[Prepared]], seconds: float,
    report: Report,
) -> tuple[dict[str, Sequence[Prepared]], int]:  # fmt: skip
    """The rows of each set that both models answer, and how many answers are timed alone; what that takes is said."""
    sizes = {what: len(some) for what, some in asked.items()}
    each = seconds_a_row(engine, contract, next(iter(asked.values())), recipe.evaluate.max_new_tokens)
    sample = choose_sample(sizes, each, seconds, recipe.evaluate.rows)
    sets = {what or "held-out rows": {"rows": len(places), "of": sizes[what]} for what, places in sample.sets.items()}
    report({"kind": "comparison", "sets": sets, "seconds": round(sample.seconds, 1)})
    return {what: [asked[what][place] for place in places] for what, places in sample.sets.items()}, sample.timed


def say(found: Found, samples: int, report: Report) -> None:
    """Tell whoever listens: scores, what was forgotten, and a few answers."""
    if found.report is not None:
        whole = found.report.to_json()
        report({"kind": "scores", **{key: whole[key] for key in ("rows", "against", "scores", "speed")}})
    for what, probe in found.probes.items():
        plain = probe.to_json()
        report({"kind": "probe", "what": what, **{key: plain[key] for key in ("rows", "against", "scores")}})
    report({"kind": "samples", "samples": [asdict(sample) for sample in pick_samples(found.report, samples)]})
