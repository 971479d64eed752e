"""A prefix: keys and values that every attention layer reads before a prompt's own, and that are trained.

A model that has one reads soft tokens first (`soft.py`), which hold the places; what its attention finds there is the
prefix instead of what would be computed. So packing, positions, compiled layers and the running batch are those of rows
that are a little longer. Nobody reads what comes out at these places. Files are in peft's layout.

Axes: L layers, B rows, T tokens, K key-value heads, P tokens of the prefix, D width of a head, E width of the network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PrefixTuningConfig, TaskType
from safetensors.torch import save_file
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from tunesmith.core.errors import ModelError
from tunesmith.model.layers import inside
from tunesmith.model.layout import WEIGHTS
from tunesmith.model.soft import SAVED, Places, Prompt, give_soft_tokens, read_vectors, soft_tokens

KIND = "PREFIX_TUNING"
PREFIXED, NOTED = "tunesmith_prefixed", "tunesmith_noted"
OWN = "soft_prefix"  # the attribute of an attention layer

# What attention does with it


class Trunk(torch.nn.Module):
    """What the networks of all layers have in common: from no input, (P, E)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(tokens, width)
        self.inner = torch.nn.Linear(width, width)

    def forward(self) -> torch.Tensor:
        """What each layer's own part reads."""
        return self.inner(self.embedding.weight).tanh()


class MadePrefix(torch.nn.Module):
    """Keys and values of one layer that a network makes: what they were at first, and what it adds."""

    def __init__(self, first_2KPD: torch.Tensor, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = torch.nn.Linear(trunk.inner.out_features, first_2KPD[:, :, 0].numel())
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self.first: torch.Tensor
        self.register_buffer("first", first_2KPD, persistent=False)

    def forward(self) -> torch.Tensor:
        """The states (2, K, P, D)."""
        states_P2KD = self.head(self.trunk()).unflatten(-1, (2, self.first.shape[1], self.first.shape[3]))
        return self.first.to(states_P2KD.dtype) + states_P2KD.permute(1, 2, 0, 3)


def prefix_of(attention: torch.nn.Module) -> torch.Tensor | None:
    """The states of an attention layer; None where it has none."""
    own = getattr(attention, OWN, None)
    return None if own is None else own()


def replaced(states_2KPD: torch.Tensor, key: torch.Tensor, value: torch.Tensor, place: torch.Tensor) -> Any:
    """Keys and values with the prefix at its places.

    Args:
        states_2KPD: the prefix.
        key: (B, K, T, D).
        value: the same.
        place: of each token in its row, (T,) or (B, T); negative where it is in none.
    """
    count = states_2KPD.shape[2]
    soft = ((place >= 0) & (place < count)).view(-1, 1, place.shape[-1], 1)
    new = states_2KPD[:, :, place.clamp(0, count - 1)].to(key.dtype)
    new_key, new_value = new if place.ndim == 1 else new.transpose(1, 2)
    return torch.where(soft, new_key, key), torch.where(soft, new_value, value)


def row_of_tokens(offsets: torch.Tensor, tokens: int) -> torch.Tensor:
    """Of each token of a packed sequence, the number of its row: (T,)."""
    place_T = torch.arange(tokens, device=offsets.device)
    return torch.searchsorted(offsets, place_T, right=True) - 1


def place_in_rows(offsets: torch.Tensor, row_T: torch.Tensor) -> torch.Tensor:
    """Of each token of a packed sequence, its place in its row: (T,)."""
    return torch.arange(len(row_T), device=offsets.device) - offsets[row_T]


def prefixed_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, **other: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Torch's attention of rows beside each other, padded on either side."""
    states_2KPD = prefix_of(module)
    if states_2KPD is not None:
        place = torch.arange(key.shape[2], device=key.device)
        if attention_mask is not None:  # a row begins at the first token that its last one sees
            last_BS = attention_mask[:, 0, -1, : key.shape[2]]
            seen_BS = last_BS if last_BS.dtype == torch.bool else last_BS == 0
            place = place - seen_BS.int().argmax(-1, keepdim=True)
        key, value = replaced(states_2KPD, key, value, place)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **other)


AttentionInterface.register(PREFIXED, prefixed_attention)
AttentionMaskInterface.register(PREFIXED, sdpa_mask)


# Putting it there


@dataclass(frozen=True)
class Read:
    """What an attention layer computed of some tokens: states (2, K, T, D)."""

    attention: torch.nn.Module
    states: torch.Tensor


def read_states(model: Any, ids: Sequence[int]) -> list[Read]:
    """Keys and values of these tokens in each attention layer, in order.

    Raises:
        ModelError: the model's attention cannot be given any.
    """
    found: list[Read] = []
    with _noting(found), torch.no_grad():
        training, before = model.training, model.config._attn_implementation
        model.eval()
        try:
            model.set_attn_implementation(NOTED)
            model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
        except torch.OutOfMemoryError:
            raise
        except (ValueError, NotImplementedError, TypeError, KeyError, RuntimeError) as error:
            raise ModelError(_cannot(model, str(error).splitlines()[0][:200])) from None
        finally:
            model.set_attn_implementation(before)
            model.train(training)
    layers = inside(model).config.get_text_config().num_hidden_layers
    if len({id(read.attention) for read in found}) != layers or len(found) != layers:
        raise ModelError(_cannot(model, f"{len(found)} of {layers} layers have attention that others can reach into"))
    if _forgets(inside(model).config.get_text_config()):
        raise ModelError(_cannot(model, "some of its layers see the last tokens alone, and would lose it"))
    return found


@contextlib.contextmanager
def _noting(found: list[Read]) -> Generator[None]:
    """Attention that notes what it reads while the block lasts."""

    def noted(
        module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        mask: torch.Tensor | None, **other: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        found.append(Read(module, torch.stack([key[0], value[0]]).detach()))
        return sdpa_attention_forward(module, query, key, value, mask, **other)

    AttentionInterface.register(NOTED, noted)
    AttentionMaskInterface.register(NOTED, sdpa_mask)
    try:
        yield
    finally:
        AttentionInterface.register(NOTED, sdpa_attention_forward)  # or what was noted would stay in memory


def _cannot(model: Any, reason: str) -> str:
    kind = inside(model).config.model_type
    return f"method.type = prefix_tuning: a {kind} model cannot be given a prefix ({reason}). Take prompt_tuning."


def _forgets(config: Any) -> bool:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    return bool(slides and window and window < config.max_position_embeddings)


def give_prefix(model: Any, first: Sequence[torch.Tensor], reads: Sequence[Read], network: int | None = None) -> Any:
    """The model, frozen, with a prefix.

    Args:
        model: without one.
        first: what it is at first: of each layer (2, K, P, D).
        reads: of `read_states`.
        network: width of the network that makes it; none if None.
    """
    count = first[0].shape[2]
    give_soft_tokens(model, Places(count), count)
    trunk = None if network is None else Trunk(count, network)
    for read, states in zip(reads, first, strict=True):
        start = states.float()
        own = Prompt(start) if trunk is None else MadePrefix(start, trunk)
        setattr(read.attention, OWN, own.to(model.device))
    model.set_attn_implementation(PREFIXED)
    return model


def prefixes(model: Any) -> dict[str, torch.Tensor]:
    """The states (2, K, P, D) of each attention layer, by the layer's name."""
    parts = {name: prefix_of(part) for name, part in model.named_modules()}
    return {name: states.detach() for name, states in parts.items() if states is not None}


def has_prefix(model: Any) -> bool:
    """Whether a model has one."""
    return bool(soft_tokens(model)) and isinstance(model.get_input_embeddings().prompt, Places)


# Files


def save_prefix(model: Any, folder: Path, base: str, revision: str | None) -> None:
    """Write it as peft does."""
    states_L2KPD = torch.stack(list(prefixes(model).values())).float().cpu()
    layers, _, heads, count, width = states_L2KPD.shape
    PrefixTuningConfig(
        task_type=TaskType.CAUSAL_LM, num_virtual_tokens=count, token_dim=heads * width, num_attention_heads=heads,
        num_transformer_submodules=1, num_layers=layers, encoder_hidden_size=heads * width,
        base_model_name_or_path=base, revision=revision, inference_mode=True,
    ).save_pretrained(str(folder))  # fmt: skip
    flat = states_L2KPD.permute(3, 0, 1, 2, 4).reshape(count, -1).contiguous()
    save_file({SAVED: flat}, folder / WEIGHTS)


def read_prefix(folder: Path, reads: Sequence[Read]) -> list[torch.Tensor]:
    """What lies in a folder: of each layer (2, K, P, D).

    Args:
        folder: that peft or `save_prefix` has written.
        reads: of the model that it is for.

    Raises:
        ModelError: it is damaged or of another base.
    """
    _, heads, _, width = reads[0].states.shape
    flat_PN = read_vectors(folder, len(reads) * 2 * heads * width)
    return list(flat_PN.view(-1, len(reads), 2, heads, width).permute(1, 2, 3, 0, 4).contiguous())


def with_prefix_of(model: Any, folder: Path) -> Any:
    """The model with the prefix that lies in a folder."""
    reads = read_states(model, [0, 0])
    dtype = model.get_input_embeddings().weight.dtype
    model = give_prefix(model, read_prefix(folder, reads), reads)
    for read in reads:
        getattr(read.attention, OWN).to(dtype)
    return model
