"""Load a causal language model: from safetensors, with no remote code, in a given precision."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from tunesmith.core.errors import ModelError
from tunesmith.model.device import choose_device

# peft 0.21 asks transformers 5.23 for a property by its old name.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

DROPOUTS = ("attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout", "dropout")


def answering(device: str = "auto") -> tuple[torch.dtype, str]:
    """Precision and device for a model that answers: fp32 on the CPU, bf16 on a GPU.

    Args:
        device: `auto`, `cpu` or `cuda`.

    Raises:
        ConfigError: the wanted one is not there.
    """
    chosen, _ = choose_device(device)
    return (torch.bfloat16 if chosen == "cuda" else torch.float32), chosen


def load_model(folder: Path, dtype: torch.dtype, device: str = "cpu", dropout: float | None = None) -> Any:
    """The causal language model in `folder`, in evaluation mode.

    Args:
        folder: config.json and *.safetensors.
        dtype: of every weight.
        device: where it goes.
        dropout: sets each dropout rate that the architecture has.

    Raises:
        ModelError: unknown architecture, code of its own, or weights that do not fit.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    changes = dropout_rates(folder, dropout) if dropout is not None else {}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **changes
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # any broken file of the user's ends here
        raise ModelError(f"{folder}: cannot be loaded as a causal language model ({_first_line(error)}).") from error
    model, info = loaded
    if absent := sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]):
        raise ModelError(f"{folder}: weights are missing or of another shape ({absent[0]}, {len(absent)} in all).")
    return model.to(device).eval()


def read_config(folder: Path) -> Any:
    """The model's configuration; code that a folder brings along is never run.

    Raises:
        ModelError: it is not one that transformers knows.
    """
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # any broken file of the user's ends here
        raise ModelError(f"{folder}: its config.json cannot be used ({_first_line(error)}).") from error


def dropout_rates(folder: Path, rate: float) -> dict[str, float]:
    """The dropout settings that the model's config has, all at `rate`.

    Raises:
        ModelError: the architecture has none.
    """
    config = read_config(folder)
    rates = {name: rate for name in DROPOUTS if hasattr(config, name)}
    if not rates:
        raise ModelError(f"model.dropout: {type(config).__name__} has no dropout. Leave it out; method.dropout works.")
    return rates


def _first_line(error: Exception) -> str:
    """The reason in one line: the first, and the next where that only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])[:300]
