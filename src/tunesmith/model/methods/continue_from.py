"""Training goes on from an adapter that was trained before, on the same base model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftConfig

from tunesmith.core.errors import ModelError
from tunesmith.core.files import read_object, sha256_of
from tunesmith.model.adapter import put_adapter
from tunesmith.model.layout import ADAPTER, NEW_TOKENS, WEIGHTS, adapter_folder


def starting_adapter(name: str | None) -> str | None:
    """The hash of the adapter that training continues from; None for a fresh one."""
    if name is None:
        return None
    folder = adapter_folder(name)
    digest = hashlib.sha256()
    for name in (WEIGHTS, ADAPTER, NEW_TOKENS):
        if name != NEW_TOKENS or (folder / name).exists():
            digest.update(sha256_of(folder / name).encode())
    return digest.hexdigest()


def start_from_adapter(model: torch.nn.Module, name: str, wanted: Any, same: Mapping[str, str], dropout: str) -> Any:
    """The model with the adapter called `name`, ready to be trained further.

    Args:
        model: the base.
        name: of a run or a folder.
        wanted: peft's configuration of a fresh one.
        same: settings that both must have, by our names: peft's.
        dropout: peft's name of the rate that may be another; none if empty.

    Raises:
        ModelError: the adapter is of another kind, other settings or another base, or its weights are not finite.
    """
    folder = adapter_folder(name)
    found = read_object(folder / ADAPTER)
    kind = wanted.peft_type.value
    if found.get("peft_type") != kind:
        raise ModelError(
            f"{folder}: it is a {found.get('peft_type')} adapter. Only {kind} adapters can be started from here."
        )
    for ours, theirs in same.items():
        asked, there = getattr(wanted, theirs), found.get(theirs)
        if there != asked:
            told = f"{asked:g}, and the adapter in {folder} has {there:g}" if _are_numbers(asked, there) else (
                f"{asked}, and the adapter in {folder} has {there}")  # fmt: skip
            raise ModelError(f"method.{ours} = {told}. Set method.{ours}={there}.")
    peft_config: Any = PeftConfig.from_pretrained(str(folder))
    peft_config.inference_mode = False
    if dropout:
        setattr(peft_config, dropout, getattr(wanted, dropout))
    changed = put_adapter(model, folder, is_trainable=True, config=peft_config)
    for weight_name, weight in changed.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise ModelError(f"{folder}: the adapter's weights are not finite ({weight_name}). Take an earlier one.")
    return changed


def _are_numbers(*values: Any) -> bool:
    return all(type(value) in (int, float) for value in values)
