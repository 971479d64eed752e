"""`tunesmith evaluate MODEL --data FILE`: measure a model, alone or beside another, or on tasks of lm_eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.options import Device


def evaluate(
    model: Annotated[str, typer.Argument(help="A run, an exported model, a base model, or https://host/v1#name.")],
    data: Annotated[str | None, typer.Option(help="File of rows with reference answers.")] = None,
    against: Annotated[str | None, typer.Option(help="A second model, measured on the same rows.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat template by name, for a base model without one.")] = None,
    format: Annotated[str | None, typer.Option(help="Row format; found by looking if absent.")] = None,
    column: Annotated[list[str], typer.Option(help="key=name where the file names a key otherwise; repeatable.")] = [],  # noqa: B006
    rows: Annotated[int | None, typer.Option(min=1, help="Most rows to measure: 200, or all of a task's.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    samples: Annotated[int, typer.Option(min=0, help="Answers to print.")] = 5,
    general: Annotated[list[str], typer.Option(help="General rows, to see what was forgotten; repeatable.")] = [],  # noqa: B006
    baseline: Annotated[str, typer.Option(help="tfidf, frozen, all: a classifier beside simpler ones.")] = "none",
    output: Annotated[Path | None, typer.Option(help="Write the report, with every answer, as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as a page.")] = None,
    harness: Annotated[list[str], typer.Option(help="A task of lm-evaluation-harness; repeatable.")] = [],  # noqa: B006
    harness_files: Annotated[Path | None, typer.Option(help="A YAML task file, or a folder of them.")] = None,
    few_shot: Annotated[int | None, typer.Option(min=0, help="Worked examples before each question of a task.")] = None,
    chat: Annotated[bool, typer.Option(help="Ask a task's questions through the chat template.")] = False,
    bare: Annotated[bool, typer.Option("--bare", help="Ask without the prompt that a model was trained with.")] = False,
    device: Device = "auto",
) -> None:
    """Perplexity, BLEU, chrF, ROUGE, exact match, F1, accuracy, length and latency, with 95% intervals."""
    from tunesmith.cli.screen import console, live_screen
    from tunesmith.core.config import parse_overrides
    from tunesmith.core.errors import ConfigError
    from tunesmith.core.files import expanded, write_json
    from tunesmith.jobs.start import evaluate_file

    if (data is None) == (not harness):
        raise ConfigError("give rows with --data FILE, or tasks of lm_eval with --harness TASK.")
    if harness and (against or general or html):
        raise ConfigError("--harness measures one model alone: leave out --against, --general and --html.")
    refuse_folders(output, html)
    options: dict[str, Any] = {
        "model": model, "data": data, "against": against, "template": template, "format": format,
        "columns": parse_overrides(column, "--column key=name, for example question=Frage"), "bad_rows": "fail",
        "rows": rows, "max_new_tokens": max_new_tokens, "samples": samples, "general": general, "baseline": baseline,
        "html": str(expanded(html)) if html else None, "harness": harness,
        "harness_files": str(harness_files) if harness_files else None, "few_shot": few_shot, "chat": chat,
        "bare": bare, "device": device,
    }  # fmt: skip
    with live_screen() as screen:
        report = evaluate_file(options, screen)
    if output is not None:
        write_json(expanded(output), report)
    for path in (output, html):
        if path is not None:
            console.print(f"\nreport  {path}", soft_wrap=True)


def refuse_folders(*paths: Path | None) -> None:
    """Refuse a folder where a file's name is needed, before anything is computed; make the folder for it."""
    from tunesmith.core.errors import ConfigError
    from tunesmith.core.files import expanded, make_folder

    for path in paths:
        if path is not None and expanded(path).is_dir():
            raise ConfigError(f"{path}: is a folder. Name a file for the report.")
        if path is not None:
            make_folder(expanded(path).resolve().parent, "the report")
