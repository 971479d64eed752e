"""LoRA adapters as the batch uses them: read from a peft model or a folder.

In each layer the A and B of all adapters stand behind each other, ranks padded to the largest, and every row reads
those of its own adapter (`SlotLinear`), so any mixture is one batch; a row of the base reads none. peft's own mixed
batches loop over adapters in Python.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file

from tunesmith.core.errors import ModelError
from tunesmith.infer.engine.linear import Factors, SlotLinear
from tunesmith.model.layout import NEW_TOKENS

FACTOR = re.compile(
    r"base_model\.model\.(.+)\.lora_([AB])(?:\.[^.]+)?\.weight"
)  # in files, and with the adapter's name
FREE = {  # settings that change training, or that the factors show
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "use_rslora",
    "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_config",
    "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config",
    "ensure_weight_tying",
}  # fmt: skip


class CannotStack(Exception):  # noqa: N818
    """An adapter does something that the batch cannot; the message says what."""


@dataclass(frozen=True)
class Adapter:
    """One LoRA adapter.

    Attributes:
        name: how a request asks for it.
        factors: by the name of the linear layer: A (rank, inputs), and B (outputs, rank) with the scaling in it.
        scalings: by the same names: what B was multiplied by.
    """

    name: str
    factors: dict[str, Factors]
    scalings: dict[str, float]

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max((len(down) for down, _ in self.factors.values()), default=0)


def adapters_of(model: Any) -> list[Adapter]:
    """The adapters that a model carries; none if it is no peft model.

    Raises:
        CannotStack: one is no plain LoRA of linear layers.
    """
    if not isinstance(model, PeftModel):
        return []
    for config in model.peft_config.values():
        refuse(config)
    found = {name: Adapter(name, {}, {}) for name in model.peft_config}
    base: Any = model.get_base_model()
    for layer_name, layer in base.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if not isinstance(layer, PeftLinear) or layer.merged:
            raise CannotStack(f"its LoRA on {layer_name} is merged, or on no linear layer")
        downs: Any = layer.lora_A
        ups: Any = layer.lora_B
        for name in downs:
            scaling = layer.scaling[name]
            found[name].factors[layer_name] = (downs[name].weight.detach(), ups[name].weight.detach() * scaling)
            found[name].scalings[layer_name] = scaling
    return list(found.values())


def can_fold(model: Any) -> bool:
    """Whether a model's one adapter can be folded into its weights: peft's, and nothing that stands before prompts."""
    if not isinstance(model, PeftModel) or len(model.peft_config) != 1:
        return False
    if any(not weight.is_floating_point() for weight in model.parameters()):
        return False  # of a quantised base: what is folded in would be rounded away
    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    return bool(layers) and not any(layer.disable_adapters or layer.merged for layer in layers)


def fold(model: Any) -> Any:
    """A copy of a model with its adapter folded into the weights; the model stays as it is."""
    return copy.deepcopy(model).merge_and_unload().eval()


def active_of(model: Any) -> int:
    """Index of the adapter that a model uses, -1 for none.

    Raises:
        CannotStack: it uses several at once, or its adapters are switched off.
    """
    if not isinstance(model, PeftModel):
        return -1
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    active = {tuple(layer.active_adapters) for layer in layers}
    if any(layer.disable_adapters for layer in layers) or len(active) != 1 or len(names := active.pop()) != 1:
        raise CannotStack("its adapters are switched off, or several act at once")
    return list(model.peft_config).index(names[0])


def read_adapter(name: str, folder: Path) -> Adapter:
    """The adapter that peft saved in `folder`.

    Raises:
        ModelError: it is not there, or no plain LoRA of linear layers.
    """
    try:
        if (folder / NEW_TOKENS).exists():
            raise CannotStack("it has tokens of its own")
        config: Any = PeftConfig.from_pretrained(str(folder))
        return make_adapter(name, load_file(folder / "adapter_model.safetensors"), config)
    except CannotStack as error:
        raise ModelError(f"{folder}: {error}, so it cannot join a batch. Load it as a model of its own.") from None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"{folder}: no adapter can be read from it ({str(error).splitlines()[0][:200]}).") from None


def refuse(config: Any) -> None:
    """Raise CannotStack where a configuration asks for more than A and B on linear layers."""
    if type(config) is not LoraConfig:  # AdaLoRA's is one too
        raise CannotStack(f"the adapter is {getattr(config.peft_type, 'value', config.peft_type)}, not LoRA")
    usual = LoraConfig()
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in FREE and value not in (getattr(usual, field.name), None):
            raise CannotStack(f"its LoRA has {field.name}={value}")


def make_adapter(name: str, tensors: Mapping[str, torch.Tensor], config: Any) -> Adapter:
    """An adapter from tensors by peft's names.

    Args:
        name: how a request asks for it.
        tensors: as in peft's files, or as in its models, with the adapter's name in theirs.
        config: peft's; or an `Adapter` of the same layers, whose scaling is kept.

    Raises:
        CannotStack: it is no plain LoRA of linear layers.
    """
    if not isinstance(config, Adapter):
        refuse(config)
        if config.init_lora_weights not in (True, False, "gaussian", "orthogonal", "eva"):
            raise CannotStack(f"its LoRA (init_lora_weights={config.init_lora_weights}) changes the base model")
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = FACTOR.fullmatch(key)
        if match is None:
            raise CannotStack(f"it holds more than LoRA's A and B of linear layers ({key})")
        found.setdefault(match[1], {})[match[2]] = tensor.detach()
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise CannotStack("it holds numbers that are infinite or no numbers, and would spoil every row")
    adapter = Adapter(name, {}, {})
    for layer, factors in found.items():
        if len(factors) < 2:
            raise CannotStack(f"it lacks A or B of the layer {layer!r}")
        down, up = factors["A"].float(), factors["B"].float()  # as peft has them, whatever the file's precision
        scaling = _scaling(config, layer, len(down))
        adapter.factors[layer] = (down, up * scaling)
        adapter.scalings[layer] = scaling
    return adapter


def _scaling(config: Any, layer: str, rank: int) -> float:
    if isinstance(config, Adapter):
        if layer not in config.scalings:
            raise CannotStack(f"it has not changed the layer {layer!r} so far, so its scaling is unknown")
        return config.scalings[layer]
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, layer), config.lora_alpha)
    return alpha / (rank**0.5 if config.use_rslora else rank)


def fit(adapter: Adapter, layers: Mapping[str, SlotLinear]) -> None:
    """Raise CannotStack where an adapter is of another model."""
    for name, (down, up) in adapter.factors.items():
        layer = layers.get(name)
        if layer is None:
            raise CannotStack(f"the model has no linear layer {name!r}, which adapter {adapter.name!r} changes")
        if (down.shape[1], up.shape[0]) != (layer.in_features, layer.out_features):
            raise CannotStack(f"the model's layer {name!r} is not as large as adapter {adapter.name!r} takes it to be")
