"""`tunesmith prompts FILE`: what prompting gives on held-out rows, beside tuned models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.options import Device


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
    from tunesmith.cli.prompt_tables import options_of, show
    from tunesmith.cli.screen import live_screen
    from tunesmith.jobs.start import try_prompts

    options = {**options_of(params), "against": params["against"]}
    with live_screen() as screen:
        found = try_prompts(options, screen)
    show(found, params)
