"""Training goes on from an adapter that was trained before, on the same base model."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from peft import LoraConfig as PeftLora
from peft import PeftModel

from tunesmith.core.errors import ModelError
from tunesmith.core.files import read_object, sha256_of
from tunesmith.model.layout import ADAPTER, WEIGHTS, adapter_folder


def starting_adapter(name: str | None) -> str | None:
    """The hash of the adapter that training continues from; None for a fresh one."""
    if name is None:
        return None
    folder = adapter_folder(name)
    digest = hashlib.sha256()
    for name in (WEIGHTS, ADAPTER):
        digest.update(sha256_of(folder / name).encode())
    return digest.hexdigest()


def start_from_adapter(model: torch.nn.Module, name: str, rank: int, alpha: float, dropout: float) -> Any:
    """The model with the adapter called `name`, ready to be trained further.

    Raises:
        ModelError: the adapter is of another kind, rank or base, or its weights are not finite.
    """
    folder = adapter_folder(name)
    found = read_object(folder / ADAPTER)
    if found.get("peft_type") != "LORA":
        raise ModelError(f"{folder}: it is a {found.get('peft_type')} adapter. Only LoRA adapters can be started from.")
    for what, wanted, there in (("rank", rank, found["r"]), ("alpha", alpha, found["lora_alpha"])):
        if there != wanted:
            raise ModelError(
                f"method.{what} = {wanted:g}, and the adapter in {folder} has {there:g}. Set method.{what}={there:g}."
            )
    peft_config: Any = PeftLora.from_pretrained(str(folder))
    peft_config.inference_mode, peft_config.lora_dropout = False, dropout
    try:
        changed = PeftModel.from_pretrained(model, str(folder), is_trainable=True, config=peft_config)  # pyright: ignore
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{folder}: this adapter does not fit the base model ({reason}).") from None
    for weight_name, weight in changed.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise ModelError(f"{folder}: the adapter's weights are not finite ({weight_name}). Take an earlier one.")
    return changed
