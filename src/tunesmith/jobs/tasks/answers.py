"""What a model finds in passages, beside the sentence that has most of the question's words."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tunesmith.core import events
from tunesmith.core.errors import ConfigError
from tunesmith.core.events import Report
from tunesmith.data.kinds.passage import NO_ANSWER
from tunesmith.data.prepare import Prepared
from tunesmith.evaluate.suite import TIMED, RowResults, Speed
from tunesmith.infer.predict.answers import AnswerFinder
from tunesmith.jobs.tasks.task import Asked, Measured, TaskEvaluation
from tunesmith.score.answers import answer_counts, words_of

ROWS_BETWEEN_PULSES = 64
NEAREST, NOTHING = "the nearest sentence", "no answer, always"
SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")


def measure(finder: AnswerFinder, name: str, rows: Sequence[Prepared], report: Report) -> Measured:
    """What a model finds for each row's question."""
    said: list[str] = []
    for start in range(0, len(rows), ROWS_BETWEEN_PULSES):
        reads = [finder.read(asked_of(row)) for row in rows[start : start + ROWS_BETWEEN_PULSES]]
        said += [one.answer for one in finder.answers(reads)]
        report(events.Pulse(f"evaluating {name}", len(said), len(rows)))
    seconds = [_seconds(finder, finder.read(asked_of(row))) for row in rows[:TIMED]]
    return results_of(said, rows, Speed(len(seconds), statistics.median(seconds), max(seconds), None)), []


def asked_of(row: Prepared) -> dict[str, str]:
    """Question and context of a row."""
    content: Any = row.row.content
    return {"question": content.question, "context": content.context}


def _seconds(finder: AnswerFinder, read: Any) -> float:
    """How long one answer takes, alone."""
    started = time.perf_counter()
    finder.answers([read])
    return time.perf_counter() - started


def results_of(said: Sequence[str], rows: Sequence[Prepared], speed: Speed | None = None) -> RowResults:
    """Answers to rows, empty ones for none, as counts of each metric."""
    contents: list[Any] = [row.row.content for row in rows]
    right = [[text for text, _ in content.answers] for content in contents]
    return RowResults([one or NO_ANSWER for one in said], answer_counts(right, said), speed)


def baseline_sentence(asked: Asked) -> tuple[str, RowResults]:
    """The sentence of the context that shares most words with the question, rare ones counting for more."""
    said = [nearest_sentence(**asked_of(row)) for row in asked.rows]
    return NEAREST, results_of(said, asked.rows)


def nearest_sentence(question: str, context: str) -> str:
    """The sentence of a text whose words speak most for a question; of equals the first.

    A word of the question counts the more, the fewer of the text's sentences have it.
    """
    sentences = [one.strip() for one in SENTENCE.findall(context) if one.strip()] or [context]
    words = [set(words_of(one)) for one in sentences]
    common = Counter(word for own in words for word in own)
    wanted = set(words_of(question))

    def weight(place: int) -> float:
        return sum(math.log(1 + len(sentences) / common[word]) for word in sorted(wanted & words[place]))

    return sentences[max(range(len(sentences)), key=weight)]


def baseline_nothing(asked: Asked) -> tuple[str, RowResults]:
    """Whoever always says that there is no answer."""
    return NOTHING, results_of([""] * len(asked.rows), asked.rows)


def refuse_other(one: AnswerFinder, other: AnswerFinder, names: tuple[str, str]) -> None:
    """Refuse to compare a model that knows of no answers with one that does not.

    Raises:
        ConfigError: they differ in that.
    """
    if one.may_be_none != other.may_be_none:
        raise ConfigError(
            f"of {names[0]} and {names[1]} only one has learned that there may be no answer. Evaluate each alone."
        )


EVALUATION = TaskEvaluation(
    reads=frozenset({"passage"}),
    measure=measure,
    always=baseline_sentence,
    wanted={"no_answer": baseline_nothing},
    refuse_other=refuse_other,
)
