"""The end of a run: base and exported model, loaded from their folders, on held-out rows and on general ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.core import events
from tunesmith.core.events import Report
from tunesmith.data.prepare import Prepared, dataset_id
from tunesmith.evaluate.budget import TRAINING_SHARE, choose_sample, seconds_a_row
from tunesmith.evaluate.compare import EvalReport, compare, rows_of
from tunesmith.evaluate.general_ability import general_files, load_general
from tunesmith.evaluate.pairs import as_chats, with_rewards
from tunesmith.evaluate.report import Picture, pick_samples
from tunesmith.evaluate.suite import RowResults, evaluate_rows, joined
from tunesmith.infer.local import COMPILE_AFTER, LocalEngine
from tunesmith.model.export import find_model
from tunesmith.model.load import load
from tunesmith.prompt.base import Base
from tunesmith.prompt.contract import Contract
from tunesmith.score.rewards.reward import Rewards
from tunesmith.train.recipe import Recipe

COMPILING_PAYS = 60.0  # seconds of comparing, from which compiled layers are worth their making
LONGEST_GENERAL = 512  # tokens of a general row, within what the model takes


@dataclass(frozen=True)
class Found:
    """What the end of a run showed.

    Attributes:
        report: on the held-out rows; None where there are none.
        general: on rows that the run is not about, by what they are.
        rows: what the tuned model did on each held-out row.
        beside: the held-out rows beside further models, by their names.
        pictures: of what was said.
    """

    report: EvalReport | None = None
    general: dict[str, EvalReport] = field(default_factory=dict[str, EvalReport])
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    beside: dict[str, EvalReport] = field(default_factory=dict[str, EvalReport])
    pictures: list[Picture] = field(default_factory=list[Picture])

    def general_json(self) -> dict[str, Any]:
        """What was found on general rows, as plain values."""
        return {name: one.to_json() for name, one in self.general.items()}

    def to_json(self) -> dict[str, Any]:
        """What report.json holds."""
        assert self.report is not None
        beside = {name: {**one.to_json(), "samples": []} for name, one in self.beside.items()}
        whole = {**self.report.to_json(), "general_ability": self.general_json()}
        return {**whole, "beside": beside} if beside else whole


def evaluate_both(
    recipe: Recipe, folder: Path, base: Base, contract: Contract, rows: Sequence[Prepared], seconds: float,
    report: Report, rewards: Rewards | None = None,
) -> Found:  # fmt: skip
    """Evaluate the base and the exported model on the same rows, one after the other.

    Where no rows were held out, only a general-ability check that somebody named is evaluated.

    Args:
        recipe: of the run.
        folder: of the run.
        base: where the run began.
        contract: how both are prompted.
        rows: that were held out.
        seconds: that training took; how many rows are answered depends on it.
        report: hears what is done, and what was found.
        rewards: what answers to held-out rows are worth, where the run has learned from that.
    """
    rows, said = as_chats(rows)
    if said:
        report(events.Warning(said))
    of_texts = bool(len(rows)) and rows[0].row.content.kind == "text"
    files = general_files(recipe.evaluate.general_ability, recipe.model.base, of_texts)
    if not len(rows) and (recipe.evaluate.general_ability == "auto" or not files):
        return Found()
    report(events.Phase("evaluating"))
    asked = {"": rows} if len(rows) else {}
    asked |= {what: load_general(name, contract, LONGEST_GENERAL) for what, name in files.items()}
    results: dict[str, dict[str, RowResults]] = {}
    timed, tried = 0, RowResults([], {})
    compile_after = COMPILE_AFTER if TRAINING_SHARE * seconds > COMPILING_PAYS else None
    for label in ("base", "tuned"):
        tuned = label == "tuned"
        exported, device = find_model(str(folder / "model")), recipe.device
        model = exported.load(device) if tuned else load(base.folder, exported.to_answer(device)).model
        engine = LocalEngine(model, contract, compile_after=compile_after)
        if not tuned:
            asked, timed, tried = affordable(recipe, engine, asked, seconds, report, rewards)
        results[label] = {}
        for number, (what, some) in enumerate(asked.items()):
            name, goes_on = f"{label} on {what}" if what else label, not tuned and number == 0
            known = len(tried.answers) if goes_on and len(tried.answers) < len(some) + (not timed) else 0
            if known == len(some):
                results[label][what] = tried
                continue
            worth = None if what else rewards
            found = evaluate_rows(engine, some[known:], recipe.evaluate.max_new_tokens, report, name, timed, worth)
            results[label][what] = joined(tried, found) if known else found
        if engine.reason:
            report(events.Warning(engine.reason))
        del model, engine
    reports = side_by_side(results, asked, (folder.name, recipe.model.base))
    found = Found(reports.pop("", None), reports, rows_of(results["tuned"][""], asked[""]) if len(rows) else [])
    say(found, recipe.evaluate.samples, report)
    return found


def side_by_side(
    results: dict[str, dict[str, RowResults]], asked: dict[str, Sequence[Prepared]], names: tuple[str, str]
) -> dict[str, EvalReport]:
    """What both models did on each set of rows, compared."""
    pairs = {what: with_rewards(results["tuned"][what], results["base"][what]) for what in asked}
    results["tuned"] = {what: tuned for what, (tuned, _) in pairs.items()}
    return {what: compare(*pairs[what], names, dataset_id(some), some) for what, some in asked.items()}


def affordable(
    recipe: Recipe, engine: LocalEngine, asked: dict[str, Sequence[Prepared]], seconds: float, report: Report,
    rewards: Rewards | None,
) -> tuple[dict[str, Sequence[Prepared]], int, RowResults]:  # fmt: skip
    """The rows of each set that both models answer, how many answers are timed alone, the base's results on a few.

    What that takes is said.
    """
    sizes = {what: len(some) for what, some in asked.items()}
    each, tried = seconds_a_row(engine, next(iter(asked.values())), recipe.evaluate.max_new_tokens,
                                rewards if "" in asked else None)  # fmt: skip
    sample = choose_sample(sizes, each, seconds, recipe.evaluate.rows)
    sets = {what or "held-out rows": {"rows": len(places), "of": sizes[what]} for what, places in sample.sets.items()}
    report(events.Comparison(sets, round(sample.seconds, 1)))
    return {what: [asked[what][place] for place in places] for what, places in sample.sets.items()}, sample.timed, tried


def say(found: Found, samples: int, report: Report) -> None:
    """Tell whoever listens: scores, what was forgotten, and a few answers."""
    if found.report is not None:
        whole = found.report.to_json()
        report(events.Scores(**{key: whole[key] for key in ("model", "rows", "against", "scores", "speed")}))
    for one in found.beside.values():
        plain = one.to_json()
        report(events.Scores(**{key: plain[key] for key in ("model", "rows", "against", "scores")}, speed={}))
    for what, one in found.general.items():
        plain = one.to_json()
        report(events.GeneralAbility(what, **{key: plain[key] for key in ("model", "rows", "against", "scores")}))
    if found.report is not None:
        picked = [asdict(sample) for sample in pick_samples(found.report, samples)]
        report(events.Samples(found.report.model, found.report.against, picked))
