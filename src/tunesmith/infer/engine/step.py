"""A step of decoding in one call (`cpp/step.cpp`): all layers of a model that is built like Llama, in bf16 on a CPU.

Layer by layer, a step is hundreds of calls from Python, between which memory rests. What such a model computes is
known: norm, attention with rotary positions, norm, gated network. Whether this one computes that is not assumed: its
classes are looked at (`can_step`), and logits are compared with the model's own before anybody is answered.

Axes: B rows, C width of the model, D width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import POINTER, Structure, addressof, byref, c_float, c_long, c_void_p
from typing import Any

import torch

from tunesmith.infer.engine.attention import EVERYTHING, WIDTH_MULTIPLE
from tunesmith.infer.engine.linear import SlotLinear, packed_of
from tunesmith.infer.engine.native import library
from tunesmith.infer.engine.products import InOrder
from tunesmith.infer.engine.slots import SlotCache

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")  # as transformers' classes begin
LANES = 16  # widths are multiples of it
READ, OUT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",)
GROW, SHRINK = ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",)
PRODUCTS = READ, OUT, GROW, SHRINK
HEAD_NORMS = "self_attn.q_norm", "self_attn.k_norm"  # Qwen3 has them
OTHERS = {"", "self_attn", "mlp", "mlp.act_fn", "input_layernorm", "post_attention_layernorm"}


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
        *((name, c_long) for name in ("count", "width", "heads", "groups", "head_width", "inner", "rank")),
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
        """Nothing is looked at yet.

        Args:
            model: that `can_step`.
        """
        self._model = model
        self._known: tuple[int, Model, list[torch.Tensor]] | None = None

    def __call__(
        self, cache: SlotCache, token_B: torch.Tensor, place_B: torch.Tensor, own_B: torch.Tensor | None, version: int
    ) -> torch.Tensor:
        """The logits (B, V); keys and values are written to the cache.

        Args:
            cache: has room in all layers, for the first rows.
            token_B: the tokens.
            place_B: their positions.
            own_B: places of adapters, -1 for none; None where there are no adapters.
            version: another one whenever weights or adapters may lie elsewhere.
        """
        model = self._model.model
        hidden_B1C = self._model.get_input_embeddings()(token_B[:, None])
        turns_B1D = model.rotary_emb(hidden_B1C, place_B[:, None])
        inputs = [hidden_B1C, *turns_B1D, place_B] if own_B is None else [hidden_B1C, *turns_B1D, place_B, own_B]
        inputs = [one.contiguous() for one in inputs]
        layers = range(len(model.layers))
        pointers = c_void_p * len(layers)
        stores = [pointers(*(store[layer].data_ptr() for layer in layers)) for store in (cache.keys, cache.values)]
        rows = Rows(
            *(one.data_ptr() for one in inputs), *([None] if own_B is None else []), *map(addressof, stores),
            len(token_B), cache.positions,
        )  # fmt: skip
        functions = library()
        assert functions is not None
        functions.step(byref(self._where(version)), byref(rows), torch.get_num_threads())
        return self._model.get_output_embeddings()(inputs[0])[:, -1]

    def _where(self, version: int) -> Model:
        """Where everything lies in this version."""
        if self._known is None or self._known[0] != version:
            kept = [*self._model.parameters(), *self._model.buffers()]  # or their memory could be another's
            self._known = version, _model(self._model), kept
        return self._known[1]


def can_step(model: Any) -> bool:
    """Whether the layers of a model are of the kind that `WholeStep` computes, and lie as it reads them."""
    family = type(model).__name__.removesuffix("ForCausalLM")
    if library() is None or family not in FAMILIES or type(model.model).__name__ != f"{family}Model":
        return False
    config, layers = model.config, model.model.layers
    widths = {layer.self_attn.head_dim % WIDTH_MULTIPLE for layer in layers}
    widths |= {config.hidden_size % LANES, config.intermediate_size % LANES}
    return widths == {0} and config.hidden_act == "silu" and all(_as_expected(layer, family) for layer in layers)


def _as_expected(layer: Any, family: str) -> bool:
    """Whether a layer has the parts that it should have and no more, all in bf16."""
    kinds = [type(one).__name__ for one in (layer, layer.self_attn, layer.mlp)]
    if kinds != [f"{family}{part}" for part in ("DecoderLayer", "Attention", "MLP")]:
        return False
    parts = dict(layer.named_modules())
    names = {name.removesuffix(".product") for name in parts}
    if names != OTHERS.union(*PRODUCTS, HEAD_NORMS if family == "Qwen3" else ()):
        return False
    if any(part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part) for part in parts.values()):
        return False
    weights = [tensor.dtype == torch.bfloat16 and tensor.is_contiguous() for tensor in layer.parameters()]
    return all(weights) and all(_one_product([parts[name] for name in names]) for names in PRODUCTS)


def _one_product(layers: Sequence[Any]) -> bool:
    """Whether these layers are multiplied by together, in this order, and by nothing of theirs else."""
    return (
        all(type(layer) is SlotLinear and isinstance(packed_of(layer), InOrder) for layer in layers)
        and len({layer.product for layer in layers}) == 1
        and layers[0].product.readers == len(layers)
        and [layer.begin for layer in layers] == sorted(layer.begin for layer in layers)
    )


def _model(model: Any) -> Model:
    config, body = model.config, model.model
    attention = body.layers[0].self_attn
    layers = (Layer * len(body.layers))(*map(_layer, body.layers))
    adapted = (part.down for part in body.layers.modules() if isinstance(part, SlotLinear))
    ranks = {down_ARI.shape[1] for down_ARI in adapted if down_ARI is not None}
    return Model(
        layers, body.norm.weight.data_ptr(), len(layers), config.hidden_size, config.num_attention_heads,
        config.num_key_value_heads, attention.head_dim, config.intermediate_size, max(ranks, default=0),
        body.norm.variance_epsilon, attention.scaling,
    )  # fmt: skip


def _layer(layer: Any) -> Layer:
    parts = dict(layer.named_modules())
    source = layer.self_attn.config if type(layer).__name__.startswith("Mistral") else layer.self_attn
    window = getattr(source, "sliding_window", None)
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
