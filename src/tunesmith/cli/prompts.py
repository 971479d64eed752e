"""`tunesmith prompts FILE`: what prompting gives on held-out rows, beside tuned models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.options import Device

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = {
    "labelled": ("accuracy", "macro F1", "unmatched answers", "valid answers"),
    "chat": ("equal fields", "valid answers", "chrF", "token F1", "exact match"),
}


def prompts(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="Rows with one class each, or questions with answers; `hotel`.")],
    models: Annotated[str, typer.Option(help="Parted by commas: base models, runs, https://host/v1#name.")] = "ember",
    shots: Annotated[str, typer.Option(help="Numbers of worked examples, parted by commas.")] = "0,1,4,8",
    examples: Annotated[str, typer.Option(help="random, balanced, nearest: how they are chosen; all if absent.")] = "",
    instruction: Annotated[str | None, typer.Option(help="Beside none; {labels} names the classes.")] = None,
    template: Annotated[str | None, typer.Option(help="File: {text}, {labels}, {instruction}, {examples}.")] = None,
    answer: Annotated[str, typer.Option(help="Of rows with classes: label, json, or both; label if absent.")] = "",
    schema: Annotated[str | None, typer.Option(help="File with a JSON schema that answers to chats must fit.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Most rows of each held-out part.")] = 100,
    validation: Annotated[str | None, typer.Option(help="File to choose by; a tenth of the rows if absent.")] = None,
    test: Annotated[str | None, typer.Option(help="File for the chosen prompts; a tenth if absent.")] = None,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Leave the test rows alone.")] = False,
    metric: Annotated[str | None, typer.Option(help="To choose by: accuracy, or chrF, if absent.")] = None,
    scoring: Annotated[str, typer.Option(help="Of labels: sum of log probabilities, mean, or pmi.")] = "sum",
    against: Annotated[str, typer.Option(help="What differences are to: best or first.")] = "best",
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest written answer; 32 to 256.")] = None,
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
    into: Annotated[Path | None, typer.Option(help="Folder of versions: runs/prompts/NAME of the file.")] = None,
    edit: Annotated[bool, typer.Option("--edit", help="Change the best version in $VISUAL or $EDITOR.")] = False,
    edit_with: Annotated[Path | None, typer.Option(help="The same, with the changed text from a file.")] = None,
    from_: Annotated[str, typer.Option("--from", help="Version to change or to look at: an id, or best.")] = "best",
    note: Annotated[str, typer.Option(help="Of the version that --edit makes.")] = "",
    history: Annotated[bool, typer.Option("--history", help="Show the versions, and which came from which.")] = False,
    final: Annotated[str | None, typer.Option(help="Measure a version on the test rows: an id, or best.")] = None,
    lint: Annotated[bool, typer.Option("--lint", help="Say what a prompt lacks: --from, or the one given.")] = False,
    gain: Annotated[bool, typer.Option("--gain", help="With --lint: measure what each advice gains.")] = False,
    device: Device = "auto",
) -> None:
    """Ask with and without instruction and examples: each prompt and model on held-out rows, beside tuned ones."""
    from tunesmith.cli.evaluate import refuse_folders
    from tunesmith.cli.prompt_versions import MODES, mode_of

    refuse_folders(json, html)
    sources = {name: context.get_parameter_source(name) for name in context.params}
    asked = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    mode = mode_of(asked)
    if mode:
        MODES[mode](context.params, asked)
    else:
        table_of_prompts(context.params)


def table_of_prompts(params: dict[str, Any]) -> None:
    """Try all variants, and show the table."""
    from tunesmith.cli.screen import live_screen
    from tunesmith.jobs.start import try_prompts

    options = {**options_of(params), "against": params["against"]}
    with live_screen() as screen:
        found = try_prompts(options, screen)
    show(found, params)


def show(found: dict[str, Any], params: dict[str, Any]) -> None:
    """Print what was found, and write it where that was asked for."""
    from tunesmith.cli.screen import console
    from tunesmith.core.files import expanded, write_json, write_text
    from tunesmith.evaluate.prompts.page import prompts_page

    print_found(found)
    if params["json"] is not None:
        write_json(expanded(params["json"]), found)
    if params["html"] is not None:
        write_text(expanded(params["html"]), prompts_page(found))
    for path in (params["json"], params["html"]):
        if path is not None:
            console.print(f"\nreport  {path}", soft_wrap=True, markup=False)


def options_of(params: dict[str, Any]) -> dict[str, Any]:
    """What the jobs of prompts take, of what was given on the command line."""
    from tunesmith.core.config import parse_overrides
    from tunesmith.evaluate.prompts.versions import folder_of

    same = (
        "instruction", "template", "schema", "rows", "validation", "test", "validate_only", "metric", "scoring",
        "max_new_tokens", "price", "max_requests", "max_cost", "format", "label_names", "chat_template", "seed",
        "device",
    )  # fmt: skip
    return {
        "data": params["file"], "models": listed(params["models"]), "shots": numbers(params["shots"]),
        "examples": listed(params["examples"]), "answer": listed(params["answer"]),
        "columns": parse_overrides(params["column"], "--column key=name, for example label=Kategorie"),
        "into": str(folder_of(params["file"], params["into"])), **{name: params[name] for name in same},
    }  # fmt: skip


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
    if found.get("kept"):
        console.print(kept_line(found["kept"]), markup=False, soft_wrap=True)


def kept_line(kept: dict[str, Any]) -> str:
    """Which version was kept."""
    how = "kept as" if kept["new"] else "is already"
    best = ", the best so far" if kept["best"] else ""
    return f"\nprompt  {how} {kept['file']}{best}"


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
