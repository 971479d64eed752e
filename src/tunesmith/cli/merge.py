"""`tunesmith merge RUN`: fold a run's adapter into its base, with a verification."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.options import Device


def merge(
    run: Annotated[Path, typer.Argument(help="A run folder with an adapter, or an exported adapter.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for the full model; `merged` in the run if absent.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="File of rows to compare on; the run's held-out rows if absent.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Most rows to compare on.")] = 32,
    limit: Annotated[
        float, typer.Option(min=0, help="Largest difference of a logit that is let pass, in fp32.")
    ] = 1e-3,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    device: Device = "auto",
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of a merged model that is there.")] = False,
) -> None:
    """Export the adapter folded into its base, once it is verified to say what the adapter says."""
    from tunesmith.cli.screen import console, live_screen
    from tunesmith.jobs.start import merge_run

    options = {
        "run": str(run),
        "output": str(output) if output else None,
        "data": data,
        "prompts": prompts,
        "limit": limit,
        "max_new_tokens": max_new_tokens,
        "device": device,
        "replace": replace,
    }
    with live_screen() as screen:
        done = merge_run(options, screen)
    verification = done["verification"]
    rows, off, answers = verification["rows"], verification["largest_logit_difference"], verification["answers"]
    lines = [
        f"compared on {rows['count']} {rows['what']}, {verification['positions']} positions",
        f"largest logit difference {off['value']:.2g} (limit {off['limit']:g}), in {off['row']}",
    ]
    if answers:
        lines.append(
            f"greedy answers: {answers['same']} of {answers['rows']} the same, {answers['excused']} parted at a near "
            f"tie, {answers['different']} different"
        )
    lines.append(f"verification  {Path(done['folder']) / 'verification.json'}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
