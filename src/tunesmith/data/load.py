"""A file becomes checked rows: read, converted, checked one by one, duplicates taken out, all in the ledger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from tunesmith.core.errors import DataError
from tunesmith.data.formats import Format, find_format, named_format
from tunesmith.data.ledger import Ledger, RowFault, Source
from tunesmith.data.read import RawRow, read_rows
from tunesmith.prompt.messages import Conversation, Message

EMBEDDED = {"hotel": "train.jsonl", "hotel-test": "test.jsonl"}
SAMPLES = 100  # rows looked at to find the format


@dataclass(frozen=True)
class Row:
    """A checked row.

    Attributes:
        conversation: what is said.
        source: where it stands.
        labels: the row's other keys, such as `intent`.
    """

    conversation: Conversation
    source: Source
    labels: dict[str, Any]

    @property
    def prompt(self) -> Conversation:
        """Everything before the last assistant turn: what the model is asked."""
        last = max(i for i, message in enumerate(self.conversation) if message.role == "assistant")
        return self.conversation[:last]

    @property
    def answer(self) -> str:
        """The last assistant turn: what a good model says."""
        return self.conversation[len(self.prompt)].content

    @property
    def key(self) -> str:
        """The row's content as text; equal rows have equal keys."""
        return json.dumps([[m.role, m.content, m.weight] for m in self.conversation], ensure_ascii=False)


@dataclass(frozen=True)
class Dataset:
    """Checked rows and the account of how they came to be.

    Attributes:
        rows: in file order.
        ledger: where every row of the file went.
        format: the name of the rows' format.
    """

    rows: list[Row]
    ledger: Ledger
    format: str

    @property
    def id(self) -> str:
        """SHA-256 over all rows: the same file and config give the same id."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(row.key.encode() + b"\n")
        return digest.hexdigest()


def locate(name: str) -> Path:
    """The path of a data file; the embedded names stand for files of the package."""
    if name in EMBEDDED:
        with as_file(files("tunesmith") / "assets" / "hotel" / EMBEDDED[name]) as path:
            return path
    return Path(name).expanduser()


def load_dataset(
    name: str,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    system: str | None = None,
    keep_duplicates: bool = False,
) -> Dataset:
    """Read and check a data file. Bad rows are noted in the ledger, not raised.

    Args:
        name: path, or an embedded name.
        format: the rows' format; found by looking at the first rows if absent.
        columns: for a format's key, the name that the file has for it.
        system: a system message for rows without one.
        keep_duplicates: keep rows that equal earlier ones.

    Raises:
        MissingError: there is no such file.
        DataError: the file holds nothing that can be read as rows.
    """
    path = locate(name)
    raw = [_renamed(item, columns or {}) for item in read_rows(path)]
    _refuse_unknown_columns(raw, columns or {}, path)
    chosen = named_format(format) if format else _look(raw, path)
    ledger, rows, first_seen = Ledger(name), [], {}
    for item in raw:
        try:
            row = _checked_row(item, chosen, system)
        except RowFault as fault:
            ledger.note("dropped", item.source, fault)
            continue
        if (earlier := first_seen.setdefault(row.key, row)) is not row and not keep_duplicates:
            found = f"equal to line {earlier.source.line}."
            ledger.note("duplicate", row.source, RowFault("duplicate", found, "It is left out."))
            continue
        ledger.keep()
        rows.append(row)
    assert ledger.balanced()
    return Dataset(rows, ledger, chosen.name)


def _renamed(item: RawRow, columns: Mapping[str, str]) -> RawRow:
    """The row with the file's own column names replaced by the format's keys."""
    if not columns or isinstance(item.value, RowFault):
        return item
    keys = {given: key for key, given in columns.items()}
    return RawRow(item.source, {keys.get(name, name): value for name, value in item.value.items()})


def _refuse_unknown_columns(raw: list[RawRow], columns: Mapping[str, str], path: Path) -> None:
    good = [item.value for item in raw if isinstance(item.value, dict)]
    for key, given in columns.items():
        if good and not any(key in row for row in good):
            names = ", ".join(sorted(map(str, good[0])))
            raise DataError(f"{path}: data.columns names {given!r}, which no row has. The first row has: {names}.")


def require_rows(dataset: Dataset, name: str, bad_rows: str) -> None:
    """Refuse a data set with bad rows, unless they may be dropped, and one with no rows at all.

    Raises:
        DataError: with the first faults and how to go on.
    """
    dropped = dataset.ledger.dropped()
    if dropped and (bad_rows == "fail" or not dataset.rows):
        shown = "\n  ".join(map(str, dropped[:5]))
        more = f"\n  and {len(dropped) - 5} more" if len(dropped) > 5 else ""
        advice = "" if not dataset.rows else " Mend them, or set data.bad_rows=drop to go on without them."
        raise DataError(
            f"{name}: {len(dropped)} of {dataset.ledger.read} rows cannot be used.{advice}\n  {shown}{more}"
        )
    if not dataset.rows:
        raise DataError(f"{name}: no rows.")


def _look(raw: list[RawRow], path: Path) -> Format:
    good = [item.value for item in raw if isinstance(item.value, dict)]
    if not raw:
        raise DataError(f"{path}: no rows, only an empty array or header. Give at least one row.")
    if not good:
        faults = [f"{item.source}: {item.value.found}" for item in raw if isinstance(item.value, RowFault)]
        raise DataError(f"{path}: no row can be read. {faults[0] if faults else ''} Give .jsonl, .json or .csv rows.")
    return find_format(islice(good, SAMPLES), str(path))


def _checked_row(item: RawRow, chosen: Format, system: str | None) -> Row:
    if isinstance(item.value, RowFault):
        raise item.value
    if not chosen.fits(item.value):
        missing = ", ".join(sorted(chosen.needs[0] - set(item.value)))
        raise RowFault("missing_key", f"no {missing!r}, which {chosen.name} rows have.", "Add it or delete the row.")
    conversation = chosen.convert(item.value)
    if system is not None and conversation[0].role != "system":
        conversation = (Message("system", system), *conversation)
    check_conversation(conversation)
    labels = {key: value for key, value in item.value.items() if key not in chosen.uses}
    return Row(conversation, item.source, labels)


def check_conversation(conversation: Conversation) -> None:
    """Refuse a conversation from which nothing can be learned.

    Raises:
        RowFault: no trained assistant turn, an empty turn, or turns in an impossible order.
    """
    roles = [message.role for message in conversation]
    for number, message in enumerate(conversation, start=1):
        if any("\ud800" <= character <= "\udfff" for character in message.content):
            found = f"turn {number} ({message.role}) holds half a character (a lone surrogate such as \\ud83d)."
            raise RowFault("lone_surrogate", found, "Write the whole character, or take it out.")
        if not message.content.strip() and message.role != "system":
            raise RowFault("empty_turn", f"turn {number} ({message.role}) is empty.", "Fill it in or delete the row.")
        if message.role == "system" and number > 1:
            raise RowFault("late_system", f"turn {number} is a system message.", "Put it first.")
    if not any(message.role == "assistant" and message.weight for message in conversation):
        raise RowFault("no_assistant", "no assistant turn that is trained on.", "Add the answer, or weight 1.")
    if "user" not in roles:
        raise RowFault("no_user", "no user turn.", "Add the question.")
    for number, (one, two) in enumerate(pairwise(roles), start=2):
        if one == two:
            raise RowFault("repeated_role", f"turns {number - 1} and {number} are both {one}.", "Join or reorder them.")
    first = roles[1] if roles[0] == "system" else roles[0]
    if first == "assistant":
        raise RowFault("assistant_first", "the assistant speaks first.", "Start with the user's turn.")


def with_rows(dataset: Dataset, rows: list[Row]) -> Dataset:
    """The same data set with other rows: a split of it."""
    return replace(dataset, rows=rows)
