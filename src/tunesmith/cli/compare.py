"""`tunesmith compare RUN RUN...`: runs beside one another."""

from __future__ import annotations

import json as plain_json
from collections.abc import Callable, Sequence
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from tunesmith.registry.compare_runs import Entry, RunComparison, Setting
    from tunesmith.registry.run_scores import MetricScores, RunScore

WIDEST = 30  # characters of a value before it is folded
WIDEST_NAME = 20  # of a run's name before it is cut
LONGEST = 90  # of a value before it is cut


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two to ten run folders; differences are to the first.")],
    html: Annotated[Path | None, typer.Option(help="Write a page with curves and scores as pictures.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write everything as JSON, curves too.")] = None,
) -> None:
    """Put runs beside one another: settings that differ, losses, speed, and scores with paired differences."""
    from tunesmith.cli.screen import console
    from tunesmith.core.files import expanded, write_json, write_text
    from tunesmith.registry.compare_runs import compare_runs

    for path in (html, json):
        if path is not None:
            _refuse_no_file(expanded(path))
    found = compare_runs(runs)
    print_comparison(found)
    if html is not None:
        write_text(expanded(html), comparison_page(found, expanded(html)))
        console.print(f"\npage  {html}", soft_wrap=True, markup=False)
    if json is not None:
        write_json(expanded(json), found.to_json())
        console.print(f"\njson  {json}", soft_wrap=True, markup=False)


def _refuse_no_file(path: Path) -> None:
    """Say before anything is done that a file cannot be written."""
    from tunesmith.core.errors import ConfigError
    from tunesmith.core.files import make_folder

    if path.is_dir():
        raise ConfigError(f"{path}: a folder is there. Name a file to write.")
    make_folder(path.resolve().parent, path.name)


FACTS: dict[str, Callable[[Entry], str]] = {
    "status": lambda run: run.status,
    "steps": lambda run: f"{run.steps[0]}/{run.steps[1]}" if run.steps[1] else "-",
    "last loss": lambda run: _named(run, run.last_loss),
    "last validation": lambda run: _named(run, run.last_validation),
    "best validation": lambda run: _named(run, run.best_validation),
    "at step": lambda run: _written(run.best_step, ""),
    "tokens/s": lambda run: _written(run.tokens_per_second, ",.0f"),
    "GB": lambda run: _written(run.memory_bytes and run.memory_bytes / 2**30, ".2f"),
    "seconds": lambda run: _written(run.seconds, ",.1f"),
}


def _written(number: float | None, form: str) -> str:
    return "-" if number is None else format(number, form)


def _named(run: Entry, value: float | None) -> str:
    """A loss; a reward with that word."""
    return ("" if run.watched == "loss" or value is None else f"{run.watched} ") + _written(value, ".3f")


def _cells(setting: Setting, runs: Sequence[Entry]) -> list[str]:
    """A setting's value in each run, as JSON has it, texts without quotes and hashes by their beginning."""

    def cell(value: Any) -> str:
        text = value if isinstance(value, str) else plain_json.dumps(value, ensure_ascii=False)
        is_hash = len(text) == 64 and set(text) <= set("0123456789abcdef")
        return text[:12] if is_hash else _plain(text)

    return [cell(setting.values[run.name]) if run.name in setting.values else "-" for run in runs]


def signed(value: float) -> str:
    """A difference with its sign."""
    from tunesmith.score.interval import show

    return f"+{show(value)}" if value > 0 else show(value)


def print_comparison(found: RunComparison) -> None:
    """The tables: runs are rows throughout, so that ten of them stay readable on a narrow terminal."""
    from tunesmith.cli.screen import console

    for label, run in zip(_labels(found.runs, WIDEST_NAME), found.runs, strict=True):
        console.print(f"{label:{WIDEST_NAME}}  {_plain(run.folder)}", soft_wrap=True, markup=False)
    heads = [_plain(setting.name).replace(".", ".\n") for setting in found.settings]
    columns = [(head, _cut(_cells(one, found.runs))) for head, one in zip(heads, found.settings, strict=True)]
    nothing = "" if columns else ": nothing"
    console.print(
        f"\n[bold]what was set otherwise[/bold]{nothing} ({found.equal} settings and facts are equal in all runs)"
    )
    _print_bands(found.runs, columns, "left")
    console.print("\n[bold]how they went[/bold]")
    facts = [(name.replace(" ", "\n"), [fact(run) for run in found.runs]) for name, fact in FACTS.items()]
    _print_bands(found.runs, facts, "right")
    if found.scores:
        _print_scores(found)
    for note in found.notes:
        console.print(f"[yellow]note:[/yellow] {_escaped(note)}")


def _cut(cells: list[str]) -> list[str]:
    """Long values cut, from a little before the place where they begin to differ."""
    long = {cell for cell in cells if len(cell) > LONGEST}
    places = (place for place, letters in enumerate(zip(*long, strict=False)) if len(set(letters)) > 1)
    start = max(0, next(places, min(map(len, long)) if len(long) > 1 else 0) - 20)

    def cut(cell: str) -> str:
        end = start + LONGEST
        return f"{'…' if start else ''}{cell[start:end]}{'…' if len(cell) > end else ''}"

    return [cut(cell) if cell in long else cell for cell in cells]


def _labels(runs: Sequence[Entry], widest: int) -> list[str]:
    """As much of the runs' names as there is room for."""
    from tunesmith.core.names import shortened

    return shortened([_plain(run.name) for run in runs], widest)


def _print_bands(runs: Sequence[Entry], columns: list[tuple[str, list[str]]], justify: Any) -> None:
    """As many columns as the terminal is wide for; the others in further tables below."""
    from tunesmith.cli.screen import console

    names = _labels(runs, WIDEST_NAME)
    unbounded = console.options.update(width=2 * WIDEST * (len(columns) + 1))
    while columns:
        sizes = [
            console.measure(_band(names, columns[:count], justify), options=unbounded).maximum
            for count in range(1, len(columns) + 1)
        ]
        fitting = max(1, sum(size <= console.width for size in sizes))
        count = -(-len(columns) // -(-len(columns) // fitting))  # not one column alone below many
        console.print()
        console.print(_band(names, columns[:count], justify))
        columns = columns[count:]


def _band(names: Sequence[str], columns: Sequence[tuple[str, list[str]]], justify: Any) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    tallest = max(head.count("\n") for head, _ in columns)
    table.add_column(Text("\n" * tallest + "run"), no_wrap=True)
    for head, _ in columns:
        above = "\n" * (tallest - head.count("\n"))
        table.add_column(Text(above + head), max_width=WIDEST, overflow="fold", justify=justify)
    for name, *cells in zip(names, *(cells for _, cells in columns), strict=True):
        table.add_row(*map(Text, (name, *cells)))
    return table


def _print_scores(found: RunComparison) -> None:
    from rich.table import Table
    from rich.text import Text

    from tunesmith.cli.screen import COLOURS, console

    lines = {score.metric: [_score_cells(cell) for cell in score.runs] for score in found.scores}
    widths = [max(len(cells[place]) for rows in lines.values() for cells in rows) for place in range(3)]
    widest = max(8, min(WIDEST_NAME, console.width - sum(widths) - 3 * 2))
    first = _escaped(found.runs[0].name)
    console.print(f"\n[bold]scores[/bold] with 95% intervals; then the difference to {first}, paired by row")
    for score in shown_first(found.scores):
        console.print(f"\n[bold]{_escaped(score.metric)}[/bold]  [dim]{_escaped(score.unit + _direction(score))}[/dim]")
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        for width in widths[:2]:
            table.add_column(width=width, no_wrap=True)
        table.add_column()
        for label, (*cells, verdict) in zip(_labels(found.runs, widest), lines[score.metric], strict=True):
            table.add_row(*map(Text, (label, *cells)), Text(verdict, style=COLOURS.get(verdict, "dim")))
        console.print(table)
    console.print()


def shown_first(scores: Sequence[MetricScores]) -> list[MetricScores]:
    """The metrics, those in which any run is better or worse than the first one before the others."""
    return sorted(scores, key=lambda score: not shows(score))


def shows(score: MetricScores) -> bool:
    """Whether a run is better or worse than the first one."""
    return any(run.verdict in ("better", "worse") for run in score.runs)


def _score_cells(cell: RunScore) -> tuple[str, str, str]:
    """The score, the difference and the verdict."""
    from tunesmith.score.interval import show

    score, difference = cell.score, cell.difference
    return (
        f"{show(score.value)} [{show(score.low)}, {show(score.high)}]" if score else "no score",
        f"{signed(difference.value)} [{signed(difference.low)}, {signed(difference.high)}]" if difference else "",
        cell.verdict,
    )


def _direction(score: MetricScores) -> str:
    return {True: "; higher is better", False: "; lower is better", None: ""}[score.higher_is_better]


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(_plain(text))


def _plain(text: str) -> str:
    """Text of a run's folder without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text)


def comparison_page(found: RunComparison, target: Path) -> str:
    """The page as HTML text. Everything that comes from the folders is escaped.

    Args:
        found: what is shown.
        target: where the page will be; links to the runs' own reports are relative to it.
    """
    from tunesmith.core.pages import render
    from tunesmith.evaluate.score_pictures import curves_of_runs, run_colours, score_dots
    from tunesmith.score.interval import show

    colours = run_colours(len(found.runs))
    runs = [
        {
            "name": run.name,
            "colour": colour,
            "link": _link(run, target),
            "facts": [fact(run) for fact in FACTS.values()],
        }
        for run, colour in zip(found.runs, colours, strict=True)
    ]
    first = [score for score in found.scores if shows(score)] or found.scores
    panels = [(_plain(score.metric) + _direction(score), [cell.score for cell in score.runs]) for score in first]
    watched = found.runs[0].watched
    losses = [run.losses if run.watched == watched else [] for run in found.runs]
    validations = [run.validations if run.watched == watched else [] for run in found.runs]
    return render(
        "tunesmith.evaluate",
        "compare_runs.html.jinja",
        title=f"{len(runs)} runs compared",
        lead=", ".join(run.name for run in found.runs),
        runs=runs,
        facts=list(FACTS),
        settings=[{"name": one.name, "cells": _cells(one, found.runs)} for one in found.settings],
        equal=found.equal,
        scores=first,
        other_scores=[score for score in found.scores if score not in first],
        notes=found.notes,
        number=show,
        signed=signed,
        watched=watched,
        loss_svg=curves_of_runs(watched, losses, validations) if any(losses) else "",
        score_svg=score_dots(panels, [_plain(run.name) for run in found.runs]) if panels else "",
    )


def _link(run: Entry, target: Path) -> str | None:
    """The relative address of a run's own report, if it has one."""
    from urllib.parse import quote

    page = Path(run.folder).resolve() / "report" / "report.html"
    return quote(relpath(page, target.resolve().parent)) if page.exists() else None
