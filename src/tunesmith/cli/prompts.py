"""`tunesmith prompts FILE`: what prompting gives on held-out rows, beside tuned models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.options import Device

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = {"labelled": ("accuracy", "macro F1", "unmatched answers"), "chat": ("chrF", "token F1", "exact match")}


def prompts(
    file: Annotated[str, typer.Argument(help="Rows with one class each, or questions with answers; `hotel`.")],
    models: Annotated[str, typer.Option(help="Parted by commas: base models, runs, https://host/v1#name.")] = "ember",
    shots: Annotated[str, typer.Option(help="Numbers of worked examples, parted by commas.")] = "0,1,4,8",
    examples: Annotated[str, typer.Option(help="random, balanced, nearest: how they are chosen; all if absent.")] = "",
    instruction: Annotated[str | None, typer.Option(help="Beside none; {labels} names the classes.")] = None,
    template: Annotated[str | None, typer.Option(help="File: {text}, {labels}, {instruction}, {examples}.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Most rows of each held-out part.")] = 100,
    validation: Annotated[str | None, typer.Option(help="File to choose by; a tenth of the rows if absent.")] = None,
    test: Annotated[str | None, typer.Option(help="File for the chosen prompts; a tenth if absent.")] = None,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Leave the test rows alone.")] = False,
    metric: Annotated[str | None, typer.Option(help="To choose by: accuracy, or chrF, if absent.")] = None,
    scoring: Annotated[str, typer.Option(help="Of labels: sum of log probabilities, mean, or pmi.")] = "sum",
    against: Annotated[str, typer.Option(help="What differences are to: best or first.")] = "best",
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest written answer: 32 or 128.")] = None,
    price: Annotated[list[str], typer.Option(help="IN,OUT or MODEL=IN,OUT, dollars a million tokens.")] = [],  # noqa: B006
    max_requests: Annotated[int | None, typer.Option(min=0, help="Most requests to servers in this call.")] = None,
    max_cost: Annotated[float | None, typer.Option(min=0, help="Most dollars of this call.")] = None,
    format: Annotated[str | None, typer.Option(help="Row format; found by looking if absent.")] = None,
    column: Annotated[list[str], typer.Option(help="key=name where the file names a key otherwise; repeatable.")] = [],  # noqa: B006
    label_names: Annotated[str | None, typer.Option(help="File of names for labels that are numbers.")] = None,
    chat_template: Annotated[str | None, typer.Option(help="By name, for base models without one.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn by chance.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write everything, answers too, as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the tables as a page.")] = None,
    device: Device = "auto",
) -> None:
    """Ask with and without instruction and examples: each prompt and model on held-out rows, beside tuned ones."""
    from tunesmith.cli.evaluate import refuse_folders
    from tunesmith.cli.screen import console, live_screen
    from tunesmith.core.config import parse_overrides
    from tunesmith.core.files import expanded, write_json, write_text
    from tunesmith.evaluate.prompts.page import prompts_page
    from tunesmith.jobs.start import try_prompts

    refuse_folders(json, html)
    options: dict[str, Any] = {
        "data": file, "models": listed(models), "shots": numbers(shots), "examples": listed(examples),
        "instruction": instruction, "template": template, "rows": rows, "validation": validation, "test": test,
        "validate_only": validate_only, "metric": metric, "scoring": scoring, "against": against,
        "max_new_tokens": max_new_tokens, "price": price, "max_requests": max_requests, "max_cost": max_cost,
        "format": format, "columns": parse_overrides(column, "--column key=name, for example label=Kategorie"),
        "label_names": label_names, "chat_template": chat_template, "seed": seed, "device": device,
    }  # fmt: skip
    with live_screen() as screen:
        found = try_prompts(options, screen)
    print_found(found)
    if json is not None:
        write_json(expanded(json), found)
    if html is not None:
        write_text(expanded(html), prompts_page(found))
    for path in (json, html):
        if path is not None:
            console.print(f"\nreport  {path}", soft_wrap=True, markup=False)


def listed(text: str) -> list[str]:
    """Names that commas part."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str) -> list[int]:
    """Numbers that commas part.

    Raises:
        ConfigError: one is none, or there are none.
    """
    from tunesmith.core.errors import ConfigError

    found = listed(text)
    if not found or not all(one.isascii() and one.isdecimal() for one in found):
        raise ConfigError(f"--shots {text}: must be whole numbers parted by commas, such as 0,1,4,8.")
    return [int(one) for one in found]


def print_found(found: dict[str, Any]) -> None:
    """Both tables, and what is to be known of them."""
    from tunesmith.cli.screen import console
    from tunesmith.evaluate.prompts.page import legend, titles

    for part, title in titles(found).items():
        console.print()
        console.print(table(found, part, title))
    for sentence in legend(found):
        console.print(sentence, style="dim", markup=False, soft_wrap=True)


def table(found: dict[str, Any], part: str, title: str) -> Table:
    """The table of one part, for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from tunesmith.evaluate.prompts.page import cells

    heads, lines = cells(found, part, SHOWN[found["kind"]])
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    for place, head in enumerate(heads):
        made.add_column(head, justify="left" if place < 2 else "right", overflow="fold", min_width=11 * (place == 1))
    for line in lines:
        made.add_row(*(Text(cell.replace(" [", "\n[").replace("] ", "]\n")) for cell in line))
    return made
