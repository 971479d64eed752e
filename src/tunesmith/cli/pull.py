"""`tunesmith pull NAME`: have a base model here, to use it offline."""

from __future__ import annotations

from typing import Annotated

import typer


def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="smollm2-135m; a Hugging Face id; a GGUF file in its repository (owner/repository/file.gguf); or a "
            "GGUF file here."
        ),
    ],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of what comes from the hub.")] = None,
) -> None:
    """Fetch a base model, unpack it where it is a GGUF file, and say what it is. Broken off, it is gone on with."""
    from tunesmith.cli.models import show_model
    from tunesmith.cli.screen import console, live_screen
    from tunesmith.prompt.base import EMBEDDED, resolve
    from tunesmith.prompt.bases.models import find_listed, note_licence

    with live_screen() as screen:
        base = resolve(name, revision, screen)
    if base.commit is not None:
        note_licence(name, base.name, base.commit)
    model = find_listed(EMBEDDED if name == EMBEDDED else base.name if base.commit else str(base.folder))
    show_model(model)
    console.print(
        f'chat    tunesmith chat {name}\ntrain   tunesmith train recipes/chat.yaml --set model.base={name}',
        markup=False, soft_wrap=True,
    )  # fmt: skip
