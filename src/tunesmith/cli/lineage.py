"""`tunesmith lineage MODEL`: what a model was made of, whether that is still here, and how to make it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tunesmith.registry.lineage import Generation

COLOURS = {"same": "green", "changed": "red", "missing": "yellow", "unknown": "yellow"}


def lineage(
    model: Annotated[str, typer.Argument(help="A run folder, an exported model or a base model.")],
    rerun: Annotated[bool, typer.Option("--rerun", help="Print only the shell commands that make it again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON, hashes in full.")] = False,
) -> None:
    """Where a model comes from, by the card in its folder, each line compared with what is here now."""
    import json

    from tunesmith.cli.screen import console
    from tunesmith.registry.lineage import trace
    from tunesmith.registry.rerun import rerun as commands
    from tunesmith.registry.rerun import would_differ

    found = trace(model)
    if as_json:
        again = commands(found) if found.card else None
        differ = would_differ(found) if found.card else []
        typer.echo(json.dumps({**found.to_json(), "differences": differ, "rerun": again}, indent=2, ensure_ascii=False))
    elif rerun:
        typer.echo(commands(found))
    else:
        _show(found)
        for line in _ending(found, would_differ(found)):
            console.print(line, markup=False, soft_wrap=True)


def _show(model: Generation, depth: int = 0) -> None:
    """One model and, below it, further in, those that it came from."""
    from rich.text import Text

    from tunesmith.cli.screen import console
    from tunesmith.registry.rerun import plain

    head = Text("    " * depth + ("└─ " if depth else ""))
    head.append(f"{model.role} " if model.role else "", "dim").append(plain(model.name), "bold")
    head.append("" if model.card else "  a base model: no card says how it was made", "dim")
    console.print(head, soft_wrap=True)
    for fact in model.facts:
        line = Text(f"{'    ' * depth}   {plain(fact.label):<9} {plain(fact.text)}")
        if fact.state is not None:
            line.append(f"  [{plain(fact.finding)}]", COLOURS[fact.state])
        console.print(line, soft_wrap=True)
    for origin in model.origins:
        _show(origin, depth + 1)


def _ending(model: Generation, differences: list[str]) -> list[str]:
    """What would make the result differ, if it were made again."""
    if model.card is None:
        return []
    again = f"`tunesmith lineage {model.name} --rerun` prints the commands that make it again."
    if differences:
        return ["Made again here, the result would differ, or not come about, because of:"] + [
            f"  {sentence}" for sentence in differences
        ] + [again]  # fmt: skip
    exact = "On a CPU the weights come out the same to the last bit" if model.card["plan"]["device"] == "cpu" else (
        "On a GPU the weights come out nearly the same"
    )  # fmt: skip
    return [f"{exact}, as long as files, base, library versions and machine are these. {again}"]
