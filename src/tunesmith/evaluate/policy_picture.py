"""Reward against KL divergence, a point for each policy, as a picture (as in Gao et al., 2023, arXiv 2210.10760)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.evaluate.pictures import ACCENT, GRID, INK, SECOND, dress


def draw_policies(policies: Sequence[Mapping[str, Any]], largest: float, file: Path) -> None:
    """Draw each policy where its divergence from the start and its reward are, with 95% intervals.

    Args:
        policies: `name`, `reward` and `divergence`, an interval each, the latter None of the start; and `path`: KL and
            reward of its steps, a thin line.
        largest: divergence that is allowed, a line where it is near.
        file: that is written, as .svg or .png.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.add_subplot()
    dress(axes)
    for policy in policies:
        reward, far = policy["reward"], policy["divergence"] or {"value": 0.0, "low": 0.0, "high": 0.0}
        if policy.get("path"):
            axes.plot(*zip(*policy["path"], strict=True), color=SECOND, alpha=0.4, linewidth=1)
        colour = INK if policy["divergence"] is None else ACCENT
        axes.errorbar(far["value"], reward["value"], _reach(reward), _reach(far), fmt="o", color=colour, elinewidth=1.2)
        axes.annotate(
            policy["name"], (far["value"], reward["value"]), xytext=(8, 6), textcoords="offset points", color=INK
        )
    if max(axes.get_xlim()) > largest / 2:
        axes.axvline(largest, color=INK, linewidth=1, linestyle="--")
    axes.set_xlabel("KL from the start, nats an answer", color=INK)
    axes.set_ylabel("reward", color=INK)
    axes.margins(x=0.12, y=0.12)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    figure.savefig(file, dpi=150)


def _reach(interval: Mapping[str, float]) -> list[list[float]]:
    """How far an interval goes down and up from its value."""
    return [[max(0.0, interval["value"] - interval["low"])], [max(0.0, interval["high"] - interval["value"])]]
