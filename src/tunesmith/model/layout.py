"""What lies in the folder of an exported model, by name, and where an adapter is found. No torch is imported here."""

from __future__ import annotations

from pathlib import Path

from tunesmith.core.errors import MissingError
from tunesmith.core.files import expanded

CARD = "tunesmith.json"  # where the model came from
ADAPTER = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
NEW_TOKENS = (
    "new_tokens.safetensors"  # rows of tokens that the base does not have; beside an adapter, where it has some
)


def adapter_folder(name: str) -> Path:
    """Where the adapter called `name` lies: an exported adapter's folder, or the one inside a run's.

    Raises:
        MissingError: there is none.
    """
    folder = expanded(name)
    for place in (folder, folder / "adapter", folder / "model"):
        if (place / ADAPTER).exists() and (place / WEIGHTS).exists():
            return place
    raise MissingError(
        f"method.continue_from = {name!r}: no adapter there. Name a run that trained one, or its folder."
    )
