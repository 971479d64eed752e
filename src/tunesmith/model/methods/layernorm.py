"""The weights of the base's norms alone (Zhao et al., 2023, arXiv 2312.11420)."""

from __future__ import annotations

from typing import Any, Literal

from tunesmith.core.config import Section
from tunesmith.core.errors import ModelError
from tunesmith.model.methods.method import Method


class LayernormConfig(Section):
    """Train the base model's norms (LayerNorm, RMSNorm) and freeze the rest (Zhao et al., 2023)."""

    type: Literal["layernorm"] = "layernorm"


def apply(model: Any, config: LayernormConfig) -> Any:
    """The model with everything but its norms frozen.

    Raises:
        ModelError: it has none with weights.
    """
    model.requires_grad_(False)
    norms = [part for part in model.modules() if type(part).__name__.lower().endswith("norm")]
    weights = [weight for norm in norms for weight in norm.parameters(recurse=False)]
    if not weights:
        raise ModelError("method.type = layernorm: the model has no norms with weights. Take lora, or full.")
    for weight in weights:
        weight.requires_grad_(True)
    return model


LAYERNORM = Method(
    LayernormConfig, apply, learning_rate=1e-3, label="norms", source="Zhao et al., 2023, arXiv 2312.11420"
)
