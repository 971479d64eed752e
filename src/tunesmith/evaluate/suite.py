"""Measure a model on rows: how it predicts the given answers, what it answers itself, and how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.core.events import Report
from tunesmith.data.prepare import Prepared
from tunesmith.infer.engine import Engine, Sampling
from tunesmith.infer.remote import RemoteModel
from tunesmith.prompt.contract import Contract
from tunesmith.score.metrics import PERPLEXITY, STOP_RATE, TOKEN_ACCURACY, Counts
from tunesmith.score.texts import text_counts

CHUNK = 64  # rows between two signs of life
TIMED = 8  # rows that are answered once more, one at a time, to measure latency


@dataclass(frozen=True)
class Speed:
    """How long people wait.

    Attributes:
        rows: answers that were timed, each alone (of a remote model: under the concurrency of the evaluation).
        median: seconds for one answer.
        longest: seconds for the slowest of them.
        tokens_per_second: of all answers together; None where a server does not count tokens.
    """

    rows: int
    median: float
    longest: float
    tokens_per_second: float | None


@dataclass(frozen=True)
class Measured:
    """What one model did on each row.

    Attributes:
        answers: its own answer to each row's prompt; empty where nothing was asked.
        counts: for each metric's name, one row of counts for each row of data.
        speed: how long its answers took; None where nothing was asked.
    """

    answers: list[str]
    counts: Mapping[str, Counts]
    speed: Speed | None = None


def measure(
    engine: Engine,
    contract: Contract,
    rows: Sequence[Prepared],
    max_new_tokens: int,
    report: Report,
    label: str,
    timed: int = TIMED,
) -> Measured:
    """Score and answer every row, greedily; plain texts, which ask nothing, are only scored.

    Args:
        engine: the model.
        contract: how it is prompted.
        rows: chats or texts, prepared with the same contract; at least one.
        max_new_tokens: longest answer.
        report: hears a `pulse` from time to time.
        label: what the pulse calls this model.
        timed: rows that are answered once more, alone, to measure latency; no speed is measured if 0.
    """
    if rows[0].row.content.kind == "text":
        return _measure_texts(engine, rows, report, label)
    scored, completions, seconds = {}, [], 0.0
    prompts = [contract.prompt(row.row.prompt, row.row.tools) for row in rows]
    sampling = Sampling(max_new_tokens=max_new_tokens)
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        scored |= {start + i: counts for i, counts in enumerate(_scores(engine, chunk))}
        started = time.perf_counter()
        completions += engine.generate(prompts[start : start + CHUNK], sampling)
        seconds += time.perf_counter() - started
        report({"kind": "pulse", "doing": f"evaluating {label}", "done": len(completions), "of": len(rows)})
    answers = [contract.decode(completion.ids).strip() for completion in completions]
    alone = [_seconds_alone(engine, prompt, sampling) for prompt in prompts[:timed]]
    tokens = sum(len(completion.ids) for completion in completions)
    return Measured(
        answers,
        {
            **_predicted([scored[i] for i in range(len(rows))]),
            **text_counts(answers, [row.row.answer for row in rows]),
            STOP_RATE.name: np.array([[c.stopped, 1] for c in completions], dtype=np.float64),
        },
        _speed(alone, tokens / seconds) if alone else None,
    )


def _measure_texts(engine: Engine, rows: Sequence[Prepared], report: Report, label: str) -> Measured:
    """Score plain texts: perplexity and token accuracy, since nothing is asked."""
    scored = []
    for start in range(0, len(rows), CHUNK):
        scored += _scores(engine, rows[start : start + CHUNK])
        report({"kind": "pulse", "doing": f"evaluating {label}", "done": len(scored), "of": len(rows)})
    return Measured([""] * len(rows), _predicted(scored))


def measure_remote(model: RemoteModel, rows: Sequence[Prepared], max_new_tokens: int, report: Report) -> Measured:
    """Let a remote model answer every row; how it predicts given answers cannot be seen from outside."""
    conversations, tools = [row.row.prompt for row in rows], [row.row.tools for row in rows]
    started = time.perf_counter()
    replies = model.answer(conversations, Sampling(max_new_tokens=max_new_tokens), tools, report)
    seconds = time.perf_counter() - started
    answers = [reply.text.strip() for reply in replies]
    tokens = None if any(reply.tokens is None for reply in replies) else sum(reply.tokens or 0 for reply in replies)
    return Measured(
        answers,
        {
            **text_counts(answers, [row.row.answer for row in rows]),
            STOP_RATE.name: np.array([[reply.stopped, 1] for reply in replies], dtype=np.float64),
        },
        _speed([reply.seconds for reply in replies], None if tokens is None else tokens / seconds),
    )


def _scores(engine: Engine, rows: Sequence[Prepared]) -> list[tuple[float, int, int]]:
    """Loss, tokens and right first choices of each row."""
    found = engine.score([(row.ids.tolist(), row.mask.tolist()) for row in rows])
    return [(score.loss, score.tokens, score.correct) for score in found]


def _predicted(scores: Sequence[tuple[float, int, int]]) -> dict[str, Counts]:
    return {
        PERPLEXITY.name: np.array([[loss, tokens] for loss, tokens, _ in scores], dtype=np.float64),
        TOKEN_ACCURACY.name: np.array([[correct, tokens] for _, tokens, correct in scores], dtype=np.float64),
    }


def _seconds_alone(engine: Engine, prompt: list[int], sampling: Sampling) -> float:
    started = time.perf_counter()
    engine.generate([prompt], sampling)
    return time.perf_counter() - started


def _speed(seconds: Sequence[float], tokens_per_second: float | None) -> Speed:
    return Speed(len(seconds), statistics.median(seconds), max(seconds), tokens_per_second)
