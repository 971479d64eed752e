"""A question, a context, and the stretches of the context that answer it (none: it has no answer)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tunesmith.core.errors import DataError
from tunesmith.core.names import counted
from tunesmith.data.formats.format import Format, sets
from tunesmith.data.formats.values import Values, Warn, kind_of, list_of, shown, text_of
from tunesmith.data.kinds.kind import Facts, RowKind
from tunesmith.data.kinds.prepared import Prepared, Tokens, TrainingRows, prepared
from tunesmith.data.kinds.row import Row
from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.contract import Contract, Draft
from tunesmith.prompt.passages import draft_passage, in_windows, layout_of

NO_ANSWER = "(no answer)"


@dataclass(frozen=True)
class Passage:
    """A question, a context, and where in it the answers stand."""

    kind: ClassVar[str] = "passage"
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]  # text, and the character at which it begins

    def to_plain(self) -> dict[str, Any]:
        """SQuAD's format."""
        texts, starts = [text for text, _ in self.answers], [start for _, start in self.answers]
        answers = {"text": texts, "answer_start": starts}
        return {"question": self.question, "context": self.context, "answers": answers}

    def texts(self) -> Iterable[str]:
        """Question and context."""
        return (self.question, self.context)

    def asked(self) -> str:
        """The context: questions about one text belong together."""
        return self.context


def convert(row: Values, warn: Warn) -> Passage:
    """A question, its context and the answers in it, each of which must stand where it says."""
    question, context, answers = text_of(row, "question"), text_of(row, "context"), row.get("answers")
    pairs = [] if answers is None else _pairs(answers)
    found: list[tuple[str, int]] = []
    for text, start in pairs:
        if text is None or start is None:
            raise RowFault("bad_answers", "an answer lacks its text or its answer_start.", "Give both.", ("answers",))
        if not isinstance(text, str) or isinstance(start, bool) or not isinstance(start, int):
            given = f"the answer {shown(text)} begins at {shown(start)}."
            raise RowFault("bad_answers", given, "Give a text and a whole number.", ("answers",))
        if not text.strip():
            raise RowFault("bad_answers", "an answer is empty.", "Leave it out: no answer means none.", ("answers",))
        if context[start : start + len(text)] != text or start < 0:
            there = f"at character {start} of the context stands {context[max(start, 0) : start + len(text)]!r}"
            where = context.find(text)
            advice = f"It begins at {where}." if where >= 0 else "The context does not hold it."
            raise RowFault("wrong_span", f"the answer is {text!r}, and {there}.", advice, ("answers",))
        found.append((text, start))
    if row.get("is_impossible") in (True, "true", "True") and found:
        advice = "Take out the answers, or say false."
        raise RowFault("bad_answers", "'is_impossible' is true, and there are answers.", advice, ("is_impossible",))
    if row.get("is_impossible") in (False, "false", "False") and not found:
        advice = "Give an answer, or say true."
        raise RowFault("bad_answers", "'is_impossible' is false, and there is no answer.", advice, ("is_impossible",))
    return Passage(question, context, tuple(found))


def _pairs(answers: Any) -> list[tuple[Any, Any]]:
    """Texts of answers with where they begin."""
    if isinstance(answers, str):
        answers = list_of({"answers": f"[{answers}]"}, "answers")[0]
    if isinstance(answers, list):  # [{"text": ..., "answer_start": ...}]
        return [(one.get("text"), one.get("answer_start")) if isinstance(one, dict) else (one, None) for one in answers]
    if isinstance(answers, dict) and isinstance(answers.get("text"), str):
        return [(answers["text"], answers.get("answer_start"))]
    if isinstance(answers, dict) and isinstance(answers.get("text"), list):
        starts = answers.get("answer_start")
        starts = starts if isinstance(starts, list) else []
        return list(zip(answers["text"], [*starts, *[None] * (len(answers["text"]) - len(starts))], strict=False))
    advice = 'Write {"text": [...], "answer_start": [...]}.'
    raise RowFault("bad_answers", f"'answers' is {kind_of(answers)}.", advice, ("answers",))


def drafts(content: Passage, contract: Contract) -> list[Draft]:
    """One sequence: question and context in the tokenizer's own frame; the first answer is what is learned."""
    span = next(((start, start + len(text)) for text, start in content.answers), None)
    return [draft_passage(content.question, content.context, span)]


def windows(row: Row, sequences: list[Tokens], longest: int, stride: int) -> list[Prepared]:
    """One row with several windows on its context."""
    [whole] = sequences
    parts = in_windows(whole.ids.tolist(), whole.spans, longest, stride)
    found = [Tokens(np.array(one.ids, np.int32), one.spans) for one in parts]
    return [prepared(row, found)] if found else []


def gather(content: Passage, facts: Facts) -> None:
    """How many questions have an answer, and how many have none."""
    name = "answered" if content.answers else "unanswered"
    facts[name] = facts.get(name, 0) + 1


def refuse(rows: TrainingRows, facts: Facts, contract: Contract) -> None:
    """Questions of which none has an answer.

    Raises:
        DataError: with what to do.
    """
    if not facts.get("answered"):
        raise DataError(
            f"none of {len(rows)} training rows has an answer: the model would learn to say that of every "
            "question. Give rows with answers too."
        )


def refuse_unanswered(rows: TrainingRows, facts: Facts, part: str) -> None:
    """Refuse held-out questions without an answer where the model has not learned that there may be none.

    Raises:
        DataError: with the first of them.
    """
    if facts.get("unanswered"):
        return
    without = [row for row in rows if not _content(row).answers]
    if without:
        count = counted(len(without), f"row of the {part} part")
        raise DataError(
            f"{without[0].source}: {count} have no answer, and every training row has one: the model "
            "cannot know that there may be none. Give such training rows, or leave these out."
        )


def doubts(rows: TrainingRows, facts: Facts) -> list[str]:
    """What is odd about training rows together: answers that no window holds whole."""
    cut = sum(
        1 for row in rows if _content(row).answers and all(layout_of(one.spans).answer is None for one in row.sequences)
    )
    if not cut:
        return []
    return [
        f"of {counted(cut, 'row')} no window holds the answer whole, so that they teach that there is none. Raise "
        "data.stride or data.max_length."
    ]


def _content(row: Prepared) -> Passage:
    content: Any = row.row.content
    return content


def shown_row(row: Row) -> list[tuple[list[dict[str, Any]], str]]:
    """Context and question, and the answers."""
    content: Any = row.content
    asked = [{"role": "context", "content": content.context}, {"role": "question", "content": content.question}]
    return [(asked, " / ".join(dict.fromkeys(text for text, _ in content.answers)) or NO_ANSWER)]


def lacks(facts: Facts) -> str:
    """That no question has an answer."""
    return "" if facts.get("answered") or not facts.get("unanswered") else "no question has an answer."


KIND = RowKind(
    name=Passage.kind,
    words="questions with passages",
    formats=(
        Format(
            "passage",
            Passage.kind,
            sets("question context answers", "question context is_impossible"),
            convert,
            frozenset({"answers", "is_impossible"}),
        ),
    ),
    chat=False,
    writes=False,
    share_asked=True,
    drafts=drafts,
    gather=gather,
    refuse=refuse,
    lacks=lacks,
    refuse_held_out=refuse_unanswered,
    doubts=doubts,
    shown=shown_row,
    windows=windows,
)
