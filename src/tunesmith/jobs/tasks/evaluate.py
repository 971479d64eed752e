"""Evaluate a model that does not chat, beside its base where that can be asked, and beside baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tunesmith.core import events
from tunesmith.core.errors import ConfigError
from tunesmith.core.events import Report
from tunesmith.data.kinds.table import kind_of
from tunesmith.data.prepare import Prepared, dataset_id
from tunesmith.data.split import Splits
from tunesmith.evaluate.compare import EvalReport, compare, rows_of
from tunesmith.evaluate.general_ability import general_files, load_general
from tunesmith.evaluate.suite import RowResults
from tunesmith.infer.predict.predictor import Predictor
from tunesmith.infer.predict.table import load_predictor, predictor_of
from tunesmith.jobs.final_evaluation import LONGEST_GENERAL, Found, say
from tunesmith.jobs.tasks.table import EVALUATIONS
from tunesmith.jobs.tasks.task import Asked, baselines_of
from tunesmith.model.export import ExportedModel, find_model
from tunesmith.model.load import load
from tunesmith.prompt.base import Base
from tunesmith.train.recipe import Recipe


def evaluate_run(recipe: Recipe, folder: Path, base: Base, splits: Splits, report: Report) -> Found:
    """Evaluate the exported model, its base or baselines, on the rows that were held out.

    Args:
        recipe: of the run.
        folder: of the run.
        base: where it began.
        splits: its rows.
        report: hears what is done, and what was found.
    """
    if not len(splits.test):
        return Found()
    report(events.Phase("evaluating"))
    exported, device = find_model(str(folder / "model")), recipe.device
    rows, most = splits.test, recipe.evaluate.rows or EVALUATIONS[exported.task].rows or len(splits.test)
    if most < len(rows):
        rows = rows.at(np.arange(most) * len(rows) // most)
        report(events.Warning(f"{most} of {len(splits.test)} test rows are measured. evaluate.rows sets how many."))
    found = beside_baselines(exported, folder.name, base, list(rows), splits.train, recipe.evaluate.baseline, device,
                             report)  # fmt: skip
    if EVALUATIONS[exported.task].general:
        files = general_files(recipe.evaluate.general_ability, base.name, of_texts=True)
        found = replace(found, general=on_general(exported, folder.name, base, files, device, report))
    say(found, recipe.evaluate.samples, report)
    return found


def on_general(
    exported: ExportedModel, name: str, base: Base, files: Mapping[str, str], device: str, report: Report
) -> dict[str, EvalReport]:
    """What a model and its base do on general rows, by what these are called.

    Raises:
        DataError: they are rows of another kind.
    """
    task, found = EVALUATIONS[exported.task], dict[str, EvalReport]()
    for what, file in files.items():
        rows = load_general(file, exported.contract(), LONGEST_GENERAL, task.reads)
        results, _ = task.measure(load_predictor(exported, device), f"{name} on {what}", rows, report)
        before, _ = task.measure(base_of(exported, base, device), f"base on {what}", rows, report)
        found[what] = compare(results, before, (name, base.name), dataset_id(rows), rows)
    return found


def base_of(exported: ExportedModel, base: Base, device: str) -> Predictor:
    """The base of a model, ready to predict as it does."""
    return predictor_of(load(base.folder, exported.to_answer(device)).model, exported)


def beside_baselines(
    exported: ExportedModel, name: str, base: Base | None, rows: Sequence[Prepared], training: Sequence[Prepared],
    baseline: str, device: str, report: Report,
) -> Found:  # fmt: skip
    """What a model does on rows, beside its base where that can be asked, what is always beside it, and `baseline`.

    Args:
        exported: that is measured.
        name: what it is called.
        base: that it was made from; None where that is not known.
        rows: at least one.
        training: rows that it and the baselines have learned from.
        baseline: `none`, `all`, or one that the task knows.
        device: where models compute.
        report: hears what is done.
    """
    task = EVALUATIONS[exported.task]
    chosen = baselines_of(task, baseline)
    others: dict[str, RowResults] = {}
    if task.base and base is not None:  # and forgotten before the model is loaded
        others[base.name], _ = task.measure(base_of(exported, base, device), "base", rows, report)
    predictor = load_predictor(exported, device)
    results, pictures = task.measure(predictor, name, rows, report)
    for one in chosen:
        report(events.Phase("asking the baselines"))
        other, said = one(Asked(predictor, rows, training, base, device))
        others[other] = said
    data = dataset_id(rows)
    reports = {other: compare(results, said, (name, other), data, rows) for other, said in others.items()}
    if not reports:
        return Found(compare(results, None, (name, None), data, rows), {}, rows_of(results, rows), {}, pictures)
    first = reports.pop(next(iter(reports)))
    return Found(first, {}, rows_of(results, rows), reports, pictures)


def evaluate_alone(
    exported: ExportedModel, other: ExportedModel | None, rows: Sequence[Prepared], device: str, report: Report
) -> Found:
    """Evaluate a model on rows, alone or beside another of the same task.

    Raises:
        ConfigError: the two cannot be compared.
    """
    task = EVALUATIONS[exported.task]
    predictor = load_predictor(exported, device)
    results, pictures = task.measure(predictor, exported.name, rows, report)
    against = None
    if other is not None:
        if other.task != exported.task:
            raise ConfigError(f"{exported.name} and {other.name} were trained for other tasks. Evaluate each alone.")
        second = load_predictor(other, device)
        task.refuse_other(predictor, second, (exported.name, other.name))
        against, _ = task.measure(second, other.name, rows, report)
    names = (exported.name, other.name if other else None)
    return Found(compare(results, against, names, dataset_id(rows), rows), {}, rows_of(results, rows), {}, pictures)


def refuse_strange(rows: Sequence[Prepared], exported: ExportedModel) -> None:
    """Refuse rows of a file of which the model can say nothing, given what it knows of its training rows.

    Raises:
        DataError: with the first.
    """
    kind_of(rows[0].row).refuse_held_out(rows, exported.card.get("facts", {}), "evaluation")  # pyright: ignore[reportArgumentType]
