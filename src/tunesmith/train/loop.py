"""The heart: one loop for every objective.

A step takes the micro-batches of one optimizer update. Each loss term is a sum; it is divided once,
here, by the units of the whole step. So a big batch equals accumulated small ones, and two processes
compute what one would.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import psutil
import torch

from tunesmith.core.errors import OutOfMemory, Stopped, TrainingError
from tunesmith.core.events import Report
from tunesmith.train.batch import Batch
from tunesmith.train.objectives.sft import Sft
from tunesmith.train.pace import Pace
from tunesmith.train.policy import Policy
from tunesmith.train.standing import Standing
from tunesmith.train.validate import validate

WORTH = 60.0  # seconds of training that are left, from which another number of threads (and compiling again) pays
NO_ROOM = "can't allocate memory"  # how torch says on a CPU what it says on a GPU by an error of its own


@dataclass(frozen=True)
class Course:
    """How long a run is and what happens along it.

    Attributes:
        steps: optimizer steps in all.
        validate_every: steps between looks at the validation rows.
        checkpoint_every: steps between checkpoints.
        metric: what the looks are judged by: `loss` or `token_accuracy`.
        patience: looks without a better value before the run ends; None for never.
        keep_best: whether each best look leaves a checkpoint.
        spikes: what to do about a loss that stands far out: `off`, `warn`, `skip` or `rollback`.
    """

    steps: int
    validate_every: int
    checkpoint_every: int
    metric: str = "loss"
    patience: int | None = None
    keep_best: bool = False
    spikes: str = "warn"


class Crowded(Exception):  # noqa: N818  not an error: the caller goes on with fewer threads
    """Other programs have taken cores since the run began; a checkpoint is written.

    Attributes:
        threads: as many as cores are left.
        sentence: what happened, for people.
    """

    def __init__(self, threads: int, sentence: str) -> None:
        super().__init__(sentence)
        self.threads, self.sentence = threads, sentence


class Spike(Exception):  # noqa: N818  not an error: the caller goes back to a checkpoint
    """A loss stood far out, and the course wants to go back to the last checkpoint."""


def train(
    objective: Sft,
    policy: Policy,
    course: Course,
    standing: Standing,
    validation: Sequence[Batch],
    save: Callable[[Policy, Standing], None],
    report: Report,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train `policy` from the step at which it stands to the end of the course.

    Args:
        objective: where batches come from and what their loss is.
        policy: model and optimizer; changed in place.
        course: how long, and how often to look and to save.
        standing: what is remembered from step to step; changed in place.
        validation: batches that are watched; may be empty.
        save: writes a checkpoint.
        report: hears one `step` event a step, and `validation` events.
        stop: whether somebody wants the run to end after this step, to be resumed later.

    Raises:
        Stopped: somebody wanted it; a checkpoint is written.
        TrainingError: a loss or gradient that is not finite; the message names the rows.
        OutOfMemory: a micro-batch has no room.
        Spike: a loss stood far out, and the course says to go back.
        Crowded: other programs have taken cores, and there is enough to do yet for another number of threads.
    """
    policy.model.train()
    pace = Pace(policy.ranks.count)
    if standing.early or policy.step_number >= course.steps:
        return
    for micro in objective.steps(standing.cursor):
        started = time.perf_counter()
        scale = policy.sum_over_ranks([batch.units for batch in micro])
        losses: list[float] = []
        counts = {"correct": 0.0, "tokens": 0.0}
        for batch in micro:
            with out_of_memory_said(f"a micro-batch of {batch.tokens} tokens"):
                loss = objective.loss(policy.model, batch)
                total = sum(term.total / scale[term.unit] for term in loss.terms)
                assert isinstance(total, torch.Tensor)
                refuse_infinite(total, batch, policy.step_number + 1)
                policy.backward(total)
            losses.append(total.item())
            counts = {"correct": counts["correct"] + loss.counts["correct"], "tokens": counts["tokens"] + batch.tokens}
        sums = policy.ranks.sum({"loss": sum(losses), **counts})
        standing.cursor += 1
        rate = policy.learning_rate
        spiked = course.spikes != "off" and standing.spikes(sums["loss"])
        if spiked:
            meet_spike(course.spikes, policy, sums["loss"], report)
        else:
            standing.note(sums["loss"])
        with out_of_memory_said("the update"), rows_named(micro):
            norm = policy.leave_out() if spiked and course.spikes == "skip" else policy.step()
        seconds = time.perf_counter() - started
        report(
            {
                "kind": "step",
                "step": policy.step_number,
                "steps": course.steps,
                "loss": sums["loss"],
                "token_accuracy": sums["correct"] / scale["tokens"],
                "learning_rate": rate,
                "gradient_norm": norm,
                "trained_tokens": int(scale["tokens"]),
                "tokens_per_second": sums["tokens"] / seconds,
                "seconds": seconds,
                "memory_bytes": memory_in_use(),
            }
        )
        last = policy.step_number >= course.steps
        crowded = None if last else slower_said(pace, sums["tokens"] / seconds, seconds, course, policy, report)
        better = False
        if validation and (last or policy.step_number % course.validate_every == 0):
            with out_of_memory_said("a look at the validation rows"):
                scores = validate(objective, policy, validation)
            better = standing.look(scores[course.metric], policy.step_number, course.metric != "loss")
            report({"kind": "validation", "step": policy.step_number, **scores, "best": better})
            if not last and course.patience is not None and standing.waited >= course.patience:
                report({"kind": "early", "step": policy.step_number, "best_step": standing.best_step})
                standing.early = last = True
        stopping = policy.ranks.any(stop())
        if policy.step_number % course.checkpoint_every == 0 or (better and course.keep_best):
            standing.anchor = policy.step_number
        if last or stopping or crowded or standing.anchor == policy.step_number:
            save(policy, standing)
        if last:
            return
        if stopping:
            raise Stopped(f"stopped after step {policy.step_number} of {course.steps}, with a checkpoint.")
        if crowded:
            raise crowded


def slower_said(
    pace: Pace, rate: float, seconds: float, course: Course, policy: Policy, report: Report
) -> Crowded | None:
    """Say once that the run became much slower and why; what to raise where fewer threads are worth a new plan."""
    slower = pace.note(rate, seconds)
    if slower is None:
        return None
    left = seconds * (course.steps - policy.step_number)
    worth = slower.free < policy.threads and policy.ranks.count == 1 and left >= WORTH
    advice = f" It goes on with {slower.free} of {policy.threads} threads, after a checkpoint." if worth else ""
    report({"kind": "warning", "sentence": slower.sentence + advice})
    return Crowded(slower.free, slower.sentence) if worth else None


def meet_spike(policy_for_spikes: str, policy: Policy, loss: float, report: Report) -> None:
    """Say that a loss stood far out; raise `Spike` where the run shall go back."""
    done = {
        "warn": "It was learned from nevertheless (optim.spikes=skip or rollback would not)",
        "skip": "The update is left out",
        "rollback": "The run goes back to its last checkpoint and leaves out the batches since",
    }[policy_for_spikes]
    sentence = f"step {policy.step_number + 1}: a loss of {loss:.3g} stands far out of the last ones. {done}."
    report({"kind": "warning", "sentence": sentence})
    if policy_for_spikes == "rollback":
        raise Spike


@contextlib.contextmanager
def out_of_memory_said(what: str) -> Generator[None]:
    """A machine without room, as an error that the parent of this process can answer."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise OutOfMemory(f"the GPU has no room for {what}.") from None
    except MemoryError:
        raise OutOfMemory(f"there is no memory for {what}.") from None
    except RuntimeError as error:
        if NO_ROOM not in str(error):
            raise
        raise OutOfMemory(f"there is no memory for {what}.") from None


def refuse_infinite(loss: torch.Tensor, batch: Batch, step: int) -> None:
    """Stop before a loss that is not finite reaches the weights, and name its rows."""
    if not math.isfinite(loss.item()):
        raise TrainingError(
            f"step {step}: the loss is {loss.item()} on rows {name_rows([batch])}. Lower optim.learning_rate or set "
            "precision=fp32; if it stays, look at these rows."
        )


@contextlib.contextmanager
def rows_named(micro: Sequence[Batch]) -> Generator[None]:
    """An update that is refused names the rows that it would have learned from."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{error} Its rows: {name_rows(micro)}.") from None


def name_rows(micro: Sequence[Batch]) -> str:
    """The first rows of some batches, for people to look at."""
    rows = [row for batch in micro for row in batch.rows]
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    return ", ".join(str(row.source) for row in rows[:8]) + more


def memory_in_use() -> int:
    """Bytes: the peak on the GPU where there is one, else what this process holds now."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return psutil.Process().memory_info().rss
