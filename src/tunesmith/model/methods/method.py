"""What a method is: a way to change a base model, and what training, checkpoints and export must do for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.core.config import Section

Can = Literal["base_untouched", "merge", "continue", "stack", "quantize"]
Tensors = Mapping[str, Any]
State = tuple[Tensors, dict[str, Any]]  # tensors, and plain values


def _prepare_nothing(model: Any, config: Any, rows: Sequence[Any], steps: int) -> None:
    return None


def _no_extra_loss(model: Any, weights: Tensors) -> None:
    return None


def _nothing_after_a_step(model: Any, weights: Tensors, step: int) -> None:
    return None


def _no_state(model: Any) -> State:
    return {}, {}


def _restore_nothing(model: Any, tensors: Tensors, values: Mapping[str, Any]) -> None:
    return None


def _as_saved(model: Any, state: Tensors, weights: Tensors, base: Tensors) -> Tensors:
    return weights


def _the_same_rate(config: Any, name: str) -> float:
    return 1.0


def _as_it_is(config: Any, tensors: Tensors, state: Tensors) -> tuple[Any, Tensors]:
    return config, tensors


def _in_parts_too(config: Any) -> bool:
    return False


@dataclass(frozen=True)
class Method:
    """A way to change a model. `apply` is needed; the hooks do nothing unless they are given.

    Attributes:
        config: the recipe's section.
        apply: returns the model with its trainable weights marked (`requires_grad`).
        learning_rate: the tested default.
        can: what it can do: leave the base's own weights untouched (they are then kept in the run's precision, and
            only what was added is exported), be merged into the base, be continued from what an earlier run has
            exported, be answered in one batch with others of its base, be trained beside a quantised one.
        prepare: once, before the first step, from the rows to train on and the number of steps (EVA's start, AdaLoRA's
            schedule).
        extra_loss: a penalty of the model itself, or of its fp32 weights (AdaLoRA's orthogonality), once a step; a
            scalar tensor, or None.
        after_step: after the optimizer's step, on the fp32 weights with the gradients of the whole step, before they
            are copied to the model (AdaLoRA's importance and budget). The gradients are clipped; steps count from 1.
        state: what beside the weights decides how training goes on.
        restore: puts that back.
        fitted: a checkpoint's weights, by name, as a model has them, which may have parted a weight otherwise; given
            the model, the tensors of `state`, and the model's own weights (the words in use of full fine-tuning).
        rate: the learning rate of a weight, as a factor of the run's (LoRA+).
        exported: under which settings, and with which tensors, the base as it was becomes what was trained: of a method
            that changes the base before it trains beside it (PiSSA); given the trained tensors and those of `state`.
        label: what people call it.
        source: the paper.
        unfit: the models that it is not for, which are refused.
        whole: whether it needs all weights in one process, with these settings.
    """

    config: type[Section]
    apply: Callable[[Any, Any], Any]
    learning_rate: float
    can: frozenset[Can] = frozenset()
    prepare: Callable[[Any, Any, Sequence[Any], int], None] = _prepare_nothing
    extra_loss: Callable[[Any, Tensors], Any] = _no_extra_loss
    after_step: Callable[[Any, Tensors, int], None] = _nothing_after_a_step
    state: Callable[[Any], State] = _no_state
    restore: Callable[[Any, Tensors, Mapping[str, Any]], None] = _restore_nothing
    fitted: Callable[[Any, Tensors, Tensors, Tensors], Tensors] = _as_saved
    rate: Callable[[Any, str], float] = _the_same_rate
    exported: Callable[[Any, Tensors, Tensors], tuple[Any, Tensors]] = _as_it_is
    label: str = ""
    source: str = ""
    unfit: str = ""
    whole: Callable[[Any], bool] = _in_parts_too

    @property
    def base_untouched(self) -> bool:
        """Whether the base's own weights stay as they are."""
        return "base_untouched" in self.can


def trainable(model: Any) -> dict[str, Any]:
    """The weights that training changes, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
