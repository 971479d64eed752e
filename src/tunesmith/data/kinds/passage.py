"""A question, a context, and the stretches of the context that answer it (none: it has no answer)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from tunesmith.data.formats.format import Format, sets
from tunesmith.data.formats.values import Values, Warn, kind_of, list_of, text_of
from tunesmith.data.kinds.kind import RowKind
from tunesmith.data.quality.ledger import RowFault


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
        """Question and context."""
        return repr((self.question, self.context))


def convert(row: Values, warn: Warn) -> Passage:
    """A question, its context and the answers in it, each of which must stand where it says."""
    question, context, answers = text_of(row, "question"), text_of(row, "context"), row["answers"]
    if isinstance(answers, str):
        answers = list_of({"answers": f"[{answers}]"}, "answers")[0]
    if isinstance(answers, list):  # [{"text": ..., "answer_start": ...}]
        pairs = [
            (one.get("text"), one.get("answer_start")) if isinstance(one, dict) else (one, None) for one in answers
        ]
    elif isinstance(answers, dict) and isinstance(answers.get("text"), list):
        starts = answers.get("answer_start")
        starts = starts if isinstance(starts, list) else []
        pairs = list(zip(answers["text"], [*starts, *[None] * (len(answers["text"]) - len(starts))], strict=False))
    else:
        advice = 'Write {"text": [...], "answer_start": [...]}.'
        raise RowFault("bad_answers", f"'answers' is {kind_of(answers)}.", advice, ("answers",))
    found: list[tuple[str, int]] = []
    for text, start in pairs:
        if not isinstance(text, str) or isinstance(start, bool) or not isinstance(start, int):
            raise RowFault("bad_answers", "an answer lacks its text or its answer_start.", "Give both.", ("answers",))
        if context[start : start + len(text)] != text or start < 0:
            there = f"at character {start} of the context stands {context[max(start, 0) : start + len(text)]!r}"
            where = context.find(text)
            advice = f"It begins at {where}." if where >= 0 else "The context does not hold it."
            raise RowFault("wrong_span", f"the answer is {text!r}, and {there}.", advice, ("answers",))
        found.append((text, start))
    return Passage(question, context, tuple(found))


KIND = RowKind(
    name=Passage.kind,
    words="questions with passages",
    formats=(Format("passage", Passage.kind, sets("question context answers"), convert),),
    chat=False,
    drafts=lambda content, contract: [contract.draft_text("\n".join(content.texts()))],
)
