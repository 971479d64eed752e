"""Soft tokens: vectors that stand before every prompt as if they were words, and are trained instead of weights.

A model that has some reads ids at and above its vocabulary as these. So a row with soft tokens is a longer row, and
packing, masks, compiled layers and the running batch know nothing of them. They are saved in peft's layout of prompt
tuning, which plain peft reads.

Axes: P soft tokens, C width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PromptTuningConfig, TaskType
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tunesmith.core.errors import ModelError
from tunesmith.model.layout import WEIGHTS

KINDS = ("PROMPT_TUNING", "P_TUNING")  # whose files hold the vectors themselves
SAVED = "prompt_embeddings"


class Prompt(torch.nn.Module):
    """Vectors (P, C), or the states of a prefix, that are trained as they are."""

    def __init__(self, vectors_PC: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(vectors_PC)

    def forward(self) -> torch.Tensor:
        """The vectors."""
        return self.weight


class Places(torch.nn.Module):
    """Soft tokens that say nothing, and hold the places of what attention finds there: zeros (P, 1)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.zeros: torch.Tensor
        self.register_buffer("zeros", torch.zeros(count, 1), persistent=False)

    def forward(self) -> torch.Tensor:
        """The zeros, which are as wide as whatever they stand beside."""
        return self.zeros


class SoftTokens(torch.nn.Module):
    """An embedding with soft tokens behind its words.

    Attributes:
        embedding: the model's own.
        prompt: gives the vectors (P, C).
        count: P.
    """

    def __init__(self, embedding: torch.nn.Module, prompt: torch.nn.Module, count: int) -> None:
        super().__init__()
        self.embedding, self.prompt, self.count = embedding, prompt, count

    @property
    def weight(self) -> torch.Tensor:
        """Of the words, whose number and width others ask for."""
        weight = self.embedding.weight
        assert isinstance(weight, torch.Tensor)
        return weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors of words and of soft tokens."""
        words = len(self.weight)
        hard = self.embedding(ids.clamp(max=words - 1))
        soft = self.prompt()[(ids - words).clamp(min=0)]
        return torch.where((ids >= words)[..., None], soft.to(hard.dtype), hard)


def give_soft_tokens(model: Any, prompt: torch.nn.Module, count: int) -> Any:
    """The model, frozen, with soft tokens."""
    model.requires_grad_(False)
    model.set_input_embeddings(SoftTokens(model.get_input_embeddings(), prompt, count))
    return model


def soft_tokens(model: Any) -> list[int]:
    """The ids that stand before every prompt of a model; none where it has no soft tokens."""
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, SoftTokens):
        return []
    words = len(embedding.weight)
    return list(range(words, words + embedding.count))


def save_soft_tokens(model: Any, folder: Path, base: str, revision: str | None) -> None:
    """Write them as peft does."""
    embedding, config = model.get_input_embeddings(), model.config.get_text_config()
    vectors_PC = embedding.prompt().detach().cpu().contiguous()
    PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM, num_virtual_tokens=len(vectors_PC), token_dim=vectors_PC.shape[1],
        num_transformer_submodules=1, num_attention_heads=config.num_attention_heads,
        num_layers=config.num_hidden_layers, base_model_name_or_path=base, revision=revision, inference_mode=True,
    ).save_pretrained(str(folder))  # fmt: skip
    save_file({SAVED: vectors_PC}, folder / WEIGHTS)


def read_vectors(folder: Path, width: int) -> torch.Tensor:
    """The vectors (P, C) that lie in a folder: soft tokens, or a prefix.

    Raises:
        ModelError: there are none, they are of another width, or not finite.
    """
    try:
        vectors_PC = load_file(folder / WEIGHTS).get(SAVED)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder}: its soft tokens are damaged ({error}). Restore what training wrote.") from None
    if vectors_PC is None or vectors_PC.ndim != 2 or vectors_PC.shape[1] != width:
        found = "none" if vectors_PC is None else f"of the shape {tuple(vectors_PC.shape)}"
        raise ModelError(f"{folder}: its soft tokens are {found}, and the base takes vectors of {width} numbers.")
    if not vectors_PC.isfinite().all():
        raise ModelError(f"{folder}: its soft tokens are not finite. Take an earlier one.")
    return vectors_PC


def with_soft_tokens(model: Any, folder: Path) -> Any:
    """The model with the soft tokens that lie in a folder."""
    embedding = model.get_input_embeddings().weight
    vectors_PC = read_vectors(folder, embedding.shape[1]).to(embedding)
    return give_soft_tokens(model, Prompt(vectors_PC), len(vectors_PC))


def has_prompt(model: Any) -> bool:
    """Whether a model has soft tokens that are vectors, and no mere places."""
    return bool(soft_tokens(model)) and not isinstance(model.get_input_embeddings().prompt, Places)
