"""Whether a model is built like Llama, so that its layers can be computed in one call (`step`).

What a class of transformers' computes is known; what somebody has changed of it is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunesmith.infer.engine.attention import WIDTH_MULTIPLE
from tunesmith.infer.engine.linear import SlotLinear, packed_of
from tunesmith.infer.engine.products import InOrder
from tunesmith.model.native import library

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")  # as transformers' classes begin
LANES = 16  # widths are multiples of it
READ, OUT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",)
GROW, SHRINK = ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",)
PRODUCTS = READ, OUT, GROW, SHRINK
HEAD_NORMS = "self_attn.q_norm", "self_attn.k_norm"  # Qwen3 has them
NORMS = "input_layernorm", "post_attention_layernorm"
OTHERS = {"", "self_attn", "mlp", "mlp.act_fn", *NORMS}


def can_step(model: Any) -> bool:
    """Whether a model is of the kind that `WholeStep` computes, and its weights lie as it reads them."""
    family = type(model).__name__.removesuffix("ForCausalLM")
    if library() is None or family not in FAMILIES or model.config.hidden_act != "silu":
        return False
    body = model.model
    around = [(model, "ForCausalLM"), (body, "Model"), (body.norm, "RMSNorm"), (body.rotary_emb, "RotaryEmbedding")]
    if not all(_is(part, family, kind) for part, kind in around) or not _in_bf16(body.norm):
        return False
    return all(_as_expected(layer, family, model.config) for layer in body.layers) and _alike(model)


def _is(part: Any, family: str, kind: str) -> bool:
    """Whether a module is of this class of transformers', and nothing else happens where it is called."""
    home = f"transformers.models.{family.lower()}.modeling_{family.lower()}"
    hooks = part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
    return (type(part).__module__, type(part).__name__) == (home, f"{family}{kind}") and not hooks


def _in_bf16(part: Any) -> bool:
    return all(
        one.dtype == torch.bfloat16 and one.is_contiguous() and one.device.type == "cpu" for one in part.parameters()
    )


def _as_expected(layer: Any, family: str, config: Any) -> bool:
    """Whether a layer has the parts that it should have and no more, of the sizes that the configuration names."""
    parts = dict(layer.named_modules())
    names = {name.removesuffix(".product") for name in parts}
    head_norms = HEAD_NORMS if family == "Qwen3" else ()
    if names != OTHERS.union(*PRODUCTS, head_norms) or not _in_bf16(layer):
        return False
    kinds = dict.fromkeys((*NORMS, *head_norms), "RMSNorm")
    kinds |= {"": "DecoderLayer", "self_attn": "Attention", "mlp": "MLP"}
    if not all(_is(parts[name], family, kind) for name, kind in kinds.items()):
        return False
    width, inner, head = config.hidden_size, config.intermediate_size, layer.self_attn.head_dim
    heads, groups = config.num_attention_heads * head, config.num_key_value_heads * head
    sizes = {
        READ: (width, heads, groups, groups),
        OUT: (heads, width),
        GROW: (width, inner, inner),
        SHRINK: (inner, width),
    }
    norms = {**dict.fromkeys(NORMS, width), **dict.fromkeys(head_norms, head)}
    activation, window = parts["mlp.act_fn"], window_of(layer)
    return (
        all(_one_product([parts[name] for name in names], *sizes[names]) for names in PRODUCTS)
        and all(parts[name].weight.shape == (size,) for name, size in norms.items())
        and not (width % LANES or inner % LANES or head % WIDTH_MULTIPLE)
        and (window is None or window > 0)
        and type(activation).__name__ in ("SiLU", "SiLUActivation")
        and not (activation._forward_hooks or activation._forward_pre_hooks or "forward" in vars(activation))
    )


def _one_product(layers: Sequence[Any], inputs: int, *outputs: int) -> bool:
    """Whether these layers are multiplied by together, in this order, and by nothing of theirs else."""
    return (
        all(type(layer) is SlotLinear and isinstance(packed_of(layer), InOrder) for layer in layers)
        and not any(layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer) for layer in layers)
        and len({layer.product for layer in layers}) == 1
        and layers[0].product.readers == len(layers)
        and [(layer.in_features, layer.out_features) for layer in layers] == [(inputs, size) for size in outputs]
        and [layer.begin for layer in layers] == [sum(outputs[:place]) for place in range(len(layers))]
    )


def _alike(model: Any) -> bool:
    """Whether what is told once holds for all layers: what is added in norms, the scale, and sizes of adapters."""
    body, adapters = model.model, adapters_of(model)
    epsilons = {getattr(part, "variance_epsilon", None) for part in body.modules() if _is_norm(part)}
    lacking = any((part.down is None) != (part.up is None) for part in body.modules() if isinstance(part, SlotLinear))
    scales = {(layer.self_attn.scaling, layer.self_attn.head_dim) for layer in body.layers}
    return len(epsilons) == len(scales) == 1 and len(adapters) <= 1 and not lacking


def _is_norm(part: Any) -> bool:
    return type(part).__name__.endswith("RMSNorm")


def adapters_of(model: Any) -> set[tuple[int, int]]:
    """Places and columns that layers have for adapters."""
    layers = [part for part in model.model.layers.modules() if isinstance(part, SlotLinear)]
    both = [one for layer in layers for one in (layer.down, layer.up) if one is not None]
    return {(one.shape[0], one.shape[1]) for one in both}


def window_of(layer: Any) -> int | None:
    """How far back a layer's attention reaches; None if without end."""
    source = layer.self_attn.config if type(layer).__name__.startswith("Mistral") else layer.self_attn
    return getattr(source, "sliding_window", None)
