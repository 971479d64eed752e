"""Who learns how fast: weights in groups of one learning rate and one weight decay each.

With `layer_decay` d, a layer learns d times as fast as the one above it (Howard and Ruder, 2018, arXiv 1801.06146, and,
in this form, Clark et al., 2020, arXiv 2003.10555): of n layers the k-th, counted from 1, at d^(n + 1 - k) of the run's
rate, embeddings at d^(n + 1), the head and whatever stands behind the last layer at the whole rate. What shares a
weight with the embedding, as a tied head does, learns as the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from tunesmith.core.errors import ConfigError
from tunesmith.model.layers import layers_of
from tunesmith.train.config import GroupConfig, OptimConfig


@dataclass(frozen=True)
class Place:
    """Where in the model a weight is.

    Attributes:
        depth: 0 for embeddings, the number of its layer, or one more than there are layers.
        name: for people.
        matrix: whether it is a matrix of a layer, which Muon can orthogonalise.
        decays: whether weight decay is for it: norms and biases, of one axis, are left out.
    """

    depth: int
    name: str
    matrix: bool
    decays: bool


@dataclass(frozen=True)
class Group:
    """Weights that learn alike.

    Attributes:
        what: they are, for people.
        names: of the weights.
        rate: learning rate, the highest of the run.
        weight_decay: decoupled.
        matrix: whether they are matrices of layers.
    """

    what: str
    names: tuple[str, ...]
    rate: float
    weight_decay: float
    matrix: bool


def parameter_groups(
    model: Any, weights: Mapping[str, Any], optim: OptimConfig, learning_rate: float,
    factor: Callable[[str], float] = lambda name: 1.0,
) -> list[Group]:  # fmt: skip
    """The groups of all weights, the embeddings' first.

    Args:
        model: that they are of.
        weights: those that are trained, by name.
        optim: the recipe's section.
        learning_rate: of the run.
        factor: on it, of a weight by its name, as the method has it (LoRA+).

    Raises:
        ConfigError: a pattern matches no weight, or layers shall differ and there are none.
    """
    refuse_unmatched(optim.groups, list(weights))
    places, top = places_of(model, weights)
    if optim.layer_decay is not None and top == 1:
        raise ConfigError("optim.layer_decay: this model has no list of layers. Leave it out; optim.groups works.")
    found: dict[tuple[Any, ...], list[str]] = {}
    for name in weights:
        place = places[name]
        pattern, own = next(
            ((pattern, own) for pattern, own in optim.groups.items() if fnmatchcase(name, pattern)), ("", GroupConfig())
        )
        by_depth = 1.0 if optim.layer_decay is None else optim.layer_decay ** (top - place.depth)
        rate = learning_rate * factor(name) * by_depth * own.rate
        decay = optim.weight_decay if own.weight_decay is None else own.weight_decay
        what = pattern or (place.name if optim.layer_decay is not None else "all others" if optim.groups else "all")
        depth = place.depth if optim.layer_decay is not None else 0
        key = (depth, what, rate, decay if place.decays else 0.0, place.matrix)
        found.setdefault(key, []).append(name)
    return [
        Group(what, tuple(names), rate, decay, matrix)
        for (_, what, rate, decay, matrix), names in sorted(found.items(), key=lambda item: item[0])
    ]


def refuse_unmatched(groups: Mapping[str, GroupConfig], names: list[str]) -> None:
    """Refuse a pattern that matches no weight.

    Raises:
        ConfigError: with some names.
    """
    for pattern in groups:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join([*names[:2], *names[2:][-2:]])
            raise ConfigError(
                f"optim.groups: no trained weight matches {pattern!r}. There are {len(names)}: {some}, ... A pattern "
                "fits a whole name; * stands for anything."
            )


def places_of(model: Any, weights: Mapping[str, Any]) -> tuple[dict[str, Place], int]:
    """Where each weight is, and the depth of what stands behind the last layer."""
    layers = layers_of(model)
    number = {id(layer): i for i, layer in enumerate(layers, start=1)}
    inside: dict[str, int] = {name: number[id(part)] for name, part in model.named_modules() if id(part) in number}
    ends = {id(model.get_input_embeddings()): "embeddings", id(model.get_output_embeddings()): "head"}
    at_ends = {name: ends[id(part)] for name, part in model.named_modules() if id(part) in ends}
    top = len(layers) + 1
    first = next((i for i, (name, _) in enumerate(model.named_parameters()) if _layer_of(name, inside)), None)
    before = {name for i, (name, _) in enumerate(model.named_parameters()) if first is not None and i < first}
    tables = {name for name, part in model.named_modules() if isinstance(part, torch.nn.Embedding)}
    found: dict[str, Place] = {}
    for name, weight in weights.items():
        layer, end = _layer_of(name, inside), _layer_of(name, at_ends)
        is_table = name.rpartition(".")[0] in tables or "embed" in name
        if layer is not None:
            depth, said = layer, f"layer {layer}"
        elif end == "embeddings" or (end is None and (is_table or (name in before and "norm" not in name))):
            depth, said = 0, "embeddings"
        else:
            depth, said = top, "head and last norm"
        found[name] = Place(depth, said, layer is not None and weight.ndim == 2, weight.ndim >= 2)
    return found, top


def _layer_of(name: str, parts: Mapping[str, Any]) -> Any:
    """What is known of the part of a model that a weight belongs to; None if it is of none of these."""
    return next((known for prefix, known in parts.items() if name.startswith(f"{prefix}.")), None)


def as_table(groups: list[Group], weights: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The groups for people: those that differ for the optimizer alone are one line."""
    lines: dict[tuple[str, float], dict[str, Any]] = {}
    for group in groups:
        line = lines.setdefault(
            (group.what, group.rate),
            {"what": group.what, "rate": group.rate, "weight_decay": 0.0, "weights": 0},
        )
        line["weight_decay"] = max(line["weight_decay"], group.weight_decay)
        line["weights"] += sum(weights[name].numel() for name in group.names)
    return list(lines.values())
