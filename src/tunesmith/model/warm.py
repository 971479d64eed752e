"""Warm start: training goes on from an adapter that was trained before, on the same base model."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from peft import LoraConfig as PeftLora
from peft import PeftModel

from tunesmith.core.errors import ModelError
from tunesmith.core.files import read_object, sha256_of
from tunesmith.model.config import FullConfig, LoraConfig
from tunesmith.model.layout import ADAPTER, WEIGHTS, adapter_folder


def starting_adapter(config: FullConfig | LoraConfig) -> str | None:
    """The hash of the adapter that training starts from; None for a fresh one."""
    if isinstance(config, FullConfig) or config.start is None:
        return None
    folder = adapter_folder(config.start)
    digest = hashlib.sha256()
    for name in (WEIGHTS, ADAPTER):
        digest.update(sha256_of(folder / name).encode())
    return digest.hexdigest()


def start_from_adapter(model: torch.nn.Module, config: LoraConfig) -> Any:
    """The model with the adapter `config.start`, ready to be trained further.

    Raises:
        ModelError: the adapter is of another kind, rank or base, or its weights are not finite.
    """
    assert config.start is not None
    folder = adapter_folder(config.start)
    found = read_object(folder / ADAPTER)
    if found.get("peft_type") != "LORA":
        raise ModelError(f"{folder}: it is a {found.get('peft_type')} adapter. Only LoRA adapters can be started from.")
    for name, wanted, there in (("rank", config.rank, found["r"]), ("alpha", config.alpha, found["lora_alpha"])):
        if there != wanted:
            raise ModelError(
                f"method.{name} = {wanted:g}, and the adapter in {folder} has {there:g}. Set method.{name}={there:g}."
            )
    peft_config: Any = PeftLora.from_pretrained(str(folder))
    peft_config.inference_mode, peft_config.lora_dropout = False, config.dropout
    try:
        changed = PeftModel.from_pretrained(model, str(folder), is_trainable=True, config=peft_config)  # pyright: ignore
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{folder}: this adapter does not fit the base model ({reason}).") from None
    for name, weight in changed.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise ModelError(f"{folder}: the adapter's weights are not finite ({name}). Take an earlier one.")
    return changed
