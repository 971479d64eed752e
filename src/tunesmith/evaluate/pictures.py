"""Pictures of a run as SVG text, to stand inside a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

INK, ACCENT, SECOND, GRID = "#334155", "#c2410c", "#0f766e", "#e2e8f0"


def _figure(height: float = 3.2) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    dress(axes)
    return figure, axes


def dress(axes: Any) -> None:
    """The look of every picture: quiet lines, values to be read along the vertical axis."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=INK, length=0)
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


def loss_curve(steps: Sequence[dict[str, Any]], validations: Sequence[dict[str, Any]]) -> str:
    """Training loss of each step, faint, its moving mean, and the validation loss."""
    figure, axes = _figure()
    x, y = [event["step"] for event in steps], [event["loss"] for event in steps]
    axes.plot(x, y, color=ACCENT, alpha=0.25, linewidth=1)
    axes.plot(x, moving_mean(y, max(1, len(y) // 30)), color=ACCENT, linewidth=2, label="training")
    if validations:
        xv, yv = [event["step"] for event in validations], [event["loss"] for event in validations]
        axes.plot(xv, yv, color=SECOND, linewidth=2, marker="o", markersize=4, label="validation")
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel("loss per trained token (nats)", color=INK)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, labelcolor=INK)
    return svg(figure)


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
