"""What an encoder with a decoder makes of held-out sources, beside its base and beside the sources as they are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from tunesmith.core import events
from tunesmith.core.errors import ConfigError
from tunesmith.core.events import Report
from tunesmith.data.prepare import Prepared
from tunesmith.evaluate.suite import TIMED, RowResults, Speed
from tunesmith.infer.predict.targets import Writer
from tunesmith.jobs.tasks.task import Asked, Measured, TaskEvaluation
from tunesmith.model.seq2seq import TargetScore, Written, score_targets, write
from tunesmith.prompt.contract import Rendered
from tunesmith.score.metrics import PERPLEXITY, STOP_RATE, TOKEN_ACCURACY
from tunesmith.score.texts import text_counts

COPIED = "the source, copied"
ROWS_BETWEEN_PULSES = 256
ROWS = 200  # that are answered where nobody says how many


def measure(writer: Writer, name: str, rows: Sequence[Prepared], report: Report) -> Measured:
    """How a model predicts the target of each row, and what it writes itself."""
    contents, contract = [row.row.content for row in rows], writer.contract
    sources, targets = ([content.to_plain()[key] for content in contents] for key in ("source", "target"))
    reads = [writer.read(source) for source in sources]  # by its own contract, which may have another prefix
    wanted = [_ids(one) for one in contract.render_many([contract.draft_target(text) for text in targets])]
    scores: list[TargetScore] = []
    written: list[Written] = []
    started = time.perf_counter()
    for start in range(0, len(rows), ROWS_BETWEEN_PULSES):
        some = slice(start, start + ROWS_BETWEEN_PULSES)
        scores += score_targets(writer.model, list(zip(reads[some], wanted[some], strict=True)))
        written += write(writer.model, reads[some], contract.stop_ids, writer.longest)
        report(events.Pulse(f"evaluating {name}", len(written), len(rows)))
    seconds = time.perf_counter() - started
    answers = [contract.decode(one.ids).strip() for one in written]
    counts = {
        PERPLEXITY.name: np.array([[score.loss, score.tokens] for score in scores]),
        TOKEN_ACCURACY.name: np.array([[score.correct, score.tokens] for score in scores], dtype=np.float64),
        **text_counts(answers, targets),
        STOP_RATE.name: np.array([[one.ended, 1] for one in written], dtype=np.float64),
    }
    alone = [_seconds(writer, read) for read in reads[:TIMED]]
    tokens = sum(len(one.ids) + one.ended for one in written)
    return RowResults(answers, counts, Speed(len(alone), median(alone), max(alone), tokens / seconds)), []


def _ids(rendered: Any) -> np.ndarray:
    assert isinstance(rendered, Rendered)
    return np.frombuffer(rendered.ids, np.int32)


def _seconds(writer: Writer, read: np.ndarray) -> float:
    started = time.perf_counter()
    writer.answers([read])
    return time.perf_counter() - started


def copied(asked: Asked) -> tuple[str, RowResults]:
    """Sources given back as they are: what a correction or a summary must be better than."""
    contents = [row.row.content.to_plain() for row in asked.rows]
    answers = [content["source"].strip() for content in contents]
    return COPIED, RowResults(answers, text_counts(answers, [content["target"] for content in contents]))


def refuse_other(one: Writer, other: Writer, names: tuple[str, str]) -> None:
    """Refuse to compare models that read texts as other tokens.

    Raises:
        ConfigError: they do.
    """
    if one.contract.tokenizer.get_vocab() != other.contract.tokenizer.get_vocab():
        raise ConfigError(
            f"{names[0]} and {names[1]} have different tokenizers, so their scores cannot be compared token by token. "
            "Evaluate each alone."
        )


EVALUATION = TaskEvaluation(
    reads=frozenset({"source-target"}),
    measure=measure,
    always=copied,
    base=True,
    refuse_other=refuse_other,
    rows=ROWS,
)
