"""`tunesmith distill PROMPT FILE`: a prompted model's answers as training rows without the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.options import Device


def distill(
    prompt: Annotated[str, typer.Argument(help="A version of `tunesmith prompts`, its folder, or a template file.")],
    file: Annotated[str, typer.Argument(help="Rows to ask about: questions, with answers or without, or classes.")],
    model: Annotated[str, typer.Option(help="Who answers: a base model, a run, a folder, or https://host/v1#name.")],
    into: Annotated[Path, typer.Option(help="File of the rows, as JSON lines of chats.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Most rows, from the first on; all if absent.")] = None,
    keep: Annotated[str, typer.Option(help="all; right: as the row says; agreeing: what most samples say.")] = "all",
    temperature: Annotated[float, typer.Option(min=0, help="Above 0, answers are drawn by chance.")] = 0.0,
    samples: Annotated[int, typer.Option(min=1, max=64, help="Answers to each row.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn by chance.")] = 0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer: 32 for a class, else 256.")] = None,
    price: Annotated[list[str], typer.Option(help="IN,OUT or MODEL=IN,OUT, dollars a million tokens.")] = [],  # noqa: B006
    max_requests: Annotated[int | None, typer.Option(min=0, help="Most requests to a server in this call.")] = None,
    max_cost: Annotated[float | None, typer.Option(min=0, help="Most dollars of this call.")] = None,
    format: Annotated[str | None, typer.Option(help="Row format; found by looking if absent.")] = None,
    column: Annotated[list[str], typer.Option(help="key=name where the file names a key otherwise; repeatable.")] = [],  # noqa: B006
    label_names: Annotated[str | None, typer.Option(help="File of names for labels that are numbers.")] = None,
    chat_template: Annotated[str | None, typer.Option(help="By name, for a base model without one.")] = None,
    device: Device = "auto",
) -> None:
    """Let a model answer every row with a prompt, and write its answers as training rows without the prompt."""
    from tunesmith.cli.screen import live_screen
    from tunesmith.core.config import parse_overrides
    from tunesmith.jobs.start import distill_rows

    options: dict[str, Any] = {
        "prompt": prompt, "data": file, "model": model, "into": str(into), "limit": limit, "keep": keep,
        "temperature": temperature, "samples": samples, "seed": seed, "max_new_tokens": max_new_tokens, "price": price,
        "max_requests": max_requests, "max_cost": max_cost, "format": format,
        "columns": parse_overrides(column, "--column key=name, for example question=Frage"),
        "label_names": label_names, "chat_template": chat_template, "device": device,
    }  # fmt: skip
    with live_screen() as screen:
        found = distill_rows(options, screen)
    say(found, into)


def say(found: dict[str, Any], into: Path) -> None:
    """What there is now, and what to type next."""
    from tunesmith.cli.screen import console

    lines = [f"{into}: {found['told']}"]
    if (agree := found["agree"]) and agree["of"]:
        share = 100 * agree["right"] / agree["of"]
        lines.append(f"{agree['right']} of {agree['of']} answers ({share:.1f}%) say what their row says.")
    if found["spent"]["requests"]:
        lines.append(f"{found['spent']['requests']} requests were sent, for {found['spent']['dollars']:.4f} dollars.")
    lines.append(f"ledger  {into}.ledger.json")
    lines.append(f"train   tunesmith train recipes/chat.yaml --set data.train={into}")
    console.print()
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
