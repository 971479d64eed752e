"""`tunesmith demo`: the whole road on the embedded model and data, with no download."""

from __future__ import annotations


def demo() -> None:
    """Check a file, fine-tune, evaluate it beside its base, and say what to type next."""
    from importlib.resources import as_file, files

    from tunesmith.cli.check import check
    from tunesmith.cli.screen import console, live_screen
    from tunesmith.cli.train import say_next
    from tunesmith.jobs.start import start_run
    from tunesmith.train.recipe import read_recipe

    console.print("[bold]1. The data:[/bold] conversations at the front desk of a hotel")
    check(["hotel"], private=False)
    console.print("\n[bold]2. Fine-tuning[/bold] the embedded model ember with LoRA, then the same questions to both")
    with as_file(files("tunesmith") / "assets" / "demo.yaml") as path:
        recipe = read_recipe(path)
    with live_screen() as screen:
        run = start_run(recipe, screen)
    say_next(str(run.folder))
    console.print(
        "yours   tunesmith check your-file.jsonl, then recipes/chat.yaml with your file in it", soft_wrap=True
    )
