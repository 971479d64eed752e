"""The heart: one loop for every objective and every source.

A step takes the micro-batches of one optimizer update. Each loss term is a sum; it is divided once,
here, by the units of the whole step. So a big batch equals accumulated small ones, and two processes
compute what one would.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch

from tunesmith.core import events
from tunesmith.core.errors import OutOfMemory, Stopped, TrainingError
from tunesmith.core.events import Report
from tunesmith.train.batch import DummyBatch
from tunesmith.train.learner import Learner
from tunesmith.train.objective import (
    Batch,
    Models,
    Objective,
    Perturb,
    Sums,
    add,
    nothing_of,
    on_host,
    perturb_nothing,
    real_ones,
    total_units,
)
from tunesmith.train.pace import Pace
from tunesmith.train.recorded import RecordedPasses
from tunesmith.train.source import Source
from tunesmith.train.state import TrainerState
from tunesmith.train.validate import validate
from tunesmith.train.weights.shards import whole as put_together

WORTH = 60.0  # seconds of training that are left, from which another number of threads (and compiling again) pays
NO_ROOM = "can't allocate memory"  # how torch says on a CPU what it says on a GPU by an error of its own


@dataclass(frozen=True)
class LoopSettings:
    """How long a run is and what happens along it.

    Attributes:
        steps: optimizer steps in all.
        validate_every: steps between validations.
        checkpoint_every: steps between checkpoints.
        metric: the curve that validations are compared by.
        patience: validations without a better value before the run ends; None for never.
        keep_best: whether each best validation leaves a checkpoint.
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
    """A loss stood far out, and the settings say to go back to the last checkpoint."""


def train(
    objective: Objective,
    models: Models,
    learner: Learner,
    source: Source,
    settings: LoopSettings,
    state: TrainerState,
    validation: Sequence[Any],
    save: Callable[[], None],
    report: Report,
    stop: Callable[[], bool] = lambda: False,
    perturb: Perturb = perturb_nothing,
) -> None:
    """Train from the step at which the learner stands to the end.

    Args:
        objective: what the loss is.
        models: that it asks; the policy is the learner's model.
        learner: model and optimizer; changed in place.
        source: where batches come from.
        settings: how long, and how often to validate and to save.
        state: what is remembered from step to step; changed in place.
        validation: batches to validate on; may be empty.
        save: writes a checkpoint.
        report: hears one `Step` a step, and `Validation`.
        stop: whether somebody wants the run to end after this step, to be resumed later.
        perturb: gives the losses of a batch whose gradients are added, each with its share: one, or several on its
            perturbed inputs. The first one's counts count.

    Raises:
        Stopped: somebody wanted it; a checkpoint is written.
        TrainingError: a loss or gradient that is not finite; the message names the rows.
        OutOfMemory: a micro-batch has no room.
        Spike: a loss stood far out, and the settings say to go back.
        Crowded: other programs have taken cores, and there is enough to do yet for another number of threads.
    """
    learner.model.train()
    pace = Pace(learner.ranks.count)
    recorded = RecordedPasses(objective, models, learner) if models.plan.graphs else None
    if state.early or learner.step_number >= settings.steps:
        return
    started = time.perf_counter()
    for micro in batches_of(source):  # of answers that the model draws itself, this is most of the time
        # 1. The whole step: its statistics, and what its sums will be divided by, over micro-batches and ranks.
        whole = objective.before(models, real_ones(micro), learner.ranks)
        scale = learner.ranks.sum(total_units(batch.units for batch in micro))
        # 2. The gradient of each micro-batch.
        each: list[dict[str, Any]] = []
        for batch in micro:
            with out_of_memory_said(f"a micro-batch of {batch.tokens} tokens"):
                if recorded is not None:
                    each.append(recorded.gradients(batch, scale))
                else:
                    each.append(gradients_of(batch, objective, models, learner, whole, scale, perturb))
        sums: Sums = {"tokens": np.zeros(())}
        for batch, found in zip(micro, on_host(each), strict=True):  # nothing has waited for a GPU until here
            refuse_infinite(float(found.get("loss", 0.0)), batch, learner.step_number + 1)
            add(sums, found)
        if empty := "loss" not in sums:  # on all ranks alike: it hangs on the scale
            lacking = " and no ".join(unit for unit, amount in scale.items() if amount == 0)
            report(events.Warning(f"step {learner.step_number + 1} is left out: it has no {lacking}."))
        elif (extra := extra_loss(learner)) is not None:
            add(sums, {"penalty": extra})
        sums = learner.ranks.sum_vectors(sums)
        # 3. The update, unless the loss stands far out.
        rate = learner.learning_rate
        spiked = not empty and settings.spikes != "off" and state.spikes(float(sums["loss"]))
        if spiked:
            meet_spike(settings.spikes, learner, float(sums["loss"]), report)
        elif not empty:
            state.note(float(sums["loss"]))
        with out_of_memory_said("the update"), rows_named(micro):
            norm = learner.leave_out() if empty or (spiked and settings.spikes == "skip") else learner.step()
        # 4. What is told.
        seconds = time.perf_counter() - started
        if not empty:
            report(
                events.Step(
                    step=learner.step_number,
                    steps=settings.steps,
                    curves=objective.curves(sums, scale),
                    learning_rate=rate,
                    gradient_norm=norm,
                    trained_tokens=int(scale.get("tokens", sums["tokens"])),
                    tokens_per_second=float(sums["tokens"]) / seconds,
                    seconds=seconds,
                    memory_bytes=memory_in_use(),
                )
            )
        last = learner.step_number >= settings.steps
        crowded = None
        if not last and not empty:
            crowded = slower_said(pace, float(sums["tokens"]) / seconds, seconds, settings, learner, report)
        # 5. Validation.
        better = False
        if validation and (last or learner.step_number % settings.validate_every == 0):
            with out_of_memory_said("validation"):
                curves = validate(objective, models, learner, validation)
            if (value := curves.get(settings.metric)) is None:
                report(events.Warning(f"step {learner.step_number}: the validation says nothing of {settings.metric}."))
            else:
                better = state.take_validation(value, learner.step_number, settings.metric in objective.higher)
            report(events.Validation(learner.step_number, curves, better))
            if not last and settings.patience is not None and state.waited >= settings.patience:
                report(events.Early(learner.step_number, state.best_step))
                state.early = last = True
        # 6. A checkpoint, and whether this was the end.
        stopping = learner.ranks.any(stop())
        if learner.step_number % settings.checkpoint_every == 0 or (better and settings.keep_best):
            state.last_checkpoint = learner.step_number
        if last or stopping or crowded or state.last_checkpoint == learner.step_number:
            save()
        if last:
            return
        if stopping:
            raise Stopped(f"stopped after step {learner.step_number} of {settings.steps}, with a checkpoint.")
        if crowded:
            raise crowded
        started = time.perf_counter()
    raise TrainingError(f"the source of batches ended after step {learner.step_number} of {settings.steps}.")


def batches_of(source: Source) -> Generator[Sequence[Any]]:
    """The micro-batches of one step after another, as the source makes them."""
    steps = iter(source.steps())
    while True:
        with out_of_memory_said("the rows of a step"):
            micro = next(steps, None)
        if micro is None:
            return
        yield micro


def gradients_of(
    batch: Any, objective: Objective, models: Models, learner: Learner, whole: Any, scale: Mapping[str, float],
    perturb: Perturb,
) -> dict[str, Any]:  # fmt: skip
    """Add the gradients of a micro-batch; its loss, its terms where there are several, its counts and its tokens.

    Tensors among them stay where they are: to read one is to wait for it.

    Terms whose unit the whole step has none of are left out; nothing is returned where none is left. Of a dummy batch
    nothing counts, and its gradients are zero.
    """
    dummy = isinstance(batch, DummyBatch)
    found: dict[str, Any] = {}
    for loss, share in perturb(objective, models, batch.real if dummy else batch, whole, scale):
        parts = {term.name: term.total / scale[term.unit] for term in loss.terms if scale[term.unit]}
        if not parts:
            return {}
        total = sum(parts.values())
        assert isinstance(total, torch.Tensor)
        learner.backward(total * 0 if dummy else total * share)
        if found:  # of several perturbed losses the first counts
            continue
        alone = [name for name in parts if len(parts) > 1 and name != "loss"]
        found = {**loss.counts, **{name: parts[name].detach() for name in alone}}
        found |= {"loss": total.detach(), "tokens": batch.tokens}
    return nothing_of(found) if dummy else found


def extra_loss(learner: Learner) -> float | None:
    """Add the gradient of the method's own penalty, if it has one: once a step.

    Where every rank holds all weights, gradients are summed, and one rank adds it; where each holds a part of them,
    each adds that of its part.
    """
    extra = None if learner.method is None else learner.method.extra_loss(learner.model, learner.weights)
    if extra is None:
        return None
    adds = learner.ranks.leads or learner.placed.plan.sharding == "full"
    learner.backward(extra if adds else extra * 0)
    return put_together(extra.detach()).item() if learner.ranks.leads else 0.0


def slower_said(
    pace: Pace, rate: float, seconds: float, settings: LoopSettings, learner: Learner, report: Report
) -> Crowded | None:
    """Say once that the run became much slower and why; what to raise where fewer threads are worth a new plan."""
    slower = pace.note(rate, seconds)
    if slower is None:
        return None
    left = seconds * (settings.steps - learner.step_number)
    worth = slower.free < learner.threads and learner.ranks.count == 1 and left >= WORTH
    advice = f" It goes on with {slower.free} of {learner.threads} threads, after a checkpoint." if worth else ""
    report(events.Warning(slower.sentence + advice))
    return Crowded(slower.free, slower.sentence) if worth else None


def meet_spike(answer: str, learner: Learner, loss: float, report: Report) -> None:
    """Say that a loss stood far out; raise `Spike` where the run shall go back."""
    done = {
        "warn": "It was learned from nevertheless (optim.spikes=skip or rollback would not)",
        "skip": "The update is left out",
        "rollback": "The run goes back to its last checkpoint and leaves out the batches since",
    }[answer]
    sentence = f"step {learner.step_number + 1}: a loss of {loss:.3g} stands far out of the last ones. {done}."
    report(events.Warning(sentence))
    if answer == "rollback":
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


def refuse_infinite(loss: float, batch: Batch, step: int) -> None:
    """Stop before a loss that is not finite reaches the weights, and name its rows."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"step {step}: the loss is {loss} on rows {name_rows([batch])}. Lower optim.learning_rate or set "
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
