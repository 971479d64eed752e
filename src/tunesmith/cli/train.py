"""`tunesmith train RECIPE.yaml`: fine-tune as the recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe; `recipes/` holds examples.")],
    set: Annotated[list[str], typer.Option(help="section.field=value, set over the recipe; repeatable.")] = [],  # noqa: B006
) -> None:
    """Fine-tune a model, evaluate it beside its base and write a report."""
    from tunesmith.cli.screen import live_screen
    from tunesmith.core.config import parse_overrides
    from tunesmith.jobs.recipe import read_recipe
    from tunesmith.jobs.start import start_run

    settings = read_recipe(recipe, parse_overrides(set))
    with live_screen() as screen:
        run = start_run(settings, screen)
    say_next(str(run.folder))


def say_next(folder: str) -> None:
    """What to type after a run."""
    from tunesmith.cli.screen import console

    console.print(f"\nreport  {folder}/report/report.html", soft_wrap=True)
    console.print(f"chat    tunesmith chat {folder}", soft_wrap=True)
    console.print(f"again   tunesmith train {folder}/config.yaml --set optim.learning_rate=...", soft_wrap=True)
