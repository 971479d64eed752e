"""`tunesmith demo`: the whole road on the embedded model and data, with no download."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def demo(
    rlhf: Annotated[bool, typer.Option("--rlhf", help="Learn from preferences: a reward model, and policies.")] = False,
) -> None:
    """Check a file, fine-tune, evaluate it beside its base, and say what to type next."""
    if rlhf:
        from_preferences()
        return
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


def from_preferences() -> None:
    """Learn what people prefer, stage by stage, and show what came of it."""
    from tunesmith.cli.screen import console, live_screen
    from tunesmith.jobs.rlhf_demo import Stage, rlhf_demo

    number = 0

    def tell(stage: Stage) -> None:
        nonlocal number
        number += 1
        console.print(f"\n[bold]{number}. {stage.name}:[/bold] {stage.told}", soft_wrap=True)

    with live_screen() as screen:
        found = rlhf_demo(screen, tell)
    show_policies(found)


def show_policies(found: dict[str, Any]) -> None:
    """Each policy beside the start, what was promised and is kept, and a question with all answers."""
    from rich.table import Table
    from rich.text import Text

    from tunesmith.cli.screen import console
    from tunesmith.score.interval import Interval, show

    def cell(value: dict[str, Any] | None) -> str:
        if value is None:
            return ""
        one = Interval(**value)
        return f"{show(one.value)}\n[{show(one.low)}, {show(one.high)}]"

    right = found["reward_accuracy"]
    console.print()
    if right is not None:
        value = Interval(**right)
        console.print(
            f"The reward model is right about {show(value.value)}% [{show(value.low)}, {show(value.high)}] of "
            f"{value.rows} held-out pairs, from templates that it never saw.", markup=False,
        )  # fmt: skip
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0), title=f"{found['rows']} held-out questions",
                  title_style="bold", title_justify="left")  # fmt: skip
    table.add_column("", no_wrap=True)
    for head in ("reward", "won, %", "KL, nats", "BLEU", "of start's", "chars"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in found["policies"]:
        table.add_row(
            Text(one["name"], "bold"), *(Text(cell(one[key])) for key in ("reward", "won", "divergence", "bleu")),
            f"{one['bleu_share']:.0f}%", show(one["length"]["value"]),
        )  # fmt: skip
    console.print(table)
    for one in found["policies"]:
        for what, is_so in (one["kept"] or {}).items():
            if not is_so:
                console.print(Text(f"{one['name']}: not kept: {what}", "yellow"))
    for sample in found["samples"][:2]:
        console.print()
        for name, text in sample.items():
            console.print(Text(f"{name:10}{text}", "bold" if name == "question" else ""), soft_wrap=True)
    console.print()
    console.print("won: answers with more points than the start's, by rules that the reward model never saw (polite, "
                  "short, straight, once); half of ties. KL: from the start, an answer. [low, high]: 95% intervals.",
                  style="dim", markup=False)  # fmt: skip
    for what, where in (("picture", found["picture"]), ("json", f"{found['folder']}/rlhf.json")):
        console.print(f"{what:8}{where}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"chat    tunesmith chat {found['policies'][-1]['folder']}", soft_wrap=True, markup=False)
