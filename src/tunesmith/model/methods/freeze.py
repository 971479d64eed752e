"""Part of the base's own weights: the last layers, the first, or those of some names; all others stay as they are."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal, Self

from pydantic import model_validator

from tunesmith.core.config import Section, option
from tunesmith.core.errors import ModelError
from tunesmith.model.methods.method import Method


class FreezeConfig(Section):
    """Train some layers of the base model and freeze the others."""

    type: Literal["freeze"] = "freeze"
    last: int = option(2, "Train the last n layers.", "2 to 8.", ge=0)
    first: int = option(0, "Train the first n layers.", ge=0)
    names: list[str] = option(
        [], "Train weights whose names match one of these patterns too, such as [*.norm.weight, lm_head.*]."
    )

    @model_validator(mode="after")
    def _something_is_trained(self) -> Self:
        if not (self.last or self.first or self.names):
            raise ValueError("last, first and names choose nothing, so nothing would be trained: set one of them")
        return self


def apply(model: Any, config: FreezeConfig) -> Any:
    """The model with all but the chosen weights frozen.

    Raises:
        ModelError: it has fewer layers, or a name matches nothing.
    """
    from tunesmith.model.layers import layers_of

    layers, model = layers_of(model), model.requires_grad_(False)
    for what, asked in (("first", config.first), ("last", config.last)):
        if asked > len(layers):
            raise ModelError(f"method.{what} = {asked}: the model has {len(layers)} layers.")
    for layer in [*layers[: config.first], *layers[len(layers) - config.last :]]:
        layer.requires_grad_(True)
    weights = dict(model.named_parameters())
    for pattern in config.names:
        found = [weight for name, weight in weights.items() if fnmatchcase(name, pattern)]
        if not found:
            some = ", ".join([*weights][:2] + [*weights][-2:])
            raise ModelError(f"method.names: no weight matches {pattern!r}. There are {len(weights)}: {some}, ...")
        for weight in found:
            weight.requires_grad_(True)
    return model


FREEZE = Method(FreezeConfig, apply, learning_rate=2e-5, label="some layers")
