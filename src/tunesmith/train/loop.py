"""The heart: one loop for every objective.

A step takes the micro-batches of one optimizer update. Each loss term is a sum; it is divided once,
here, by the units of the whole step. So a big batch equals accumulated small ones.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import psutil
import torch

from tunesmith.core.errors import Stopped, TrainingError
from tunesmith.core.events import Report
from tunesmith.train.batch import Batch
from tunesmith.train.objectives.sft import Sft
from tunesmith.train.policy import Policy
from tunesmith.train.validate import validate


@dataclass(frozen=True)
class Course:
    """How long a run is and what happens along it.

    Attributes:
        steps: optimizer steps in all.
        validate_every: steps between looks at the validation rows.
        checkpoint_every: steps between checkpoints.
    """

    steps: int
    validate_every: int
    checkpoint_every: int


def train(
    objective: Sft,
    policy: Policy,
    course: Course,
    validation: list[Batch],
    save: Callable[[Policy], None],
    report: Report,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train `policy` from the step at which it stands to the end of the course.

    Args:
        objective: where batches come from and what their loss is.
        policy: model and optimizer; changed in place.
        course: how long, and how often to look and to save.
        validation: batches that are watched; may be empty.
        save: writes a checkpoint.
        report: hears one `step` event a step, and `validation` events.
        stop: whether somebody wants the run to end after this step, to be resumed later.

    Raises:
        Stopped: somebody wanted it; a checkpoint is written.
        TrainingError: a loss or gradient that is not finite; the message names the rows.
    """
    policy.model.train()
    if policy.step_number >= course.steps:
        return
    for micro in objective.steps(policy.step_number):
        started = time.perf_counter()
        scale = policy.sum_over_ranks([batch.units for batch in micro])
        loss_sum = correct = 0.0
        for batch in micro:
            with out_of_memory_said(batch):
                with policy.autocast():
                    loss = objective.loss(policy.model, batch)
                total = sum(term.total / scale[term.unit] for term in loss.terms)
                assert isinstance(total, torch.Tensor)
                refuse_infinite(total, batch, policy.step_number + 1)
                policy.backward(total)
            loss_sum += total.item()
            correct += loss.counts["correct"]
        rate = policy.learning_rate
        norm = policy.step()
        seconds = time.perf_counter() - started
        report(
            {
                "kind": "step",
                "step": policy.step_number,
                "steps": course.steps,
                "loss": loss_sum,
                "token_accuracy": correct / scale["tokens"],
                "learning_rate": rate,
                "gradient_norm": norm,
                "trained_tokens": scale["tokens"],
                "tokens_per_second": sum(batch.tokens for batch in micro) / seconds,
                "memory_bytes": memory_in_use(),
            }
        )
        last = policy.step_number == course.steps
        if validation and (last or policy.step_number % course.validate_every == 0):
            report({"kind": "validation", "step": policy.step_number, **validate(objective, policy, validation)})
        stopping = stop()
        if last or stopping or policy.step_number % course.checkpoint_every == 0:
            save(policy)
        if last:
            return
        if stopping:
            raise Stopped(f"stopped after step {policy.step_number} of {course.steps}, with a checkpoint.")


@contextlib.contextmanager
def out_of_memory_said(batch: Batch) -> Generator[None]:
    """A GPU without room for a batch, as a sentence. (A CPU without room is a kill, which the parent reports.)"""
    try:
        yield
    except torch.OutOfMemoryError:
        raise TrainingError(
            f"the GPU has no room for a micro-batch of {batch.tokens} tokens. Lower micro_tokens."
        ) from None


def refuse_infinite(loss: torch.Tensor, batch: Batch, step: int) -> None:
    """Stop before a loss that is not finite reaches the weights, and name its rows."""
    if not math.isfinite(loss.item()):
        rows = ", ".join(str(row.row.source) for row in batch.rows[:5])
        raise TrainingError(
            f"step {step}: the loss is {loss.item()} on rows {rows}. Lower optim.learning_rate or set precision=fp32; "
            "if it stays, look at these rows."
        )


def memory_in_use() -> int:
    """Bytes: the peak on the GPU where there is one, else what this process holds now."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return psutil.Process().memory_info().rss
