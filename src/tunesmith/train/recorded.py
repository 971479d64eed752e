"""Micro-batches whose kernels are recorded once and launched at once: CUDA graphs, for small models on large GPUs.

A small model's pass forward and back is some thousand kernels of a few microseconds each, and Python takes longer to
launch one than a GPU to compute it. Where the plan says so (`Plan.graphs`), batches are filled up to a few shapes; of
each shape the first batch is computed as ever, the second is recorded after it was, and from then on new numbers are
written where the recorded kernels look for them. The same kernels read the same numbers, so nothing else is learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from tunesmith.core.errors import OutOfMemory
from tunesmith.model.recording import CudaRecorder
from tunesmith.train.batch import TokenBatch
from tunesmith.train.learner import Learner
from tunesmith.train.objective import Models, Objective

MOST = 24  # shapes that are recorded
Values = dict[str, Any]
Record = Callable[[Callable[[], Values]], tuple[Values, Callable[[], None]]]


@dataclass(frozen=True)
class Recorded:
    """A pass forward and back.

    Attributes:
        batch: whose tensors the kernels read.
        scale: scalar, likewise.
        found: tensors that the kernels write.
        launch: lets them do it again.
    """

    batch: TokenBatch
    scale: torch.Tensor
    found: Values
    launch: Callable[[], None]


class RecordedPasses:
    """Adds the gradients of batches, by recorded kernels where a shape has come before.

    Attributes:
        count: batches that were computed so.
    """

    def __init__(
        self, objective: Objective, models: Models, learner: Learner, record: Record | None = None, most: int = MOST
    ) -> None:
        """Nothing is recorded yet.

        Args:
            objective: whose batches are `TokenBatch`es and whose loss is one term for each token.
            models: that it asks.
            learner: gathers gradients, always in the same tensors.
            record: what records; that of the GPU where the model is if absent.
            most: shapes that are recorded.
        """
        self.count, self._most = 0, most
        self._objective, self._models, self._learner = objective, models, learner
        self._record = record or CudaRecorder(models.policy.device)
        self._seen = Counter[Any]()
        self._recorded: dict[Any, Recorded] = {}

    def gradients(self, batch: TokenBatch, scale: Mapping[str, float]) -> Values:
        """Add the gradients of a batch; what `loop.gradients_of` returns of it.

        Raises:
            OutOfMemory: it cannot be recorded, for whatever reason. The GPU's memory, streams and random numbers are in
                no known state after that: the run goes on in another process, which records nothing.
        """
        if not scale["tokens"]:
            return {}
        assert batch.picked_N is None, "what is padded is never recorded"
        shape = shape_of(batch)
        if (recorded := self._recorded.get(shape)) is not None:
            write(recorded.batch, batch)
            recorded.scale.fill_(scale["tokens"])
            recorded.launch()
            self.count += 1
            found = {name: value.clone() for name, value in recorded.found.items()}
        else:
            by = torch.full((), scale["tokens"], dtype=torch.float32, device=batch.target_N.device)
            found = self._run(batch, by)
            self._seen[shape] += 1
            if self._seen[shape] == 2 and len(self._recorded) < self._most:
                self._recorded[shape] = self._record_one(batch, by)
        return {**found, "tokens": batch.tokens}

    def _run(self, batch: TokenBatch, scale: torch.Tensor) -> Values:
        loss = self._objective.loss(self._models, batch, None)
        [term] = loss.terms
        total = term.total / scale
        self._learner.backward(total)
        return {**loss.counts, "loss": total.detach()}

    def _record_one(self, batch: TokenBatch, scale: torch.Tensor) -> Recorded:
        """Record a batch that was just computed: gradients have their places, and kernels were found."""
        batch, scale = copied(batch), scale.clone()
        try:
            found, launch = self._record(lambda: self._run(batch, scale))
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of a recording that has failed hides why
            raise OutOfMemory(f"kernels cannot be recorded ({str(cause).splitlines()[0][:200]}).") from error
        return Recorded(batch, scale, found, launch)


def tensors_of(batch: TokenBatch) -> list[torch.Tensor]:
    """All that a batch's kernels read."""
    inputs = [value for value in batch.inputs.values() if isinstance(value, torch.Tensor)]
    return [*inputs, batch.target_N, *(() if batch.weight_N is None else (batch.weight_N,))]


def shape_of(batch: TokenBatch) -> Any:
    """What two batches must have in common for one's kernels to do for the other."""
    values = tuple((name, value) for name, value in batch.inputs.items() if not isinstance(value, torch.Tensor))
    return values, tuple(tensor.shape for tensor in tensors_of(batch))


def copied(batch: TokenBatch) -> TokenBatch:
    """A batch with tensors of its own; what is one tensor in the one is one in the other."""
    clones: dict[int, torch.Tensor] = {}

    def clone(value: Any) -> Any:
        return clones.setdefault(id(value), value.clone()) if isinstance(value, torch.Tensor) else value

    inputs = {name: clone(value) for name, value in batch.inputs.items()}
    return replace(batch, inputs=inputs, target_N=clone(batch.target_N), weight_N=clone(batch.weight_N), rows=())


def write(into: TokenBatch, batch: TokenBatch) -> None:
    """Give one batch's tensors the numbers of another's."""
    for one, other in zip(tensors_of(into), tensors_of(batch), strict=True):
        one.copy_(other, non_blocking=True)
