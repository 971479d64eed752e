"""`tunesmith runs` and `tunesmith show RUN`: what the run folders tell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.queue.stores import Records, opened_records
from tunesmith.core.names import counted


def runs(
    folder: Annotated[Path, typer.Option(help="Folder that holds the run folders.")] = Path("runs"),
    rebuild: Annotated[bool, typer.Option(help="Make the index of this folder's runs in the records anew.")] = False,
    indexed: Annotated[bool, typer.Option(help="List what the index has, of all folders.")] = False,
    records: Records = None,
) -> None:
    """List the runs, the latest last."""
    from rich.table import Table

    from tunesmith.cli.screen import console
    from tunesmith.registry.runs import list_runs
    from tunesmith.score.interval import show as digits

    if rebuild or indexed:
        from tunesmith.registry.index import indexed_runs
        from tunesmith.registry.index import rebuild as make_anew

        database = opened_records(records)
        count = len(make_anew(database, folder)) if rebuild else 0
        lines = [
            (run.folder, run.status, run.base, run.method, (run.step, run.steps), run.loss, run.scores, None)
            for run in indexed_runs(database)
        ]
        if rebuild:
            console.print(f"indexed {counted(count, 'run')} of {folder} in {database.name}", soft_wrap=True)
    else:
        lines = [
            (str(run.folder), run.status, run.base, run.method, run.steps, run.loss, run.scores, run.reward)
            for run in list_runs(folder)
        ]
    if not lines:
        console.print(f"no runs in {folder}. Start one: tunesmith demo", soft_wrap=True)
        return
    table = Table(box=None)
    for name in ("run", "status", "base", "method"):
        table.add_column(name, overflow="fold")
    for name in ("steps", "loss", "perplexity", "BLEU"):
        table.add_column(name, justify="right")
    for name, status, base, method, steps, loss, scored, reward in lines:
        scores = {score["metric"]: digits(score["score"]["value"]) for score in scored}
        last = "" if loss is None else f"{loss:.3f}" if reward is None else f"reward {reward:.3f}"
        numbers = (f"{steps[0]}/{steps[1]}", last)
        table.add_row(name, status, base, method, *numbers, scores.get("perplexity", ""), scores.get("BLEU", ""))
    console.print(table)


def show(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
) -> None:
    """Show one run: its state, its recipe and its scores."""
    import yaml

    from tunesmith.cli.screen import console, scores_table
    from tunesmith.core.files import read_json
    from tunesmith.registry.runs import read_run

    summary = read_run(run)
    console.print(f"[bold]{summary.folder}[/bold]  {summary.status}, step {summary.steps[0]} of {summary.steps[1]}")
    for sentence in summary.trouble:
        console.print(f"  {sentence}", markup=False, style="yellow")
    console.print(yaml.safe_dump(summary.recipe, sort_keys=False).rstrip(), markup=False, style="dim")
    if summary.scores:
        report = read_json(run / "report" / "report.json")
        console.print()
        console.print(scores_table(summary.scores, report["rows"], report["model"], report["against"]))
        console.print(f"report  {run / 'report' / 'report.html'}", soft_wrap=True)
