"""`tunesmith check FILE...`: what is in files of examples, row by row."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tunesmith.data.config import DataConfig
    from tunesmith.data.quality.ledger import Ledger
    from tunesmith.data.quality.report import DataReport
    from tunesmith.prompt.contract import Contract


def check(
    files: Annotated[
        list[str],
        typer.Argument(help="Files, folders, patterns, http(s) addresses, hf:owner/name; `hotel` is embedded."),
    ],
    format: Annotated[str | None, typer.Option(help="Row format; found by looking if absent.")] = None,
    column: Annotated[list[str], typer.Option(help="key=name where a file names a key otherwise; repeatable.")] = [],  # noqa: B006
    model: Annotated[
        str | None,
        typer.Option(
            help="Model whose tokenizer and chat template rows must fit; without it rows stand for themselves."
        ),
    ] = None,
    template: Annotated[str | None, typer.Option(help="Chat template by name, for a base model without one.")] = None,
    train_on: Annotated[str, typer.Option(help="assistant, last or all: which tokens are trained on.")] = "assistant",
    max_length: Annotated[int | None, typer.Option(help="Tokens of a row; the model's own limit if absent.")] = None,
    clean: Annotated[list[str], typer.Option(help="whitespace, nfc or boilerplate; repeatable.")] = [],  # noqa: B006
    held_out: Annotated[list[str], typer.Option(help="Files kept for the end, to look for leaks; repeatable.")] = [],  # noqa: B006
    near: Annotated[bool | None, typer.Option(help="Look for near duplicates; up to 100,000 rows if absent.")] = None,
    private: Annotated[bool, typer.Option(help="Look for secrets and personal data.")] = True,
    show: Annotated[int, typer.Option(min=0, help="Rows to print as the model sees them.")] = 0,
    faults: Annotated[int, typer.Option(min=0, help="Faults and warnings to print.")] = 5,
    price: Annotated[str | None, typer.Option(help="OpenAI model whose training price is estimated.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write every finding, one JSON object a line.")] = None,
    fix: Annotated[Path | None, typer.Option(help="Write the rows that can be used, as .jsonl.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with histograms and samples.")] = None,
) -> None:
    """Check data files: their format, where every row goes, how long rows are, and what deserves a look."""
    from tunesmith.core.config import parse_overrides, validate
    from tunesmith.core.errors import DataError
    from tunesmith.core.files import expanded, write_text
    from tunesmith.data.config import DataConfig
    from tunesmith.data.load import Reading
    from tunesmith.data.quality.near_duplicates import UNASKED_ROWS, NearDuplicates
    from tunesmith.data.quality.page import report_page
    from tunesmith.data.quality.report import data_report
    from tunesmith.data.source import find_files

    columns = parse_overrides(column, "--column key=name, for example question=Frage")
    values = {"train": files, "format": format, "columns": columns, "clean": clean, "train_on": train_on}
    config: DataConfig = validate(DataConfig, values, "check")
    if fix is not None and expanded(fix).exists():
        raise DataError(f"{fix}: exists already, and --fix overwrites nothing. Name another file.")
    contract, longest = _reader(model, template, config.train_on)
    search = None if near is False else NearDuplicates()
    look = partial(data_report, contract=contract, max_length=max_length or longest, search=search,
                   most=2**63 if near else UNASKED_ROWS)  # fmt: skip
    with ExitStack() as stack:
        sink = _writer(stack, report, lambda entry: entry.to_json())
        keep = _writer(stack, fix, lambda row: {**row.labels, **row.content.to_plain()})
        found = look(Reading(find_files(files), config, private, sink), keep=keep)
    _print_report(found, model, price, faults, show, contract)
    if held_out:
        _print_leaks(found, look(Reading(find_files(held_out), config)))
    if html is not None:
        write_text(expanded(html), report_page(found, contract))
    _print_written({"findings": report, "rows": fix, "page": html})
    _refuse_lost(found, files)


def _reader(model: str | None, template: str | None, train_on: str) -> tuple[Contract, int]:
    """How rows are rendered, and how many tokens the model takes; without a model by a template that takes all rows."""
    from tunesmith.prompt.base import EMBEDDED, context_length, resolve
    from tunesmith.prompt.load import load_contract
    from tunesmith.prompt.templates import WITH_TOOLS

    base = resolve(model or EMBEDDED)
    takes_all = WITH_TOOLS[0] if model is None else None
    contract = load_contract(base.folder, template or takes_all, train_on, chat=False)
    return contract, context_length(base.folder) or 2048


def _print_report(
    found: DataReport, model: str | None, price: str | None, faults: int, show: int, contract: Contract
) -> None:
    """What was found in each file and in all of them, and the first rows as the model sees them."""
    from tunesmith.cli.screen import console
    from tunesmith.prompt.base import EMBEDDED

    for ledger in found.reading.ledgers.values():
        _print_ledger(ledger, found.reading.formats[ledger.file].name, faults)
    if found.rows:
        _print_numbers(found, model or EMBEDDED, price)
        _print_labels(found)
        if model is None:
            advice = "--model NAME counts with its tokenizer, and tells of rows that its template refuses"
            console.print(f"{'no model named':15} {advice}", soft_wrap=True)
    for row, rendered in found.samples[:show]:
        for one in rendered:
            _print_rendered(str(row.source), row, one, contract)


def _print_leaks(training: DataReport, held_out: DataReport) -> None:
    from tunesmith.cli.screen import console
    from tunesmith.core.names import counted
    from tunesmith.data.quality.report import leaks

    leak = leaks(training, held_out)
    console.print(
        f"held out: {counted(leak.rows, 'row')}; {leak.asked} ask what training rows ask, {leak.nearly_equal} more are "
        "nearly equal",
        soft_wrap=True,
    )


def _print_written(files: dict[str, Path | None]) -> None:
    from tunesmith.cli.screen import console

    for what, path in files.items():
        if path is not None:
            console.print(f"{what}: {path}", soft_wrap=True, markup=False)


def _refuse_lost(found: DataReport, files: list[str]) -> None:
    """End with a sentence, and so with a status other than 0, where rows cannot be used."""
    from tunesmith.core.errors import DataError
    from tunesmith.core.names import counted

    ledgers = found.reading.ledgers.values()
    if lost := sum(ledger.outcomes["dropped"] for ledger in ledgers):
        read = sum(ledger.read for ledger in ledgers)
        others = "write the others with --fix OUT, or train with data.bad_rows=drop to go on without them."
        advice = f"Mend them, {others}" if found.rows else "Mend them as the lines above say."
        raise DataError(f"{', '.join(files)}: {lost} of {counted(read, 'row')} cannot be used. {advice}")


def _writer(stack: ExitStack, path: Path | None, plain: Callable[[Any], Any]) -> Callable[[Any], None]:
    """What writes one JSON object a line to `path`; nothing if there is no path."""
    from tunesmith.core.files import expanded, open_new

    if path is None:
        return lambda value: None
    file = stack.enter_context(open_new(expanded(path)))
    return lambda value: print(json.dumps(plain(value), ensure_ascii=False, default=str), file=file) and None


def _print_ledger(ledger: Ledger, format: str, faults: int) -> None:
    from tunesmith.cli.screen import console

    console.print(f"{ledger.file}: {format}, {ledger.sentence()}", soft_wrap=True, markup=False)
    for remark in ledger.remarks:
        console.print(f"  {remark}", soft_wrap=True, markup=False)
    bad = [entry for entry in ledger.entries if entry.outcome != "warning"]
    odd = [entry for entry in ledger.entries if entry.outcome == "warning"]
    lost = sum(count for outcome, count in ledger.outcomes.items() if outcome not in ("kept",))
    for entries, count in ((bad, lost), (odd, sum(ledger.by_code("warning").values()))):
        shown = sorted(entries, key=lambda entry: (entry.outcome != "dropped", entry.source.line))[:faults]
        for entry in shown:
            console.print(f"  {entry}", markup=False, soft_wrap=True)
        if count > len(shown):
            console.print(f"  and {count - len(shown)} more (--faults {count}, or all with --report FILE)")
        if entries is bad and odd:
            counts = ", ".join(f"{code} {n}" for code, n in ledger.by_code("warning").items())
            console.print(f"  kept, and worth a look: {counts}", markup=False, soft_wrap=True)


def _print_numbers(found: DataReport, model: str, price: str | None) -> None:
    import numpy as np
    from rich.markup import escape

    from tunesmith.cli.screen import console
    from tunesmith.core.names import counted, look_up
    from tunesmith.data.estimate import FEWEST_ROWS, PRICES, default_epochs, estimate
    from tunesmith.data.kinds.table import kind_of
    from tunesmith.data.prepare import spread
    from tunesmith.data.split import parts

    if found.samples and (lack := kind_of(found.samples[0][0]).lacks(found.facts)):
        console.print(f"[yellow]training on this alone is refused:[/yellow] {escape(lack)}", soft_wrap=True)
    for name, values in (
        ("tokens a row", found.lengths),
        ("trained tokens", found.trained),
        ("turns a row", found.turns),
    ):
        if len(values):
            s = spread(values)
            console.print(
                f"{name:15} mean {s.mean}, median {s.median:.0f}, 5% {s.p5:.0f}, 95% {s.p95:.0f}, "
                f"from {s.least} to {s.most}, sum {sum(values):,}",
                soft_wrap=True,
            )
    console.print(f"{'tokenizer':15} {model}'s; {counted(found.too_long, 'row')} longer than {found.max_length} tokens")
    if found.without_system:
        console.print(f"{'no system turn':15} {counted(found.without_system, 'row')}")
    if found.near_duplicates is not None:
        console.print(f"{'near duplicates':15} {counted(found.near_duplicates, 'row')}")
    part = parts(np.array(found.groups, dtype=np.uint64), {"test": 0.1, "validation": 0.1})
    train, test, validation = (int((part == number).sum()) for number in range(3))
    console.print(
        f"{'split':15} {counted(train, 'row')} to train on, {validation} to validate on, {test} held out, by default"
    )
    if not found.samples or not kind_of(found.samples[0][0]).chat:
        console.print(f"{'data id':15} {found.id[:16]}")
        return
    few = f" (it refuses fewer than {FEWEST_ROWS})" if found.rows < FEWEST_ROWS else ""
    if found.samples and kind_of(found.samples[0][0]).chat:
        console.print(f"{'at OpenAI':15} {counted(default_epochs(found.rows), 'epoch')} by its rule{few}")
    if price is not None:
        look_up(PRICES, price, "OpenAI model")
        cost = estimate(price, found.lengths)
        console.print(
            f"{'':15} {cost.model}: about ${cost.dollars:.2f} for {cost.tokens:,} tokens, estimated with {model}'s "
            "tokenizer",
            soft_wrap=True,
        )
    console.print(f"{'data id':15} {found.id[:16]}")


def _print_labels(found: DataReport) -> None:
    """Of rows with labels: how many there are, the rarest and the most frequent, and what is odd about their names."""
    from tunesmith.cli.screen import console
    from tunesmith.data.kinds.schemes import counts_of_labels
    from tunesmith.data.kinds.teach import name_doubts

    counts: dict[str, int] = found.facts.get("labels", {})
    if found.samples[0][0].content.kind == "tagged":
        counts = counts_of_labels(counts)
    if not counts:
        return
    order = sorted(counts, key=lambda name: (counts[name], name))
    lines = [f"{len(counts)}, from {order[0]!r} ({counts[order[0]]}) to {order[-1]!r} ({counts[order[-1]]})"]
    for line in [*lines, *name_doubts(counts)]:
        console.print(f"{'labels':15} {line}", soft_wrap=True, markup=False)


def _print_rendered(source: str, row: Any, rendered: Any, contract: Contract) -> None:
    """A row as the model sees it: what is trained on in colour, the rest dim; what is true of it, where it is read."""
    from rich.text import Text

    from tunesmith.cli.screen import console
    from tunesmith.core.names import counted
    from tunesmith.data.kinds.table import kind_of
    from tunesmith.data.quality.page import parts_of

    text = Text()
    for part in parts_of(rendered, contract):
        text.append(part["text"], style="bold green" if part["trained"] else "dim")
    kind = kind_of(row)
    trained = f", {rendered.trained} trained" if kind.writes else ""
    console.rule(f"{source}  {counted(len(rendered.ids), 'token')}{trained}", style="dim")
    console.print(text)
    if not kind.writes:
        for _, reference in kind.shown(row):
            console.print(f"-> {reference}", markup=False, style="bold green")
