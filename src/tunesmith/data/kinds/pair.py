"""A source and what it becomes: a translation, a summary, a correction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from tunesmith.core.errors import DataError
from tunesmith.core.names import counted
from tunesmith.data.formats.format import Format, sets
from tunesmith.data.formats.turns import instruction_of
from tunesmith.data.formats.values import Values, Warn, kind_of, text_of
from tunesmith.data.kinds.kind import Facts, RowKind
from tunesmith.data.kinds.prepared import TrainingRows
from tunesmith.data.kinds.row import Edit, Row
from tunesmith.data.kinds.teach import STOPS_LOOKED_FOR, refuse_one_answer
from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.contract import Contract, Draft

DIRECTIONS = "directions"  # of the facts: how many rows go from which language into which
READ, SUMMARIES = ("text", "document", "dialogue", "article"), ("summary", "highlights")
ASKS, ANSWERS = ("input", "prompt", "question"), ("output", "completion", "answer", "response")
SOURCES = ("source", *READ, *ASKS)  # keys of what is read
INTO = " to "  # between the two languages of a direction
COPIES = 0.9  # share of rows whose target is their source, from which that is told


@dataclass(frozen=True)
class Pair:
    """A source and what it becomes.

    Attributes:
        source: what is read.
        target: what is written.
        direction: from which language into which, where the row named them.
    """

    kind: ClassVar[str] = "source-target"
    source: str
    target: str
    direction: str = field(default="", compare=False)

    def to_plain(self) -> dict[str, Any]:
        """`source` and `target`."""
        return {"source": self.source, "target": self.target}

    def texts(self) -> Iterable[str]:
        """Both."""
        return (self.source, self.target)

    def asked(self) -> str:
        """The source."""
        return self.source


# Formats -------------------------------------------------------------------------------------------------------------


def under(sources: tuple[str, ...], targets: tuple[str, ...]) -> Callable[[Values, Warn], Pair]:
    """A converter of the texts under the first of these keys that a row has."""

    def convert(row: Values, warn: Warn) -> Pair:
        source = next(key for key in sources if row.get(key) is not None)
        return Pair(text_of(row, source), text_of(row, next(key for key in targets if row.get(key) is not None)))

    return convert


def translation(row: Values, warn: Warn) -> Pair:
    """Two languages under `translation`, from the first into the second."""
    both = row["translation"]
    names = {"source": "translation.FROM", "target": "translation.INTO"}
    advice = f"Give one text in each of two languages, or name two: data.columns={names}.".replace("'", "")
    if not isinstance(both, Mapping):
        raise RowFault("not_two_texts", f"'translation' is {kind_of(both)}, not an object.", advice, ("translation",))
    there = {language: text for language, text in both.items() if text is not None}
    if len(there) != 2:
        found = f"'translation' has {counted(len(there), 'text')}."
        raise RowFault("not_two_texts", found, advice, ("translation",))
    one, other = there
    return Pair(text_of(there, one), text_of(there, other), f"{one}{INTO}{other}")


def direction_of(rows: Iterable[Values]) -> str:
    """From which language into which the first row's translation goes, and how to turn that round: a sentence."""
    both = next(row["translation"] for row in rows)
    if not isinstance(both, Mapping) or len(both) != 2:
        return ""
    one, other = both
    return (
        f"Read as translations from {one!r} into {other!r}, in the order that the first row has them. The other way "
        f"round: data.columns={{source: translation.{other}, target: translation.{one}}}."
    )


def instruction(row: Values, warn: Warn) -> Pair:
    """An instruction with its input as the source."""
    answer = "output" if row.get("output") is not None else "response"
    return Pair(instruction_of(row, "input" if row.get("input") is not None else "context"), text_of(row, answer))


def sides(direction: str) -> tuple[str, str]:
    """The language that a direction begins with, and the one that it leads to."""
    one, _, other = direction.partition(INTO)
    return one, other


# What is done with it ------------------------------------------------------------------------------------------------


def from_plain(plain: Mapping[str, Any]) -> Pair:
    """The pair that `to_plain` wrote."""
    return Pair(plain["source"], plain["target"])


def edit(content: Pair, change: Edit) -> Pair:
    """The pair with its texts changed."""
    return replace(content, source=change.text(content.source), target=change.text(content.target))


def drafts(content: Pair, contract: Contract) -> list[Draft]:
    """Two sequences: the source, and the target, which is learned."""
    return [contract.draft_source(content.source), contract.draft_target(content.target)]


def gather(content: Pair, facts: Facts) -> None:
    """How many rows go from which language into which, where they say so."""
    if content.direction:
        counts = facts.setdefault(DIRECTIONS, {})
        counts[content.direction] = counts.get(content.direction, 0) + 1


def shown(row: Row) -> list[tuple[list[dict[str, Any]], str]]:
    """The source, and the target."""
    plain = row.content.to_plain()
    return [([{"role": "source", "content": plain["source"]}], plain["target"])]


def lacks(facts: Facts) -> str:
    """That translations go to and fro."""
    if len(ways := facts.get(DIRECTIONS, {})) < 2:
        return ""
    shown = ", ".join(f"{way}: {counted(count, 'row')}" for way, count in ways.items())
    one, other = sides(max(ways, key=ways.__getitem__))
    return (
        f"the translations go in {len(ways)} directions ({shown}). Name one, for example "
        f"data.columns={{source: translation.{one}, target: translation.{other}}}."
    )


def refuse(rows: TrainingRows, facts: Facts, contract: Contract) -> None:
    """Rows with one target for everything, targets that never end, or translations that go to and fro.

    Raises:
        DataError: with what to do.
    """
    if to_and_fro := lacks(facts):
        raise DataError(to_and_fro)
    for row in islice(rows, STOPS_LOOKED_FOR):
        if not row.cut and not np.isin(row.others[0].ids, contract.stop_ids).any():
            names = ", ".join(contract.tokenizer.convert_ids_to_tokens(list(contract.stop_ids)))
            raise DataError(
                f"{row.source}: the model's tokenizer does not end a target with {names}: the model would never stop. "
                "Take one that does (its tokenizer.json has a post_processor for that)."
            )
    refuse_one_answer(rows, contract)


def doubts(rows: TrainingRows, facts: Facts) -> list[str]:
    """That nearly all targets are their sources, in a sentence."""
    looked = [row.row.content for row in islice(rows, STOPS_LOOKED_FOR)]
    same = sum(1 for one in looked if isinstance(one, Pair) and one.source.split() == one.target.split())
    if same < COPIES * len(looked):
        return []
    return [f"{same} of {counted(len(looked), 'target')} are their source: the model would learn to copy."]


KIND = RowKind(
    name=Pair.kind,
    words="sources with their targets",
    formats=(
        Format("source-target", Pair.kind, sets("source target"), under(("source",), ("target",))),
        Format("translation", Pair.kind, sets("translation"), translation, remark=direction_of),
        Format(
            "summary",
            Pair.kind,
            sets("text summary", "document summary", "dialogue summary", "article summary", "article highlights"),
            under(READ, SUMMARIES),
        ),
        Format(
            "input-output",
            Pair.kind,
            sets("input output", "prompt completion", "prompt response", "question answer", "question response"),
            under(ASKS, ANSWERS),
            on_request=True,
        ),
        Format(
            "instruction-output",
            Pair.kind,
            sets(
                "instruction output",
                "instruction response",
                "instruction input output",
                "instruction input response",
                "instruction context response",
            ),
            instruction,
            frozenset({"input", "context"}),
            on_request=True,
        ),
    ),
    chat=False,
    drafts=drafts,
    from_plain=from_plain,
    edit=edit,
    gather=gather,
    refuse=refuse,
    doubts=doubts,
    lacks=lacks,
    shown=shown,
)
