"""`tunesmith evaluate MODEL --data FILE`: measure a model, alone or beside another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="A run folder, a published model or a base model.")],
    data: Annotated[str, typer.Option(help="File of rows with reference answers.")],
    against: Annotated[str | None, typer.Option(help="A second model, measured on the same rows.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat template by name, for a base model without one.")] = None,
    format: Annotated[str | None, typer.Option(help="Row format; found by looking if absent.")] = None,
    column: Annotated[list[str], typer.Option(help="key=name where the file names a key otherwise; repeatable.")] = [],  # noqa: B006
    rows: Annotated[int, typer.Option(min=1, help="Most rows to measure.")] = 200,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    samples: Annotated[int, typer.Option(min=0, help="Answers to print.")] = 5,
    output: Annotated[Path | None, typer.Option(help="Write the report, with every answer, as JSON.")] = None,
) -> None:
    """Perplexity, BLEU, token accuracy and share of answers that end by themselves, with 95% intervals."""
    from tunesmith.cli.screen import console, live_screen
    from tunesmith.core.config import parse_overrides
    from tunesmith.core.files import make_folder, write_json
    from tunesmith.jobs.start import evaluate_file

    if output is not None:
        make_folder(output.expanduser().resolve().parent, "the report")
    options = {
        "model": model,
        "data": data,
        "against": against,
        "template": template,
        "format": format,
        "columns": parse_overrides(column, "--column key=name, for example question=Frage"),
        "bad_rows": "fail",
        "rows": rows,
        "max_new_tokens": max_new_tokens,
        "samples": samples,
    }
    with live_screen() as screen:
        report = evaluate_file(options, screen)
    if output is not None:
        write_json(output.expanduser(), report)
        console.print(f"\nreport  {output}", soft_wrap=True)
