"""Pictures of several models or runs as SVG text: their losses, and their scores with intervals.

Each has a colour; scores have names beside them too. Whole names belong into the page around.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunesmith.core.names import shortened
from tunesmith.evaluate.pictures import GRID, INK, fit_axis, grid, moving_mean, svg
from tunesmith.score.interval import Interval

Curve = Sequence[tuple[int, float]]
MOST_POINTS = 600  # of a curve: more cannot be seen, and make the page heavy
WIDEST_NAME = 16  # characters of a name beside its scores


def run_colours(count: int) -> list[str]:
    """Up to ten colours, to be told apart with weak colour vision too (Petroff, 2021)."""
    from matplotlib import style

    return style.library["petroff10"]["axes.prop_cycle"].by_key()["color"][:count]


def curves_of_runs(name: str, losses: Sequence[Curve], validations: Sequence[Curve]) -> str:
    """Above, the moving mean of each run's training loss; below, on the same scales, its validation loss.

    Args:
        name: `loss` or `reward`: what the curves are of.
        losses: step and value of each step, for each run; may be empty for some.
        validations: the same for each validation.
    """
    panels = [(f"training {name}, moving mean", [smooth(curve) for curve in losses])]
    if any(validations):
        panels.append((f"validation {name}", [list(curve) for curve in validations]))
    figure, axes = grid(len(panels), 1, 2.6, shared=True)
    for panel, (title, curves) in zip(axes, panels, strict=True):
        for curve, colour in zip(curves, run_colours(len(curves)), strict=True):
            few = len(curve) == 1 or title.startswith("validation")
            panel.plot(*_columns(curve), color=colour, linewidth=2, marker="o" if few else "", markersize=4)
        panel.set_title(title, color=INK, fontsize="medium", loc="left")
        panel.set_ylabel(name, color=INK)
    axes[-1].set_xlabel("step", color=INK)
    shown = [[loss for _, loss in curve] for _, curves in panels for curve in curves]
    fit_axis(axes[0], shown)
    return svg(figure)


def score_dots(metrics: Sequence[tuple[str, Sequence[Interval | None]]], names: Sequence[str]) -> str:
    """Each metric on a scale of its own: a dot and its 95% interval for each model, the first one on top.

    Args:
        metrics: title, and for each model its score, if it has one.
        names: of the models.
    """
    count, labels = len(names), shortened(names, WIDEST_NAME)
    rows = math.ceil(len(metrics) / 2)
    figure, axes = grid(rows, 2, 0.75 + 0.24 * count)
    for number, (panel, (title, scores)) in enumerate(zip(axes, metrics, strict=False)):
        for place, (score, colour) in enumerate(zip(scores, run_colours(count), strict=True)):
            if score is not None and all(map(math.isfinite, (score.value, score.low, score.high))):
                panel.plot([score.low, score.high], [place, place], color=colour, linewidth=2.5)
                panel.plot([score.value], [place], color=colour, marker="o", markersize=7)
        panel.set_title(title, color=INK, fontsize="medium", loc="left", parse_math=False)
        panel.set_yticks(range(count), labels if number % 2 == 0 else [""] * count, parse_math=False)
        panel.set_ylim(count - 0.5, -0.5)
        panel.locator_params(axis="x", nbins=6, min_n_ticks=3)
        panel.grid(axis="x", color=GRID, linewidth=0.8)
        panel.grid(visible=False, axis="y")
    for panel in axes[len(metrics) :]:
        panel.set_visible(False)
    return svg(figure)


def smooth(curve: Curve) -> list[tuple[int, float]]:
    """The moving mean of a curve; of a long one's stretches, each at its last step."""
    together = math.ceil(len(curve) / MOST_POINTS)
    stretches = [curve[start : start + together] for start in range(0, len(curve), max(1, together))]
    means = [sum(loss for _, loss in stretch) / len(stretch) for stretch in stretches]
    smoothed = moving_mean(means, max(1, len(means) // 30))
    return [(stretch[-1][0], mean) for stretch, mean in zip(stretches, smoothed, strict=True)]


def _columns(curve: Curve) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [loss for _, loss in curve]
