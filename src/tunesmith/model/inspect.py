"""What a model is made of, and how far training has moved it: weights by the part that they play, over all layers.

Layers of a model repeat each other, so weights are told together whose names differ in a layer's number alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from tunesmith.core.errors import TunesmithError
from tunesmith.model.export import ExportedModel
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.prefix import prefixes
from tunesmith.model.soft import soft_tokens
from tunesmith.prompt.base import resolve

BESIDE = ".base_layer."  # where peft has put layers around the base's own
NUMBER = re.compile(r"(?<=\.)(\d+)(?=\.)")


@dataclass
class Part:
    """Weights that play one part.

    Attributes:
        name: with `*` for the layer's number.
        shape: of each.
        dtype: in the file.
        trained: whether training has changed or added them.
        rms: root mean square of the numbers of each, by layer; -1 stands for none.
        moved: how far each is from the base's, relative to that one's norm; none where it is no other.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    trained: bool
    rms: dict[int, float] = field(default_factory=dict[int, float])
    moved: dict[int, float] = field(default_factory=dict[int, float])

    @property
    def numbers(self) -> int:
        """Of all of them together."""
        return len(self.rms) * torch.Size(self.shape).numel()


def inspect_model(exported: ExportedModel) -> list[Part]:
    """The parts of a model, in its own order; what a method has added beside the base comes last.

    Raises:
        ModelError: it cannot be loaded.
    """
    base, spec = exported.base.folder if exported.base is not None else before(exported), exported.spec(LoadSpec())
    if base is None:
        return parts_of(weights_of(load(exported.folder, spec).model))
    own = weights_of(load(base, spec).model)
    if exported.base is None:
        return parts_of(own, weights_of(load(exported.folder, spec).model))
    model = exported.load_as(LoadSpec())
    added = added_by(model)
    tuned = weights_of(model.merge_and_unload()) if hasattr(model, "peft_config") else own
    return [*parts_of(own, tuned, frozen=True), *parts_of(added, added=True)]


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """A copy of each weight, by name."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def before(exported: ExportedModel) -> Any:
    """The folder of the base that a full model was trained from, where it is known and still there."""
    recorded = exported.card.get("base", {})
    try:
        base = resolve(str(recorded["name"]), recorded.get("commit"))
    except (KeyError, TunesmithError):
        return None
    return base.folder if base.fingerprint() == recorded.get("sha256") else None


def added_by(model: Any) -> dict[str, torch.Tensor]:
    """What a method has put beside the base, by name."""
    if states := prefixes(model):
        return {f"{name}.prefix": tensor for name, tensor in states.items()}
    if soft_tokens(model):
        return {"soft tokens": model.get_input_embeddings().prompt().detach()}
    weights = {name.removeprefix("base_model.model."): weight for name, weight in model.named_parameters()}
    layers = {name.partition(BESIDE)[0] + "." for name in weights if BESIDE in name}
    return {
        name: weight.detach().clone()
        for name, weight in weights.items()
        if BESIDE not in name and any(name.startswith(layer) for layer in layers)
    }


def parts_of(
    weights: Mapping[str, torch.Tensor],
    tuned: Mapping[str, torch.Tensor] | None = None,
    added: bool = False,
    frozen: bool = False,
) -> list[Part]:
    """Weights told together.

    Args:
        weights: by name.
        tuned: what training has made of them; nothing if None.
        added: whether all are the method's, which have moved from nowhere.
        frozen: whether they stayed, and move by what is added to them alone.
    """
    parts: dict[tuple[Any, ...], Part] = {}
    for name, weight in weights.items():
        other = weight if tuned is None else tuned.get(name, weight)
        other = other[: len(weight)] if other.ndim else other  # without new tokens
        changed = added or not torch.equal(weight, other)
        number = NUMBER.search(name)
        layer, common = int(number[1]) if number else -1, NUMBER.sub("*", name, count=1)
        kind = str(weight.dtype).removeprefix("torch.")
        shape, trained = tuple(weight.shape), changed and not frozen
        part = parts.setdefault((common, shape, changed), Part(common, shape, kind, trained))
        part.rms[layer] = weight.float().square().mean().sqrt().item()
        if changed and not added:
            part.moved[layer] = ((other - weight).float().norm() / weight.float().norm().clamp(min=1e-30)).item()
    return list(parts.values())
