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
    """

    ids: np.ndarray
    spans: tuple[tuple[int, int], ...]
    source: Source
    origin: Row | Callable[[], Row]
    cut: bool = False

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


def count_trained(spans: Iterable[tuple[int, int]]) -> int:
    """Tokens in `spans` that have a prediction: all but the first of the row."""
    return sum(max(0, end - max(begin, 1)) for begin, end in spans)


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
            part = replace(row, content=Chat((*without_weight(chat.messages[:i]), message), chat.tools), part=True)
            try:
                yield part, [contract.render(part.conversation, part.tools)]
            except ModelError as error:
                yield part, error


@dataclass
class _Losses:
    """Rows that did not come through, to be told at the end, when their number is known."""

    too_long: int = 0
    longest: int = 0
    first_long: Source | None = None
    refused: int = 0
    first_refusal: str = ""
    came: int = 0
    went: int = 0


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
        over_long: `fail`, `drop`, or `truncate` (the end is lost).
        bad_rows: `fail`, or `drop` rows that the chat template refuses.

    Raises:
        DataError: when all rows are read: rows of a kind that this is not for, rows that the template refuses
            or that are too long, under `fail`; or no row is left.
    """
    losses = _Losses()
    for row, result in rendered_rows(_trainable(rows, ledgers), contract):
        losses.came += 1
        ledger = ledgers[row.source.file]
        if isinstance(result, ModelError):
            losses.refused += 1
            losses.first_refusal = losses.first_refusal or f"{row.source}: {result}"
            fault = RowFault("template", str(result), "Mend the row or drop it.")
            ledger.revise(row.loss, row.source, fault, was=row.outcome)
            continue
        losses.longest = max(losses.longest, len(result[0].ids))
        fitted = _fitted(row, result[0], max_length, over_long, ledger, losses)
        if fitted is not None:
            losses.went += 1
            for fault in unshown(row.content, contract):
                ledger.warn(row.source, fault)
            yield fitted
    _raise_losses(losses, max_length, over_long, bad_rows)


def _trainable(rows: Iterable[Row], ledgers: Mapping[str, Ledger]) -> Iterator[Row]:
    for row in rows:
        if not isinstance(row.content, Chat | Text):
            others = "".join(f" {remark}" for remark in ledgers[row.source.file].remarks)
            raise DataError(
                f"{row.source.file}: holds {row.content.kind} rows, which objective sft cannot train on. "
                f"It takes chat (or instruction, question and answer) and plain text.{others}"
            )
        yield row


def _fitted(
    row: Row, text: Rendered, max_length: int, over_long: str, ledger: Ledger, losses: _Losses
) -> Prepared | None:
    ids = np.frombuffer(text.ids, np.int32)
    if len(ids) <= max_length:
        return Prepared(ids, text.spans, row.source, row)
    losses.too_long += 1
    losses.first_long = losses.first_long or row.source
    found = f"{len(ids)} tokens, more than {max_length}."
    spans = tuple((begin, min(end, max_length)) for begin, end in text.spans if begin < max_length)
    if over_long == "truncate" and count_trained(spans):
        ledger.revise("cut", row.source, RowFault("over_long", found, "Its end was cut away."), was=row.outcome)
        return Prepared(ids[:max_length], spans, row.source, row, cut=True)
    fault = RowFault("over_long", found, "Raise data.max_length to keep it.")
    ledger.revise(row.loss, row.source, fault, was=row.outcome)
    return None


def _raise_losses(losses: _Losses, max_length: int, over_long: str, bad_rows: str) -> None:
    if losses.refused and (bad_rows == "fail" or losses.refused == losses.came):
        more = f" So it is with {losses.refused - 1} more rows." if losses.refused > 1 else ""
        raise DataError(f"{losses.first_refusal}{more}")
    if losses.too_long and over_long == "fail":
        raise DataError(
            f"{losses.too_long} of {losses.came} rows are longer than {max_length} tokens "
            f"(first: {losses.first_long}, longest: {losses.longest}). Raise data.max_length if the model can take "
            "more, or set data.over_long to drop or truncate."
        )
    if losses.came and not losses.went:
        within = "has a trained token within" if over_long == "truncate" else "fits in"
        raise DataError(
            f"no row {within} {max_length} tokens; the longest has {losses.longest}. Raise data.max_length."
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
