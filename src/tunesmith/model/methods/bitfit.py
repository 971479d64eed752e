"""BitFit: the base's biases alone (Ben Zaken et al., 2022, arXiv 2106.10199)."""

from __future__ import annotations

from typing import Any, Literal

from tunesmith.core.config import Section
from tunesmith.core.errors import ModelError
from tunesmith.model.methods.method import Method


class BitfitConfig(Section):
    """Train the biases of the base model, of models that have some (Ben Zaken et al., 2022)."""

    type: Literal["bitfit"] = "bitfit"


def apply(model: Any, config: BitfitConfig) -> Any:
    """The model with everything but its biases frozen.

    Raises:
        ModelError: it has none.
    """
    model.requires_grad_(False)
    biases = [weight for name, weight in model.named_parameters() if name.endswith("bias")]
    if not biases:
        raise ModelError(
            f"method.type = bitfit: a model of the kind {model.config.model_type} has no biases (GPT-2, GPT-NeoX, OPT, "
            "Bloom, Phi and Qwen2 have). Take layernorm, ia3 or lora."
        )
    for bias in biases:
        bias.requires_grad_(True)
    return model


BITFIT = Method(
    BitfitConfig,
    apply,
    learning_rate=1e-3,
    label="BitFit",
    source="Ben Zaken et al., 2022, arXiv 2106.10199",
    unfit="models without biases: Llama, Mistral, Gemma, Phi-3",
)
