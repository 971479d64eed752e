"""`tunesmith compare-methods RECIPE`: what each way to change the model costs and gives, on your rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tunesmith.jobs.compare_methods import Outcome, Score

SHOWN = 2  # metrics in the table


def compare_methods(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe: base, rows and budget, which all methods share.")],
    methods: Annotated[str, typer.Option(help="Such as lora,qlora,full@1e-4: after @, a learning rate of its own.")],
    set: Annotated[list[str], typer.Option(help="section.field=value, set over the recipe; repeatable.")] = [],  # noqa: B006
    picture: Annotated[Path | None, typer.Option(help="Draw quality against memory, as .svg or .png.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write everything as JSON.")] = None,
    markdown: Annotated[bool, typer.Option(help="Print the table as Markdown.")] = False,
) -> None:
    """Run several methods on the same rows and steps, one after the other. Asked for again, it goes on where it was."""
    from tunesmith.cli.screen import console, live_screen
    from tunesmith.core.config import parse_overrides
    from tunesmith.core.errors import ConfigError, JobError
    from tunesmith.core.files import expanded, make_folder, write_json
    from tunesmith.evaluate.trade_off_picture import draw_trade_off
    from tunesmith.jobs.compare_methods import compare_methods as run_all
    from tunesmith.train.recipe import read_recipe

    if picture is not None and picture.suffix not in (".svg", ".png"):
        raise ConfigError(f"--picture {picture}: must end in .svg or .png.")
    for path in (picture, json):
        if path is not None:
            make_folder(expanded(path).resolve().parent, path.name)
    asked = [name.strip() for name in methods.split(",") if name.strip()]
    with live_screen() as screen:
        found = run_all(read_recipe(recipe, parse_overrides(set)), asked, screen)
    console.print()
    if markdown:
        console.print(as_markdown(found), markup=False, soft_wrap=True)
    else:
        print_outcomes(found)
    for one in found:
        if one.trouble:
            console.print(f"{one.name}: {one.trouble}", markup=False, soft_wrap=True)
    if json is not None:
        write_json(expanded(json), [one.to_json() for one in found])
        console.print(f"\njson     {json}", soft_wrap=True, markup=False)
    drawn = [
        (one.name.partition("@")[0], one.memory_bytes, one.scores[0])
        for one in found
        if one.memory_bytes and one.scores
    ]
    if picture is not None and drawn:
        points = [(name, memory / 2**30, score.score) for name, memory, score in drawn]
        draw_trade_off(points, drawn[0][2].metric, drawn[0][2].base, expanded(picture))
        console.print(f"picture  {picture}", soft_wrap=True, markup=False)
    if all(one.trouble for one in found):
        raise JobError("no method came to its end.")


def print_outcomes(found: Sequence[Outcome]) -> None:
    """The table, for a terminal."""
    from rich.table import Table
    from rich.text import Text

    from tunesmith.cli.screen import console

    table = Table(box=None, header_style="dim")
    heads, rows = table_of(found)
    for place, head in enumerate(heads):
        table.add_column(head.replace(" ", "\n", 1), justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell.replace(" [", "\n[").replace(" (", "\n(")) for cell in row))
    console.print(table)
    console.print(
        "[low, high]: 95% intervals. general: perplexity on questions that have nothing to do with the rows, and its "
        "difference to the base: what was forgotten. GB: of the process at most.",
        style="dim",
        markup=False,
    )


def as_markdown(found: Sequence[Outcome]) -> str:
    """The table, for a page."""
    heads, rows = table_of(found)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table_of(found: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows, the base's own scores first."""
    ended = [one for one in found if not one.trouble]
    first = next((one for one in ended if one.scores), None)
    metrics = [score.metric for score in first.scores[:SHOWN]] if first else []
    heads = ["method", *metrics, "general", "weights", "GB", "tokens/s", "seconds", "MB on disk"]
    rows = [] if first is None else [["base", *_bases(first), *["-"] * 5]]
    for one in ended:
        cells = [_cell(score) for score in one.scores[:SHOWN]] or ["-"] * len(metrics)
        general = f"{_cell(one.general[0])} {_difference(one.general[0])}" if one.general else "-"
        rows.append([
            one.name, *cells, general, f"{one.weights:,}", f"{(one.memory_bytes or 0) / 2**30:.2f}",
            f"{one.tokens_per_second:,.0f}", f"{one.seconds:,.0f}", f"{(one.bytes_on_disk or 0) / 1e6:,.2f}",
        ])  # fmt: skip
    return heads, rows


def _bases(first: Outcome) -> list[str]:
    from tunesmith.score.interval import show

    return [show(one.base.value) if one.base else "-" for one in [*first.scores[:SHOWN], *first.general[:1]]] + (
        [] if first.general else ["-"]
    )


def _cell(score: Score) -> str:
    from tunesmith.score.interval import show

    return f"{show(score.score.value)} [{show(score.score.low)}, {show(score.score.high)}]"


def _difference(score: Score) -> str:
    from tunesmith.cli.compare import signed

    return f"({signed(score.difference.value)})" if score.difference else ""
