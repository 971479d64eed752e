"""A step of decoding in one call (`cpp/step.cpp`): all layers of a model that is built like Llama, in bf16 on a CPU.

Layer by layer, a step is hundreds of calls from Python, between which memory rests. What such a model computes is
known: norm, attention with rotary positions, norm, gated network. Whether this one computes that is not assumed:
`family` looks at it, also when weights have changed, and logits are compared with the model's own before anybody is
answered.

Axes: B rows, C width of the model, D width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import POINTER, Structure, addressof, byref, c_float, c_long, c_void_p
from typing import Any

import torch

from tunesmith.infer.engine.attention import EVERYTHING
from tunesmith.infer.engine.family import HEAD_NORMS, PRODUCTS, adapters_of, can_step, window_of
from tunesmith.infer.engine.linear import SlotLinear, packed_of
from tunesmith.infer.engine.products import InOrder
from tunesmith.infer.engine.slots import SlotCache
from tunesmith.model.native import library


class Part(Structure):
    """One of the linear layers that read the same input."""

    _fields_ = (("bias", c_void_p), ("down", c_void_p), ("up", c_void_p), ("outputs", c_long))


class Linear(Structure):
    """Linear layers that read the same input."""

    _fields_ = (("weight", c_void_p), ("inputs", c_long), ("outputs", c_long), ("parts", c_long), ("part", Part * 3))


class Layer(Structure):
    """A decoder layer."""

    _fields_ = (
        *((name, Linear) for name in ("read", "out", "grow", "shrink")),
        *((name, c_void_p) for name in ("before", "between", "queries", "keys")),
        ("window", c_long),
    )


class Model(Structure):
    """All of them, and the norm that follows."""

    _fields_ = (
        ("layers", POINTER(Layer)),
        ("after", c_void_p),
        *((name, c_long) for name in ("count", "width", "heads", "groups", "head_width", "inner", "places", "rank")),
        ("epsilon", c_float),
        ("scale", c_float),
    )


class Rows(Structure):
    """The tokens of a step."""

    _fields_ = (
        *((name, c_void_p) for name in ("hidden", "cosines", "sines", "places", "own", "keys", "values")),
        *((name, c_long) for name in ("count", "positions")),
    )


class WholeStep:
    """What computes steps of one model, and knows where its weights, adapters and slots lie."""

    def __init__(self, model: Any) -> None:
        """Nothing is looked at yet."""
        self._model = model
        self._known: tuple[int, Model | None, list[torch.Tensor]] | None = None

    def is_ready(self, version: int) -> bool:
        """Whether it can compute what the model is now.

        Args:
            version: another one whenever weights or adapters may be others, or lie elsewhere.
        """
        if self._known is None or self._known[0] != version:
            self.forget()
            kept = [tensor.detach() for tensor in (*self._model.parameters(), *self._model.buffers())]
            self._known = version, _model(self._model) if can_step(self._model) else None, kept
        return self._known[1] is not None

    def forget(self) -> None:
        """Hold no weights and adapters any more."""
        self._known = None

    def __call__(
        self, cache: SlotCache, token_B: torch.Tensor, place_B: torch.Tensor, own_B: torch.Tensor | None
    ) -> torch.Tensor:
        """The logits (B, V), of the version that `is_ready`; keys and values are written to the cache.

        Args:
            cache: has room in all layers, for the first rows.
            token_B: the tokens.
            place_B: their positions.
            own_B: places of adapters, -1 for none; None where there are no adapters.

        Raises:
            IndexError: there is no such slot, position or adapter.
            TypeError: embeddings or the cache are not in bf16.
            MemoryError: there is no room for what is between two products.
        """
        assert self._known is not None
        where, body = self._known[1], self._model.model
        assert where is not None
        _check(cache, place_B, own_B, where.places)
        hidden_B1C = self._model.get_input_embeddings()(token_B[:, None])
        inputs = [hidden_B1C, *body.rotary_emb(hidden_B1C, place_B[:, None]), place_B]
        inputs = [one.contiguous() for one in (inputs if own_B is None else [*inputs, own_B])]
        if {one.dtype for one in (*inputs[:3], cache.keys[0], cache.values[0])} != {torch.bfloat16}:
            raise TypeError("embeddings, positions or the cache are not in bf16")
        pointers = c_void_p * where.count
        stores = [
            pointers(*(store[layer].data_ptr() for layer in range(where.count))) for store in (cache.keys, cache.values)
        ]
        rows = Rows(
            *(one.data_ptr() for one in inputs), *([None] if own_B is None else []), *map(addressof, stores),
            len(token_B), cache.positions,
        )  # fmt: skip
        functions = library()
        assert functions is not None
        functions.step(byref(where), byref(rows), torch.get_num_threads())
        return self._model.get_output_embeddings()(inputs[0])[:, -1]


def _check(cache: SlotCache, place_B: torch.Tensor, own_B: torch.Tensor | None, places: int) -> None:
    first, last = (int(one) for one in place_B.aminmax())
    if len(place_B) > cache.slots or first < 0 or last >= cache.positions:
        raise IndexError(f"{len(place_B)} rows at {first} to {last}, in {cache.slots} slots of {cache.positions}")
    if own_B is not None and places and int(own_B.max()) >= places:
        raise IndexError(f"adapter {int(own_B.max())}, of {places}")


def _model(model: Any) -> Model:
    config, body = model.config, model.model
    attention = body.layers[0].self_attn
    layers = (Layer * len(body.layers))(*map(_layer, body.layers))
    places, rank = next(iter(adapters_of(model)), (0, 0))
    return Model(
        layers, body.norm.weight.data_ptr(), len(layers), config.hidden_size, config.num_attention_heads,
        config.num_key_value_heads, attention.head_dim, config.intermediate_size, places, rank,
        body.norm.variance_epsilon, attention.scaling,
    )  # fmt: skip


def _layer(layer: Any) -> Layer:
    parts = dict(layer.named_modules())
    window = window_of(layer)
    return Layer(
        *(_linear([parts[name] for name in names]) for names in PRODUCTS),
        layer.input_layernorm.weight.data_ptr(),
        layer.post_attention_layernorm.weight.data_ptr(),
        *(parts[name].weight.data_ptr() if name in parts else None for name in HEAD_NORMS),
        EVERYTHING if window is None else window,
    )


def _linear(layers: Sequence[SlotLinear]) -> Linear:
    packed = packed_of(layers[0])
    assert isinstance(packed, InOrder)
    parts = [Part(*map(_pointer, (layer.bias, layer.down, layer.up)), layer.out_features) for layer in layers]
    return Linear(packed.address, packed.inputs, packed.outputs, len(layers), (Part * 3)(*parts))


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
