"""`tunesmith explain`: what a field of a recipe does, what is usual, where that is from, what it interacts with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from tunesmith.train.explain import Explanation

NAME = typer.Argument(
    None,
    help="Such as optim.layer_decay, layer_decay, method.rank, optim.optimizer.muon or optim; without it, all names.",
)
PARTS = ("what", "values", "default", "effect", "usual", "source", "with_")
Row = tuple[str, str]


def explain(name: str | None = NAME) -> None:
    """Say what a field of a recipe does to training, what is usual and why, and what it interacts with."""
    from tunesmith.train.explain import named

    if name is None:
        show_all()
        return
    found = named(name)
    if len(found) == 1:
        show(found[0])
    else:
        show_alternatives(found)


def show_all() -> None:
    """Every field under its kind."""
    from rich.text import Text

    from tunesmith.cli.screen import console
    from tunesmith.train.explain import KINDS, everything

    for kind in KINDS:
        console.print(Text(kind.title, style="bold"))
        console.print(Text(kind.sentence, style="dim"))
        owners: dict[str, list[str]] = {}
        for one in everything().values():
            owner, _, last = one.name.rpartition(".")
            if one.kind == kind.name and one.role == "field":
                owners.setdefault(owner or "(top level)", []).append(last)
            elif one.kind == kind.name and one.role == "alternative":
                owners[one.name] = []
        show_rows([(owner, ", ".join(names) or "(no fields)") for owner, names in owners.items()])
        console.print()
    console.print(
        Text("tunesmith explain NAME says what one of them does; NAME may be its last part alone.", style="dim")
    )


def show(found: Explanation) -> None:
    """One field, alternative or section, and what is below it."""
    from tunesmith.cli.screen import console

    show_title(found.name if found.role != "field" else found.written, found.kind, found)
    if rows := rows_of(found, PARTS[1:]):
        show_rows(rows)
        console.print()
    if found.inside:
        show_inside(found)


def show_title(title: str, kind: str, found: Explanation) -> None:
    """The name, its kind, and what it is."""
    from rich.text import Text

    from tunesmith.cli.screen import console

    of = f" of {found.name.split('.')[-2]}" if found.written != found.name and found.role == "field" else ""
    console.print(Text.assemble((title, "bold"), f"{of}   ", (kind, "dim")))
    if found.what:
        console.print(Text(plain(found.what)))
    console.print()


def show_alternatives(found: list[Explanation]) -> None:
    """What several alternatives have by one name: first what is alike, then what each has of its own."""
    from rich.text import Text

    from tunesmith.cli.screen import console

    common = {part: shared_by_most(found, part) for part in PARTS}
    console.print(Text.assemble((found[0].written, "bold"), "   ", (found[0].kind, "dim")))
    if common["what"]:
        console.print(Text(plain(common["what"])))
    console.print()
    shared = tuple(part for part in PARTS[1:] if common[part])
    show_rows(rows_of(replace(found[0], **{part: common[part] for part in shared}), shared))
    groups: dict[str, tuple[list[str], list[Row]]] = {}
    for one in found:
        rows = rows_of(one, tuple(part for part in PARTS if getattr(one, part) != common[part]))
        groups.setdefault(str(rows), ([], rows))[0].append(one.name.split(".")[-2])
    for names, rows in groups.values():
        console.print()
        console.print(Text.assemble("of ", (", ".join(names), "bold"), ":" if rows else ": as above"))
        show_rows(rows)


def shared_by_most(found: list[Explanation], part: str) -> Any:
    """What is the same in all of them or, of texts, in more than half; else nothing."""
    values = [getattr(one, part) for one in found]
    most = max(values, key=values.count)
    enough = len(values) if part in ("what", "values", "default") else len(values) // 2 + 1
    return most if values.count(most) >= enough else None


def rows_of(found: Explanation, parts: tuple[str, ...]) -> list[Row]:
    """What there is of an explanation, each with its word; the first of several lines alone has it."""
    rows: list[Row] = []
    for part in parts:
        if part == "with_":
            lines = [plain(f"{name}: {how}") for name, how in found.with_.items()]
            rows += [("with" if not number else "", line) for number, line in enumerate(lines)]
        elif value := plain(getattr(found, part)):
            rows.append((part, value))
    return rows


def show_inside(found: Explanation) -> None:
    """What is directly below: alternatives with what they are, or fields with their defaults."""
    from rich.table import Table
    from rich.text import Text

    from tunesmith.cli.screen import console
    from tunesmith.train.explain import everything

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    inside = [everything()[name] for name in found.inside]
    if with_defaults := any(one.default for one in inside):
        table.add_column(max_width=18, overflow="fold", style="dim")
    table.add_column(ratio=1)
    for one in inside:
        default = [Text(plain(one.default))] if with_defaults else []
        table.add_row(one.name.rpartition(".")[2], *default, Text(plain(one.what)))
    console.print(table)


def show_rows(rows: list[Row]) -> None:
    """Words and what belongs to them, in two columns."""
    from rich.table import Table
    from rich.text import Text

    from tunesmith.cli.screen import console

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(ratio=1)
    for word, value in rows:
        table.add_row(word, Text(value))
    console.print(table)


def plain(text: str) -> str:
    """Without the marks of code, which a terminal shows as they are."""
    return text.replace("`", "")
