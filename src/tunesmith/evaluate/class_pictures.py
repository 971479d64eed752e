"""Pictures of a classifier as SVG text: what is taken for what, how sure it is when right, how good each label is.

Axes: R rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.core.names import shortened
from tunesmith.evaluate.pictures import ACCENT, GRID, INK, dress, svg
from tunesmith.score.classes import BINS

MOST_CLASSES = 20  # of a confusion matrix: more cannot be read
WIDEST_NAME = 24  # characters


def confusion_matrix(names: Sequence[str], true_R: np.ndarray, said_R: np.ndarray) -> tuple[str, str]:
    """True classes down, said ones across; of many those that are taken for each other most often.

    Returns:
        A sentence on what is shown, and the picture.
    """
    counts_CC = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts_CC, (true_R, said_R), 1)
    said = "Rows are true classes, columns what was said."
    if len(names) > MOST_CLASSES:
        wrong_CC = counts_CC * (1 - np.eye(len(names), dtype=int))
        order = np.argsort(-(wrong_CC.sum(0) + wrong_CC.sum(1)), kind="stable")[:MOST_CLASSES]
        chosen: list[int] = np.sort(order).tolist()
        said = f"{said} The {MOST_CLASSES} of {len(names)} classes that are confused most."
        counts_CC, names = counts_CC[np.ix_(chosen, chosen)], [names[place] for place in chosen]
    figure, axes = _figure(1.6 + 0.3 * len(names))
    share_CC = counts_CC / np.maximum(counts_CC.sum(1, keepdims=True), 1)
    labels = shortened(list(names), WIDEST_NAME)
    for row in range(len(names)):
        for column in range(len(names)):
            share = float(share_CC[row, column])
            right = row == column
            if counts_CC[row, column]:
                colour = (0.06, 0.46, 0.43) if right else (0.76, 0.25, 0.05)
                across, shade = [column - 0.5, column + 0.5], (*colour, 0.1 + 0.8 * share)
                axes.fill_between(across, row - 0.5, row + 0.5, color=shade, linewidth=0)
                axes.text(column, row, str(counts_CC[row, column]), ha="center", va="center", fontsize="x-small",
                          color="white" if share > 0.6 else INK)  # fmt: skip
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize="x-small", parse_math=False)
    axes.set_yticks(range(len(names)), labels, fontsize="x-small", parse_math=False)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False)
    return said, svg(figure)


def reliability(probability_R: np.ndarray, right_R: np.ndarray) -> str:
    """For each bin of probabilities the share of rows that are right; on the line they would be equal."""
    figure, axes = _figure(2.8)
    places = np.minimum((probability_R * BINS).astype(int), BINS - 1)
    for place in range(BINS):
        own = right_R[places == place]
        if len(own):
            axes.bar(
                (place + 0.5) / BINS,
                own.mean(),
                width=0.9 / BINS,
                color=ACCENT,
                alpha=0.25 + 0.75 * len(own) / len(right_R),
            )
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("probability of what was said (darker: more rows)", color=INK)
    axes.set_ylabel("share that is right", color=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    return svg(figure)


def scores_by_label(labels: Sequence[str], counts_L3: np.ndarray) -> tuple[str, str]:
    """F1 of each label as a bar, with precision, recall and how often it is there; of many the most frequent.

    Args:
        labels: their names.
        counts_L3: of each, how many are right, were said, and are there.

    Returns:
        A sentence on what is shown, and the picture.
    """
    right_L, said_L, true_L = counts_L3.T
    order = np.argsort(-true_L, kind="stable")[:MOST_CLASSES]
    more = f" The {MOST_CLASSES} most frequent of {len(labels)}." if len(labels) > MOST_CLASSES else ""
    figure, axes = _figure(1.2 + 0.3 * len(order))
    for row, label in enumerate(order.tolist()):
        right, said, true = right_L[label], said_L[label], true_L[label]
        f1 = 100 * 2 * right / max(said + true, 1)
        axes.barh(row, f1, color=ACCENT, alpha=0.75)
        words = f"F1 {f1:.0f}, precision {100 * right / max(said, 1):.0f}, recall {100 * right / max(true, 1):.0f}"
        axes.text(101, row, f"{words}, {int(true)} there", va="center", fontsize="x-small", color=INK)
    shown: list[int] = order.tolist()
    names = shortened([labels[label] for label in shown], WIDEST_NAME)
    axes.set_yticks(range(len(order)), names, fontsize="x-small", parse_math=False)
    axes.set_xlim(0, 160)
    axes.set_xticks(range(0, 101, 20))
    axes.set_ylim(len(order) - 0.5, -0.5)
    return f"F1 of each label on the held-out rows.{more}", svg(figure)


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    dress(axes)
    return figure, axes
