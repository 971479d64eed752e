"""VeRA: y = W x + b * B (d * A x), A and B random, frozen and shared by all layers.

Kopiczko et al., 2024, arXiv 2310.11454.
"""

from __future__ import annotations

from typing import Any, Literal

from tunesmith.core.config import Section, option
from tunesmith.model.methods.added import CONTINUE_FROM, TARGETS, TRAIN_ALSO, Targets, add, has_turned_weights
from tunesmith.model.methods.method import Method


class VeraConfig(Section):
    """Train two vectors beside each linear layer, around random matrices of all layers (Kopiczko et al., 2024)."""

    type: Literal["vera"] = "vera"
    rank: int = option(256, "Rows of A; they cost no memory of their own in each layer.", "64 to 1024.", ge=1)
    start: float = option(0.1, "What d starts with.", gt=0)
    dropout: float = option(0.0, "Dropout on the input of each addition.", ge=0, lt=1)
    projection_seed: int = option(0, "Of A and B, which are saved too.", ge=0)
    targets: Targets = TARGETS
    train_also: list[str] = TRAIN_ALSO
    continue_from: str | None = CONTINUE_FROM


def apply(model: Any, config: VeraConfig) -> Any:
    """The model with VeRA beside its layers."""
    from peft import VeraConfig as PeftVera

    def make(common: dict[str, Any]) -> Any:
        return PeftVera(
            r=config.rank, d_initial=config.start, vera_dropout=config.dropout,
            fan_in_fan_out=has_turned_weights(model), projection_prng_key=config.projection_seed, save_projection=True,
            **common,
        )  # fmt: skip

    same = {"rank": "r", "projection_seed": "projection_prng_key"}
    changed = add(model, config, "VeRA", make, same, "vera_dropout")
    for name, matrix in changed.named_buffers():
        if ".vera_A." in name or ".vera_B." in name:
            matrix.data = matrix.data.to(model.dtype)
    return changed


VERA = Method(
    VeraConfig,
    apply,
    learning_rate=4e-3,
    label="VeRA",
    source="Kopiczko et al., 2024, arXiv 2310.11454",
    can=frozenset({"base_untouched", "merge", "continue", "quantize"}),
)
