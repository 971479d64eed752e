"""What a tagger says of held-out words, beside the most frequent tag of each word among the training rows."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from tunesmith.core import events
from tunesmith.core.errors import ConfigError
from tunesmith.core.events import Report
from tunesmith.data.kinds.schemes import labels_of
from tunesmith.data.kinds.tagged import Tagged, content_of, told
from tunesmith.data.prepare import Prepared
from tunesmith.evaluate.class_pictures import scores_by_label
from tunesmith.evaluate.report import Picture
from tunesmith.evaluate.suite import TIMED, RowResults, Speed
from tunesmith.infer.predict.tags import Tagger
from tunesmith.jobs.tasks.task import Asked, Measured, TaskEvaluation
from tunesmith.score.tags import label_counts, tag_counts

ROWS_BETWEEN_PULSES = 256
BY_WORD = "each word's most frequent tag"


def measure(tagger: Tagger, name: str, rows: Sequence[Prepared], report: Report) -> Measured:
    """What a tagger says of each row's words, and a picture of its labels."""
    reads = [tagger.of_row(content_of(row)) for row in rows]
    said: list[Sequence[str]] = []
    for start in range(0, len(reads), ROWS_BETWEEN_PULSES):
        said += [one.tags for one in tagger.answers(reads[start : start + ROWS_BETWEEN_PULSES])]
        report(events.Pulse(f"evaluating {name}", len(said), len(reads)))
    seconds = [_seconds(tagger, one) for one in reads[:TIMED]]
    speed = Speed(len(seconds), statistics.median(seconds), max(seconds), None)
    labels = labels_of(tagger.names)
    counts = label_counts([content_of(row).names for row in rows], said, tagger.scheme, labels).sum(0)
    picture = Picture("Each label", *scores_by_label(labels, counts))
    return results_of(tagger, said, rows, speed), [picture]


def _seconds(tagger: Tagger, read: Any) -> float:
    """How long one answer takes, alone."""
    started = time.perf_counter()
    tagger.answers([read])
    return time.perf_counter() - started


def results_of(
    tagger: Tagger, said: Sequence[Sequence[str]], rows: Sequence[Prepared], speed: Speed | None = None
) -> RowResults:
    """Tags that were said of rows, as counts of each metric."""
    contents = [content_of(row) for row in rows]
    counts = tag_counts([content.names for content in contents], said, tagger.scheme, labels_of(tagger.names))
    answers = [told(content.tokens, tags) for content, tags in zip(contents, said, strict=True)]
    return RowResults(answers, counts, speed)


def baseline_by_word(asked: Asked) -> tuple[str, RowResults]:
    """Of each word the tag that it has most often in the training rows; of others the most frequent tag of all."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    every: Counter[str] = Counter()
    for row in asked.training:
        content = content_of(row)
        every.update(content.names)
        for word, tag in zip(content.tokens, content.names, strict=True):
            seen[word][tag] += 1
    usual = {word: tags.most_common(1)[0][0] for word, tags in seen.items()}
    other = every.most_common(1)[0][0]

    def said_of(content: Tagged) -> list[str]:
        return [usual.get(word, other) for word in content.tokens]

    said = [said_of(content_of(row)) for row in asked.rows]
    return BY_WORD, results_of(asked.predictor, said, asked.rows)


def refuse_other(one: Tagger, other: Tagger, names: tuple[str, str]) -> None:
    """Refuse to compare taggers of other tags.

    Raises:
        ConfigError: they know other tags.
    """
    if other.names != one.names:
        raise ConfigError(f"{names[0]} and {names[1]} know other tags. Evaluate each alone.")


EVALUATION = TaskEvaluation(
    reads=frozenset({"tagged"}), measure=measure, always=baseline_by_word, refuse_other=refuse_other
)
