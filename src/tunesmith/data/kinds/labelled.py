"""Text with its class, its classes, or a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tunesmith.data.formats.format import Format, sets
from tunesmith.data.formats.values import Values, Warn, kind_of, list_of, shown, text_of
from tunesmith.data.kinds.kind import Facts, RowKind
from tunesmith.data.kinds.prepared import TrainingRows
from tunesmith.data.kinds.row import Content, Edit
from tunesmith.data.kinds.teach import refuse_one_label
from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.contract import Contract

PAIRS = (("text", "text_pair"), ("premise", "hypothesis"), ("sentence1", "sentence2"))  # keys of two texts


@dataclass(frozen=True)
class Labelled:
    """Text with its class, its classes, or a number."""

    kind: ClassVar[str] = "labelled"
    text: str
    label: str | int | float | tuple[str, ...]
    second: str | None = None  # of a pair of texts

    def to_plain(self) -> dict[str, Any]:
        """`text` with `label`, or with `labels` where a text has several."""
        second = {} if self.second is None else {"text_pair": self.second}
        label = {"labels": list(self.label)} if isinstance(self.label, tuple) else {"label": self.label}
        return {"text": self.text, **second, **label}

    def texts(self) -> Iterable[str]:
        """The text, or both."""
        return (self.text,) if self.second is None else (self.text, self.second)

    def asked(self) -> str:
        """The text."""
        return repr((self.text, self.second))


def _texts(row: Values) -> tuple[str, str | None]:
    for first, second in PAIRS:
        if row.get(first) is not None and row.get(second) is not None:
            return text_of(row, first), text_of(row, second)
    return text_of(row, "text" if row.get("text") is not None else "sentence"), None


def labelled(row: Values, warn: Warn) -> Labelled:
    """A text with one class."""
    label, (text, second) = row["label"], _texts(row)
    if isinstance(label, bool) or not isinstance(label, str | int | float) or label == "":
        raise RowFault("bad_label", f"'label' is {shown(label)}.", "Give a class as text or number.", ("label",))
    return Labelled(text, label, second)


def multi_labelled(row: Values, warn: Warn) -> Labelled:
    """A text with several classes."""
    labels, (text, second) = row["labels"], _texts(row)
    if isinstance(labels, str):
        labels = list_of(row, "labels", "classes") if labels.lstrip().startswith("[") else labels.split(",")
    if not isinstance(labels, list) or not all(isinstance(one, str | int) for one in labels):
        raise RowFault("bad_label", f"'labels' is {kind_of(labels)}.", "Give a list of classes.", ("labels",))
    return Labelled(text, tuple(name for one in labels if (name := str(one).strip())), second)


def scored(row: Values, warn: Warn) -> Labelled:
    """A text with a number."""
    key = next(key for key in ("score", "number", "value") if row.get(key) is not None)
    try:
        number = float(row[key])
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if number != number or number in (float("inf"), float("-inf")):
        raise RowFault("bad_label", f"{key!r} is {shown(row[key])}.", "Give a number.", (key,))
    text, second = _texts(row)
    return Labelled(text, number, second)


def from_plain(plain: Mapping[str, Any]) -> Content:
    """A text with its class, its classes, or its number."""
    return (multi_labelled if "labels" in plain else labelled)(plain, lambda fault: None)


def edit(content: Labelled, change: Edit) -> Labelled:
    """The row with its texts changed."""
    second = None if content.second is None else change.text(content.second)
    return replace(content, text=change.text(content.text), second=second)


def gather(content: Labelled, facts: Facts) -> None:
    """How often each label comes, as `labels` (a number is none); and texts that have several or none, as `several`."""
    several = isinstance(content.label, tuple)
    names = content.label if isinstance(content.label, tuple) else (content.label,)
    counts = facts.setdefault("labels", {})
    for name in names:
        if not isinstance(name, float):
            counts[str(name)] = counts.get(str(name), 0) + 1
    if several:
        facts["several"] = facts.get("several", 0) + 1


def refuse(rows: TrainingRows, facts: Facts, contract: Contract) -> None:
    """Rows that all have one label."""
    if not facts.get("several"):
        refuse_one_label(list(facts["labels"]), rows)


KIND = RowKind(
    name=Labelled.kind,
    words="texts with labels or numbers",
    formats=(
        Format(
            "text-label",
            Labelled.kind,
            sets("text label", "sentence label", *(f"{one} {two} label" for one, two in PAIRS)),
            labelled,
        ),
        Format(
            "text-labels",
            Labelled.kind,
            sets("text labels", "sentence labels", *(f"{one} {two} labels" for one, two in PAIRS)),
            multi_labelled,
        ),
        Format(
            "text-number",
            Labelled.kind,
            sets(
                *(
                    f"{text} {key}"
                    for text in ("text", "sentence", "sentence1 sentence2")
                    for key in ("score", "number", "value")
                )
            ),
            scored,
        ),
    ),
    chat=False,
    drafts=lambda content, contract: [contract.draft_text("\n".join(content.texts()))],
    from_plain=from_plain,
    edit=edit,
    gather=gather,
    refuse=refuse,
)
