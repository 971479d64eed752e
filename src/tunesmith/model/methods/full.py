"""Full fine-tuning: every weight of the base model is trained."""

from __future__ import annotations

from typing import Any, Literal

from tunesmith.core.config import Section
from tunesmith.model.methods.method import Method


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


FULL = Method(FullConfig, apply, learning_rate=2e-5, label="full fine-tuning")
