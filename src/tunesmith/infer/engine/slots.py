"""A key-value cache with a slot for each running row, and the attention that reads it.

transformers' own caches grow all rows together, by copying. Here every row has a slot of preallocated tensors and its
own length, so rows of any length decode together, join and leave. The attention function is registered with
transformers' interface and serves every model that goes through it. In place of a mask it gets the relative position
of each key (position of the query less that of the key; negative: not to be seen), from which causality and sliding
windows both follow.

Axes: S slots, B rows, T new tokens, P positions, H heads, K key-value heads, R heads that share one of those, D width
of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from tunesmith.infer.engine.attention import attend_one, can_attend_one
from tunesmith.infer.engine.fused import attend, can_attend
from tunesmith.model.prefix import prefix_of

SLOTS = "tunesmith_slots"
POSITION_MULTIPLE = 8  # attention reads so many positions, or a multiple
CHANGES_NOTHING = {
    "position_ids", "is_causal", "use_cache", "cache_position", "output_attentions", "output_hidden_states",
    "position_embeddings", "return_dict",
}  # fmt: skip


class SlotCache(Cache):
    """Keys and values of all layers, allocated when a layer first writes.

    Attributes:
        keys: of each layer (S, K, P, D).
        values: the same.
        relative: what the pass under way gives as a mask; its last dimension is how far it reads.
        places: position of each row's one new token (B), in a pass that has one of each.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}
        self.slots, self.positions = 2, 4 * POSITION_MULTIPLE
        self.relative, self.places = torch.empty(0), torch.empty(0)
        self._first, self._rows, self._start, self._alone = 0, 0, 0, False

    def ensure(self, slots: int, positions: int) -> None:
        """Have at least so many; what is there stays."""
        if slots <= self.slots and positions <= self.positions:
            return
        slots, positions = self.grown(slots, positions)
        try:
            for store in (self.keys, self.values):
                for layer, old in store.items():
                    new = old.new_zeros(slots, old.shape[1], positions, old.shape[3])
                    new[: old.shape[0], :, : old.shape[2]] = old
                    store[layer] = new
        except BaseException:
            self.forget()  # no layer shall be smaller than the others
            raise
        self.slots, self.positions = slots, positions

    def grown(self, slots: int, positions: int) -> tuple[int, int]:
        """What `ensure` makes of so many: sizes double."""
        have = self.slots, self.positions
        while have[0] < slots:
            have = 2 * have[0], have[1]
        while have[1] < positions:
            have = have[0], 2 * have[1]
        return have

    def forget(self) -> None:
        """Free everything."""
        self.keys.clear()
        self.values.clear()
        self.slots, self.positions = 2, 4 * POSITION_MULTIPLE

    def aim(self, first: int, rows: int, relative: torch.Tensor, places: torch.Tensor | int) -> None:
        """Say where the next forward pass writes and how far it reads.

        Args:
            first: slot of the first row.
            rows: how many, in neighbouring slots.
            relative: position of each key (B or 1, 1, T, P).
            places: position of each row's one new token (B), or of the first of several new tokens of all rows.
        """
        self._first, self._rows, self.relative = first, rows, relative
        self._alone = isinstance(places, torch.Tensor)
        if isinstance(places, torch.Tensor):
            self.places = places
        else:
            self._start = places

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values (B, K, T, D) and return all of those rows (B, K, P, D)."""
        until, start = self.relative.shape[-1], self._start
        self._allocate(layer_idx, key_states[0], value_states[0])
        if self._alone:
            return write_one(self.keys[layer_idx], self.values[layer_idx], key_states, value_states, self.places, until)
        rows = slice(self._first, self._first + self._rows)
        keys, values = self.keys[layer_idx][rows], self.values[layer_idx][rows]
        keys[:, :, start : start + key_states.shape[2]] = key_states
        values[:, :, start : start + key_states.shape[2]] = value_states
        return keys[:, :, :until], values[:, :, :until]

    def _allocate(self, layer: int, *like: torch.Tensor) -> None:
        """Have slots in a layer, for keys and values of such shapes (K, _, D)."""
        if layer not in self.keys:
            for store, new in zip((self.keys, self.values), like, strict=True):
                store[layer] = new.new_zeros(self.slots, new.shape[0], self.positions, new.shape[2])

    def copy_of(self, slot: int, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values (K, P, D) of each layer that a slot begins with."""
        return [(self.keys[layer][slot, :, :length].clone(), self.values[layer][slot, :, :length].clone())
                for layer in range(len(self.keys))]  # fmt: skip

    def write(self, slot: int, states: Sequence[tuple[torch.Tensor, torch.Tensor]], length: int) -> None:
        """Let a slot begin with so many positions of what `copy_of` returned."""
        for layer, pair in enumerate(states):
            self._allocate(layer, *pair)
            for store, state in zip((self.keys, self.values), pair, strict=True):
                store[layer][slot, :, :length] = state[:, :length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy one row's cache to another slot."""
        for store in (self.keys, self.values):
            for tensor in store.values():
                tensor[target, :, :length] = tensor[source, :, :length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Zero: positions are always given to the model."""
        return 0

    @property
    def bytes_per_position(self) -> int:
        """Of one row, in all layers."""
        return sum(
            tensor.shape[1] * tensor.shape[3] * tensor.element_size()
            for store in (self.keys, self.values)
            for tensor in store.values()
        )


def write_one(
    keys: torch.Tensor,
    values: torch.Tensor,
    new_keys: torch.Tensor,
    new_values: torch.Tensor,
    places: torch.Tensor,
    until: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write one token for each row at its own place; return the first rows and positions of the cache."""
    rows = new_keys.shape[0]
    row_B = torch.arange(rows, device=places.device)
    keys[row_B, :, places] = new_keys[:, :, 0]
    values[row_B, :, places] = new_values[:, :, 0]
    return keys[:rows, :, :until], values[:rows, :, :until]


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of new tokens to their own slot.

    Args:
        module: the attention layer, whose prefix is put where prompts begin.
        query: (B, H, T, D).
        key: (B, K, P, D), of the slots themselves.
        value: (B, K, P, D), the same.
        attention_mask: relative position of each key: integers (B or 1, 1, T, P).
        dropout: must be 0.
        scaling: factor on the scores; 1 / sqrt(D) if None.
        sliding_window: a key that is so far back, or farther, is not seen.
        softcap: scores are squeezed into +- this by tanh.
        **other: anything a model asks for that this function does not do is an error.

    Returns:
        Output (B, T, H, D), and no attention weights.
    """
    unknown = {name for name, given in other.items() if given is not None and name not in CHANGES_NOTHING}
    if unknown or dropout or attention_mask is None or attention_mask.is_floating_point():
        raise NotImplementedError(f"slot attention cannot do {', '.join(sorted(unknown)) or 'this mask'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    batch, heads, tokens, width = query.shape
    groups = key.shape[1]
    if tokens > 1 and (prefix := prefix_of(module)) is not None:  # of a prompt; it stays in the slot
        count = min(prefix.shape[2], key.shape[2])
        key[:, :, :count], value[:, :, :count] = prefix[:, :, :count].to(key.dtype)
    if tokens == 1:  # heads that share keys become rows of one product: keys are read once, not repeated
        query = query.reshape(batch, groups, heads // groups, width)
        output = _attend(query, key, value, attention_mask, sliding_window, scale, softcap)
        return output.reshape(batch, 1, heads, value.shape[-1]), None
    if heads != groups:
        key, value = key.repeat_interleave(heads // groups, 1), value.repeat_interleave(heads // groups, 1)
    return _attend(query, key, value, attention_mask, sliding_window, scale, softcap).transpose(1, 2), None


# `is_compiling` is true in every thread while one of them compiles; `is_dynamo_compiling` only in what is traced.
def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    relative: torch.Tensor,
    window: int | None,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    if softcap is None and can_attend(query, value):
        return attend(query, key, value, relative, window, scale)
    if softcap is None and relative.shape[2] == 1 and can_attend_one(query, key, value):
        return attend_one(query, key, value, relative, window, scale)
    seen = relative >= 0
    if window is not None:
        seen = seen & (relative < window)
    fused = torch.compiler.is_dynamo_compiling() and query.device.type == "cpu"
    if softcap is None and not fused:
        return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)
    if fused:  # as sums, which the compiler turns into two loops over the cache; products would be calls of a library
        scores = (query[:, :, :, None].float() * key[:, :, None].float()).sum(-1) * scale
    else:
        scores = (query @ key.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    if fused:
        return (weights[..., None] * value[:, :, None].float()).sum(-2).to(query.dtype)
    return weights.to(query.dtype) @ value


AttentionInterface.register(SLOTS, slot_attention)
