"""`tunesmith predict MODEL FILE`: what a classifier says of each row of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.options import Device


def predict(
    model: Annotated[str, typer.Argument(help="A run, or an exported model, that was trained to classify.")],
    file: Annotated[str, typer.Argument(help="File of texts, or of pairs of texts: any kind that `check` reads.")],
    out: Annotated[
        Path | None, typer.Option(help="File for the answers, .jsonl; one that broke off is gone on with.")
    ] = None,
    column: Annotated[list[str], typer.Option(help="text=name where the file names a key otherwise; repeatable.")] = [],  # noqa: B006
    device: Device = "auto",
) -> None:
    """Write the class of each row, with the probability of every class, as a line of JSON."""
    from tunesmith.cli.screen import console, say_aside
    from tunesmith.core.config import parse_overrides
    from tunesmith.core.names import counted
    from tunesmith.infer.predict import load_classifier
    from tunesmith.jobs.predict import predict_file, predict_to
    from tunesmith.model.export import find_model

    columns = parse_overrides(column, "--column key=name, for example text=Frage")
    classifier = load_classifier(find_model(model, say_aside), device)
    if out is None:
        predict_file(classifier, file, columns, lambda lines: typer.echo(lines, nl=False))
        return
    done = predict_to(classifier, file, columns, out)
    before = f", {done.before} were there" if done.before else ""
    faulty = f", {done.faulty} of them without an answer, as each says" if done.faulty else ""
    console.print(f"{out}: {counted(done.written, 'row')} written{before}{faulty}", soft_wrap=True, markup=False)
