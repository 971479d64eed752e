"""Plain text, all of which is learned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tunesmith.data.formats.format import Format, sets
from tunesmith.data.formats.values import Values, Warn, text_of
from tunesmith.data.formats.written import GIVE_TURNS, frame_of
from tunesmith.data.kinds.kind import RowKind
from tunesmith.data.kinds.prepared import Prepared, Tokens, prepared
from tunesmith.data.kinds.row import Edit, Row
from tunesmith.data.kinds.teach import refuse_unvaried
from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.contract import Contract


@dataclass(frozen=True)
class Text:
    """Plain text, all of which is learned."""

    kind: ClassVar[str] = "text"
    text: str

    def to_plain(self) -> dict[str, Any]:
        """One key, `text`."""
        return {"text": self.text}

    def texts(self) -> Iterable[str]:
        """The text."""
        return (self.text,)

    def asked(self) -> str:
        """The text itself."""
        return self.text


def convert(row: Values, warn: Warn) -> Text:
    """The text under `text`, or `content`."""
    return Text(text_of(row, "text" if row.get("text") is not None else "content"))


def from_plain(plain: Mapping[str, Any]) -> Text:
    """The text, which may be blank, as a piece of a longer one."""
    return Text(**plain)


def check(content: Text, warn: Warn) -> None:
    """Tell of a text that is a chat written out."""
    if (name := frame_of(content.text)) is not None:
        found = f"the text is a chat written out in {name} way: all of it is trained on, questions and frames too."
        warn(RowFault("written_out", found, GIVE_TURNS))


def edit(content: Text, change: Edit) -> Text:
    """The text changed."""
    return Text(change.text(content.text))


def split(row: Row, sequences: list[Tokens], longest: int, contract: Contract) -> list[Prepared]:
    """Rows of nearly equal length, every token in one of them.

    Each begins with the model's beginning-of-sequence token where texts do; of an encoder, which reads nothing without
    its frame, each stands in [CLS] and [SEP].
    """
    [whole] = sequences
    before, behind = contract.around_pieces
    head = whole.ids[: len(before)]
    tail = whole.ids[len(whole.ids) - len(behind) :]
    body = whole.ids[len(head) : len(whole.ids) - len(tail)]
    pieces = np.array_split(body, -(-len(body) // (longest - len(head) - len(tail))))
    found: list[Prepared] = []
    for number, piece in enumerate(pieces, start=1):
        part = Row(Text(contract.decode(piece.tolist())), row.source, row.labels, whole=row)
        ids = np.concatenate([head, piece, tail])
        found.append(prepared(part, [Tokens(ids, ((0, len(ids)),))], goes_on=number < len(pieces)))
    return found


KIND = RowKind(
    name=Text.kind,
    words="plain text",
    formats=(Format("text", Text.kind, sets("text", "content"), convert),),
    chat=False,
    drafts=lambda content, contract: [contract.draft_text(text) for text in content.texts()],
    from_plain=from_plain,
    check=check,
    edit=edit,
    refuse=refuse_unvaried,
    split=split,
)
