"""`tunesmith train RECIPE.yaml`: fine-tune as the recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path | None, typer.Argument(help="YAML recipe; `recipes/` holds examples.")] = None,
    set: Annotated[list[str], typer.Option(help="section.field=value, set over the recipe; repeatable.")] = [],  # noqa: B006
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder from its last checkpoint.")] = None,
    accept_change: Annotated[
        bool, typer.Option(help="Go on although recipe, rows, tokenizer or base were changed; recorded.")
    ] = False,
    allow_inexact: Annotated[
        bool, typer.Option(help="Go on although machine or library versions are others; recorded.")
    ] = False,
    until: Annotated[
        str, typer.Option(help="How far to go: trained, exported or evaluated. --resume takes the run further.")
    ] = "evaluated",
    allow_function: Annotated[
        list[str],
        typer.Option(help="Python file that rewards may run functions of; repeatable. A recipe alone never may."),
    ] = [],  # noqa: B006
) -> None:
    """Fine-tune a model, evaluate it beside its base and write a report; or go on with a run that ended early."""
    from tunesmith.cli.screen import live_screen
    from tunesmith.core.config import parse_overrides
    from tunesmith.core.errors import ConfigError
    from tunesmith.jobs.start import resume as go_on
    from tunesmith.jobs.start import start_run
    from tunesmith.train.recipe import read_recipe

    if (recipe is None) == (resume is None) or (resume is not None and set):
        raise ConfigError("give a recipe (with --set where needed), or --resume with a run folder alone.")
    with live_screen() as screen:
        if recipe is not None:
            run = start_run(read_recipe(recipe, parse_overrides(set)), screen, until, allow_function)
        else:
            assert resume is not None
            run = go_on(
                resume, screen, accept_change=accept_change, allow_inexact=allow_inexact, until=until,
                allow_functions=allow_function,
            )  # fmt: skip
    say_next(str(run.folder), until)


def chats(folder: str) -> bool:
    """Whether a run has made a model that writes on from what it has read."""
    from tunesmith.core.files import read_object
    from tunesmith.model.layout import CARD

    card = Path(folder) / "model" / CARD
    return not card.exists() or read_object(card).get("task", "causal") == "causal"


def say_next(folder: str, until: str = "evaluated", again: bool = True) -> None:
    """What to type after a run that went so far; `again`, where its recipe can be trained from here."""
    from tunesmith.cli.screen import console

    lines = {
        f"report  {folder}/report/report.html": until == "evaluated",
        f"go on   tunesmith train --resume {folder}": until != "evaluated",
        f"chat    tunesmith chat {folder}": until != "trained" and chats(folder),
        f"predict tunesmith predict {folder} FILE": until != "trained" and not chats(folder),
        f"again   tunesmith train {folder}/config.yaml --set optim.learning_rate=...": again,
    }
    console.print()
    for line, said in lines.items():
        if said:
            console.print(line, soft_wrap=True)
