"""Files become checked rows, one by one: read, converted, cleaned, checked, duplicates taken out, all in the ledger."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from typing import Any

from tunesmith.core.errors import DataError
from tunesmith.core.names import counted
from tunesmith.data.config import DataConfig
from tunesmith.data.formats.columns import Columns
from tunesmith.data.formats.find import also_read_as, find_format, missing_keys, named_format
from tunesmith.data.formats.format import Format
from tunesmith.data.formats.label_names import read_label_names
from tunesmith.data.formats.media import check_media
from tunesmith.data.formats.values import Warn
from tunesmith.data.kinds.row import Edit, Row
from tunesmith.data.kinds.table import FORMATS, KINDS
from tunesmith.data.quality.clean import cleaned
from tunesmith.data.quality.ledger import Ledger, RowFault, Source
from tunesmith.data.quality.personal_data import odd_characters, secrets_and_personal_data
from tunesmith.data.read.files import read_rows
from tunesmith.data.read.json import RawRow
from tunesmith.data.read.no_value import only_values
from tunesmith.data.read.place import column_of
from tunesmith.data.source import SourceFile, find_files
from tunesmith.prompt.messages import Conversation, Message

FORMAT_ROWS = 100  # by which the format is found


@dataclass
class Reading:
    """Rows as they are read, and the account of them.

    Attributes:
        files: where they come from.
        config: how they are read.
        personal: whether to look for secrets and personal data too.
        sink: hears every entry of every ledger.
        reads: kinds of rows that are looked for, where a file can be read as several; those that anybody would see in
            it if empty.
        ledgers: one for each file, by name, complete when all rows were read.
        formats: of each file, by name.
    """

    files: list[SourceFile]
    config: DataConfig
    personal: bool = False
    sink: Any = None
    reads: frozenset[str] = frozenset()
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    formats: dict[str, Format] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str] | None:
        """What labels are called that rows have as numbers."""
        return None if self.config.label_names is None else read_label_names(self.config.label_names)

    def __iter__(self) -> Iterator[Row]:
        """The rows that can be used; all others are in the ledgers.

        Raises:
            MissingError: a file is not there.
            DataError: a file holds nothing that can be read as rows, or rows of another kind than the others.
        """
        seen: dict[bytes, tuple[str, int, int]] = {}
        for file in self.files:
            ledger = self.ledgers.setdefault(file.name, Ledger(file.name, sink=self.sink))
            ledger.notes.update(file.notes)
            yield from self._rows_of(file, ledger, seen)
            assert ledger.balanced()

    def _rows_of(self, file: SourceFile, ledger: Ledger, seen: dict[bytes, tuple[str, int, int]]) -> Iterator[Row]:
        needs = _keys(self.config) if self.config.format == "text" else ()
        raw = read_rows(file.path, ledger.notes, file.name, _keys(self.config), needs, self.config.documents)
        samples = list(islice(raw, FORMAT_ROWS))
        columns = Columns(self.config.columns)
        chosen = self.formats[file.name] = self._format(file, samples, columns, ledger)
        _refuse_other_kinds(self.formats)
        for item in chain(samples, raw):
            warn = _warner(ledger, item, columns, chosen)
            try:
                row, repair = self._checked(item, chosen, columns, warn, ledger.notes)
            except RowFault as fault:
                source, column = _place(item, fault, columns, chosen)
                ledger.note("dropped", source, fault, column)
                continue
            if (found := self._duplicate(row, seen)) is not None:
                ledger.note("duplicate", row.source, found, item.column)
            elif repair is not None:
                ledger.note("repaired", row.source, repair, item.column)
                yield replace(row, outcome="repaired")
            else:
                ledger.keep()
                yield row
        if sentence := columns.sentence(chosen, samples):
            ledger.remarks.append(sentence)

    def _format(self, file: SourceFile, samples: list[RawRow], columns: Columns, ledger: Ledger) -> Format:
        """The named format, or the one that the first rows speak for.

        Raises:
            DataError: no row can be read, none has a column that was named, or no format fits.
        """
        if not samples:
            raise DataError(f"{file.name}: no rows, only an empty array or header. Give at least one row.")
        raw = [item.value for item in samples if isinstance(item.value, dict)]
        if not raw and not self.config.format:
            fault = next(item.value for item in samples if isinstance(item.value, RowFault))
            first = f"{samples[0].source}: {fault.found} {fault.advice}"
            raise DataError(f"{file.name}: no row can be read. {first}")
        columns.refuse_absent(raw, file.name, ledger.notes if len(self.files) > 1 else None)
        good = [columns.renamed(value) for value in raw]
        chosen = named_format(self.config.format) if self.config.format else None
        chosen = chosen or find_format(good, file.name, self.reads, columns.named)
        columns.refuse_useless(chosen, file.name)
        told = ["" if self.config.format else also_read_as(chosen, good), chosen.remark(good)]
        ledger.remarks += filter(None, told)
        return chosen

    def _checked(
        self, item: RawRow, chosen: Format, columns: Columns, warn: Warn, notes: Counter[str]
    ) -> tuple[Row, RowFault | None]:
        if isinstance(item.value, RowFault):
            raise item.value
        values: Mapping[str, Any] = columns.renamed(item.value, chosen)
        if self.config.format and not chosen.has_keys(values) and chosen.has_keys(chosen.completed(values)):
            values = chosen.completed(values)
            notes[f"no {' or '.join(map(repr, sorted(chosen.lacks)))}: read as none"] += 1
        if not chosen.has_keys(values):
            raise missing_keys(chosen, values)
        if item.odd:
            values = only_values(dict(values), chosen.labels(values), notes)
        content, unread = columns.read(chosen, values, warn)
        kind = KINDS[content.kind]
        if self.names is not None:
            content = kind.named(content, self.names)
        check_media(list(content.texts()), kind.chat, values, unread, warn)
        if self.config.system is not None:
            content = kind.edit(content, Edit(asked=_told(self.config.system)))
        content, repair = cleaned(content, self.config.clean) if self.config.clean else (content, None)
        kind.check(content, warn)
        for fault in odd_characters(content):
            warn(fault)
        if self.personal:
            for fault in secrets_and_personal_data(content):
                warn(fault)
        columns.count(unread, values)
        return Row(content, item.place, chosen.labels(values)), repair

    def _duplicate(self, row: Row, seen: dict[bytes, tuple[str, int, int]]) -> RowFault | None:
        """The finding that a row equals an earlier one; None for the first of its kind, or where all are kept."""
        if self.config.duplicates == "keep":
            return None
        here = (row.source.file, row.source.line, row.source.column)
        file, line, column = seen.setdefault(row.key, here)
        if (file, line, column) == here:
            return None
        where = f"line {line}" if file == row.source.file else str(Source(file, line, column))
        where = f"the row at column {column} of this line" if (file, line) == here[:2] else where
        return RowFault("duplicate", f"equal to {where}.", "It is left out.")


def _keys(config: DataConfig) -> set[str]:
    """The keys of the named format, or of all, and the file's own names for them."""
    formats = [named_format(config.format)] if config.format else FORMATS.values()
    return {key for format in formats for need in format.needs for key in need} | set(config.columns.values())


def _told(system: str) -> Callable[[Conversation], Conversation]:
    """What puts a system message before turns that have none."""
    return lambda turns: turns if turns[0].role == "system" else (Message("system", system), *turns)


def _refuse_other_kinds(formats: Mapping[str, Format]) -> None:
    kinds = {format.kind for format in formats.values()}
    if len(kinds) > 1:
        shown = "; ".join(f"{file}: {format.name}" for file, format in formats.items())
        raise DataError(
            f"the files hold rows of different kinds ({shown}). Give files of one kind, or name data.format."
        )


def _warner(ledger: Ledger, item: RawRow, columns: Columns, chosen: Format) -> Warn:
    def warn(fault: RowFault) -> None:
        source, column = _place(item, fault, columns, chosen)
        ledger.warn(source, fault, column)

    return warn


def _place(item: RawRow, fault: RowFault, columns: Columns, chosen: Format) -> tuple[Source, int]:
    """Line and column of the faulty value; a row that is spread out begins further up."""
    if item.find is not None and fault.path and not fault.column:
        line, column = item.find((columns.given(str(fault.path[0]), {}, chosen), *fault.path[1:]))
        return Source(item.source.file, item.source.line + line), column
    if fault.column or not fault.path or not item.text or isinstance(item.value, RowFault):
        return Source(item.source.file, fault.line or item.source.line), fault.column or item.column
    head = columns.given(str(fault.path[0]), item.value, chosen)
    line, column = column_of(item.text, (head, *fault.path[1:]))
    return Source(item.source.file, item.source.line + line), column if line else item.column - 1 + column


@dataclass(frozen=True)
class CheckedRows:
    """Checked rows in memory: for files that are small, or of which only the first rows are wanted.

    Attributes:
        rows: in file order.
        reading: the account of how they came to be.
    """

    rows: list[Row]
    reading: Reading

    @property
    def ledger(self) -> Ledger:
        """Of the first file."""
        return next(iter(self.reading.ledgers.values()))

    @property
    def format(self) -> str:
        """The name of the first file's format."""
        return next(iter(self.reading.formats.values())).name

    @property
    def id(self) -> str:
        """SHA-256 over all rows: the same file and config give the same id."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(row.key)
        return digest.hexdigest()


def load_rows(names: str | list[str], reads: frozenset[str] = frozenset(), **options: Any) -> CheckedRows:
    """Read and check files whole. Bad rows are noted in the ledger, not raised.

    Args:
        names: as `data.train` takes them.
        reads: kinds of rows that are looked for, as `Reading` has them.
        **options: other fields of `DataConfig`.

    Raises:
        MissingError: there is no such file.
        DataError: a file holds nothing that can be read as rows.
    """
    config = DataConfig(train=names, **options)
    reading = Reading(find_files(config.train), config, reads=reads)
    return CheckedRows(list(reading), reading)


def require_rows(ledgers: Mapping[str, Ledger], bad_rows: str, over_long: str = "fail") -> None:
    """Refuse files with bad rows, unless they may be dropped, and files with no rows at all.

    Rows that were too long are no bad rows where `over_long` is not `fail`.

    Raises:
        DataError: with the first faults and how to go on.
    """
    lost = sum(ledger.outcomes["dropped"] for ledger in ledgers.values())
    if over_long != "fail":
        lost -= sum(ledger.by_code("dropped").get("over_long", 0) for ledger in ledgers.values())
    read = sum(ledger.read for ledger in ledgers.values())
    kept = sum((Counter(ledger.outcomes) for ledger in ledgers.values()), Counter[str]())
    usable = kept["kept"] + kept["repaired"] + kept["cut"]
    name = ", ".join(ledgers)
    if lost and (bad_rows == "fail" or not usable):
        first = list(islice((entry for ledger in ledgers.values() for entry in ledger.dropped()), 5))
        shown = "\n  ".join(map(str, first))
        more = f"\n  and {lost - len(first)} more" if lost > len(first) else ""
        advice = "" if not usable else " Mend them, or set data.bad_rows=drop to go on without them."
        raise DataError(f"{name}: {lost} of {counted(read, 'row')} cannot be used.{advice}\n  {shown}{more}")
    if not usable:
        raise DataError(f"{name}: no rows.")
