"""The ledger: where every row went. read = kept + repaired + cut + duplicate + dropped, always.

Beside the outcomes it holds warnings (a row is kept, and something about it deserves a look) and
notes (about the file). Counts are complete; of the entries it keeps the first `ENTRIES_KEPT` of each code,
so that a file of a million bad rows does not fill the memory. All of them go to `sink`, if there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from tunesmith.core.names import counted

OUTCOMES = ("kept", "repaired", "cut", "duplicate", "dropped")
ENTRIES_KEPT = 100  # of each code, in memory


@dataclass(frozen=True)
class Source:
    """Where a row stands: a file, the line (of a table: the row) on which it begins, and where in that line.

    Both count from 1. Of many rows on one line, as compact JSON has them, the column tells one from another.
    """

    file: str
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f":{self.column}" if self.column > 1 else "")


class RowFault(Exception):  # noqa: N818  it is a finding about data, not an error of ours
    """Why one row cannot be used. Raised while a row is read, caught by the ledger's keeper.

    Attributes:
        code: short name of the fault, such as `empty_turn`.
        found: a sentence.
        advice: what to do.
        path: keys and indices that lead to the faulty value, such as ("messages", 1, "content").
        column: where in its line it stands, from 1; found by `path` if 0.
        line: that line, where it is not the one on which the row begins; 0 if it is.
    """

    def __init__(
        self,
        code: str,
        found: str,
        advice: str,
        path: tuple[str | int, ...] = (),
        column: int = 0,
        line: int = 0,
    ) -> None:
        super().__init__(found)
        self.code, self.found, self.advice, self.path = code, found, advice, path
        self.column, self.line = column, line

    def inside(self, *path: str | int) -> RowFault:
        """The same fault, with its path seen from further out."""
        return RowFault(self.code, self.found, self.advice, (*path, *self.path), self.column, self.line)


@dataclass(frozen=True)
class Entry:
    """One finding about one row: `outcome` is one of `OUTCOMES`, or `warning`."""

    source: Source
    column: int
    outcome: str
    code: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.source.file}:{self.source.line}:{self.column}: {self.found} {self.advice}".rstrip()

    def to_json(self) -> dict[str, Any]:
        """Plain values, as a report file has them."""
        return {
            "file": self.source.file,
            "line": self.source.line,
            **{k: v for k, v in asdict(self).items() if k != "source"},
        }


@dataclass
class Ledger:
    """Counts by outcome and code, and the first entries of each.

    Attributes:
        file: what was read, as the user named it.
        read: rows read.
        outcomes: rows by outcome.
        codes: rows by outcome (or `warning`) and code.
        notes: about the file as a whole, each with how often it was met.
        remarks: sentences about the file as a whole: columns that nothing read, another way to read it.
        entries: the first of each code.
        sink: hears every entry.
        revised: the row that was revised last.
    """

    file: str = ""
    read: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    sink: Callable[[Entry], None] | None = None
    revised: Source | None = None

    def keep(self) -> None:
        """A row goes on as it stood."""
        self.read += 1
        self.outcomes["kept"] += 1

    def note(self, outcome: str, source: Source, fault: RowFault, column: int = 1) -> None:
        """A row was `repaired`, `duplicate` or `dropped`, and why."""
        self.read += 1
        self.outcomes[outcome] += 1
        self._enter(Entry(source, column, outcome, fault.code, fault.found, fault.advice))

    def revise(self, outcome: str, source: Source, fault: RowFault, was: str = "kept", code: str = "") -> None:
        """A row that was kept (or `was`, for the reason `code`) so far ends otherwise: a later step cut or dropped it.

        Of a row that goes on in several parts only the first loss counts.
        """
        if source == self.revised:
            return
        self.revised = source
        self.outcomes[was] -= 1
        self.outcomes[outcome] += 1
        if code:
            self.codes[was, code] -= 1
            self.entries = [e for e in self.entries if (e.source, e.outcome, e.code) != (source, was, code)]
        self._enter(Entry(source, source.column, outcome, fault.code, fault.found, fault.advice))

    def warn(self, source: Source, fault: RowFault, column: int = 1) -> None:
        """A row that is kept all the same deserves a look."""
        self._enter(Entry(source, column, "warning", fault.code, fault.found, fault.advice))

    def _enter(self, entry: Entry) -> None:
        self.codes[entry.outcome, entry.code] += 1
        if self.codes[entry.outcome, entry.code] <= ENTRIES_KEPT:
            self.entries.append(entry)
        if self.sink is not None:
            self.sink(entry)

    def dropped(self) -> list[Entry]:
        """The first rows that are lost because something is wrong with them."""
        return [entry for entry in self.entries if entry.outcome == "dropped"]

    def by_code(self, outcome: str) -> dict[str, int]:
        """How many rows of an outcome (or `warning`) each code has, the most frequent first."""
        return {code: count for (kind, code), count in self.codes.most_common() if kind == outcome}

    def balanced(self) -> bool:
        """Whether every row that was read is accounted for."""
        return self.read == sum(self.outcomes.values()) and min(self.outcomes.values(), default=0) >= 0

    def counts(self) -> dict[str, int]:
        """Rows read and rows by outcome, zeros left out."""
        return {"read": self.read, **{name: self.outcomes[name] for name in OUTCOMES if self.outcomes[name]}}

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a file beside the run; `ledger_from` reads them back."""
        return {
            "file": self.file,
            "counts": self.counts(),
            "codes": [[outcome, code, count] for (outcome, code), count in self.codes.items()],
            "notes": dict(self.notes),
            "remarks": self.remarks,
            "entries": [entry.to_json() for entry in self.entries],
        }

    def sentence(self) -> str:
        """`999 rows read: 985 kept, 14 duplicate. (CRLF: 999)`, with what was noted of the file."""
        counts = self.counts()
        read = counted(counts.pop("read"), "row")
        kept = ", ".join(f"{n} {name}" for name, n in counts.items()) or "none kept"
        notes = "; ".join(note if n == 1 else f"{note}: {n}" for note, n in self.notes.items())
        return f"{read} read: {kept}." + (f" ({notes})" if notes else "")


def ledger_from(values: dict[str, Any]) -> Ledger:
    """The ledger that `to_json` wrote."""
    counts = dict(values["counts"])
    return Ledger(
        values["file"],
        counts.pop("read"),
        Counter(counts),
        Counter({(outcome, code): count for outcome, code, count in values["codes"]}),
        Counter(values["notes"]),
        list(values["remarks"]),
        [
            Entry(
                Source(e["file"], e["line"], e["column"]), e["column"], e["outcome"], e["code"], e["found"], e["advice"]
            )
            for e in values["entries"]
        ],
    )


def total(ledgers: list[Ledger], name: str) -> Ledger:
    """Several files' ledgers as one."""
    whole = Ledger(name)
    for ledger in ledgers:
        whole.read += ledger.read
        whole.outcomes += ledger.outcomes
        whole.codes += ledger.codes
        whole.notes += ledger.notes
        whole.remarks += ledger.remarks
        whole.entries += ledger.entries
    return whole
