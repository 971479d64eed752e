"""The methods that a recipe can name. A new one is a file of its own, and its two names here. No torch is imported."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tunesmith.core.names import look_up
from tunesmith.model.methods.full import FULL, FullConfig
from tunesmith.model.methods.lora import LORA, LoraConfig
from tunesmith.model.methods.method import Method

METHODS: dict[str, Method] = {"full": FULL, "lora": LORA}
MethodConfig = Annotated[FullConfig | LoraConfig, Field(discriminator="type")]


def method_for(config: FullConfig | LoraConfig) -> Method:
    """The table's entry for a `method` section."""
    return look_up(METHODS, config.type, "method")
