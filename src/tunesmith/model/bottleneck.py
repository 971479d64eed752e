"""Bottleneck adapters: y + U f(D y) on what a part of a layer gives, of which D and U are trained.

Houlsby et al., 2019 (arXiv 1902.00751) put one after attention and one after the feed-forward part of each layer,
Pfeiffer et al., 2020 (arXiv 2005.00247) after the feed-forward part alone: before the residual is added, both. peft has
no layout for them, so the files are its own in their names and discipline, with our `peft_type`.

Axes: B rows, T tokens, I inputs, O outputs, S size of the bottleneck.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional

from tunesmith.core.errors import ModelError
from tunesmith.core.files import read_object, write_json
from tunesmith.model.layers import linear_layers, size_of
from tunesmith.model.layout import ADAPTER, WEIGHTS

KIND = "BOTTLENECK"
Activation = Literal["relu", "gelu", "silu"]
FEEDFORWARD = ("down_proj", "fc2", "fc_out", "dense_4h_to_h", "mlp.c_proj", "mlp.dense", "w2")  # what ends that part
ATTENTION = ("o_proj", "out_proj", "attention.dense", "self_attention.dense", "self_attn.dense", "attn.c_proj")


class Bottleneck(torch.nn.Module):
    """A linear layer with an adapter behind it."""

    def __init__(self, layer: torch.nn.Module, size: int, activation: Activation, like: torch.Tensor) -> None:
        """At first it changes nothing: U is zero.

        Args:
            layer: whose output (B, T, O) passes through.
            size: S.
            activation: f.
            like: a tensor of the precision and on the device of the model.
        """
        super().__init__()
        outputs = size_of(layer)[0]
        self.base_layer, self.activation = layer, activation
        self.down = torch.nn.Linear(outputs, size, dtype=like.dtype, device=like.device)
        self.up = torch.nn.Linear(size, outputs, dtype=like.dtype, device=like.device)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            torch.nn.init.zeros_(zero)

    @property
    def weight(self) -> torch.Tensor:
        """Of the layer, whose precision some models ask for."""
        weight = self.base_layer.weight
        assert isinstance(weight, torch.Tensor)
        return weight

    def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
        """The layer's output, changed."""
        y_BTO = self.base_layer(x_BTI)
        return y_BTO + self.up(getattr(functional, self.activation)(self.down(y_BTO)))


def give_bottlenecks(model: Any, names: Sequence[str], size: int, activation: Activation) -> Any:
    """The model, frozen, with an adapter behind each of the layers of these whole names."""
    like = model.get_input_embeddings().weight
    model.requires_grad_(False)
    for name in names:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, Bottleneck(model.get_submodule(name), size, activation, like))
    return model


def ends_of_parts(model: Any, attention: bool) -> list[str]:
    """Whole names of the layers that end each feed-forward part, and each attention where that is wanted."""
    ends = FEEDFORWARD + (ATTENTION if attention else ())
    return [name for name in linear_layers(model) if name.endswith(tuple(f".{end}" for end in ends))]


def bottlenecks(model: Any) -> dict[str, Bottleneck]:
    """The adapters of a model, by the whole name of the layer."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Bottleneck)}


def has_bottlenecks(model: Any) -> bool:
    """Whether it has some."""
    return bool(bottlenecks(model))


def save_bottlenecks(model: Any, folder: Path, base: str, revision: str | None) -> None:
    """Write them as peft writes what it knows."""
    parts = bottlenecks(model)
    first = next(iter(parts.values()))
    config = {
        "peft_type": KIND, "base_model_name_or_path": base, "revision": revision, "size": first.down.out_features,
        "activation": first.activation, "target_modules": list(parts),
    }  # fmt: skip
    write_json(folder / ADAPTER, config)
    tensors = {f"{name}.{key}": tensor.detach().cpu().contiguous()
               for name, part in parts.items() for key, tensor in own_weights(part).items()}  # fmt: skip
    save_file(tensors, folder / WEIGHTS)


def own_weights(part: Bottleneck) -> dict[str, torch.Tensor]:
    """Those of D and U."""
    return {name: weight for name, weight in part.named_parameters() if name.startswith(("down.", "up."))}


def with_bottlenecks(model: Any, folder: Path) -> Any:
    """The model with the adapters that lie in a folder.

    Raises:
        ModelError: they are of another base, damaged, or not finite.
    """
    config = read_object(folder / ADAPTER)
    try:
        size, activation, names = int(config["size"]), config["activation"], list(config["target_modules"])
        if activation not in get_args(Activation):
            raise ValueError(f"activation = {activation!r}")
        model = give_bottlenecks(model, names, size, activation)
        found = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}: the adapter is damaged ({error}). Restore what training wrote.") from None
    except AttributeError as error:
        raise ModelError(f"{folder}: this adapter does not fit the base model ({error}).") from None
    with torch.no_grad():
        for name, part in bottlenecks(model).items():
            for key, weight in own_weights(part).items():
                saved = found.get(f"{name}.{key}")
                if saved is None or saved.shape != weight.shape or not saved.isfinite().all():
                    raise ModelError(
                        f"{folder}: this adapter does not fit the base model, or is damaged: {name}.{key} is missing, "
                        "of another shape, or not finite."
                    )
                weight.copy_(saved)
    return model
