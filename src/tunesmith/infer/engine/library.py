"""What decoding asks of transformers, in the words of the version that is installed."""

from __future__ import annotations

import inspect
from typing import Any

OLD, NEW = "past_key_values", "cache"  # transformers 5.24 renamed it


def cache_argument(model: Any) -> str:
    """The name by which a model's forward pass takes keys and values, and its output gives them back.

    Args:
        model: a causal language model, with or without adapters around it.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return NEW if NEW in inspect.signature(type(inner).forward).parameters else OLD
