"""`tunesmith methods`: the ways to change a model, beside each other."""

from __future__ import annotations


def methods() -> None:
    """List the ways to change a model, and what each can do."""
    from rich.table import Table

    from tunesmith.cli.screen import console
    from tunesmith.model.methods.table import METHODS

    table = Table(box=None)
    table.add_column("method.type")
    table.add_column("what it does", overflow="fold")
    table.add_column("exports")
    for name in ("merge", "continue", "one batch"):
        table.add_column(name, justify="center")
    table.add_column("rate", justify="right")
    table.add_column("not for", overflow="fold")
    for name, method in METHODS.items():
        what = " ".join((method.config.__doc__ or "").split())
        can = ["yes" if one in method.can else "" for one in ("merge", "continue", "stack")]
        exports = "adapter" if method.base_untouched else "model"
        table.add_row(name, what, exports, *can, f"{method.learning_rate:g}", method.unfit)
    console.print(table)
    console.print(
        "merge: into one full model, verified. continue: from what an earlier run exported (method.continue_from). "
        "one batch: served beside others of its base; other adapters are served too, each as a model of its own. "
        "rate: optim.learning_rate where the recipe gives none. The fields of each: docs/reference-config.md.",
        style="dim",
    )
