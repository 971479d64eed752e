"""Rows through the prompt contract: token ids and the spans that are trained on."""

from __future__ import annotations

import gc
import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from tunesmith.core.errors import DataError, ModelError
from tunesmith.core.names import counted
from tunesmith.data.fit import STRIDE, Fitting
from tunesmith.data.kinds.prepared import Prepared, tokens_of
from tunesmith.data.kinds.row import Row
from tunesmith.data.kinds.table import KINDS, kind_of
from tunesmith.data.prompting.around import Around
from tunesmith.data.quality.ledger import Ledger, RowFault
from tunesmith.prompt.contract import Contract, Draft, Rendered, RewritesTurns
from tunesmith.prompt.templates import TEMPLATES

ENCODED_TOGETHER = 512  # rows that are encoded together
ENCODERS = 2  # such groups that are encoded at a time: while one waits for Python, the other goes on
DRAFTED_AHEAD = 3  # such groups that are drafted while others are being encoded
Result = list[Rendered] | ModelError


def dataset_id(rows: Iterable[Prepared]) -> str:
    """SHA-256 over what is really scored or trained on: ids and spans, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.key)
    return digest.hexdigest()


def rendered_rows(rows: Iterable[Row], contract: Contract) -> Iterator[tuple[Row, Result]]:
    """Each row with what it renders to, in order. A chat whose template rewrites turns comes as a row a turn.

    While one group of rows is encoded, which needs no Python, the next is drafted.
    """
    waiting: deque[tuple[list[tuple[Row, list[Draft] | ModelError]], Future[list[Rendered | ModelError]]]] = deque()
    stream = iter(rows)
    with patient_collector(), ThreadPoolExecutor(ENCODERS) as pool:
        while True:
            group = [(row, _drafted(row, contract)) for row in islice(stream, ENCODED_TOGETHER)]
            if group:
                texts = [draft for _, drafts in group if isinstance(drafts, list) for draft in drafts]
                waiting.append((group, pool.submit(contract.render_many, texts)))
            if waiting and (len(waiting) > DRAFTED_AHEAD or not group):
                done, future = waiting.popleft()
                yield from _gathered(done, iter(future.result()), contract)
            elif not group:
                return


@contextmanager
def patient_collector() -> Generator[None]:
    """Let Python look for cyclic garbage less often: rows make many objects and no cycles (a fifth of the time)."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _drafted(row: Row, contract: Contract) -> list[Draft] | ModelError:
    try:
        return kind_of(row).drafts(row.content, contract)
    except ModelError as error:
        return error


def _gathered(
    group: Sequence[tuple[Row, list[Draft] | ModelError]],
    results: Iterator[Rendered | ModelError],
    contract: Contract,
    parted: bool = False,
) -> Iterator[tuple[Row, Result]]:
    """Each row with its own results; one whose template rewrites turns is parted, unless it is a part."""
    for row, drafts in group:
        if isinstance(drafts, ModelError):
            yield row, drafts
            continue
        rendered = [next(results) for _ in drafts]
        error = next((one for one in rendered if isinstance(one, ModelError)), None)
        if error is None:
            yield row, [one for one in rendered if isinstance(one, Rendered)]
        elif isinstance(error, RewritesTurns) and not parted and kind_of(row).turn_by_turn is not None:
            yield from _turn_by_turn(row, contract)
        else:
            yield row, error


def _turn_by_turn(row: Row, contract: Contract) -> Iterator[tuple[Row, Result]]:
    """A row for each trained turn."""
    turn_by_turn = kind_of(row).turn_by_turn
    assert turn_by_turn is not None
    for part in turn_by_turn(row):
        drafts = _drafted(part, contract)
        results = contract.render_many(drafts) if isinstance(drafts, list) else []
        yield from _gathered([(part, drafts)], iter(results), contract, parted=True)


def prepare(
    rows: Iterable[Row],
    ledgers: Mapping[str, Ledger],
    contract: Contract,
    max_length: int,
    reads: frozenset[str],
    over_long: str = "fail",
    bad_rows: str = "fail",
    stride: int = STRIDE,
    around: Around | None = None,
) -> Iterator[Prepared]:
    """Render every row and hold it to `max_length` tokens.

    Args:
        rows: checked rows.
        ledgers: by file; they hear of rows that are cut or dropped here.
        contract: how rows are rendered.
        max_length: longest sequence in tokens.
        reads: the kinds of rows that whoever asks can use, as its objective names them.
        over_long: `fail`, `drop`, `truncate` (the end is lost) or `split` (plain text becomes several rows).
        bad_rows: `fail`, or `drop` rows that the chat template refuses.
        stride: tokens that neighbouring windows on one row share, of kinds that read long rows in windows.
        around: a prompt that is put around each row.

    Raises:
        DataError: when all rows are read: rows of a kind that this is not for, rows that the template refuses
            or that are too long, under `fail`; or no row is left.
        ModelError: rows that need a chat format, of a model without one.
    """
    fitting = Fitting(contract, max_length, over_long, stride, "" if around is None else around.makes_long)
    rows = rows if around is None else map(around.row, rows)
    refused, first_refusal = 0, ""
    for row, result in rendered_rows(_readable(rows, ledgers, contract, reads), contract):
        ledger = ledgers[row.source.file]
        if isinstance(result, ModelError):
            refused += 1
            first_refusal = first_refusal or f"{row.source}: {result}"
            fault = RowFault("template", str(result), "Mend the row or drop it.")
            ledger.revise(row.loss, row.source, fault, was=row.outcome)
            continue
        for fault in kind_of(row).unshown(row.content, contract):
            ledger.warn(row.source, fault)
        yield from fitting.fitted(row, [tokens_of(one) for one in result], ledger)
    if refused and (bad_rows == "fail" or not fitting.came):
        more = f" And {counted(refused - 1, 'row')} beside it." if refused > 1 else ""
        raise DataError(f"{first_refusal}{more}")
    fitting.refuse()


def _readable(
    rows: Iterable[Row], ledgers: Mapping[str, Ledger], contract: Contract, reads: frozenset[str]
) -> Iterator[Row]:
    known = ""
    for row in rows:
        if row.content.kind != known:
            known = row.content.kind
            refuse_kind(known, row.source.file, ledgers[row.source.file].remarks, contract, reads)
        yield row


def refuse_kind(name: str, file: str, remarks: Sequence[str], contract: Contract, reads: frozenset[str]) -> None:
    """Refuse rows that the objective, or the model, cannot read.

    Args:
        name: the kind of the rows.
        file: where they stand.
        remarks: what else was said of the file: as what other kind it could be read.
        contract: how rows are rendered.
        reads: kinds that the objective reads.

    Raises:
        DataError: the objective reads others.
        ModelError: they need a chat format, and the model has none.
    """
    if name not in reads:
        words = " and ".join(KINDS[kind].words for kind in sorted(reads))
        others = "".join(f" {remark}" for remark in remarks)
        if name == "text" and "labelled" in reads:
            others += " If a column holds labels, name it: data.columns={label: NAME}."
        raise DataError(f"{file}: holds {name} rows, which this objective cannot train on. It takes {words}.{others}")
    refuse_without_template(name, file, contract)


def refuse_without_template(name: str, file: str, contract: Contract) -> None:
    """Refuse rows that need a chat format, of a model that has none.

    Raises:
        ModelError: with the templates that there are.
    """
    if KINDS[name].chat and contract.template is None:
        raise ModelError(
            f"{file}: holds {name} rows, and the model has no chat template. Choose one with model.template: "
            f"{', '.join(sorted(TEMPLATES))}; or give rows that need none."
        )


@dataclass(frozen=True)
class Spread:
    """Mean, median, 5th and 95th percentile and extremes of a count."""

    mean: float
    median: float
    p5: float
    p95: float
    least: int
    most: int


def spread(values: Sequence[int] | np.ndarray) -> Spread:
    """How `values` (at least one) are spread."""
    array: Any = np.asarray(values)
    p5, median, p95 = (float(value) for value in np.quantile(array, [0.05, 0.5, 0.95]))
    return Spread(round(float(array.mean()), 1), median, p5, p95, int(array.min()), int(array.max()))
