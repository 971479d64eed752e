"""Write what a run made as other tools read it, and load it back.

An adapter is written in peft's layout without a `config.json` beside it, which would break
`transformers.pipeline`; a full or merged model in the Hugging Face layout. `tunesmith.json` says
where it came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel

from tunesmith.core.errors import MissingError, ModelError
from tunesmith.core.files import publish_folder, read_json, write_json
from tunesmith.model.load import load_model
from tunesmith.prompt.base import resolve
from tunesmith.prompt.contract import Contract, load_contract

CARD = "tunesmith.json"


def publish(model: Any, contract: Contract, folder: Path, card: dict[str, Any], merge: bool) -> None:
    """Write `model` to `folder`, whole or not at all.

    Args:
        model: a trained model, with or without an adapter.
        contract: how it was trained to be prompted.
        folder: replaced if it exists.
        card: what `tunesmith.json` says.
        merge: fold the adapter into the base and write a full model.
    """
    if merge and isinstance(model, PeftModel):
        model = model.merge_and_unload()
    with publish_folder(folder) as temporary:
        _generation_config(contract).save_pretrained(temporary)
        if isinstance(model, PreTrainedModel):
            model.generation_config = _generation_config(contract)
        model.save_pretrained(temporary, safe_serialization=True)
        contract.save(temporary)
        (temporary / "README.md").unlink(missing_ok=True)  # peft's empty model card
        write_json(temporary / CARD, card)


def _generation_config(contract: Contract) -> GenerationConfig:
    """Greedy decoding that stops at the contract's stop ids."""
    pad = contract.tokenizer.pad_token_id
    return GenerationConfig(
        eos_token_id=list(contract.stop_ids), pad_token_id=contract.stop_ids[0] if pad is None else pad, do_sample=False
    )


@dataclass(frozen=True)
class Published:
    """A model that can be named on the command line, found on disk.

    Attributes:
        name: as it was given.
        folder: what holds tokenizer and weights.
        base: folder of the base model under an adapter; None for a full model.
        card: contents of `tunesmith.json`, empty for a base model.
    """

    name: str
    folder: Path
    base: Path | None
    card: dict[str, Any]

    def contract(self) -> Contract:
        """How this model is prompted."""
        recorded = self.card.get("contract")
        if recorded is None:
            return load_contract(self.folder)
        contract = load_contract(self.folder, train_on=recorded["train_on"])
        if contract.id != recorded["id"]:
            raise ModelError(
                f"{self.folder}: its tokenizer or chat template is not the one it was trained with "
                "(the prompt contract differs). Restore the files that training wrote."
            )
        return contract

    def load(self, dtype: torch.dtype) -> Any:
        """The model with its adapter, on the CPU, in evaluation mode."""
        if self.base is None:
            return load_model(self.folder, dtype)
        model = PeftModel.from_pretrained(load_model(self.base, dtype), str(self.folder), is_trainable=False)
        return model.eval()


def find_published(name: str) -> Published:
    """The model called `name`: a run folder, a published folder, or a base model.

    Raises:
        MissingError: there is nothing of that name, or the run has not published a model.
    """
    folder = Path(name).expanduser()
    if (folder / "config.yaml").exists() and not (folder / "config.json").exists():
        if not (folder / "model").exists():
            raise MissingError(f"{folder}: this run has no model yet. `tunesmith show {folder}` says how it stands.")
        folder = folder / "model"
    card = read_json(folder / CARD) if (folder / CARD).exists() else {}
    if (folder / "adapter_config.json").exists():
        base = resolve(read_json(folder / "adapter_config.json")["base_model_name_or_path"])
        return Published(name, folder, base.folder, card)
    if card:
        return Published(name, folder, None, card)
    return Published(name, resolve(name).folder, None, {})
