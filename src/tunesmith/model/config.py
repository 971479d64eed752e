"""The recipe's `method` section: how the base model is changed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tunesmith.core.config import Section, option


class FullConfig(Section):
    """Train every weight of the base model."""

    type: Literal["full"] = "full"


class LoraConfig(Section):
    """Train low-rank additions to the linear layers and leave the base model frozen (Hu et al., 2021)."""

    type: Literal["lora"] = "lora"
    rank: int = option(16, "Rank r of each addition.", "Usually 8 to 64.", ge=1)
    alpha: float = option(32.0, "Scale: the addition is multiplied by alpha / rank.", "Usually twice the rank.", gt=0)
    dropout: float = option(0.0, "Dropout on the input of each addition.", ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = option(
        "all-linear", "Names of the layers to change, such as [q_proj, v_proj]; `all-linear` takes every linear layer."
    )
    start: str | None = option(
        None, "A run or published adapter of the same base, whose weights this one starts from; fresh ones if absent."
    )


MethodConfig = Annotated[FullConfig | LoraConfig, Field(discriminator="type")]
