"""Models that fill in hidden words: which there are, and their logits at some positions alone.

The library's own head runs on the states of the positions that are asked about. All others, six of seven in training,
get no logits.

Axes: B sequences, T tokens, N asked positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_MASKED_LM_MAPPING

from tunesmith.core.errors import ModelError
from tunesmith.model.heads import body_gives, fitted, unpadded
from tunesmith.model.layers import inside

SAID_OF_FRESH = (
    "this base comes without the head that fills in words: a new one begins with random weights. Its loss begins where "
    "guessing does, and what the base scores beside the tuned model says nothing of what the base knows."
)


def is_masked(config: Any) -> bool:
    """Whether a model of this configuration fills in hidden words: it reads both sides of each."""
    decodes = getattr(config, "is_decoder", False) or getattr(config, "causal", False)
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.is_encoder_decoder and not decodes


def refuse_no_masked(folder: Path, config: Any) -> None:
    """Refuse a model that fills in no words.

    Raises:
        ModelError: it says what the model is.
    """
    if not is_masked(config):
        what = ", ".join(config.architectures or [type(config).__name__])
        raise ModelError(
            f"{folder}: cannot be loaded as a model that fills in words: {what} is none. Take an encoder such as BERT, "
            "RoBERTa, DistilBERT or ModernBERT."
        )


def masked_logits(model: Any, inputs: Mapping[str, Any], picked_N: torch.Tensor) -> torch.Tensor:
    """The logits at some positions, (N, V): the library's own, whether rows are packed or padded.

    Args:
        model: loaded for the task `masked`, with whatever a method has put around it.
        inputs: of its forward pass.
        picked_N: where the positions stand among all, flattened.
    """
    own = inside(model)
    found = own.base_model(**fitted(own, inputs))
    state_1ND = found.last_hidden_state.flatten(0, 1)[picked_N][None]
    with body_gives(own, found, state_1ND):
        ids_1N = torch.full((1, len(picked_N)), unpadded(own.config), device=state_1ND.device)
        return own(input_ids=ids_1N).logits[0]
