"""Rows with a prompt around them: they ask with it, and of the whole only the row's own answer is learned.

A row that has a class becomes a chat that answers with it. Worked examples are the same for all rows, or for each row
the training rows that are most like it, without itself: no row sees its own answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tunesmith.core.errors import ConfigError, DataError
from tunesmith.core.names import counted
from tunesmith.data.kinds.chat import Chat
from tunesmith.data.kinds.conversation import without_weight
from tunesmith.data.kinds.labelled import Labelled
from tunesmith.data.kinds.row import Content, Row
from tunesmith.data.prompting.choose import Nearest, balanced_order, random_order, shows_no_tools
from tunesmith.data.prompting.schema import label_in, label_schema
from tunesmith.data.prompting.variant import (
    OF_CHATS,
    OF_CLASSES,
    Prompting,
    Template,
    answer_of,
    question_of,
    read_template,
    row_prompt,
    turns_of,
    with_labels,
)
from tunesmith.data.prompting.version import Version
from tunesmith.data.quality.ledger import Source
from tunesmith.prompt.messages import Conversation, Message

READS = frozenset({"labelled", "chat"})  # kinds of rows that a prompt can be put around
MAKES = Chat.kind  # what they become


@dataclass(frozen=True)
class Around:
    """A prompt that is ready to be put around rows of one kind.

    Attributes:
        version: the prompt.
        where: what a sentence calls it.
        prompting: what all rows share of it.
        bank: training rows that examples are chosen from for each row; none where they are always the same.
        fixed: examples that are always the same.
    """

    version: Version
    where: str
    prompting: Prompting
    bank: Sequence[Row] = ()
    fixed: Sequence[Row] = ()

    @property
    def makes_long(self) -> str:
        """A sentence for errors about long rows."""
        return (
            f" {self.where} is a part of each row: fewer or shorter examples ({self.version.told()}) make it shorter."
        )

    @cached_property
    def id(self) -> str:
        """16 digits that stand for all that decides what becomes of a row."""
        shared, digest = self.prompting, hashlib.sha256(self.version.id.encode())
        digest.update(json.dumps([shared.kind, list(shared.labels)]).encode())
        for row in (*self.fixed, *self.bank):
            digest.update(row.key)
        return digest.hexdigest()[:16]

    def row(self, row: Row) -> Row:
        """The row as a chat with the prompt around it; the row as it was stays beside it, as `unprompted`.

        Raises:
            DataError: the prompt does not fit it.
        """
        asked = self.asked(row)
        content: Any = row.content
        if content.kind != MAKES:
            return replace(row, content=Chat((*asked, Message("assistant", self.prompting.shown(row)))), unprompted=row)
        if self.prompting.template is not None:  # it is the last question that the template asks
            asked = without_weight(asked)
        turns = (*asked, *row.conversation[len(row.prompt) :])
        return replace(row, content=replace(content, messages=turns), unprompted=row)

    def asked(self, row: Row) -> Conversation:
        """What the model is asked about a row.

        Raises:
            DataError: the row lacks what the template asks for.
        """
        content: Any = row.content
        self._refuse_unfit(row, content)
        return self.prompting.conversation(row, self.examples(row), True)

    def examples(self, row: Row) -> list[Row]:
        """The worked examples of a row, the most alike last; never one that asks what the row asks."""
        if not self.bank:
            return [one for one in self.fixed if question_of(one) != question_of(row)]
        return self._nearest.to(row, self.version.shots)

    def to_card(self) -> dict[str, Any]:
        """What a model's card says of it: plain values, the user's own words under a key of their own.

        Examples that are always the same are told, but those of several turns: these are drawn again by their seed.
        """
        told = all(len(turns_of(row)) == 1 for row in self.fixed)
        fixed = [[question_of(row), self.prompting.shown(row)] for row in self.fixed if told]
        version = self.version.model_dump(mode="json")
        words = {"template": version["template"], "instruction": version["instruction"], "chosen": fixed or None}
        return {
            "id": self.id, "version": self.version.id, "told": self.version.told(), "kind": self.prompting.kind,
            "shots": version["shots"], "examples": "" if fixed else version["examples"], "seed": version["seed"],
            "own_words": {**words, "labels": list(self.prompting.labels), "schema": version["answers"]},
        }  # fmt: skip

    @cached_property
    def _nearest(self) -> Nearest:
        return Nearest(self.bank, f"{self.where} asks for the nearest examples, which")

    def _refuse_unfit(self, row: Row, content: Any) -> None:
        if content.kind != self.prompting.kind:
            raise DataError(
                f"{row.source}: holds {content.kind} rows, and {self.where} was made for {self.prompting.kind} rows. "
                "Give such rows."
            )
        fields = frozenset[str]() if self.prompting.template is None else self.prompting.template.fields
        if "text_pair" in fields and content.second is None:
            raise DataError(
                f"{row.source}: has no second text, which the template of {self.where} asks for by {{text_pair}}. Give "
                "one, or take that field out."
            )
        if content.kind == "labelled" and not isinstance(content.label, str | int):
            raise DataError(
                f"{row.source}: has several classes or a number, and a prompt is put around rows with one class each. "
                f"Leave {self.where} out."
            )
        last = row_prompt(row)[-1:]
        if fields and last and last[0].role != "user":
            raise DataError(
                f"{row.source}: before its answer stands the {last[0].role}'s turn, and the template of {self.where} "
                "writes a question. Take a prompt without a template."
            )


def put_around(version: Version, where: str, kind: str, labels: Sequence[str], training: Iterable[Row]) -> Around:
    """A prompt, ready for rows.

    Args:
        version: what it is made of.
        where: what a sentence calls it.
        kind: of the rows, one of `READS`.
        labels: the classes, in order; none of chats.
        training: rows to choose examples from.

    Raises:
        ConfigError: it does not fit these rows, or there are fewer than it asks for.
    """
    template = None if version.template is None else _template(version, where, kind)
    as_json = version.answers is not None and kind == "labelled"
    if as_json and version.answers != label_schema(labels):
        raise ConfigError(f"{where}: its schema has other labels than the rows. Make a version on these rows.")
    prompting = Prompting(kind, labels, with_labels(version.instruction or "", labels), template, as_json)
    if not version.shots:
        return Around(version, where, prompting)
    if version.chosen is not None:
        given = version.chosen[: version.shots]
        return Around(version, where, prompting, (), [_example(kind, *pair, as_json) for pair in given])
    if version.examples == "balanced" and kind == "chat":
        raise ConfigError(f"{where}: balanced examples take the classes in turn, and chats have none. Name others.")
    bank = [_shown(row) for row in training if shows_no_tools(row)]
    is_nearest = version.examples == "nearest"
    if version.shots + is_nearest > len(bank):
        raise ConfigError(
            f"{where}: asks for {counted(version.shots, 'example')}, and the training part has "
            f"{counted(len(bank), 'row')} to choose from{', for each row the others' if is_nearest else ''}. Set "
            "shots lower, or give more rows."
        )
    if is_nearest:
        return Around(version, where, prompting, bank)
    order = balanced_order([answer_of(row) for row in bank], version.seed)
    if version.examples == "random":
        order = random_order(len(bank), version.seed)
    return Around(version, where, prompting, (), [bank[place] for place in order[: version.shots]])


def _template(version: Version, where: str, kind: str) -> Template:
    """The template, if it has a place for all that there is.

    Raises:
        ConfigError: it has not.
    """
    template = read_template(version.template or "", OF_CHATS if kind == "chat" else OF_CLASSES, where)
    if "text" not in template.fields:
        raise ConfigError(f"{where}: the template has no {{text}}, so every row would be asked the same. Put it in.")
    for field, there in (("examples", version.shots), ("instruction", version.instruction)):
        if there and field not in template.fields:
            raise ConfigError(
                f"{where}: the template has no {{{field}}}, and the version has {field} to stand there. Put it in, or "
                f"take {'them' if field == 'examples' else 'it'} out of the version."
            )
    return template


def _shown(row: Row) -> Row:
    """A row as an example, of which nothing is learned."""
    content: Any = row.content
    if content.kind != MAKES:
        return row
    return replace(row, content=replace(content, messages=without_weight(content.messages)))


def _example(kind: str, question: str, answer: str, as_json: bool) -> Row:
    """A worked example that a version names, as a row."""
    content: Content = Labelled(question, label_in(answer) if as_json else answer)
    if kind == "chat":
        content = Chat((Message("user", question), Message("assistant", answer)))
    return Row(content, Source("", 0))
