"""The end of a run: base and published model, loaded from their folders, on held-out rows and on the probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.core.events import Report
from tunesmith.data.prepare import Prepared, dataset_id
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
    recipe: Recipe, folder: Path, base: Base, contract: Contract, rows: Sequence[Prepared], report: Report
) -> Found:
    """Measure the base and the published model on the same rows, one after the other.

    Where no rows were held out, only a probe that somebody named is measured.
    """
    files = probe_files(recipe.evaluate.probe, recipe.model.base)
    if not len(rows) and (recipe.evaluate.probe == "auto" or not files):
        return Found()
    report({"kind": "phase", "name": "evaluating"})
    rows, most = rows[: recipe.evaluate.rows], recipe.evaluate.max_new_tokens
    asked = {"": rows} if len(rows) else {}
    asked |= {what: load_probe(name, contract, LONGEST_PROBE) for what, name in files.items()}
    measured: dict[str, dict[str, Measured]] = {}
    for label in ("base", "tuned"):
        tuned = label == "tuned"
        published = find_published(str(folder / "model"))
        device = recipe.device
        model = published.load(device) if tuned else load_model(base.folder, *answering(device))
        engine = LocalEngine(model, contract.stop_ids)
        measured[label] = {
            what: measure(engine, contract, some, most, report, f"{label} on {what}" if what else label)
            for what, some in asked.items()
        }
        del model, engine
    names = ("tuned", recipe.model.base)
    reports = {
        what: compare(measured["tuned"][what], measured["base"][what], names, dataset_id(some), some)
        for what, some in asked.items()
    }
    found = Found(reports.pop("", None), reports, rows_of(measured["tuned"][""], rows) if len(rows) else [])
    say(found, recipe.evaluate.samples, report)
    return found


def say(found: Found, samples: int, report: Report) -> None:
    """Tell whoever listens: scores, what was forgotten, and a few answers."""
    if found.report is not None:
        whole = found.report.to_json()
        report({"kind": "scores", **{key: whole[key] for key in ("rows", "against", "scores", "speed")}})
    for what, probe in found.probes.items():
        plain = probe.to_json()
        report({"kind": "probe", "what": what, **{key: plain[key] for key in ("rows", "against", "scores")}})
    report({"kind": "samples", "samples": [asdict(sample) for sample in pick_samples(found.report, samples)]})
