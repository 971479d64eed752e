"""Words, each with its tag."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from tunesmith.data.formats.format import Format, sets
from tunesmith.data.formats.values import Values, Warn, list_of
from tunesmith.data.kinds.kind import Facts, RowKind
from tunesmith.data.kinds.prepared import TrainingRows
from tunesmith.data.kinds.teach import refuse_one_label
from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.contract import Contract

WORDS, TAGS = ("tokens", "words"), ("tags", "ner_tags", "pos_tags", "labels")  # keys


@dataclass(frozen=True)
class Tagged:
    """Words, each with its tag."""

    kind: ClassVar[str] = "tagged"
    tokens: tuple[str, ...]
    tags: tuple[str | int, ...]

    def to_plain(self) -> dict[str, Any]:
        """Two lists of equal length."""
        return {"tokens": list(self.tokens), "tags": list(self.tags)}

    def texts(self) -> Iterable[str]:
        """The words as one text."""
        return (" ".join(self.tokens),)

    def asked(self) -> str:
        """The words."""
        return repr(self.tokens)


def convert(row: Values, warn: Warn) -> Tagged:
    """Words with tags."""
    words = next(key for key in WORDS if row.get(key) is not None)
    tags = next(key for key in TAGS if row.get(key) is not None)
    tokens, marks = list_of(row, words, "words"), list_of(row, tags, "tags")
    if not all(isinstance(token, str) for token in tokens):
        raise RowFault("not_text", f"{words!r} holds what is not text.", "Give words as strings.", (words,))
    if not all(isinstance(mark, str | int) for mark in marks):
        raise RowFault("bad_label", f"{tags!r} holds what is no tag.", "Give tags as texts or numbers.", (tags,))
    if len(tokens) != len(marks):
        found = f"{len(tokens)} words and {len(marks)} tags."
        raise RowFault("unequal_lengths", found, "Give each word one tag.", (tags,))
    return Tagged(tuple(tokens), tuple(marks))


def gather(content: Tagged, facts: Facts) -> None:
    """How often each tag comes, as `labels`."""
    counts = facts.setdefault("labels", {})
    for tag in content.tags:
        counts[str(tag)] = counts.get(str(tag), 0) + 1


def refuse(rows: TrainingRows, facts: Facts, contract: Contract) -> None:
    """Words that all have one tag."""
    refuse_one_label(list(facts["labels"]), rows)


KIND = RowKind(
    name=Tagged.kind,
    words="words with tags",
    formats=(
        Format("tokens-tags", Tagged.kind, sets(*(f"{words} {tags}" for words in WORDS for tags in TAGS)), convert),
    ),
    chat=False,
    drafts=lambda content, contract: [contract.draft_text(text) for text in content.texts()],
    gather=gather,
    refuse=refuse,
)
