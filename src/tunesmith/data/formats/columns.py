"""Columns: a file's names become a format's keys, whatever their case; what nothing reads is named and counted."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunesmith.core.errors import DataError
from tunesmith.core.names import counted, did_you_mean
from tunesmith.data.formats.format import Format
from tunesmith.data.formats.nearest import columns_advice, folded, nearest_key
from tunesmith.data.formats.values import Warn, holds_nothing
from tunesmith.data.kinds.row import Content
from tunesmith.data.kinds.table import FORMATS
from tunesmith.data.read.json import RawRow

MOST_SHAPES = 1000  # sets of keys that a file's rows may have before they are counted anew
COLUMNS_SHOWN = 10  # in the sentence on them
# What files carry along beside their texts, named without a word more. Folded.
METADATA = frozenset((
    "id", "ids", "idx", "index", "rowid", "uid", "uuid", "guid", "hash", "sha", "key", "no", "nr", "num", "promptid",
    "messageid", "conversationid", "source", "sources", "dataset", "datasource", "subset", "split", "origin", "file",
    "filename", "path", "url", "uri", "link", "license", "author", "user", "userid", "name", "title", "date", "time",
    "datetime", "timestamp", "created", "createdat", "updatedat", "year", "lang", "language", "languages", "locale",
    "model", "modelname", "engine", "generator", "meta", "metadata", "info", "extra", "tag", "tags", "category",
    "categories", "topic", "topics", "domain", "subject", "intent", "task", "tasktype", "tasktypes", "type", "kind",
    "difficulty", "level", "quality", "score", "rating", "length", "tokens", "tokencount", "numtokens", "numturns",
    "turns", "turn", "version", "status", "schemaversion", "temperature", "topp", "maxtokens", "seed", "unnamed:0",
))  # fmt: skip


def _folds(keys: Iterable[str]) -> dict[str, str]:
    return {folded(key): key for key in sorted(keys, reverse=True)}


@dataclass
class Columns:
    """The columns of one file.

    Attributes:
        named: the file's names for a format's keys, as `data.columns` has them.
        unread: in how many rows each column holds something that nothing read, by the file's names.
    """

    named: Mapping[str, str]
    unread: Counter[str] = field(default_factory=Counter)
    plans: dict[tuple[tuple[str, ...], str], dict[str, str]] = field(default_factory=dict)
    shapes: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)

    def refuse_absent(self, rows: list[dict[str, Any]], file: str, notes: Counter[str] | None) -> None:
        """Refuse names that no row has; of several files (then there are `notes`) one may call its columns by the keys.

        Raises:
            DataError: with the names that there are.
        """
        rows, raw = [self.lifted(row) for row in rows], rows
        for key, given in self.named.items():
            if not rows or any(given in row for row in rows):
                continue
            own = next((self.given(key, row) for row in rows if key in self.renamed(row)), None)
            if notes is not None and own is not None:
                notes[f"no column {given!r}, which data.columns names; its own {own!r} is read"] += 1
                continue
            head, _, nested = given.partition(".")
            inside = raw[0].get(head) if nested else None
            there = (
                sorted(f"{head}.{name}" for name in inside) if isinstance(inside, dict) else sorted(map(str, rows[0]))
            )
            close = difflib.get_close_matches(given, there, n=1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            raise DataError(
                f"{file}: data.columns names {given!r}, which no row has. The first row has: {', '.join(there)}.{meant}"
            )

    def refuse_useless(self, chosen: Format, file: str) -> None:
        """Refuse keys that the format does not read.

        Raises:
            DataError: with those that it does.
        """
        for key, given in self.named.items():
            if not chosen.reads(key):
                hint = did_you_mean(key, chosen.keys)
                raise DataError(
                    f"{file}: data.columns reads {given!r} as {key!r}, which {chosen.name} rows do not have: {hint}"
                )

    def lifted(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with what is named inside of a key, as `translation.de`, in that key's place."""
        found: dict[str, Any] = {}
        heads: set[str] = set()
        for given in self.named.values():
            head, _, name = given.partition(".")
            inside = row.get(head) if name and given not in row else None
            if isinstance(inside, dict) and name in inside:
                found[given] = inside[name]
                heads.add(head)
        return {**{key: value for key, value in row.items() if key not in heads}, **found} if found else row

    def renamed(self, row: dict[str, Any], chosen: Format | None = None) -> dict[str, Any]:
        """The row under the keys of the chosen format, or, before one is, of all of them."""
        row = self.lifted(row)
        plan = self._plan(tuple(row), chosen)
        return {plan[name]: value for name, value in row.items()} if plan else row

    def given(self, key: str, row: Mapping[str, Any], chosen: Format | None = None) -> str:
        """What the file calls a key."""
        plan = self._plan(tuple(row), chosen)
        return next((name for name, new in plan.items() if new == key), key)

    def _plan(self, names: tuple[str, ...], chosen: Format | None) -> dict[str, str]:
        """For each of the file's names the key that it stands for; empty where all stay as they are."""
        shape = (names, chosen.name if chosen else "")
        if shape not in self.plans:
            if len(self.plans) > MOST_SHAPES:
                self.plans.clear()
            known = chosen.keys if chosen else {key for format in FORMATS.values() for key in format.keys}
            plan = {given: key for key, given in self.named.items() if given in names}
            folds, taken = _folds(known), {*plan.values(), *(name for name in names if name in known)}
            for name in names:
                if name in plan:
                    continue
                key = name if name in known else folds.get(folded(name), name)
                if key != name and key in taken:
                    key = name
                elif key == name and key in plan.values():
                    key = f"{name} (the file's own)"
                plan[name] = key
                taken.add(key)
            self.plans[shape] = {} if all(name == key for name, key in plan.items()) else plan
        return self.plans[shape]

    def read(self, chosen: Format, row: Mapping[str, Any], warn: Warn) -> tuple[Content, tuple[str, ...]]:
        """What a row teaches, and its keys that nothing asked for: whatever those hold is not read.

        Raises:
            RowFault: as the format's converter does.
        """
        shape = tuple(key for key, value in row.items() if value is not None)
        if (unread := self.shapes.get(shape)) is not None:
            return chosen.convert(row, warn), unread
        asked = _Asked(row)
        content = chosen.convert(asked, warn)
        if len(self.shapes) > MOST_SHAPES:
            self.shapes.clear()
        unread = self.shapes[shape] = tuple(key for key in shape if key not in asked.for_)
        return content, unread

    def count(self, unread: tuple[str, ...], row: Mapping[str, Any]) -> None:
        """Remember the columns of a row that nothing read."""
        for key in unread:
            if not holds_nothing(row[key]):
                self.unread[key] += 1

    def sentence(self, chosen: Format, samples: Iterable[RawRow]) -> str:
        """Which columns were not read, with near names of those that were perhaps meant to be; empty if all were.

        Args:
            chosen: the format.
            samples: rows of the file.
        """
        there = {key for one in samples if isinstance(one.value, dict) for key in self.renamed(one.value)}
        odd: list[str] = []
        quiet: list[str] = []
        for name, count in self.unread.most_common():
            key = nearest_key(name, chosen, FORMATS.values(), there)
            if key is not None:
                advice = columns_advice({key: name})
                odd.append(f"{name!r} in {counted(count, 'row')} (if it is the {key}: {advice})")
            elif folded(name) in METADATA:
                quiet.append(name)
            else:
                odd.append(f"{name!r} in {counted(count, 'row')}")
        names = [*odd, *quiet]
        if not names:
            return ""
        more = f" and {len(names) - COLUMNS_SHOWN} more" if len(names) > COLUMNS_SHOWN else ""
        return f"Columns not read: {', '.join(names[:COLUMNS_SHOWN])}{more}."


@dataclass
class _Asked(Mapping[str, Any]):
    """A row that remembers which of its keys were asked for."""

    row: Mapping[str, Any]
    for_: set[str] = field(default_factory=set)

    def __getitem__(self, key: str) -> Any:
        self.for_.add(key)
        return self.row[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.row)

    def __len__(self) -> int:
        return len(self.row)
