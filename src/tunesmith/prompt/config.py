"""The recipe's `model` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tunesmith.core.config import Section, option


class DropoutConfig(Section):
    """Dropout rates by what they are of."""

    attention: float | None = option(None, "Of the attention's weights; the model's own if absent.", ge=0, lt=1)
    hidden: float | None = option(None, "Of everything else; the model's own if absent.", ge=0, lt=1)

    @model_validator(mode="after")
    def _one_is_named(self) -> DropoutConfig:
        if self.attention is None and self.hidden is None:
            raise ValueError("give attention, hidden or both")
        return self


class ModelConfig(Section):
    """Which base model, and how it reads a chat."""

    base: str = option(
        "ember",
        "`ember` (embedded, needs no download), a local folder, a GGUF file here or on the hub "
        "(`owner/repository/file.gguf`), `smollm2-135m`, or a Hugging Face id such as `HuggingFaceTB/SmolLM2-135M`.",
    )
    revision: str | None = option(
        None, "Branch, tag or commit of what comes from the hub; the default branch if absent."
    )
    template: str | None = option(
        None,
        "Name of a chat template from tunesmith's library, for a base model that has none of its own.",
    )
    add_tokens: list[str] = option(
        [],
        "Texts that become tokens of their own: rows of the embedding (and of the output layer), begun at the mean of "
        "their pieces and trained with every method.",
        "For words of your field that fall into many pieces.",
    )
    quantize: Literal["none", "nf4", "int8"] = option(
        "none",
        "Keep the base's linear layers in 4 bits (nf4) or 8 (int8) while something is trained beside them (QLoRA). It "
        "needs bitsandbytes; what is exported goes with the base as it was.",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] | DropoutConfig | None = option(
        None,
        "Sets every dropout rate that the architecture has, or {attention: 0.1, hidden: 0.05} each kind; absent keeps "
        "the model's own. Dropout of what a method adds is method.dropout.",
        "0 to 0.1.",
    )
