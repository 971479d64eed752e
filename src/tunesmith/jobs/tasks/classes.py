"""What a classifier says of held-out rows, beside what somebody would say who has not learned from them in depth.

A base has no trained head, so nothing is to be compared with it. In its place stand the most frequent class, always,
and a linear model on words where it is asked for.

Axes: R rows, C classes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tunesmith.core import events
from tunesmith.core.errors import ConfigError
from tunesmith.core.events import Report
from tunesmith.data.kinds.labelled import Shape, names_of
from tunesmith.data.prepare import Prepared
from tunesmith.evaluate.baselines import FROZEN, MOST_FREQUENT, TFIDF, linear_on_states, linear_on_words, most_frequent
from tunesmith.evaluate.class_pictures import confusion_matrix, reliability
from tunesmith.evaluate.report import Picture
from tunesmith.evaluate.suite import TIMED, RowResults, Speed
from tunesmith.infer.predict.classes import Classifier, reads_of, row_states
from tunesmith.jobs.tasks.task import Asked, Measured, TaskEvaluation
from tunesmith.model.load import answering, load
from tunesmith.score.classes import calibration_counts, class_counts, number_counts
from tunesmith.score.metrics import CALIBRATION

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


def measure(classifier: Classifier, name: str, rows: Sequence[Prepared], report: Report) -> Measured:
    """What a classifier says of each row, and pictures of it."""
    return measured(classifier, name, task_of(classifier, rows), report)


def baseline_most_frequent(asked: Asked) -> tuple[str, RowResults]:
    """The most frequent class, the classes of more than half, or the mean."""
    task = task_of(asked.predictor, asked.rows)
    target = true_of(asked.training, task.names, task.shape)
    return MOST_FREQUENT[task.shape], results_of(most_frequent(target, len(asked.rows), task.shape), task)


def baseline_tfidf(asked: Asked) -> tuple[str, RowResults]:
    """A linear model on words and pieces of words."""
    task = task_of(asked.predictor, asked.rows)
    target = true_of(asked.training, task.names, task.shape)
    texts = [texts_of(row) for row in asked.training]
    said = linear_on_words(texts, target, [texts_of(row) for row in asked.rows], task.shape)
    return TFIDF, results_of(said, task)


def baseline_frozen(asked: Asked) -> tuple[str, RowResults]:
    """Logistic regression on what the base makes of the texts, which learns nothing itself.

    Raises:
        ConfigError: the base is not known.
    """
    if asked.base is None:
        raise ConfigError("evaluate.baseline = frozen: the base of the model is not known here. Leave it out.")
    task = task_of(asked.predictor, asked.rows)
    names = {"labels": dict.fromkeys(task.names, 1)} if task.shape != "number" else {}
    model = load(asked.base.folder, replace(answering(asked.device), task="classify", facts=names)).model
    states, states_asked = (row_states(model, reads_of(rows)) for rows in (asked.training, asked.rows))
    target = true_of(asked.training, task.names, task.shape)
    return FROZEN, results_of(linear_on_states(states, target, states_asked, task.shape), task)


def refuse_other(one: Classifier, other: Classifier, names: tuple[str, str]) -> None:
    """Refuse to compare classifiers of other classes.

    Raises:
        ConfigError: they know other classes.
    """
    if (other.names, other.shape) != (one.names, one.shape):
        raise ConfigError(f"{names[0]} and {names[1]} know other classes. Evaluate each alone.")


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


EVALUATION = TaskEvaluation(
    reads=frozenset({"labelled"}),
    measure=measure,
    always=baseline_most_frequent,
    wanted={"tfidf": baseline_tfidf, "frozen": baseline_frozen},
    refuse_other=refuse_other,
)
