"""Full fine-tuning: every weight of the base model is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tunesmith.core.config import Section
from tunesmith.model.methods.method import Method, State, Tensors


class FullConfig(Section):
    """Train every weight of the base model."""

    type: Literal["full"] = "full"


def apply(model: Any, config: FullConfig) -> Any:
    """The model, with nothing frozen but what its library makes anew and never saves: Marian's table of positions."""
    model.requires_grad_(True)
    unsaved = getattr(model, "_keys_to_ignore_on_save", None) or ()
    for name, weight in model.named_parameters():
        if name in unsaved:
            weight.requires_grad_(False)
    return model


def state(model: Any) -> State:
    """The words in use, where the table of words is parted by that."""
    from tunesmith.model.used_words import state_of

    return state_of(model), {}


def fitted(model: Any, state: Mapping[str, Any], weights: Tensors, base: Tensors) -> Tensors:
    """Weights of a checkpoint, whose table of words may be parted otherwise than the model's."""
    from tunesmith.model.used_words import fitted

    return fitted(model, state, weights, base)


FULL = Method(FullConfig, apply, learning_rate=2e-5, state=state, fitted=fitted, label="full fine-tuning")
