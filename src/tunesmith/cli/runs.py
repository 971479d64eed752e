"""`tunesmith runs` and `tunesmith show RUN`: what the run folders tell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def runs(
    folder: Annotated[Path, typer.Option(help="Folder that holds the run folders.")] = Path("runs"),
) -> None:
    """List the runs, the latest last."""
    from rich.table import Table

    from tunesmith.cli.screen import console
    from tunesmith.registry.runs import list_runs
    from tunesmith.score.interval import show as digits

    found = list_runs(folder)
    if not found:
        console.print(f"no runs in {folder}. Start one: tunesmith demo", soft_wrap=True)
        return
    table = Table(box=None)
    for name in ("run", "status", "base", "method"):
        table.add_column(name)
    for name in ("steps", "loss", "perplexity", "BLEU"):
        table.add_column(name, justify="right")
    for run in found:
        scores = {score["metric"]: digits(score["score"]["value"]) for score in run.scores}
        table.add_row(
            str(run.folder),
            run.status,
            run.base,
            run.method,
            f"{run.steps[0]}/{run.steps[1]}",
            "" if run.loss is None else f"{run.loss:.3f}",
            scores.get("perplexity", ""),
            scores.get("BLEU", ""),
        )
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
