"""The seam for kinds of rows: what reading, checking, preparing, splitting and reporting ask of one.

A kind is a frozen dataclass for its content and one `RowKind` that says what is done with it. Only the first five
fields are required: the others have defaults that do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.data.formats.format import Format
from tunesmith.data.formats.values import Warn
from tunesmith.data.kinds.prepared import Prepared, Tokens, TrainingRows
from tunesmith.data.kinds.row import Content, Edit, Row
from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.contract import Contract, Draft
from tunesmith.prompt.messages import Conversation

Facts = dict[str, Any]  # plain JSON


def no_facts(content: Any, facts: Facts) -> None:
    """Nothing is to be known of the whole file."""


def no_check(content: Any, warn: Warn) -> None:
    """Whatever could be read is good."""


def no_refusal(rows: TrainingRows, facts: Facts, given: Any) -> None:
    """Nothing is refused."""


def no_doubts(rows: TrainingRows, facts: Facts) -> list[str]:
    """Nothing is odd."""
    return []


def no_lack(facts: Facts) -> str:
    """Nothing is missing in the file."""
    return ""


def no_turns(content: Any) -> Conversation:
    """Nobody speaks."""
    return ()


def no_labels(content: Any, names: Sequence[str]) -> Content:
    """Refuse names for the labels of rows that have none."""
    found, advice = f"data.label_names are for labels, and {content.kind} rows have none.", "Leave them out."
    raise RowFault("bad_label", found, advice)


def no_edit(content: Any, edit: Edit) -> Content:
    """The content as it is: what is marked inside of its texts would no longer fit."""
    return content


def nothing_hidden(content: Any, contract: Contract) -> Iterable[RowFault]:
    """All is shown."""
    return ()


def nothing_asked(row: Row) -> list[tuple[list[dict[str, Any]], str]]:
    """The row asks nothing."""
    return []


@dataclass(frozen=True)
class RowKind:
    """A kind of row.

    Attributes:
        name: as its content's `kind`, and as objectives name what they read.
        words: what sentences call its rows.
        formats: the ways to write a row, its own first, which `to_plain` of its content writes.
        chat: whether it needs a chat format: a model with a tokenizer alone reads only kinds that do not.
        writes: whether tokens of its texts are predicted; else they are read, and something is said of them.
        share_asked: whether rows that ask the same are still of their own: questions about one passage are no near
            duplicates.
        drafts: a content as texts, one for each sequence, in an order of the kind's own. Raises `ModelError` where the
            chat format refuses it.
        from_plain: the content that `to_plain` wrote; by default what the first format's converter makes of it.
        check: refuses, by `RowFault`, a row from which nothing can be learned, and warns of what is odd.
        turns: all turns of a content.
        named: a content whose labels, given as numbers, have these names. Raises `RowFault` for another number.
        edit: a content after a change.
        unshown: what the contract's chat format shows to nobody.
        gather: adds what a row says of the whole file to its facts: names of labels, how often each comes. Plain JSON,
            kept with the dataset; drafts do not see it, so that rows are prepared in one pass.
        refuse: refuses, by `DataError`, training rows that together could not teach.
        refuse_held_out: refuses, by `DataError`, rows of the part of this name that nothing could be said of, given
            what is known of the training rows.
        doubts: what is odd about training rows together, in sentences.
        lacks: what `refuse` would say of a file that is trained on by itself, as far as its facts alone tell: a
            sentence.
        shown: what people read of a row that was evaluated: what was asked, as turns, and the reference; nothing of
            one that asks nothing.
        turn_by_turn: where the template rewrites earlier turns, the rows that a row becomes, each to its last turn.
        split: under `data.over_long=split` what becomes of a row that is too long: rows of their own, or one row with
            its windows as sequences. Args: the row, its sequences, the longest length, the contract.
        windows: whatever `data.over_long` says, what becomes of a row that is too long, where nothing of it is lost;
            nothing where there is no room. Args: the row, its sequences, the longest length, the tokens that
            neighbouring windows share.
    """

    name: str
    words: str
    formats: tuple[Format, ...]
    chat: bool
    drafts: Callable[[Any, Contract], list[Draft]]
    writes: bool = True
    share_asked: bool = False
    from_plain: Callable[[Mapping[str, Any]], Content] | None = None
    check: Callable[[Any, Warn], None] = no_check
    turns: Callable[[Any], Conversation] = no_turns
    named: Callable[[Any, Sequence[str]], Content] = no_labels
    edit: Callable[[Any, Edit], Content] = no_edit
    unshown: Callable[[Any, Contract], Iterable[RowFault]] = nothing_hidden
    gather: Callable[[Any, Facts], None] = no_facts
    refuse: Callable[[TrainingRows, Facts, Contract], None] = no_refusal
    refuse_held_out: Callable[[TrainingRows, Facts, str], None] = no_refusal
    doubts: Callable[[TrainingRows, Facts], list[str]] = no_doubts
    lacks: Callable[[Facts], str] = no_lack
    shown: Callable[[Row], list[tuple[list[dict[str, Any]], str]]] = nothing_asked
    turn_by_turn: Callable[[Row], Iterable[Row]] | None = None
    split: Callable[[Row, list[Tokens], int, Contract], list[Prepared]] | None = None
    windows: Callable[[Row, list[Tokens], int, int], list[Prepared]] | None = None

    def read_back(self, plain: Mapping[str, Any]) -> Content:
        """The content that `to_plain` wrote."""
        if self.from_plain is not None:
            return self.from_plain(plain)
        return self.formats[0].convert(plain, lambda fault: None)
