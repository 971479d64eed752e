"""OFT: y = W R x with R orthogonal and block-diagonal, by Cayley's transform (Qiu et al., 2023, arXiv 2306.07280)."""

from __future__ import annotations

from typing import Any, Literal

from tunesmith.core.config import Section, option
from tunesmith.core.errors import ModelError
from tunesmith.model.methods.added import (
    CONTINUE_FROM,
    TARGETS,
    TRAIN_ALSO,
    Targets,
    add,
    has_turned_weights,
    is_target,
)
from tunesmith.model.methods.method import Method


class OftConfig(Section):
    """Train a rotation of each linear layer's input, block by block (Qiu et al., 2023)."""

    type: Literal["oft"] = "oft"
    block: int = option(32, "Size of a block; it must divide the width of the layers' inputs.", ge=2)
    shared: bool = option(False, "Let all blocks of a layer be the same rotation.")
    dropout: float = option(0.0, "Share of blocks that are left as they are, at random.", ge=0, lt=1)
    targets: Targets = TARGETS
    train_also: list[str] = TRAIN_ALSO
    continue_from: str | None = CONTINUE_FROM


def apply(model: Any, config: OftConfig) -> Any:
    """The model with OFT beside its layers."""
    from peft import OFTConfig

    refuse_block(config, model)

    def make(common: dict[str, Any]) -> Any:
        return OFTConfig(
            oft_block_size=config.block, block_share=config.shared, module_dropout=config.dropout,
            fan_in_fan_out=has_turned_weights(model), **common,
        )  # fmt: skip

    return add(model, config, "OFT", make, {"block": "oft_block_size", "shared": "block_share"}, "module_dropout")


def refuse_block(config: OftConfig, model: Any) -> None:
    """Refuse a block that does not divide what a layer reads: peft would take another in silence.

    Raises:
        ModelError: with sizes that do.
    """
    from tunesmith.model.layers import linear_layers, size_of

    for name, layer in linear_layers(model).items():
        width = size_of(layer)[1]
        if is_target(name, config.targets) and width % config.block:
            fit = [str(size) for size in range(2, 257) if width % size == 0]
            raise ModelError(
                f"method.block = {config.block}: the layer {name} reads {width} numbers, which {config.block} does not "
                f"divide. Take {', '.join(fit)}."
            )


OFT = Method(
    OftConfig,
    apply,
    learning_rate=1e-3,
    label="OFT",
    source="Qiu et al., 2023, arXiv 2306.07280",
    can=frozenset({"base_untouched", "merge", "continue", "quantize"}),
    unfit="GPT-2, whose layers store W transposed",
)
