"""What `tunesmith prompts` takes and shows: options for its jobs, tables of what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = {
    "labelled": ("accuracy", "macro F1", "unmatched answers", "valid answers"),
    "chat": ("equal fields", "valid answers", "chrF", "token F1", "exact match"),
}


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
