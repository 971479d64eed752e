"""Prompts beside tuned models: each model with each prompt on the same rows, with intervals and paired differences.

Axes: R rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tunesmith.core.errors import ConfigError
from tunesmith.core.names import did_you_mean
from tunesmith.data.kinds.row import Row
from tunesmith.data.prompting.schema import equal_fields, is_json, label_in, valid
from tunesmith.data.prompting.variant import Variant, answer_of
from tunesmith.evaluate.compare import verdict
from tunesmith.evaluate.prompts.ask import Reply
from tunesmith.evaluate.prompts.labels import named
from tunesmith.score import metrics
from tunesmith.score.classes import calibration_counts, class_counts
from tunesmith.score.interval import difference_interval, score_interval
from tunesmith.score.metrics import Counts, Metric
from tunesmith.score.texts import text_counts

CLASSES: tuple[Metric, ...] = (
    metrics.ACCURACY, metrics.MACRO_F1, metrics.UNMATCHED, metrics.MACRO_PRECISION, metrics.MACRO_RECALL,
    metrics.CALIBRATION, metrics.VALID,
)  # fmt: skip
CHATS: tuple[Metric, ...] = (
    metrics.CHRF_SCORE, metrics.TOKEN_F1, metrics.EXACT_MATCH, metrics.BLEU_SCORE, metrics.ROUGE_1, metrics.ROUGE_2,
    metrics.ROUGE_L, metrics.STOP_RATE, metrics.LENGTH, metrics.VALID, metrics.EQUAL_FIELDS,
)  # fmt: skip
TRAINED = "trained for it"  # in place of a prompt's name


@dataclass(frozen=True)
class Entry:
    """One model with one prompt, on rows.

    Attributes:
        model: as it was named.
        variant: how it was asked; None for a classifier, which is not.
        how: what was done with it.
        asked: rows that were to be answered.
        places: of those that were, among them.
        counts: for each metric's name, one row of counts for each of these.
        answers: what it said to each of these.
        prompt_tokens, answer_tokens, seconds: the mean of these; None where they are not known.
        cost: dollars of all of these, whenever they were asked; None where no price is known.
        new: how many of these were asked now.
        left_out: why it was not asked at all, a sentence; empty if it was.
        example: the first question, as it was asked.
        called: what its line says of the prompt, where that is not the variant's name.
    """

    model: str
    variant: Variant | None
    how: str
    asked: int
    places: list[int] = field(default_factory=list[int])
    counts: Mapping[str, Counts] = field(default_factory=dict[str, Counts])
    answers: list[str] = field(default_factory=list[str])
    prompt_tokens: float | None = None
    answer_tokens: float | None = None
    seconds: float | None = None
    cost: float | None = None
    new: int = 0
    left_out: str = ""
    example: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    called: str = ""

    @property
    def prompt(self) -> str:
        """What its line says of the prompt."""
        return self.called or (TRAINED if self.variant is None else self.variant.name)

    @property
    def complete(self) -> bool:
        """Whether all rows were answered."""
        return len(self.places) == self.asked and not self.left_out


def entry_of(
    model: str, variant: Variant | None, how: str, rows: Sequence[Row], replies: Sequence[Reply | None],
    labels: Sequence[str], example: list[dict[str, str]], schema: Mapping[str, Any] | None = None,
) -> Entry:  # fmt: skip
    """What a model's replies are worth.

    Args:
        model: its name.
        variant: how it was asked.
        how: what was done with it.
        rows: that it was asked about.
        replies: to each, or None.
        labels: the classes; none of chats.
        example: the first question.
        schema: that answers were asked to fit.
    """
    places = [place for place, reply in enumerate(replies) if reply is not None]
    if not places:
        return Entry(model, variant, how, len(rows), example=example)
    found = [reply for reply in replies if reply is not None]
    true = [answer_of(rows[place]) for place in places]
    counts, answers = class_results(found, true, labels, schema) if labels else chat_results(found, true, schema)
    costs = [reply.cost for reply in found if reply.cost is not None]
    return Entry(
        model, variant, how, len(rows), places, counts, answers,
        _mean([reply.prompt_tokens for reply in found]), _mean([reply.answer_tokens for reply in found]),
        _mean([reply.seconds for reply in found]), sum(costs) if len(costs) == len(found) else None,
        sum(reply.new for reply in found), example=example,
    )  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def class_results(
    replies: Sequence[Reply], true: Sequence[str], labels: Sequence[str], schema: Mapping[str, Any] | None = None
) -> tuple[dict[str, Counts], list[str]]:
    """Counts of each metric of classes, and the label that each reply is; an answer that is none is wrong."""
    scored = all(reply.scores is not None for reply in replies)
    true_RC, said_RC = np.zeros((len(replies), len(labels))), np.zeros((len(replies), len(labels)))
    said: list[int | None] = [
        named(reply.text if schema is None else label_in(reply.text), labels)
        if reply.scores is None
        else int(np.argmax(reply.scores))
        for reply in replies
    ]
    for row, (place, label) in enumerate(zip(said, true, strict=True)):
        true_RC[row, labels.index(label)] = 1.0
        if place is not None:
            said_RC[row, place] = 1.0
    counts = class_counts(true_RC, said_RC, several=False)
    if scored and all(reply.sure for reply in replies):
        score_RC = np.array([reply.scores for reply in replies])
        share_RC = np.exp(score_RC - score_RC.max(-1, keepdims=True))
        sure_R = (share_RC / share_RC.sum(-1, keepdims=True)).max(-1)
        counts[metrics.CALIBRATION.name] = calibration_counts(sure_R, (said_RC * true_RC).sum(-1))
    elif not scored:
        counts[metrics.UNMATCHED.name] = np.array([[place is None, 1.0] for place in said], dtype=np.float64)
    if schema is not None:
        counts[metrics.VALID.name] = valid_counts([reply.text for reply in replies], schema)
    answers = [reply.text if place is None else labels[place] for place, reply in zip(said, replies, strict=True)]
    return counts, answers


def valid_counts(answers: Sequence[str], schema: Mapping[str, Any]) -> Counts:
    """Whether each answer fits a schema."""
    return np.array([[valid(answer, schema), 1.0] for answer in answers], dtype=np.float64)


def chat_results(
    replies: Sequence[Reply], true: Sequence[str], schema: Mapping[str, Any] | None = None
) -> tuple[dict[str, Counts], list[str]]:
    """Counts of each metric of written answers, and the answers."""
    answers = [reply.text.strip() for reply in replies]
    ended = np.array([[reply.ended, 1.0] for reply in replies], dtype=np.float64)
    counts = {**text_counts(answers, true), metrics.STOP_RATE.name: ended}
    if schema is not None:
        counts[metrics.VALID.name] = valid_counts(answers, schema)
    if schema is not None and all(map(is_json, true)):
        pairs = [equal_fields(answer, reference) for answer, reference in zip(answers, true, strict=True)]
        counts[metrics.EQUAL_FIELDS.name] = np.array(pairs, dtype=np.float64)
    return counts, answers


def metric_called(name: str | None, kind: str, fields: bool = False, schema: bool = False) -> Metric:
    """The metric that prompts are chosen by.

    Args:
        name: that was asked for; the usual one if None.
        kind: of the rows.
        fields: whether answers are JSON as the references are, so that fields are compared.
        schema: whether all answers are asked to fit a schema.

    Raises:
        ConfigError: these rows have none of that name, or it has no better and worse.
    """
    known = {metric.name: metric for metric in (CHATS if kind == "chat" else CLASSES)}
    if name is None:
        return metrics.EQUAL_FIELDS if fields else next(iter(known.values()))
    if name not in known:
        raise ConfigError(f"--metric {name}: {did_you_mean(name, known)}")
    if known[name].higher_is_better is None:
        raise ConfigError(f"--metric {name}: neither direction is better. Choose another.")
    without = [one.name for one, there in ((metrics.VALID, schema), (metrics.EQUAL_FIELDS, fields)) if not there]
    if name in (metrics.UNMATCHED.name, metrics.CALIBRATION.name, *without):
        raise ConfigError(f"--metric {name}: not all models have it. Choose another.")
    return known[name]


def best_of(entries: Sequence[Entry], metric: Metric) -> Entry | None:
    """The entry that answered all rows best; of equals the first, which has fewer examples."""
    whole = [entry for entry in entries if entry.complete and metric.name in entry.counts]
    sign = 1.0 if metric.higher_is_better else -1.0
    return max(whole, key=lambda entry: sign * _score(metric, entry), default=None)


def _score(metric: Metric, entry: Entry) -> float:
    return float(metric.of_sums(entry.counts[metric.name].sum(0)))


def table_of(entries: Sequence[Entry], kind: str, beside: Entry | None) -> list[dict[str, Any]]:
    """Each entry as plain values: its scores with intervals, and paired differences on the rows that both answered.

    Args:
        entries: on the same rows.
        kind: of the rows.
        beside: the one that the others are compared with; it has no differences itself.
    """
    known = CHATS if kind == "chat" else CLASSES
    lines: list[dict[str, Any]] = []
    for entry in entries:
        scores = [
            _compared(metric, entry, None if beside is entry else beside)
            for metric in known
            if metric.name in entry.counts
        ]
        lines.append({
            "model": entry.model, "prompt": entry.prompt,
            "variant": None if entry.variant is None else asdict(entry.variant), "how": entry.how,
            "rows": len(entry.places), "of": entry.asked, "scores": scores, "prompt_tokens": entry.prompt_tokens,
            "answer_tokens": entry.answer_tokens, "seconds": entry.seconds, "cost": entry.cost,
            "asked_now": entry.new, "left_out": entry.left_out, "beside": entry is beside, "example": entry.example,
            "answers": entry.answers,
        })  # fmt: skip
    return lines


def _compared(metric: Metric, entry: Entry, other: Entry | None) -> dict[str, Any]:
    counts = entry.counts[metric.name]
    line: dict[str, Any] = {"metric": metric.name, "unit": metric.unit, "score": asdict(score_interval(metric, counts))}
    common = sorted(set(entry.places) & set(other.places)) if other is not None else []
    if other is None or metric.name not in other.counts or not common:
        return {**line, "difference": None, "verdict": ""}
    own = counts[[entry.places.index(place) for place in common]]
    others = other.counts[metric.name][[other.places.index(place) for place in common]]
    difference = difference_interval(metric, own, others)
    return {**line, "difference": asdict(difference), "verdict": verdict(metric, difference)}
