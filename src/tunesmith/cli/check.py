"""`tunesmith check FILE`: what is in a file of examples, row by row."""

from __future__ import annotations

from typing import Annotated

import typer


def check(
    file: Annotated[str, typer.Argument(help="Data file: .jsonl, .json or .csv; `hotel` is the embedded example.")],
    format: Annotated[str | None, typer.Option(help="Row format; found by looking if absent.")] = None,
    column: Annotated[list[str], typer.Option(help="key=name where the file names a key otherwise; repeatable.")] = [],  # noqa: B006
    model: Annotated[str, typer.Option(help="Model whose tokenizer and chat template count the tokens.")] = "ember",
    template: Annotated[str | None, typer.Option(help="Chat template by name, for a base model without one.")] = None,
    show: Annotated[int, typer.Option(help="How many faults to print.")] = 5,
) -> None:
    """Check a data file: its format, where every row goes, and how long the rows are."""
    from tunesmith.cli.screen import console
    from tunesmith.core.config import parse_overrides
    from tunesmith.core.errors import DataError
    from tunesmith.data.load import load_dataset
    from tunesmith.data.prepare import spread
    from tunesmith.prompt.base import resolve
    from tunesmith.prompt.contract import load_contract

    dataset = load_dataset(file, format, parse_overrides(column, "--column key=name, for example question=Frage"))
    console.print(f"format: {dataset.format}")
    console.print(dataset.ledger.sentence())
    for entry in dataset.ledger.entries[:show]:
        console.print(f"  {entry}", markup=False)
    if len(dataset.ledger.entries) > show:
        console.print(f"  and {len(dataset.ledger.entries) - show} more (--show {len(dataset.ledger.entries)})")
    if dataset.rows:
        contract = load_contract(resolve(model).folder, template)
        rendered = [contract.render(row.conversation) for row in dataset.rows]
        for name, values in (
            ("tokens", [len(r.ids) for r in rendered]),
            ("trained tokens", [r.trained for r in rendered]),
        ):
            s = spread(values)
            console.print(
                f"{name} a row: mean {s.mean}, median {s.median:.0f}, 5% {s.p5:.0f}, 95% {s.p95:.0f}, "
                f"from {s.least} to {s.most} ({model}'s tokenizer)"
            )
        console.print(f"data id: {dataset.id[:16]}")
    if dropped := dataset.ledger.dropped():
        raise DataError(
            f"{file}: {len(dropped)} of {dataset.ledger.read} rows cannot be used. Mend them, or train with "
            "data.bad_rows=drop to go on without them."
        )
