"""Quality against memory, a point for each method, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.evaluate.pictures import ACCENT, GRID, INK, dress
from tunesmith.score.interval import Interval

LINE = 14.0  # pixels between names
SPREAD = 20.0  # from which ratio of the scores on their axis is logarithmic


def draw_trade_off(
    points: Sequence[tuple[str, float, Interval]], metric: str, base: Interval | None, file: Path
) -> None:
    """Draw each method where its memory and its score are, with the score's interval; the base is a line.

    Args:
        points: names, memory in GB, scores.
        metric: whose scores they are.
        base: its score of the base model; left out where it is so far off that nothing else could be told apart.
        file: that is written, as .svg or .png.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.add_subplot()
    dress(axes)
    values = [score.value for *_, score in points]
    if min(values) > 0 and max(values) / min(values) > SPREAD:
        axes.set_yscale("log")
    for _, memory, score in points:
        low, high = max(0.0, score.value - score.low), max(0.0, score.high - score.value)
        axes.errorbar(memory, score.value, [[low], [high]], fmt="o", color=ACCENT, ecolor=ACCENT, elinewidth=1.2)
    least, most = min(values), max(values)
    if base is not None and least - 2 * (most - least) <= base.value <= most + 2 * (most - least):
        axes.axhline(base.value, color=INK, linewidth=1, linestyle="--")
        axes.annotate("base", (1, base.value), xycoords=("axes fraction", "data"), color=INK, va="bottom", ha="right")
    _name(axes, points)
    axes.set_xlabel("memory at most, GB", color=INK)
    axes.set_ylabel(metric, color=INK)
    axes.margins(x=0.12, y=0.12)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    figure.savefig(file, dpi=150)


def _name(axes: Any, points: Sequence[tuple[str, float, Interval]]) -> None:
    """Names beside their points, each in the nearest place that no other name or point is in."""
    axes.figure.canvas.draw()
    where = {name: axes.transData.transform((memory, score.value)) for name, memory, score in points}
    taken = [(x - 6.0, x + 6.0, y) for x, y in where.values()]
    for name, memory, score in sorted(points, key=lambda point: -point[2].value):
        across, up = where[name]
        begin, end = across + 9, across + 9 + 6.5 * len(name)
        steps = sorted(range(-8, 9), key=abs)
        free = (step for step in steps if all(
            end < left or right < begin or abs(up + LINE * step - y) >= LINE - 1 for left, right, y in taken
        ))  # fmt: skip
        place = LINE * next(free, 0)
        taken.append((begin, end, up + place))
        axes.annotate(
            name, (memory, score.value), xytext=(7, place * 72 / axes.figure.dpi - 3),
            textcoords="offset points", color=INK, fontsize=9,
        )  # fmt: skip
