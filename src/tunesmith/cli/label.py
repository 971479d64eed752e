"""`tunesmith label FILE`: people say which of two answers is better, in the terminal."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.options import Device


def label(
    into: Annotated[Path, typer.Option(help="File of the choices, as JSON lines; an old one is gone on with.")],
    file: Annotated[str | None, typer.Argument(help="Prompts: rows of chats, or texts one a line.")] = None,
    models: Annotated[str, typer.Option(help="One or two, by a comma: base models, runs, https://host/v1#name.")] = "",
    answers: Annotated[str | None, typer.Option(help="File of prompts that each bring two `answers` along.")] = None,
    who: Annotated[str | None, typer.Option(help="Who judges; the login name if absent.")] = None,
    samples: Annotated[
        int | None, typer.Option(min=2, max=2, help="Two answers of one model, drawn by chance.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 for two models, 0.8 for one.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; 256 if absent.")] = None,
    system: Annotated[str | None, typer.Option(help="System message of prompts that have none.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most prompts, from the first on; all if absent.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn, and of which answer comes first.")] = 0,
    chat_template: Annotated[str | None, typer.Option(help="By name, for a base model without one.")] = None,
    device: Device = "auto",
) -> None:
    """Show a prompt and two answers, take what you prefer, and write it down as a row for DPO and its kin."""
    from filelock import FileLock, Timeout

    from tunesmith.cli.labelling import Desk
    from tunesmith.cli.prompt_tables import listed
    from tunesmith.cli.screen import say_aside
    from tunesmith.core.errors import JobError
    from tunesmith.core.files import expanded, make_folder
    from tunesmith.data.labels import Brought, open_labels, read_pairs, refuse_options

    options: dict[str, Any] = {
        "prompts": file, "models": listed(models), "answers": answers, "samples": samples, "temperature": temperature,
        "max_new_tokens": max_new_tokens, "system": system, "limit": limit, "seed": seed,
        "chat_template": chat_template, "device": device,
    }  # fmt: skip
    refuse_options(options)
    path = expanded(into)
    lock = FileLock(make_folder(path.parent, path.name) / f".{path.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise JobError(
            f"{into}: another process writes choices into it. Wait for it, or give another --into."
        ) from None
    try:
        labels = open_labels(path)
        if answers:
            pairs = Brought(list(read_pairs(answers, options["models"]))[:limit])
        else:
            from tunesmith.jobs.labelling import asked_pairs

            pairs = asked_pairs(options, say_aside)
        desk = Desk(labels, pairs, who or login_name(), seed, sys.stdin.isatty())
        try:
            desk.judge_all()
        finally:
            desk.say_end()
            pairs.close()
    finally:
        lock.release()


def login_name() -> str:
    """Who sits there, as far as the system knows."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a number without a name, as in a container
        return "unknown"
