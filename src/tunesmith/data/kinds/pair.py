"""A source and what it becomes: translation, summary, correction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from tunesmith.data.formats.format import Format, sets
from tunesmith.data.formats.values import text_of
from tunesmith.data.kinds.kind import RowKind
from tunesmith.data.kinds.row import Edit
from tunesmith.prompt.contract import Contract, Draft


@dataclass(frozen=True)
class Pair:
    """A source and what it becomes."""

    kind: ClassVar[str] = "source-target"
    source: str
    target: str

    def to_plain(self) -> dict[str, Any]:
        """`source` and `target`."""
        return {"source": self.source, "target": self.target}

    def texts(self) -> Iterable[str]:
        """Both."""
        return (self.source, self.target)

    def asked(self) -> str:
        """The source."""
        return self.source


def edit(content: Pair, change: Edit) -> Pair:
    """The pair with its texts changed."""
    return Pair(change.text(content.source), change.text(content.target))


def drafts(content: Pair, contract: Contract) -> list[Draft]:
    """Two sequences: the source and the target."""
    return [contract.draft_text(text) for text in content.texts()]


KIND = RowKind(
    name=Pair.kind,
    words="sources with their targets",
    formats=(
        Format(
            "source-target",
            Pair.kind,
            sets("source target"),
            lambda row, warn: Pair(text_of(row, "source"), text_of(row, "target")),
        ),
    ),
    chat=False,
    drafts=drafts,
    edit=edit,
)
