"""Pictures of a run as SVG text, to stand inside a page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from tunesmith.core.events import Step

INK, ACCENT, SECOND, GRID = "#334155", "#c2410c", "#0f766e", "#e2e8f0"
LOG_RANGE = 10.0  # largest by smallest loss, from which the axis is logarithmic
OUTSIDE = 0.05  # share of the losses, at either end, that may be left out of the picture
EMPTY = 0.4  # share of the axis that these alone would take, from which they are left out
MARGIN = 0.06  # of the axis, above and below
NO_CURVES = {"time", "kind", *(one.name for one in fields(Step))} - {"gradient_norm"}  # of a step's line


def _figure(height: float = 3.2) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    dress(axes)
    return figure, axes


def grid(rows: int, columns: int, height: float, shared: bool = False) -> tuple[Any, list[Any]]:
    """A figure of panels, each `height` inches high, maybe with shared scales."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(8, rows * height), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1))
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared).flat)
    for axes in panels:
        dress(axes)
    return figure, panels


def dress(axes: Any) -> None:
    """What every picture has in common: quiet lines, values to be read along the vertical axis."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(which="both", colors=INK, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def svg(figure: Any) -> str:
    """A figure as SVG text that is the same each time."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tunesmith"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def curve_over_steps(name: str, steps: Sequence[dict[str, Any]], validations: Sequence[dict[str, Any]]) -> str:
    """A curve such as the loss: of each step, faint, its moving mean, and of validations, on an axis that fits them."""
    figure, axes = _figure()
    fit_axis(axes, _draw(axes, name, steps, validations))
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel(name, color=INK)
    axes.legend(frameon=False, labelcolor=INK)
    return svg(figure)


def other_curves(name: str, steps: Sequence[dict[str, Any]], validations: Sequence[dict[str, Any]]) -> str:
    """What an objective measures besides `name`, and the gradient's norm, each in a small picture of its own.

    What is the same at every step is left out; empty if nothing is left.
    """
    named = dict.fromkeys(key for step in steps for key in step if key not in NO_CURVES and key != name)
    changing = [key for key in named if not _constant(_points(key, steps)[1])]
    if not changing:
        return ""
    figure, panels = grid(math.ceil(len(changing) / 2), 2, 1.7)
    for panel, key in zip(panels, changing, strict=False):
        _draw(panel, key, steps, validations)
        panel.set_title(key.replace("_", " "), color=INK, fontsize="medium", loc="left", parse_math=False)
    for panel in panels[len(changing) :]:
        panel.set_visible(False)
    return svg(figure)


def _draw(
    axes: Any, name: str, steps: Sequence[dict[str, Any]], validations: Sequence[dict[str, Any]]
) -> list[list[float]]:
    """A curve of training and one of validations, where these have it; returns their values."""
    x, y = _points(name, steps)
    axes.plot(x, y, color=ACCENT, alpha=0.25, linewidth=1)
    axes.plot(x, moving_mean(y, max(1, len(y) // 30)), color=ACCENT, linewidth=2, label="training")
    at, values = _points(name, validations)
    if at:
        axes.plot(at, values, color=SECOND, linewidth=2, marker="o", markersize=4, label="validation")
    return [y, values]


def _constant(values: Sequence[float]) -> bool:
    return all(math.isclose(value, values[0]) for value in values)


def _points(name: str, events: Sequence[dict[str, Any]]) -> tuple[list[int], list[float]]:
    having = [event for event in events if name in event]
    return [event["step"] for event in having], [event[name] for event in having]


def schedule_curve(rates: Sequence[float], taken: int) -> str:
    """The learning rate at each step of the whole schedule; what was not reached is dashed.

    Args:
        rates: of all steps.
        taken: how many of them were taken.
    """
    figure, axes = _figure(2.2)
    x = range(1, len(rates) + 1)
    axes.plot(x[:taken], rates[:taken], color=ACCENT, linewidth=2)
    if taken < len(rates):
        axes.plot(x[taken - 1 :], rates[taken - 1 :], color=ACCENT, linewidth=2, linestyle="--")
    axes.set_ylim(0, 1.08 * max(rates))
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel("learning rate", color=INK)
    return svg(figure)


def fit_axis(axes: Any, curves: Sequence[Sequence[float]]) -> None:
    """Let curves of losses fill the height of a picture, and say in it what that leaves out.

    The axis is logarithmic where the losses differ widely. A few that stand far out, such as those of the first steps,
    are left out where the rest would be squeezed.
    """
    curves = [[value for value in curve if math.isfinite(value)] for curve in curves]
    values = [value for curve in curves for value in curve]
    if not values:
        return
    inner = [_inner(curve) for curve in curves if curve]
    low, high = min(one for one, _ in inner), max(other for _, other in inner)
    logarithmic = min(values) > 0 and max(values) / min(values) >= LOG_RANGE
    scale, back = (math.log, math.exp) if logarithmic else (float, float)
    if logarithmic:
        _label_decades(axes)
    scaled = sorted(map(scale, values))
    least, most, inner_span = scaled[0], scaled[-1], scale(high) - scale(low)
    if most - scale(high) > EMPTY * (most - least):
        most = max(value for value in scaled if value <= scale(high) + EMPTY * inner_span)
    if scale(low) - least > EMPTY * (scaled[-1] - least):
        least = min(value for value in scaled if value >= scale(low) - EMPTY * inner_span)
    room = MARGIN * (most - least) or MARGIN * abs(most) or MARGIN
    bottom, top = back(least - room), back(most + room)
    axes.set_ylim(bottom, top)
    if outside := [value for value in values if not bottom <= value <= top]:
        furthest = max(outside, key=lambda value: abs(scale(value) - (least + most) / 2))
        way = "up" if furthest > top else "down"
        said = f"not shown: {len(outside)} of {len(values)} losses, {way} to {furthest:.3g}"
        axes.text(0.5, 1.02, said, transform=axes.transAxes, ha="center", color=INK, fontsize="small")


def _inner(curve: Sequence[float]) -> tuple[float, float]:
    """The least and largest of a curve's values but for a few at either end: at least one of four and more."""
    cut = max(1, int(OUTSIDE * len(curve))) if len(curve) > 3 else 0
    ordered = sorted(curve)
    return ordered[cut], ordered[len(curve) - 1 - cut]


def _label_decades(axes: Any) -> None:
    """A logarithmic axis whose labels are numbers as people write them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def moving_mean(values: Sequence[float], reach: int) -> list[float]:
    """Mean of up to `reach` values on either side."""
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def length_histogram(lengths: Sequence[int], trained: Sequence[int]) -> str:
    """How long the training rows are, in tokens, and how much of each is trained on."""
    figure, axes = _figure(2.6)
    edges = 30 if max(lengths) > 30 else max(lengths)
    axes.hist(
        [lengths, trained],
        bins=edges,
        color=[ACCENT, SECOND],
        label=["whole row", "trained tokens"],
        histtype="stepfilled",
        alpha=0.7,
    )
    axes.set_xlabel("tokens", color=INK)
    axes.set_ylabel("rows", color=INK)
    axes.legend(frameon=False, labelcolor=INK)
    return svg(figure)
