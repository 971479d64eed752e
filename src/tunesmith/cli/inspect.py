"""`tunesmith inspect MODEL`: its weights, and how far training has moved them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    model: Annotated[str, typer.Argument(help="A run, an exported model or a base: a folder, `ember`, a hub id.")],
    picture: Annotated[
        Path | None, typer.Option(help="Draw how far each weight of each layer has moved, as .svg or .png.")
    ] = None,
) -> None:
    """Show a model's weights and biases by the part that they play, and how far training has moved each."""
    from rich.table import Table

    from tunesmith.cli.screen import console
    from tunesmith.core.errors import ConfigError
    from tunesmith.model.export import find_model
    from tunesmith.model.inspect import inspect_model

    if picture is not None and picture.suffix not in (".svg", ".png"):
        raise ConfigError(f"--picture {picture}: name a file that ends with .svg or .png.")
    parts = inspect_model(find_model(model))
    moves = any(part.moved for part in parts)
    table = Table(box=None)
    table.add_column("weights", overflow="fold")
    for name in ("each", "shape", "dtype", "numbers", "rms", "", *(["moved, least", "most (layer)"] if moves else [])):
        table.add_column(name, justify="right" if name in ("each", "numbers", "rms") else "left")
    for part in parts:
        rms = sum(part.rms.values()) / len(part.rms)
        cells = [part.name, f"{len(part.rms)}", " x ".join(map(str, part.shape)), part.dtype, f"{part.numbers:,}",
                 f"{rms:.3g}", "trained" if part.trained else ""]  # fmt: skip
        if moves:
            far = max(part.moved, key=part.moved.__getitem__, default=None)
            most = "" if far is None else f"{part.moved[far]:.2%}" + ("" if far < 0 else f" ({far})")
            cells += [f"{min(part.moved.values()):.2%}" if part.moved else "", most]
        table.add_row(*cells)
    console.print(table)
    trained = sum(part.numbers for part in parts if part.trained)
    whole = sum(part.numbers for part in parts)
    told = f", {trained:,} of them trained ({trained / whole:.2%})" if trained else ""
    console.print(f"{whole:,} numbers{told}", soft_wrap=True)
    if picture is not None:
        if not moves:
            raise ConfigError(f"--picture: no weight of {model} has moved from where it was.")
        from tunesmith.evaluate.weight_pictures import draw_moved

        draw_moved([(part.name, part.moved) for part in parts if part.moved], picture)
        console.print(f"drawn: {picture}", soft_wrap=True)
