"""`tunesmith predict MODEL FILE`: what a model that does not chat says of each row of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tunesmith.cli.options import Device


def predict(
    model: Annotated[str, typer.Argument(help="A run, or an exported model, that learned a task other than to chat.")],
    file: Annotated[str, typer.Argument(help="File of rows as it was trained on, without the answers.")],
    out: Annotated[
        Path | None, typer.Option(help="File for the answers, .jsonl; one that broke off is gone on with.")
    ] = None,
    column: Annotated[list[str], typer.Option(help="text=name where the file names a key otherwise; repeatable.")] = [],  # noqa: B006
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        typer.Option(
            help="bf16 is faster where the processor has it; probabilities differ a little. auto: fp32 on a CPU."
        ),
    ] = "auto",
) -> None:
    """Write what the model says of each row as a line of JSON: its class, its entities, its answer, what it becomes."""
    from tunesmith.cli.screen import console, say_aside
    from tunesmith.core.config import parse_overrides
    from tunesmith.core.names import counted
    from tunesmith.infer.predict.table import load_predictor
    from tunesmith.jobs.predict import predict_file, predict_to
    from tunesmith.model.export import find_model

    columns = parse_overrides(column, "--column key=name, for example text=Frage")
    predictor = load_predictor(find_model(model, say_aside), device, precision)
    if out is None:
        predict_file(predictor, file, columns, lambda lines: typer.echo(lines, nl=False))
        return
    done = predict_to(predictor, file, columns, out)
    before = f", {done.before} were there" if done.before else ""
    faulty = f", {done.faulty} of them without an answer, as each says" if done.faulty else ""
    console.print(f"{out}: {counted(done.written, 'row')} written{before}{faulty}", soft_wrap=True, markup=False)
