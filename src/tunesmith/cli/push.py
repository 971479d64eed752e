"""`tunesmith push RUN REPO`: upload an exported model to the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated

import typer


def push(
    run: Annotated[str, typer.Argument(help="A run folder, or an exported model's folder.")],
    repo: Annotated[str, typer.Argument(help="owner/name on the hub; made if it is not there.")],
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; private if absent.")] = False,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to push to; made if it is not there.")] = None,
    with_samples: Annotated[
        bool, typer.Option("--with-samples", help="Quote the first test question, and a prompt it was trained with.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show card and files; send nothing.")] = False,
) -> None:
    """Upload an exported model to the Hugging Face hub, with a model card, in one commit."""
    from tunesmith.deploy.bundle import pack

    bundle = pack(run, repo, with_samples, revision)
    if dry_run:
        typer.echo(bundle.card)
        typer.echo(f"files for {repo}:")
        for name, size in bundle.sizes().items():
            typer.echo(f"{size:>15,}  {name}")
    if bundle.left_out:
        typer.echo(f"left out: {', '.join(bundle.left_out)}")
    if dry_run:
        return
    from tunesmith.deploy.hub import send

    try:
        pushed = send(bundle, public, message, revision)
    except KeyboardInterrupt as end:
        typer.echo(str(end) or "interrupted", err=True)
        raise typer.Exit(130) from None
    typer.echo(pushed.url)
    typer.echo(f"commit {pushed.commit}" + ("" if pushed.changed else ", as it was: nothing is new"))
    if pushed.removed:
        typer.echo(f"removed what an earlier push left: {', '.join(pushed.removed)}")
    if public and pushed.private:
        typer.echo("note: the repository was private and stays so; its settings on the hub change that")
