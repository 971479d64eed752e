"""What a classifier says of held-out rows, beside what somebody would say who has not learned from them in depth.

A base has no trained head, so nothing is to be compared with it. In its place stand the most frequent class, always,
and a linear model on words where it is asked for.

Axes: R rows, C classes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.core import events
from tunesmith.core.errors import ConfigError
from tunesmith.core.events import Report
from tunesmith.data.kinds.labelled import Shape, names_of, shape_of
from tunesmith.data.prepare import Prepared, dataset_id
from tunesmith.data.split import Splits
from tunesmith.evaluate.baselines import MOST_FREQUENT, TFIDF, linear_on_words, most_frequent
from tunesmith.evaluate.class_pictures import confusion_matrix, reliability
from tunesmith.evaluate.compare import compare, rows_of
from tunesmith.evaluate.report import Picture
from tunesmith.evaluate.suite import TIMED, RowResults, Speed
from tunesmith.infer.predict import Classifier, load_classifier, reads_of
from tunesmith.jobs.final_evaluation import Found, say
from tunesmith.model.export import ExportedModel, find_model
from tunesmith.score.classes import calibration_counts, class_counts, number_counts
from tunesmith.score.metrics import CALIBRATION
from tunesmith.train.recipe import Recipe

ROWS_BETWEEN_PULSES = 512


@dataclass(frozen=True)
class Task:
    """Rows and what is true of them.

    Attributes:
        rows: that are measured.
        names: of the classes, by their ids.
        shape: what a row has.
        true: which classes each row has, (R, C), or its number, (R,).
    """

    rows: Sequence[Prepared]
    names: Sequence[str]
    shape: Shape
    true: np.ndarray


def evaluate_classifier(recipe: Recipe, folder: Path, splits: Splits, report: Report) -> Found:
    """Evaluate the exported model and the baselines on the rows that were held out.

    Args:
        recipe: of the run.
        folder: of the run.
        splits: its rows.
        report: hears what is done, and what was found.
    """
    if not len(splits.test):
        return Found()
    report(events.Phase("evaluating"))
    rows = splits.test[: recipe.evaluate.rows] if recipe.evaluate.rows else splits.test
    classifier = load_classifier(find_model(str(folder / "model")), recipe.device)
    found = beside_baselines(classifier, folder.name, list(rows), splits.train, recipe.evaluate.baseline, report)
    say(found, recipe.evaluate.samples, report)
    return found


def beside_baselines(
    classifier: Classifier, name: str, rows: Sequence[Prepared], training: Sequence[Prepared], baseline: str,
    report: Report,
) -> Found:  # fmt: skip
    """What a classifier says of rows, beside the most frequent class and, with `tfidf`, a linear model.

    Args:
        classifier: that is measured.
        name: what it is called.
        rows: at least one.
        training: rows that it and the baselines have learned from.
        baseline: `none` or `tfidf`.
        report: hears what is done.
    """
    task = task_of(classifier, rows)
    results, pictures = measured(classifier, name, task, report)
    target = true_of(training, classifier.names, task.shape)
    others = {MOST_FREQUENT[task.shape]: most_frequent(target, len(rows), task.shape)}
    if baseline == "tfidf":
        report(events.Phase("training the baseline"))
        texts = [texts_of(row) for row in training]
        others[TFIDF] = linear_on_words(texts, target, [texts_of(row) for row in rows], task.shape)
    data = dataset_id(rows)
    reports = {
        other: compare(results, results_of(said, task), (name, other), data, rows) for other, said in others.items()
    }
    first = reports.pop(next(iter(reports)))
    return Found(first, {}, rows_of(results, rows), reports, pictures)


def evaluate_classes(
    model: ExportedModel, other: ExportedModel | None, rows: Sequence[Prepared], device: str, report: Report
) -> Found:
    """Evaluate a classifier on rows, alone or beside another of the same classes.

    Raises:
        ConfigError: the other has other classes.
    """
    classifier = load_classifier(model, device)
    task = task_of(classifier, rows)
    results, pictures = measured(classifier, model.name, task, report)
    against = None
    if other is not None:
        second = load_classifier(other, device)
        if (second.names, second.shape) != (classifier.names, classifier.shape):
            raise ConfigError(f"{model.name} and {other.name} know other classes. Evaluate each alone.")
        against, _ = measured(second, other.name, task, report)
    found = compare(results, against, (model.name, other.name if other else None), dataset_id(rows), rows)
    return Found(found, {}, rows_of(results, rows), {}, pictures)


def task_of(classifier: Classifier, rows: Sequence[Prepared]) -> Task:
    """Rows, as the classifier's classes have them."""
    return Task(rows, classifier.names, classifier.shape, true_of(rows, classifier.names, classifier.shape))


def true_of(rows: Sequence[Prepared], names: Sequence[str], shape: Shape) -> np.ndarray:
    """What is true of rows: (R, C), or (R,) of numbers."""
    contents: list[Any] = [row.row.content for row in rows]
    if shape == "number":
        return np.array([float(content.label) for content in contents])
    places = {name: place for place, name in enumerate(names)}
    true_RC = np.zeros((len(rows), len(names)))
    for row, content in enumerate(contents):
        true_RC[row, [places[name] for name in names_of(content)]] = 1.0
    return true_RC


def texts_of(row: Prepared) -> str:
    """A row's text, or both of a pair."""
    content: Any = row.row.content
    return "\n".join(content.texts())


def measured(classifier: Classifier, name: str, task: Task, report: Report) -> tuple[RowResults, list[Picture]]:
    """What a classifier does on each row, and pictures of it."""
    reads = reads_of(task.rows)
    found: list[np.ndarray] = []
    for start in range(0, len(reads), ROWS_BETWEEN_PULSES):
        found.append(classifier.logits(reads[start : start + ROWS_BETWEEN_PULSES]))
        report(events.Pulse(f"evaluating {name}", min(start + ROWS_BETWEEN_PULSES, len(reads)), len(reads)))
    logits_RC = np.concatenate(found)
    speed = _speed(classifier, reads[:TIMED])
    if task.shape == "number":
        return results_of(logits_RC[:, 0].astype(np.float64), task, speed=speed), []
    if task.shape == "several":
        said_RC = (torch.from_numpy(logits_RC).sigmoid().numpy() >= classifier.threshold).astype(np.float64)
        return results_of(said_RC, task, speed=speed), []
    share_RC = torch.from_numpy(logits_RC).double().softmax(-1).numpy()
    said_R, true_R = share_RC.argmax(-1), task.true.argmax(-1)
    sure_R, right_R = share_RC.max(-1), said_R == true_R
    told, picture = confusion_matrix(task.names, true_R, said_R)
    pictures = [
        Picture("What is taken for what", told, picture),
        Picture(
            "How sure it is",
            "On the line, probabilities would say how often it is right.",
            reliability(sure_R, right_R),
        ),
    ]
    return results_of(np.eye(len(task.names))[said_R], task, calibration_counts(sure_R, right_R), speed), pictures


def results_of(
    said: np.ndarray, task: Task, calibration: np.ndarray | None = None, speed: Speed | None = None
) -> RowResults:
    """What was said of rows, as counts of each metric.

    Args:
        said: classes (R, C), or numbers (R,).
        task: the rows.
        calibration: how sure it was.
        speed: how long it took.
    """
    if task.shape == "number":
        return RowResults([f"{one:.4g}" for one in said], number_counts(task.true, said), speed)
    counts = class_counts(task.true, said, task.shape == "several")
    if calibration is not None:
        counts[CALIBRATION.name] = calibration
    answers = [", ".join(task.names[place] for place in np.flatnonzero(row_C).tolist()) for row_C in said]
    return RowResults(answers, counts, speed)


def _speed(classifier: Classifier, reads: Sequence[Any]) -> Speed:
    """How long one answer takes, alone."""
    seconds: list[float] = []
    for one in reads:
        started = time.perf_counter()
        classifier.logits([one])
        seconds.append(time.perf_counter() - started)
    return Speed(len(seconds), statistics.median(seconds), max(seconds), None)


def refuse_strange(rows: Sequence[Prepared], model: ExportedModel) -> None:
    """Refuse rows of a file with classes that a model does not know, or none.

    Raises:
        DataError: with the first.
    """
    from tunesmith.data.kinds.table import kind_of

    facts = model.card.get("facts", {})
    assert shape_of(facts)
    kind_of(rows[0].row).refuse_held_out(rows, facts, "evaluation")  # pyright: ignore[reportArgumentType]
