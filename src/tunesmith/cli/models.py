"""`tunesmith models` and `tunesmith rm NAME`: the base models on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tunesmith.prompt.bases.models import Model


def models() -> None:
    """List the base models on this machine, and what each can be used for."""
    from rich.table import Table

    from tunesmith.cli.screen import console
    from tunesmith.prompt.bases.models import list_models

    table = Table(box=None)
    table.add_column("model", overflow="fold")
    for name in ("size", "numbers"):
        table.add_column(name, justify="right")
    for name in ("licence", "template", "good for", "source"):
        table.add_column(name, overflow="fold")
    found = list_models()
    for model in found:
        table.add_row(*map(_plain, _cells(model)))
    console.print(table)
    for model in found:
        for note in model.source.notes:
            console.print(f"note: {model.name}: {note}", style="yellow", markup=False, soft_wrap=True)
    console.print(
        "train: with every method.type of `tunesmith methods`, but for those that are not for its family. More models: "
        "tunesmith pull NAME. Less: tunesmith rm NAME.",
        style="dim",
    )


def rm(name: Annotated[str, typer.Argument(help="A model that `tunesmith models` lists.")]) -> None:
    """Remove a base model that was pulled or unpacked. A folder or a file of your own is never touched."""
    from tunesmith.cli.screen import console
    from tunesmith.prompt.bases.models import remove

    model, freed = remove(name)
    where = "from the hub's cache" if model.cached else str(model.folder)
    console.print(f"removed {model.name} ({where}): {_size(freed)} freed", markup=False, soft_wrap=True)


def show_model(model: Model) -> None:
    """A model, a fact a line."""
    from tunesmith.cli.screen import console

    heads = ("model", "size", "numbers", "licence", "template", "good for", "source")
    for head, cell in zip(heads, _cells(model), strict=True):
        console.print(f"{head:9}{cell}", markup=False, soft_wrap=True)
    console.print(f"{'folder':9}{model.folder}", markup=False, soft_wrap=True)
    for note in model.source.notes:
        console.print(f"note: {note}", style="yellow", markup=False, soft_wrap=True)


def _cells(model: Model) -> tuple[str, ...]:
    source = model.source
    hash = (
        f", sha256 {source.sha256[:12]}" if source.sha256 else f", commit {source.commit[:12]}" if source.commit else ""
    )
    kinds = ", ".join(source.kinds) if source.kinds else ""
    uses = " ".join((", ".join(model.uses), f"({model.why})" if model.why else "")).strip()
    numbers = f"{source.numbers / 1e6:,.0f} M" + (f" ({kinds})" if kinds else "")
    return (
        model.name,
        _size(model.bytes),
        numbers,
        source.licence or "not said",
        source.template or "?",
        uses,
        source.source + hash,
    )


def _size(bytes: int) -> str:
    return f"{bytes / 1e9:.1f} GB" if bytes >= 1e9 else f"{bytes / 1e6:.0f} MB"


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
