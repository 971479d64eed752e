"""Load a causal language model: from safetensors, with no remote code, in a given precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tunesmith.core.errors import ModelError

DROPOUTS = ("attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout", "dropout")


def load_model(folder: Path, dtype: torch.dtype, dropout: float | None = None) -> PreTrainedModel:
    """The causal language model in `folder`, on the CPU, in evaluation mode.

    Args:
        folder: config.json and *.safetensors.
        dtype: of every weight.
        dropout: sets each dropout rate that the architecture has.

    Raises:
        ModelError: unknown architecture, code of its own, or weights that do not fit.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    changes = dropout_rates(folder, dropout) if dropout is not None else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, **changes
        )
    except (ValueError, KeyError, OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: cannot be loaded as a causal language model ({_first_line(error)}).") from error
    return model.eval()


def dropout_rates(folder: Path, rate: float) -> dict[str, float]:
    """The dropout settings that the model's config has, all at `rate`.

    Raises:
        ModelError: the architecture has none.
    """
    config: Any = AutoConfig.from_pretrained(folder)
    rates = {name: rate for name in DROPOUTS if hasattr(config, name)}
    if not rates:
        raise ModelError(f"model.dropout: {type(config).__name__} has no dropout. Leave it out; method.dropout works.")
    return rates


def context_length(folder: Path) -> int | None:
    """The longest sequence that the model was made for, in tokens, if its config says."""
    config: Any = AutoConfig.from_pretrained(folder).get_text_config()
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
