"""An answer that is to be scored, and what it is scored against: taken from rows of any kind that asks something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.data.kinds.row import Row
from tunesmith.prompt.messages import Conversation, Tools

READS = frozenset({"chat", "preference", "reinforcement"})  # kinds of rows that ask something
REFERENCE = "reference"


@dataclass(frozen=True)
class Sample:
    """An answer.

    Attributes:
        prompt: what was asked.
        answer: what was answered.
        finish_reason: `stop`, or `length` where it was cut off.
        item: the row's fields, for templates and functions.
    """

    prompt: Conversation
    answer: str
    finish_reason: str
    item: Mapping[str, Any]


def asked_of(row: Row) -> tuple[Conversation, Tools, dict[str, Any]]:
    """What a row asks, the tools that may be called, and its fields.

    A chat asks all before its last answer, which is its `reference`; of a preference that is the chosen answer. A field
    of the row's own that is called so goes before it.

    Args:
        row: of a kind in `READS`.
    """
    content: Any = row.content
    if content.kind == "chat":
        return row.prompt, row.tools, {REFERENCE: row.answer, **row.labels}
    if content.kind == "preference":
        return content.prompt, content.tools, {REFERENCE: content.chosen[-1].content, **row.labels}
    assert content.kind == "reinforcement", content.kind
    return content.prompt, content.tools, {**row.labels, **content.item}
