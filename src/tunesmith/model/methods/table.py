"""The methods that a recipe can name. A new one is a file of its own, and its two names here. No torch is imported."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tunesmith.core.config import Section
from tunesmith.core.names import look_up
from tunesmith.model.methods.adalora import ADALORA, AdaloraConfig
from tunesmith.model.methods.adapter import ADAPTER, AdapterConfig
from tunesmith.model.methods.bitfit import BITFIT, BitfitConfig
from tunesmith.model.methods.freeze import FREEZE, FreezeConfig
from tunesmith.model.methods.full import FULL, FullConfig
from tunesmith.model.methods.ia3 import IA3, Ia3Config
from tunesmith.model.methods.layernorm import LAYERNORM, LayernormConfig
from tunesmith.model.methods.loha import LOHA, LohaConfig
from tunesmith.model.methods.lokr import LOKR, LokrConfig
from tunesmith.model.methods.lora import LORA, LoraConfig
from tunesmith.model.methods.method import Method
from tunesmith.model.methods.oft import OFT, OftConfig
from tunesmith.model.methods.p_tuning import P_TUNING, PTuningConfig
from tunesmith.model.methods.prefix_tuning import PREFIX_TUNING, PrefixTuningConfig
from tunesmith.model.methods.prompt_tuning import PROMPT_TUNING, PromptTuningConfig
from tunesmith.model.methods.vera import VERA, VeraConfig

METHODS: dict[str, Method] = {
    "full": FULL, "freeze": FREEZE, "bitfit": BITFIT, "layernorm": LAYERNORM,
    "lora": LORA, "adalora": ADALORA, "vera": VERA, "loha": LOHA, "lokr": LOKR, "ia3": IA3, "oft": OFT,
    "prompt_tuning": PROMPT_TUNING, "p_tuning": P_TUNING, "prefix_tuning": PREFIX_TUNING, "adapter": ADAPTER,
}  # fmt: skip
MethodConfig = Annotated[
    FullConfig | FreezeConfig | BitfitConfig | LayernormConfig
    | LoraConfig | AdaloraConfig | VeraConfig | LohaConfig | LokrConfig | Ia3Config | OftConfig
    | PromptTuningConfig | PTuningConfig | PrefixTuningConfig | AdapterConfig,
    Field(discriminator="type"),
]  # fmt: skip


def method_for(config: Section) -> Method:
    """The table's entry for a `method` section."""
    return look_up(METHODS, getattr(config, "type", ""), "method")
