"""Words, each with its tag: entities, slots, parts of speech. Texts with marked characters become such rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from tunesmith.core.errors import DataError
from tunesmith.core.names import counted
from tunesmith.data.formats.format import Format, sets
from tunesmith.data.formats.label_names import label_called
from tunesmith.data.formats.marked import MARKS, marked_in
from tunesmith.data.formats.values import Values, Warn, list_of, text_of
from tunesmith.data.formats.words import places_of, words_in
from tunesmith.data.kinds.kind import Facts, RowKind
from tunesmith.data.kinds.prepared import Prepared, Tokens, TrainingRows, prepared
from tunesmith.data.kinds.row import Row
from tunesmith.data.kinds.schemes import (
    OUTSIDE,
    Stretch,
    broken_at,
    labels_of,
    parted,
    scheme_of,
    stretches,
    tag_names,
    tags_of,
)
from tunesmith.data.kinds.teach import name_doubts, refuse_one_label, some_of
from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.contract import Contract, Draft
from tunesmith.prompt.words import draft_words

WORDS, TAGS = ("tokens", "words"), ("tags", "ner_tags", "pos_tags", "labels")  # keys


@dataclass(frozen=True)
class Tagged:
    """Words, each with its tag.

    Attributes:
        tokens: the words.
        tags: of each.
        text: in which they stand, in this order, if it is known.
    """

    kind: ClassVar[str] = "tagged"
    tokens: tuple[str, ...]
    tags: tuple[str | int, ...]
    text: str | None = None

    def to_plain(self) -> dict[str, Any]:
        """Two lists of equal length, and the text."""
        text = {} if self.text is None else {"text": self.text}
        return {"tokens": list(self.tokens), "tags": list(self.tags), **text}

    def texts(self) -> Iterable[str]:
        """The words as one text."""
        return (" ".join(self.tokens) if self.text is None else self.text,)

    def asked(self) -> str:
        """The words."""
        return repr(self.tokens)

    @property
    def names(self) -> list[str]:
        """The tags as texts."""
        return [str(tag) for tag in self.tags]

    @cached_property
    def close(self) -> tuple[bool, ...]:
        """Whether each word stands close to the one before it."""
        if self.text is None:
            return ()
        places = places_of(self.tokens, self.text)
        assert places is not None
        ends = [0, *(place + len(word) for place, word in zip(places, self.tokens, strict=True))]
        return tuple(place == end for place, end in zip(places, ends[:-1], strict=True))


def convert(row: Values, warn: Warn) -> Tagged:
    """Words with tags; a text beside them says where there is no space between two."""
    words = next(key for key in WORDS if row.get(key) is not None)
    tags = next(key for key in TAGS if row.get(key) is not None)
    tokens, marks = list_of(row, words, "words"), list_of(row, tags, "tags")
    for place, token in enumerate(tokens):
        if not isinstance(token, str):
            raise RowFault("not_text", f"{words!r} holds what is not text.", "Give words as strings.", (words, place))
        if not token.strip():
            advice = "Leave it out, with its tag."
            raise RowFault("empty_text", f"word {place + 1} of {words!r} is empty.", advice, (words, place))
    for place, mark in enumerate(marks):
        if not isinstance(mark, str | int) or isinstance(mark, bool) or mark == "":
            advice = "Give tags as texts or numbers."
            raise RowFault("bad_label", f"{tags!r} holds what is no tag.", advice, (tags, place))
    if len(tokens) != len(marks):
        found = f"{len(tokens)} words and {len(marks)} tags."
        raise RowFault("unequal_lengths", found, "Give each word one tag.", (tags,))
    text = row.get("text")
    if text is not None and (not isinstance(text, str) or places_of(tokens, text) is None):
        found = "'text' does not hold the words in this order."
        warn(RowFault("text_differs", found, "The words are read, with a space between them.", ("text",)))
        text = None
    return Tagged(tuple(tokens), tuple(marks), text)


def check(content: Tagged, warn: Warn) -> None:
    """Tell of a tag that goes on where nothing has begun."""
    tags = content.names
    scheme = scheme_of(set(tags))
    if scheme.mixed or scheme.name in ("io", "none") or (place := broken_at(tags, scheme.name)) is None:
        return
    before = tags[place - 1] if place else "the beginning"
    found = f"tag {place + 1}, {tags[place]!r}, behind {before!r}: nothing has begun that goes on so."
    if parted(tags[place], scheme.name)[0] not in ("I", "L", "E"):
        found = f"tag {place + 1}, {tags[place]!r}, is not gone on with."
    advice = "It is kept, and read as the beginning of a stretch or all of one."
    warn(RowFault("broken_tags", found, advice, ("tags", place)))


def from_plain(plain: Mapping[str, Any]) -> Tagged:
    """What `to_plain` wrote."""
    return Tagged(tuple(plain["tokens"]), tuple(plain["tags"]), plain.get("text"))


# Texts with marked characters ----------------------------------------------------------------------------------------


def in_text(row: Values, warn: Warn, scheme: str = "bio") -> Tagged:
    """A text with stretches of characters as words with tags: a word that a stretch touches belongs to it."""
    text = text_of(row, "text")
    words = words_in(text)
    if not words:
        raise RowFault("empty_text", "'text' holds no word.", "Fill it in or delete the row.", ("text",))
    taken: dict[int, str] = {}
    found: list[Stretch] = []
    for mark in sorted(marked_in(row, text), key=lambda mark: mark.begin):
        touched = [i for i, (begin, end) in enumerate(words) if begin < mark.end and mark.begin < end]
        if not touched:
            shown = text[mark.begin : mark.end]
            raise RowFault("wrong_span", f"{mark.label!r} marks {shown!r}, no word.", "Mark words.", mark.path)
        if (twice := next((i for i in touched if i in taken), None)) is not None:
            word = text[slice(*words[twice])]
            found_twice = f"{mark.label!r} and {taken[twice]!r} both mark {word!r}."
            raise RowFault("overlapping_spans", found_twice, "A word has one tag: leave one of them out.", mark.path)
        begin, end = words[touched[0]][0], words[touched[-1]][1]
        if (begin, end) != (mark.begin, mark.end) and text[begin:end].strip() != text[mark.begin : mark.end].strip():
            said = f"{mark.label!r} marks {text[mark.begin : mark.end]!r}, a part of {text[begin:end]!r}."
            warn(RowFault("inside_word", said, "The whole of it is tagged.", mark.path))
        taken |= dict.fromkeys(touched, mark.label)
        found.append(Stretch(mark.label, touched[0], touched[-1] + 1))
    tags = tags_of(len(words), found, scheme)
    return Tagged(tuple(text[begin:end] for begin, end in words), tuple(tags), text)


def has_marks(row: Values) -> bool:
    """Whether something is marked in a row's text; rows of the same file without that have nothing marked."""
    return any(row.get(key) is not None for key in MARKS)


# What is done with it ------------------------------------------------------------------------------------------------


def drafts(content: Tagged, contract: Contract) -> list[Draft]:
    """One sequence, with a span for each word: its first token."""
    return [draft_words(content.tokens, content.close)]


def named(content: Tagged, names: Sequence[str]) -> Tagged:
    """The row with the names of its tags, which it has as numbers."""
    return replace(content, tags=tuple(label_called(tag, names, "tags") for tag in content.tags))


def pieces_of(whole: Tokens, longest: int, contract: Contract) -> list[Tokens]:
    """Words in sequences of nearly equal length, parted between words, each in the tokenizer's frame.

    Of a word that is longer than a sequence, what is too much is left out; its first token is not.
    """
    frame = contract.frames[0]
    head, tail = np.array(frame.before, np.int32), np.array(frame.behind, np.int32)
    room = max(1, longest - len(head) - len(tail))
    body = whole.ids[len(head) : len(whole.ids) - len(tail)]
    starts = [min(begin - len(head), len(body)) for begin, _ in whole.spans]
    ends = [*starts[1:], len(body)]
    count = -(-len(body) // room)
    found: list[Tokens] = []
    first = 0  # word
    while first < len(starts):
        fair = -(-(len(body) - starts[first]) // max(1, count - len(found)))
        last = first + 1
        while last < len(starts) and ends[last] - starts[first] <= min(room, fair):
            last += 1
        begin, end = starts[first], min(ends[last - 1], starts[first] + room)
        ids = np.concatenate([head, body[begin:end], tail])
        spans = tuple(
            (min(one - begin, len(ids) - 1), min(one - begin, len(ids) - 1) + (other > one))
            for one, other in whole.spans[first:last]
        )
        found.append(Tokens(ids, spans))
        first = last
    return found


def in_pieces(row: Row, sequences: list[Tokens], longest: int, contract: Contract) -> list[Prepared]:
    """One row with several sequences: no word is lost."""
    [whole] = sequences
    return [prepared(row, pieces_of(whole, longest, contract))]


def shown_row(row: Row) -> list[tuple[list[dict[str, Any]], str]]:
    """The text, and what is tagged in it."""
    content: Any = row.content
    [text] = content.texts()
    return [([{"role": "text", "content": text}], told(content.tokens, content.names))]


def told(words: Sequence[str], tags: Sequence[str]) -> str:
    """Tags in words for people: each stretch with its label; where there are no stretches each word with its tag."""
    scheme = scheme_of(tags).name
    if scheme == "none" and OUTSIDE not in tags:
        return " ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True))
    return "; ".join(f"{one.label}: {' '.join(words[one.begin : one.end])}" for one in stretches(tags, scheme))


def gather(content: Tagged, facts: Facts) -> None:
    """How often each tag comes, as `labels`."""
    counts = facts.setdefault("labels", {})
    for tag in content.tags:
        counts[str(tag)] = counts.get(str(tag), 0) + 1


def refuse(rows: TrainingRows, facts: Facts, contract: Contract) -> None:
    """Words that all have one tag, and tags that mean different things.

    Raises:
        DataError: with what to do.
    """
    names = list(facts["labels"])
    refuse_one_label(names, rows)
    scheme = scheme_of(names)
    advice = "Write all tags in one scheme: BIO, BILOU or BIOES."
    if scheme.mixed:
        raise DataError(f"the tags of {counted(len(rows), 'row')} are of different schemes: {scheme.mixed}. {advice}")
    if scheme.name not in ("bilou", "bioes"):
        return
    for row in rows:
        tags = content_of(row).names
        if broken_at(tags, scheme.name) is not None and broken_at(tags, "bio") is None and _is_bio(tags):
            shown = next(tag for tag in tags if tag.startswith(("B", "I")))
            raise DataError(
                f"{row.source}: its tags ({shown!r}) are BIO, and other rows have {scheme.name.upper()}. {advice}"
            )


def _is_bio(tags: Sequence[str]) -> bool:
    return scheme_of(tags).name == "bio" and any(tag != "O" for tag in tags)


def refuse_unknown_labels(rows: TrainingRows, facts: Facts, part: str) -> None:
    """Refuse held-out rows with a label that no training row has, or with tags of another scheme.

    Raises:
        DataError: with the first of them.
    """
    known, labels = set(tag_names(facts["labels"])), set(labels_of(facts["labels"]))
    scheme = scheme_of(facts["labels"]).name
    strange: Counter[str] = Counter()
    first: Prepared | None = None
    for row in rows:
        unknown = [tag for tag in content_of(row).names if tag not in known]
        if other := next((tag for tag in unknown if parted(tag, scheme)[1] in labels), None):
            raise DataError(
                f"{row.source}: the tag {other!r} is of another scheme than those of the training rows "
                f"({scheme.upper()}). Write all tags in one scheme."
            )
        strange.update(parted(tag, scheme)[1] for tag in unknown)
        first = first or (row if unknown else None)
    if first is not None:
        count = counted(strange.total(), f"word of the {part} part")
        shown = ", ".join(repr(name) for name, _ in strange.most_common(5))
        raise DataError(
            f"{first.source}: {count} have a label that no training row has ({shown}): the model cannot know it. Give "
            "training rows with it, or correct or delete these rows."
        )


def doubts(rows: TrainingRows, facts: Facts) -> list[str]:
    """What is odd about the labels of training rows, in sentences."""
    scheme = scheme_of(facts["labels"]).name
    counts: Counter[str] = Counter()
    for row in rows:
        tags = content_of(row).names
        counts.update(one.label for one in stretches(tags, scheme)) if scheme != "none" else counts.update(tags)
    absent = [label for label in labels_of(facts["labels"]) if label not in counts]
    found: list[str] = []
    if absent:
        found.append(
            f"{counted(len(absent), 'label')} stand in held-out rows alone ({some_of(absent)}): the "
            "model cannot learn them. Give more rows, or name a file with data.test."
        )
    if scheme == "none" and all(name.isdecimal() for name in facts["labels"]):
        found.append("tags are numbers, so stretches cannot be told apart. Name them with data.label_names.")
    return [*found, *name_doubts(counts)]


def content_of(row: Prepared) -> Tagged:
    """What a prepared row teaches."""
    content: Any = row.row.content
    return content


SPANS = sets("text", *(f"text {key}" for key in MARKS))  # of a file in which some rows have marks

KIND = RowKind(
    name=Tagged.kind,
    words="words with tags",
    formats=(
        Format(
            "tokens-tags",
            Tagged.kind,
            sets(*(f"{words} {tags}" for words in WORDS for tags in TAGS)),
            convert,
            frozenset({"text"}),
        ),
        Format("text-spans", Tagged.kind, SPANS, in_text, looks=has_marks),
        Format(
            "text-spans-bilou",
            Tagged.kind,
            SPANS,
            lambda row, warn: in_text(row, warn, "bilou"),
            looks=has_marks,
            named_only=True,
        ),
    ),
    chat=False,
    writes=False,
    drafts=drafts,
    from_plain=from_plain,
    check=check,
    named=named,
    gather=gather,
    refuse=refuse,
    refuse_held_out=refuse_unknown_labels,
    doubts=doubts,
    shown=shown_row,
    split=in_pieces,
)
