"""`tunesmith chat MODEL`: talk to a model in the terminal."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from tunesmith.cli.options import Device


def chat(
    model: Annotated[str, typer.Argument(help="A run folder, an exported model or a base model.")] = "ember",
    template: Annotated[str | None, typer.Option(help="Chat template by name, for a base model without one.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    once: Annotated[str | None, typer.Option(help="Ask this one question, print the answer and exit.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    device: Device = "auto",
) -> None:
    """Chat with a model. An empty line or Ctrl-D ends, /new forgets what was said."""
    from tunesmith.cli.screen import say_aside
    from tunesmith.core.errors import ConfigError
    from tunesmith.jobs.start import load

    speaker = load(model, template, device, say_aside)
    if not hasattr(speaker, "generate"):
        raise ConfigError(f"{model}: this model does not chat. Use `tunesmith predict {model} FILE`.")
    head = [{"role": "system", "content": system}] if system else []
    options = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    if once is not None:
        answer(speaker, [*head, {"role": "user", "content": once}], options)
        return
    typer.secho(f"{model}. An empty line or Ctrl-D ends, /new forgets what was said.", dim=True)
    turns = list(head)
    while (question := ask()) is not None:
        if question == "/new":
            turns = list(head)
            continue
        turns.append({"role": "user", "content": question})
        turns.append({"role": "assistant", "content": answer(speaker, turns, options)})


def ask() -> str | None:
    """The user's next line, or None at the end."""
    try:
        return input("you> " if sys.stdin.isatty() else "").strip() or None
    except EOFError:
        return None


def answer(speaker: Any, turns: list[dict[str, str]], options: dict[str, Any]) -> str:
    """Print the answer as it comes and return it whole."""
    pieces: list[str] = []
    for piece in speaker.stream(turns, **options):
        pieces.append(piece)
        typer.echo(piece, nl=False)
    typer.echo()
    return "".join(pieces).strip()
