"""Rows through the prompt contract: token ids and the spans that are trained on."""

from __future__ import annotations

import gc
import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from tunesmith.core.errors import DataError, ModelError
from tunesmith.core.names import counted
from tunesmith.data.fit import Fitting, count_trained
from tunesmith.data.ledger import Ledger, RowFault, Source
from tunesmith.data.rows import Chat, Content, Preference, Row, Task, Text, Verdict, without_weight
from tunesmith.prompt.contract import Contract, Draft, Rendered, RewritesTurns

TOGETHER = 512  # rows that are encoded together
ENCODERS = 2  # such groups that are encoded at a time: while one waits for Python, the other goes on
AHEAD = 3  # such groups that are drafted while others are being encoded
Result = list[Rendered] | ModelError


@dataclass(frozen=True)
class Prepared:
    """A row, or one turn of it, ready for training.

    Attributes:
        ids: token ids, length T.
        spans: begin and end of each stretch of `ids` that is trained on as targets.
        source: where the row stands.
        origin: the row, or what reads it back.
        cut: whether its end was cut away to fit.
        goes_on: whether this is a piece of a text, which the next row continues.
    """

    ids: np.ndarray
    spans: tuple[tuple[int, int], ...]
    source: Source
    origin: Row | Callable[[], Row]
    cut: bool = False
    goes_on: bool = False

    @property
    def row(self) -> Row:
        """What the ids stand for."""
        return self.origin() if callable(self.origin) else self.origin

    @property
    def mask(self) -> np.ndarray:
        """Which tokens are trained on, length T."""
        mask = np.zeros(len(self.ids), dtype=bool)
        for begin, end in self.spans:
            mask[begin:end] = True
        return mask

    @property
    def trained(self) -> int:
        """Tokens that count in the loss: the first token of a row has no prediction."""
        return count_trained(self.spans)

    @property
    def key(self) -> bytes:
        """Equal for rows that teach the same."""
        return hashlib.sha256(self.ids.astype(np.int32).tobytes() + repr(self.spans).encode()).digest()


def dataset_id(rows: Iterable[Prepared]) -> str:
    """SHA-256 over what is really scored or trained on: ids and spans, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.key)
    return digest.hexdigest()


def drafts_of(row: Row, contract: Contract) -> list[Draft]:
    """A row as texts: one for a chat or a text, two for a preference, and so on for what else there is.

    Raises:
        ModelError: the template refuses it.
    """
    match row.content:
        case Chat(messages, tools):
            return [contract.draft(messages, tools)]
        case Text(text):
            return [contract.draft_text(text)]
        case Preference(prompt, chosen, rejected, tools):
            context = without_weight(prompt)
            return [contract.draft((*context, *side), tools) for side in (chosen, rejected)]
        case Verdict(prompt, completion):
            return [contract.draft((*without_weight(prompt), *completion))]
        case Task(prompt, _, tools):
            return [contract.draft(without_weight(prompt), tools)]
        case other:
            return [contract.draft_text("\n".join(other.texts()))]


def unshown(content: Content, contract: Contract) -> Iterator[RowFault]:
    """What a chat has that the contract's template shows to nobody: tools that are declared, thoughts."""
    if not isinstance(content, Chat):
        return
    advice = "It is lost. Use a model whose template shows it, or model.template=chatml."
    if content.tools and not contract.shows["tools"]:
        yield RowFault("unshown_tools", "the chat template does not show the row's tools.", advice)
    if not contract.shows["reasoning"] and (one := next((m for m in content.messages if m.reasoning), None)):
        yield RowFault("unshown_reasoning", "the chat template does not show the reasoning.", advice, one.origin)


def rendered_rows(rows: Iterable[Row], contract: Contract) -> Iterator[tuple[Row, Result]]:
    """Each row with what it renders to, in order. A chat whose template rewrites turns comes as a row a turn.

    While one group of rows is encoded, which needs no Python, the next is drafted.
    """
    waiting: deque[tuple[list[tuple[Row, list[Draft] | ModelError]], Future[list[Rendered | ModelError]]]] = deque()
    stream = iter(rows)
    with patient_collector(), ThreadPoolExecutor(ENCODERS) as pool:
        while True:
            group = [(row, _drafted(row, contract)) for row in islice(stream, TOGETHER)]
            if group:
                texts = [draft for _, drafts in group if isinstance(drafts, list) for draft in drafts]
                waiting.append((group, pool.submit(contract.render_many, texts)))
            if waiting and (len(waiting) > AHEAD or not group):
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
        return drafts_of(row, contract)
    except ModelError as error:
        return error


def _gathered(
    group: list[tuple[Row, list[Draft] | ModelError]], results: Iterator[Rendered | ModelError], contract: Contract
) -> Iterator[tuple[Row, Result]]:
    for row, drafts in group:
        if isinstance(drafts, ModelError):
            yield row, drafts
            continue
        rendered = [next(results) for _ in drafts]
        error = next((one for one in rendered if isinstance(one, ModelError)), None)
        if error is None:
            yield row, [one for one in rendered if isinstance(one, Rendered)]
        elif isinstance(error, RewritesTurns) and isinstance(row.content, Chat):
            yield from _turn_by_turn(row, row.content, contract)
        else:
            yield row, error


def _turn_by_turn(row: Row, chat: Chat, contract: Contract) -> Iterator[tuple[Row, Result]]:
    """A row for each trained turn, which ends with it: what the model will see when it is asked."""
    for i, message in enumerate(chat.messages):
        if message.role == "assistant" and message.weight:
            part = replace(row, content=Chat((*without_weight(chat.messages[:i]), message), chat.tools), whole=row)
            try:
                yield part, [contract.render(part.conversation, part.tools)]
            except ModelError as error:
                yield part, error


def prepare(
    rows: Iterable[Row],
    ledgers: Mapping[str, Ledger],
    contract: Contract,
    max_length: int,
    over_long: str = "fail",
    bad_rows: str = "fail",
) -> Iterator[Prepared]:
    """Render every row of chat or text and hold it to `max_length` tokens.

    Args:
        rows: checked rows.
        ledgers: by file; they hear of rows that are cut or dropped here.
        contract: how rows are rendered.
        max_length: longest row in tokens.
        over_long: `fail`, `drop`, `truncate` (the end is lost) or `split` (plain text becomes several rows).
        bad_rows: `fail`, or `drop` rows that the chat template refuses.

    Raises:
        DataError: when all rows are read: rows of a kind that this is not for, rows that the template refuses
            or that are too long, under `fail`; or no row is left.
    """
    fitting = Fitting(contract, max_length, over_long)
    refused, first_refusal = 0, ""
    for row, result in rendered_rows(_trainable(rows, ledgers), contract):
        ledger = ledgers[row.source.file]
        if isinstance(result, ModelError):
            refused += 1
            first_refusal = first_refusal or f"{row.source}: {result}"
            fault = RowFault("template", str(result), "Mend the row or drop it.")
            ledger.revise(row.loss, row.source, fault, was=row.outcome)
            continue
        for fault in unshown(row.content, contract):
            ledger.warn(row.source, fault)
        for part in fitting.stretches(row, result[0], ledger):
            yield Prepared(part.ids, part.spans, row.source, part.row, part.cut, part.goes_on)
    if refused and (bad_rows == "fail" or not fitting.came):
        more = f" And {counted(refused - 1, 'row')} beside it." if refused > 1 else ""
        raise DataError(f"{first_refusal}{more}")
    fitting.refuse()


def _trainable(rows: Iterable[Row], ledgers: Mapping[str, Ledger]) -> Iterator[Row]:
    for row in rows:
        if not isinstance(row.content, Chat | Text):
            others = "".join(f" {remark}" for remark in ledgers[row.source.file].remarks)
            raise DataError(
                f"{row.source.file}: holds {row.content.kind} rows, which objective sft cannot train on. "
                f"It takes chat (or instruction, question and answer) and plain text.{others}"
            )
        yield row


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
