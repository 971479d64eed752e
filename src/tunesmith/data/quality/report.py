"""The data report: a look at whole files before anything is trained on. Lengths, odd rows, near duplicates, leaks.

What `tunesmith check` shows. Rows pass one by one; only numbers and a few samples stay.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tunesmith.core.errors import ModelError
from tunesmith.data.formats.written import frame_of
from tunesmith.data.kinds.kind import Facts
from tunesmith.data.kinds.row import Row
from tunesmith.data.kinds.table import kind_of
from tunesmith.data.load import Reading
from tunesmith.data.prepare import refuse_without_template, rendered_rows
from tunesmith.data.quality.ledger import RowFault
from tunesmith.data.quality.near_duplicates import UNASKED_ROWS, NearDuplicates
from tunesmith.prompt.contract import Contract, Rendered
from tunesmith.prompt.messages import Message

SAMPLE_ROWS = 20  # kept to be shown


@dataclass
class DataReport:
    """What was seen.

    Attributes:
        reading: the rows' account.
        max_length: tokens that a row may have.
        lengths: tokens of each sequence (a preference pair is two).
        trained: trained tokens of each.
        turns: turns of each conversation.
        asked, groups: of each row, hashes of what it asks and of what its near duplicates' first row asks.
        without_system: conversations without a system message.
        too_long: rows longer than `max_length`.
        near_duplicates: rows nearly equal to an earlier one, or None when nobody looked.
        samples: the first rows with what they render to.
        facts: what the rows' kind gathered of all of them.
        id: the data id, once all rows have passed.
    """

    reading: Reading
    max_length: int
    lengths: array[int] = field(default_factory=lambda: array("l"))
    trained: array[int] = field(default_factory=lambda: array("l"))
    turns: array[int] = field(default_factory=lambda: array("l"))
    asked: array[int] = field(default_factory=lambda: array("Q"))
    groups: array[int] = field(default_factory=lambda: array("Q"))
    without_system: int = 0
    too_long: int = 0
    near_duplicates: int | None = 0
    samples: list[tuple[Row, list[Rendered]]] = field(default_factory=list)
    facts: Facts = field(default_factory=Facts)
    id: str = ""

    @property
    def rows(self) -> int:
        """Rows that can be used."""
        return len(self.asked)


def data_report(
    reading: Reading,
    contract: Contract,
    max_length: int,
    search: NearDuplicates | None = None,
    most: int = UNASKED_ROWS,
    keep: Callable[[Row], None] = lambda row: None,
) -> DataReport:
    """Read all rows and look at each.

    Args:
        reading: the rows; its ledgers hear of what is found.
        contract: how they are rendered.
        max_length: tokens that a row may have.
        search: for near duplicates; one that has seen other files finds leaks from these too.
        most: rows in which near duplicates are looked for; in larger files nobody looks.
        keep: hears of every row that can be used.

    Raises:
        MissingError, DataError: as reading does.
        ModelError: conversations, of a model without a chat template.
    """
    found = DataReport(reading, max_length, near_duplicates=None if search is None else 0)
    digest = hashlib.sha256()
    for row, result in rendered_rows(_with_template(reading, contract), contract):
        ledger = reading.ledgers[row.source.file]
        fault = _why_useless(row, result)
        if fault is not None:
            ledger.revise(row.loss, row.source, fault, was=row.outcome)
            continue
        assert isinstance(result, list)
        for warning in _oddities(row, result, contract, max_length):
            ledger.warn(row.source, warning)
        if found.rows == most:
            found.near_duplicates = None
        group = row.asked
        if search is not None and found.near_duplicates is not None and (founder := search.add(row)) is not None:
            group = founder[0]
            found.near_duplicates += 1
            ledger.warn(row.source, RowFault("near_duplicate", f"nearly equal to {founder[1]}.", ""))
        _count(found, row, result)
        kind_of(row).gather(row.content, found.facts)
        found.groups.append(group)
        digest.update(row.key)
        if len(found.samples) < SAMPLE_ROWS:
            found.samples.append((row, result))
        keep(row)
    found.id = digest.hexdigest()
    return found


def _with_template(rows: Iterable[Row], contract: Contract) -> Iterator[Row]:
    """The rows, unless they need a chat format and the model has none."""
    for row in rows:
        if contract.template is None:
            refuse_without_template(row.content.kind, row.source.file, contract)
        yield row


def _why_useless(row: Row, result: list[Rendered] | ModelError) -> RowFault | None:
    if isinstance(result, ModelError):
        return RowFault("template", str(result), "Mend the row or drop it.")
    if kind_of(row).writes and not all(rendered.trained or not rendered.spans for rendered in result):
        return RowFault("no_trained_token", "no token is trained on.", "Add to the answer.")
    return None


def _oddities(row: Row, result: list[Rendered], contract: Contract, max_length: int) -> Iterator[RowFault]:
    longest = max(len(rendered.ids) for rendered in result)
    if longest > max_length and kind_of(row).windows is None:
        yield RowFault(
            "over_long",
            f"{longest} tokens, more than {max_length}.",
            "Shorten it, or set data.over_long to drop, truncate or split (plain text, words with tags).",
        )
    kind = kind_of(row)
    yield from kind.unshown(row.content, contract)
    for message in kind.turns(row.content) if kind.chat else _as_turns(row):
        if spelt := contract.guard.found_in(message):
            whose = f"the {message.role}'s" if kind.chat else "a"
            found = f"{whose} text spells the control token {spelt[0]!r}."
            yield RowFault("control_token", found, "It is read as text. Take it out if it was meant to frame turns.")
            return


def _as_turns(row: Row) -> Iterator[Message]:
    """The texts of a row in which nobody speaks; of one that is a chat written out its frames were told already."""
    return (Message("user", text) for text in row.content.texts() if frame_of(text) is None)


def _count(found: DataReport, row: Row, result: list[Rendered]) -> None:
    for rendered in result:
        found.lengths.append(len(rendered.ids))
        if kind_of(row).writes:
            found.trained.append(rendered.trained)
    found.too_long += any(len(rendered.ids) > found.max_length for rendered in result)
    messages = kind_of(row).turns(row.content)
    if messages:
        found.turns.append(len(messages))
        found.without_system += messages[0].role != "system"
    found.asked.append(row.asked)


@dataclass(frozen=True)
class Leak:
    """Held-out rows that training rows give away: `equal` to one, asking the same, or nearly equal."""

    rows: int
    asked: int
    nearly_equal: int


def leaks(training: DataReport, held_out: DataReport) -> Leak:
    """How many held-out rows ask what training rows ask, and how many are nearly equal to one.

    Near duplicates are those across the border, found when both were looked at with one index.
    """
    asked = np.isin(np.array(held_out.asked, dtype=np.uint64), np.array(training.asked, dtype=np.uint64))
    near = np.isin(np.array(held_out.groups, dtype=np.uint64), np.array(training.groups, dtype=np.uint64))
    return Leak(held_out.rows, int(asked.sum()), int((near & ~asked).sum()))
