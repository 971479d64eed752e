"""Evaluate a model on rows: how it predicts the given answers, what it answers itself, and how fast.

One suite for every `Generator`. Predictions are only of those that score (`Scorer`), which no model behind a URL does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.core import events
from tunesmith.core.events import Report
from tunesmith.data.prepare import Prepared
from tunesmith.evaluate.pairs import predict_pairs
from tunesmith.infer.generator import Completion, Generator, Options, Scorer, answer_all
from tunesmith.prompt.messages import Conversation, Tools
from tunesmith.score.metrics import LENGTH, PERPLEXITY, REWARD, STOP_RATE, TOKEN_ACCURACY, Counts
from tunesmith.score.rewards.reward import Rewards
from tunesmith.score.rewards.sample import Sample, asked_of
from tunesmith.score.texts import text_counts

ROWS_BETWEEN_PULSES = 64  # that are scored
UNANSWERED = "reinforcement"  # the kind of prompts without an answer
TIMED = 8  # rows that are answered once more, one at a time, to measure latency


@dataclass(frozen=True)
class Speed:
    """How long people wait.

    Attributes:
        rows: answers that were timed, each alone.
        median: seconds for one answer.
        longest: seconds for the slowest of them.
        tokens_per_second: of all answers together; None where a server does not count tokens.
    """

    rows: int
    median: float
    longest: float
    tokens_per_second: float | None


@dataclass(frozen=True)
class RowResults:
    """What one model did on each row.

    Attributes:
        answers: its own answer to each row's prompt; empty where nothing was asked.
        counts: for each metric's name, one row of counts for each row of data.
        speed: how long its answers took; None where nothing was timed.
        completions: all there is to know of the answers; none where nothing was asked.
    """

    answers: list[str]
    counts: Mapping[str, Counts]
    speed: Speed | None = None
    completions: Sequence[Completion] = ()


def evaluate_rows(
    generator: Generator,
    rows: Sequence[Prepared],
    max_new_tokens: int,
    report: Report,
    label: str,
    timed: int = TIMED,
    rewards: Rewards | None = None,
) -> RowResults:
    """Score and answer every row, greedily; plain texts, which ask nothing, are only scored.

    Prompts without an answer, which nothing can be compared with, are answered alone.

    Args:
        generator: the model.
        rows: chats or texts, prepared with the contract by which the model is prompted; at least one. Texts are for
            models that score. Beside a chat's answer may stand a rejected one, whose likelihood is compared.
        max_new_tokens: longest answer.
        report: hears a `pulse` from time to time.
        label: what the pulse calls this model.
        timed: rows that are answered once more, alone, to measure latency; no speed is measured if 0.
        rewards: what answers are worth; not asked if None.
    """

    def pulse(doing: str) -> Callable[[int], None]:
        return lambda done: report(events.Pulse(f"{doing} {label}", done, len(rows)))

    kind = rows[0].row.content.kind
    predicted: dict[str, Counts] = {}
    if isinstance(generator, Scorer) and kind != UNANSWERED:
        predicted = predict_rows(generator, rows, pulse("scoring"))
    if rows[0].others and isinstance(generator, Scorer):
        predicted |= predict_pairs(generator, rows)
    if kind == "text":
        assert predicted, "texts are for models that score"
        return RowResults([""] * len(rows), predicted)
    questions = [asked_of(row.row) for row in rows]
    asked = [(turns, Options(max_new_tokens=max_new_tokens, tools=tools)) for turns, tools, _ in questions]
    started = time.perf_counter()
    completions = answer_all(generator, asked, pulse("evaluating"))
    seconds = time.perf_counter() - started
    answers = [completion.choice.text.strip() for completion in completions]
    alone = [answer_all(generator, [one])[0].seconds for one in asked[:timed]]
    return RowResults(
        answers,
        {
            **predicted,
            **({} if rewards is None else reward_counts(rewards, questions, completions)),
            **(lengths(answers) if kind == UNANSWERED else text_counts(answers, [row.row.answer for row in rows])),
            STOP_RATE.name: np.array([[one.choice.ended, 1] for one in completions], dtype=np.float64),
        },
        _speed(alone, completions, seconds) if alone else None,
        completions,
    )


def reward_counts(
    rewards: Rewards, questions: Sequence[tuple[Conversation, Tools, dict[str, Any]]], completions: Sequence[Completion]
) -> dict[str, Counts]:
    """What each answer is worth: (value, 1), or (0, 0) where it could not be scored."""
    samples = [
        Sample(turns, one.choice.text, one.choice.finish_reason, item)
        for (turns, _, item), one in zip(questions, completions, strict=True)
    ]
    totals = [one.total for one in rewards.score(samples)]
    return {REWARD.name: np.array([[total or 0.0, total is not None] for total in totals], dtype=np.float64)}


def lengths(answers: Sequence[str]) -> dict[str, Counts]:
    """How long answers are, where there are no others to compare them with."""
    return {LENGTH.name: np.array([[len(answer), 1] for answer in answers], dtype=np.float64)}


def joined(one: RowResults, other: RowResults) -> RowResults:
    """What was found on some rows and then on others; the speed is the latter's."""
    counts = {name: np.concatenate([counts, other.counts[name]]) for name, counts in one.counts.items()}
    return RowResults([*one.answers, *other.answers], counts, other.speed, [*one.completions, *other.completions])


def predict_rows(scorer: Scorer, rows: Sequence[Prepared], heard: Callable[[int], None]) -> dict[str, Counts]:
    """Perplexity and token accuracy of the rows' own texts.

    Args:
        scorer: the model.
        rows: at least one.
        heard: called with the number of rows that are done.
    """
    scores = []
    for start in range(0, len(rows), ROWS_BETWEEN_PULSES):
        some = rows[start : start + ROWS_BETWEEN_PULSES]
        scores += scorer.score([(row.ids.tolist(), row.mask.tolist()) for row in some])
        heard(len(scores))
    return {
        PERPLEXITY.name: np.array([[score.loss, score.tokens] for score in scores], dtype=np.float64),
        TOKEN_ACCURACY.name: np.array([[score.correct, score.tokens] for score in scores], dtype=np.float64),
    }


def _speed(alone: Sequence[float], completions: Sequence[Completion], seconds: float) -> Speed:
    tokens = [one.usage.completion_tokens for one in completions if one.usage is not None]
    counted = len(tokens) == len(completions)
    return Speed(len(alone), statistics.median(alone), max(alone), sum(tokens) / seconds if counted else None)
