"""How far training has moved each weight, layer by layer, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tunesmith.evaluate.pictures import INK

COLOURS = "YlOrBr"


def draw_moved(parts: Sequence[tuple[str, Mapping[int, float]]], file: Path) -> None:
    """Draw a field for each weight: rows are parts of the model, columns its layers.

    Args:
        parts: names, and how far each layer's weight has moved, relative to its norm; layer -1 stands for none.
        file: that is written, as .svg or .png.
    """
    from matplotlib.figure import Figure

    layers = sorted({layer for _, moved in parts for layer in moved if layer >= 0}) or [0]
    fields = np.full((len(parts), len(layers)), np.nan)
    for row, (_, moved) in enumerate(parts):
        for layer, far in moved.items():
            fields[row, layers.index(layer) if layer >= 0 else slice(None)] = 100 * far
    figure = Figure(figsize=(max(6.0, 3.6 + 0.3 * len(layers)), 1.2 + 0.32 * len(parts)), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.imshow(fields, aspect="auto", cmap=COLOURS, vmin=0)
    axes.set_yticks(range(len(parts)), [name.removesuffix(".weight") for name, _ in parts], color=INK)
    step = max(1, len(layers) // 16)
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]], color=INK)
    axes.set_xlabel("layer (one colour across: not in a layer)", color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axes)
    bar.set_label("moved, % of the weight's norm", color=INK)
    bar.outline.set_visible(False)  # pyright: ignore
    figure.savefig(file, dpi=150)
