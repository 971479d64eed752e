"""What a method is: a way to change a base model, and what training, checkpoints and export must do for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.core.config import Section

Can = Literal["base_untouched", "merge"]
State = tuple[Mapping[str, Any], dict[str, Any]]  # tensors, and plain values


def _prepare_nothing(model: Any, config: Any, rows: Sequence[Any], steps: int) -> None:
    return None


def _no_extra_loss(model: Any) -> None:
    return None


def _nothing_after_a_step(model: Any, weights: Mapping[str, Any], step: int) -> None:
    return None


def _no_state(model: Any) -> State:
    return {}, {}


def _restore_nothing(model: Any, tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    return None


@dataclass(frozen=True)
class Method:
    """A way to change a model. `apply` is needed; the hooks do nothing unless they are given.

    Attributes:
        config: the recipe's section.
        apply: returns the model with its trainable weights marked (`requires_grad`).
        learning_rate: the tested default.
        can: what it can do: leave the base's own weights untouched (they are then kept in the run's precision, and
            only what was added is exported), be merged into the base.
        prepare: once, before the first step, from the rows to train on and the number of steps (EVA's start, AdaLoRA's
            schedule).
        extra_loss: a penalty of the model itself (AdaLoRA's orthogonality), once a step; a scalar tensor, or None.
        after_step: after the optimizer's step, on the fp32 weights with the gradients of the whole step, before they
            are copied to the model (AdaLoRA's importance and budget). The gradients are clipped; steps count from 1.
        state: what beside the weights decides how training goes on.
        restore: puts that back.
    """

    config: type[Section]
    apply: Callable[[Any, Any], Any]
    learning_rate: float
    can: frozenset[Can] = frozenset()
    prepare: Callable[[Any, Any, Sequence[Any], int], None] = _prepare_nothing
    extra_loss: Callable[[Any], Any] = _no_extra_loss
    after_step: Callable[[Any, Mapping[str, Any], int], None] = _nothing_after_a_step
    state: Callable[[Any], State] = _no_state
    restore: Callable[[Any, Mapping[str, Any], Mapping[str, Any]], None] = _restore_nothing

    @property
    def base_untouched(self) -> bool:
        """Whether the base's own weights stay as they are."""
        return "base_untouched" in self.can


def trainable(model: Any) -> dict[str, Any]:
    """The weights that training changes, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
