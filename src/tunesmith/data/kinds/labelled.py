"""Text with its class, its classes, or a number."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from tunesmith.core.errors import DataError
from tunesmith.core.names import counted
from tunesmith.data.formats.format import Format, sets
from tunesmith.data.formats.label_names import label_called
from tunesmith.data.formats.nearest import columns_advice
from tunesmith.data.formats.values import Values, Warn, kind_of, list_of, shown, text_of
from tunesmith.data.kinds.kind import Facts, RowKind
from tunesmith.data.kinds.prepared import Prepared, TrainingRows
from tunesmith.data.kinds.row import Content, Edit, Row
from tunesmith.data.kinds.teach import name_doubts, refuse_one_label, some_of
from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.contract import Contract, Draft

PAIRS = (("text", "text_pair"), ("premise", "hypothesis"), ("sentence1", "sentence2"))  # keys of two texts
FEW_OF_A_NUMBER = 4  # rows a label: fewer than these on average, and all labels numbers, are no classes
Shape = Literal["one", "several", "number"]  # what a row has: one class, any number of them, or a number


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


def texts_in(row: Values) -> tuple[str, str | None]:
    """The text of a row, and the second one of a pair."""
    for first, second in PAIRS:
        if row.get(first) is not None and row.get(second) is not None:
            return text_of(row, first), text_of(row, second)
    return text_of(row, "text" if row.get("text") is not None else "sentence"), None


def labelled(row: Values, warn: Warn) -> Labelled:
    """A text with one class."""
    label, (text, second) = row["label"], texts_in(row)
    label = label.strip() if isinstance(label, str) else label
    unusual = isinstance(label, bool) or not isinstance(label, str | int | float) or label == ""
    if unusual or (isinstance(label, float) and not math.isfinite(label)):
        advice, given = "Give a class as text or number.", row["label"]
        if isinstance(given, list) and given and all(isinstance(one, list) for one in given):
            advice = f"If it marks characters, say {columns_advice({'spans': 'label'})}."
        raise RowFault("bad_label", f"'label' is {shown(given)}.", advice, ("label",))
    return Labelled(text, label, second)


def whole_numbers(rows: Sequence[Values]) -> str:
    """That labels such as 1.0 are read as numbers to be learned: a sentence, empty where there are none."""
    labels = [row["label"] for row in rows if row.get("label") is not None]
    if not labels or not all(isinstance(label, float) and label.is_integer() for label in labels):
        return ""
    return (
        f"Labels such as {labels[0]} are learned as numbers. If they are classes, write them without a fraction "
        f"({int(labels[0])}), or name them with data.label_names."
    )


def multi_labelled(row: Values, warn: Warn) -> Labelled:
    """A text with several classes."""
    labels, (text, second) = row["labels"], texts_in(row)
    if isinstance(labels, str):
        labels = list_of(row, "labels", "classes") if labels.lstrip().startswith("[") else labels.split(",")
    if not isinstance(labels, list):
        raise RowFault("bad_label", f"'labels' is {kind_of(labels)}.", "Give a list of classes.", ("labels",))
    switches = len(labels) > 2 and all(one in (0, 1) and not isinstance(one, str) for one in labels)
    if switches or any(isinstance(one, bool) for one in labels):
        found = f"'labels' is {shown(labels)}: whether each class holds, it seems, and not which."
        raise RowFault("bad_label", found, "Give the names of those that hold.", ("labels",))
    if strange := [one for one in labels if not isinstance(one, str | int)]:
        found = f"'labels' holds {kind_of(strange[0])} ({shown(strange[0])})."
        raise RowFault("bad_label", found, "Give each class as text or number.", ("labels", labels.index(strange[0])))
    return Labelled(text, tuple(dict.fromkeys(name for one in labels if (name := str(one).strip()))), second)


def scored(row: Values, warn: Warn) -> Labelled:
    """A text with a number."""
    key = next(key for key in ("score", "number", "value") if row.get(key) is not None)
    try:
        number = float(row[key])
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if number != number or number in (float("inf"), float("-inf")):
        raise RowFault("bad_label", f"{key!r} is {shown(row[key])}.", "Give a number.", (key,))
    text, second = texts_in(row)
    return Labelled(text, number, second)


def from_plain(plain: Mapping[str, Any]) -> Content:
    """A text with its class, its classes, or its number."""
    return (multi_labelled if "labels" in plain else labelled)(plain, lambda fault: None)


def named(content: Labelled, names: Sequence[str]) -> Labelled:
    """The row with the names of its classes, which it has as numbers."""
    if isinstance(content.label, tuple):
        return replace(content, label=tuple(label_called(one, names, "labels") for one in content.label))
    return replace(content, label=label_called(content.label, names, "label"))


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


def shape_of(facts: Facts) -> Shape:
    """What the rows of a file have."""
    return "several" if facts.get("several") else "one" if facts.get("labels") else "number"


def lacks(facts: Facts) -> str:
    """That all rows have one label."""
    names = facts.get("labels", {})
    if len(names) != 1 or facts.get("several") or next(iter(names.values())) < 2:
        return ""
    return f"all rows are labelled {next(iter(names))!r}, and there is nothing to tell them from."


def names_of(content: Labelled) -> tuple[str, ...]:
    """The classes of a row; none where it has a number."""
    if isinstance(content.label, tuple):
        return content.label
    return () if isinstance(content.label, float) else (str(content.label),)


def refuse(rows: TrainingRows, facts: Facts, contract: Contract) -> None:
    """Rows that all have one label, numbers among classes, or as good as a label for each row.

    Raises:
        DataError: with what to do.
    """
    names, shape = list(facts["labels"]), shape_of(facts)
    numbers = sum(1 for row in rows if isinstance(row.row.content.label, float)) if names else 0  # pyright: ignore
    if numbers:
        first = next(row for row in rows if isinstance(row.row.content.label, float))  # pyright: ignore
        raise DataError(
            f"{first.source}: the label is a number with a fraction, and {len(rows) - numbers} rows have classes. "
            "Give all rows a class, or all a number."
        )
    if shape == "several":
        if not names:
            raise DataError(f"none of {len(rows)} training rows has a class: there is nothing to learn.")
        if len({frozenset(names_of(row.row.content)) for row in rows}) == 1 and len(rows) > 1:  # pyright: ignore
            raise DataError(
                f"all {len(rows)} training rows have the same classes ({', '.join(names)}): the model would learn to "
                "say that of everything. Give rows with other classes too."
            )
        return
    refuse_one_label(names, rows)
    if shape == "number" and len(rows) > 1 and len({row.row.content.label for row in rows}) == 1:  # pyright: ignore
        raise DataError(f"all {len(rows)} training rows have the same number. Give rows with other numbers too.")
    if len(names) * FEW_OF_A_NUMBER > len(rows) > FEW_OF_A_NUMBER and all(map(_is_number, names)) and len(names) > 20:
        raise DataError(
            f"{len(names)} labels in {counted(len(rows), 'row')}, and all of them are numbers: as classes they cannot "
            "be learned. To learn the numbers themselves, name the column: data.columns={score: label}."
        )


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def border_of(row: Prepared) -> int:
    """Where in a row's ids the second text begins, by the types of tokens; the end where there are none."""
    return row.spans[1][0] if len(row.spans) > 1 else len(row.ids)


def refuse_unknown_labels(rows: TrainingRows, facts: Facts, part: str) -> None:
    """Refuse held-out rows with another sort of label than the training rows, or with a class that these do not have.

    Args:
        rows: to evaluate on.
        facts: of the training rows.
        part: what they are called: `validation`, `test`.

    Raises:
        DataError: with the first of them.
    """
    shape, known = shape_of(facts), set(facts.get("labels", {}))
    strange: Counter[str] = Counter()
    first: Prepared | None = None
    for row in rows:
        content: Any = row.row.content
        own = "several" if isinstance(content.label, tuple) else "number" if isinstance(content.label, float) else "one"
        if own != shape:
            words = {"one": "one class", "several": "a list of classes", "number": "a number"}
            raise DataError(f"{row.source}: {part} row with {words[own]}, and training rows have {words[shape]} each.")
        unknown = [name for name in names_of(content) if name not in known]
        strange.update(unknown)
        first = first or (row if unknown else None)
    if first is not None:
        shown = ", ".join(repr(name) for name, _ in strange.most_common(5))
        raise DataError(
            f"{first.source}: {counted(strange.total(), f'{part} row')} have a label that no training row has "
            f"({shown}): the model cannot know it. Give training rows with it, or correct or delete these rows."
        )


def doubts(rows: TrainingRows, facts: Facts) -> list[str]:
    """What is odd about the labels of training rows, in sentences."""
    if shape_of(facts) == "number":
        return []
    counts: Counter[str] = Counter(dict.fromkeys(facts["labels"], 0))
    texts: dict[str, dict[tuple[str, ...], Prepared]] = defaultdict(dict)
    for row in rows:
        content: Any = row.row.content
        counts.update(names_of(content))
        texts[content.asked()].setdefault(tuple(sorted(names_of(content))), row)
    found: list[str] = []
    if absent := [name for name, count in counts.items() if not count]:
        found.append(
            f"{counted(len(absent), 'label')} stand in held-out rows alone ({some_of(absent)}): the model cannot learn "
            "them. Give more rows, or name a file with data.test."
        )
    found += name_doubts(counts)
    if torn := [said for said in texts.values() if len(said) > 1]:
        (one, first), (other, second) = list(torn[0].items())[:2]
        found.append(
            f"{counted(len(torn), 'text')} with more than one label, such as {', '.join(one)!r} in {first.source} and "
            f"{', '.join(other)!r} in {second.source}."
        )
    return found


def shown_row(row: Row) -> list[tuple[list[dict[str, Any]], str]]:
    """The texts, and what is true of them."""
    content: Any = row.content
    label = ", ".join(names_of(content)) if names_of(content) or isinstance(content.label, tuple) else content.label
    return [([{"role": "text", "content": text} for text in content.texts()], str(label))]


def drafts(content: Labelled, contract: Contract) -> list[Draft]:
    """One sequence: the text or the pair of texts, in the tokenizer's own frame."""
    return [contract.draft_read(content.text, content.second)]


KIND = RowKind(
    name=Labelled.kind,
    words="texts with labels or numbers",
    formats=(
        Format(
            "text-label",
            Labelled.kind,
            sets("text label", "sentence label", *(f"{one} {two} label" for one, two in PAIRS)),
            labelled,
            remark=whole_numbers,
        ),
        Format(
            "text-labels",
            Labelled.kind,
            sets("text labels", "sentence labels", *(f"{one} {two} labels" for one, two in PAIRS)),
            multi_labelled,
            lacks=frozenset({"labels"}),
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
    writes=False,
    drafts=drafts,
    from_plain=from_plain,
    named=named,
    edit=edit,
    gather=gather,
    refuse=refuse,
    refuse_held_out=refuse_unknown_labels,
    doubts=doubts,
    lacks=lacks,
    shown=shown_row,
)
