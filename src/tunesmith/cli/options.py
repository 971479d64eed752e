"""What several commands take."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute; `auto` takes a CUDA device if there is one.")
]
