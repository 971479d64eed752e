"""The ledger: where every row went. read = kept + repaired + cut + duplicate + dropped, always."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """Where a row stands: a file and the line, counted from 1, on which the row begins."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class RowFault(Exception):  # noqa: N818  it is a finding about data, not an error of ours
    """Why one row cannot be used. Raised while a row is read, caught by the ledger's keeper."""

    def __init__(self, code: str, found: str, advice: str) -> None:
        super().__init__(found)
        self.code, self.found, self.advice = code, found, advice


@dataclass(frozen=True)
class Entry:
    """One row that was not simply kept: what was found and what to do."""

    source: Source
    outcome: str
    code: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.source}: {self.found} {self.advice}"


@dataclass
class Ledger:
    """Counts by outcome, and an entry for each row that was changed or left out."""

    file: str = ""
    read: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    entries: list[Entry] = field(default_factory=list)

    def keep(self) -> None:
        """A row goes on as it stood."""
        self._count("kept")

    def note(self, outcome: str, source: Source, fault: RowFault) -> None:
        """A row was `cut`, `repaired`, `duplicate` or `dropped`, and why."""
        self._count(outcome)
        self.entries.append(Entry(source, outcome, fault.code, fault.found, fault.advice))

    def revise(self, outcome: str, source: Source, fault: RowFault) -> None:
        """A row that was kept so far ends otherwise: a later step cut or dropped it."""
        self.outcomes["kept"] -= 1
        self.outcomes[outcome] += 1
        self.entries.append(Entry(source, outcome, fault.code, fault.found, fault.advice))

    def _count(self, outcome: str) -> None:
        self.read += 1
        self.outcomes[outcome] += 1

    def dropped(self) -> list[Entry]:
        """The rows that are lost because something is wrong with them."""
        return [entry for entry in self.entries if entry.outcome == "dropped"]

    def balanced(self) -> bool:
        """Whether every row that was read is accounted for."""
        return self.read == sum(self.outcomes.values())

    def counts(self) -> dict[str, int]:
        """Rows read and rows by outcome, zeros left out."""
        order = ("kept", "repaired", "cut", "duplicate", "dropped")
        return {"read": self.read, **{name: self.outcomes[name] for name in order if self.outcomes[name]}}

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a file beside the run."""
        entries = [{**asdict(entry), "source": str(entry.source)} for entry in self.entries]
        return {"file": self.file, "counts": self.counts(), "entries": entries}

    def sentence(self) -> str:
        """`999 rows read: 985 kept, 14 duplicate.`"""
        counts = self.counts()
        read = counts.pop("read")
        return f"{read} rows read: " + ", ".join(f"{n} {name}" for name, n in counts.items()) + "."
