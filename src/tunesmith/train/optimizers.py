"""The optimizers that a recipe can name, made by libraries that have them. A new one is a section and an entry here.

Parsing a recipe imports none of them. Weights are fp32 masters; groups are dicts of `params`, `lr`, `weight_decay` and
`matrix` (whether these are matrices of layers, not embeddings, norms or biases).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field

from tunesmith.core.config import Section, option
from tunesmith.core.errors import ConfigError
from tunesmith.core.names import look_up

Share = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[Share, Share]
Groups = list[dict[str, Any]]
MOST_RATE = 1.0  # that a recipe may ask for
BETAS = option((0.9, 0.999), "Decay rates of the first and second moment.")
EPS = option(1e-8, "Added to the root of the second moment.", gt=0)


class AdamW(Section):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    type: Literal["adamw"] = "adamw"
    betas: Betas = BETAS
    eps: float = EPS


class AdamW8bit(Section):
    """AdamW whose moments take 8 bits each (Dettmers et al., 2022): slower on a CPU."""

    type: Literal["adamw_8bit"] = "adamw_8bit"
    betas: Betas = BETAS
    eps: float = EPS


class ScheduleFree(Section):
    """AdamW that averages instead of falling (Defazio et al., 2024): no schedule, no last step."""

    type: Literal["schedule_free"] = "schedule_free"
    betas: tuple[Annotated[float, Field(gt=0, lt=1)], Share] = option(
        (0.9, 0.999), "How far training stands from the average, and the second moment's decay rate."
    )
    eps: float = EPS


class Adafactor(Section):
    """Second moments as rows and columns, steps relative to a weight's size (Shazeer and Stern, 2018)."""

    type: Literal["adafactor"] = "adafactor"
    beta2_decay: float = option(-0.8, "The second moment's decay rate nears 1 with the step to this power.", lt=0)
    clip_threshold: float = option(1.0, "Largest root mean square of an update before the rate is applied.", ge=1)


class Lion(Section):
    """The sign of a momentum (Chen et al., 2023): one moment, a third of AdamW's rate."""

    type: Literal["lion"] = "lion"
    betas: Betas = option((0.9, 0.99), "Weight of the momentum in the update, and the momentum's decay rate.")


class Sgd(Section):
    """Stochastic gradient descent with momentum (Sutskever et al., 2013)."""

    type: Literal["sgd"] = "sgd"
    momentum: float = option(0.9, "Decay rate of the momentum; 0 for none.", ge=0, lt=1)
    nesterov: bool = option(False, "Look ahead by the momentum before each step.")


class Muon(Section):
    """Orthogonalised momentum for the layers' matrices, AdamW for all else (Jordan, 2024; Liu et al., 2025)."""

    type: Literal["muon"] = "muon"
    momentum: float = option(0.95, "Decay rate of the matrices' momentum.", ge=0, lt=1)
    iterations: int = option(5, "Newton-Schulz iterations that orthogonalise it.", "5.", ge=1, le=20)
    betas: Betas = BETAS
    eps: float = EPS


OptimizerConfig = Annotated[
    AdamW | AdamW8bit | ScheduleFree | Adafactor | Lion | Sgd | Muon, Field(discriminator="type")
]


@dataclass(frozen=True)
class Kind:
    """What is known of an optimizer.

    Attributes:
        make: given its section and groups, the optimizers of a library.
        bytes_a_weight: of gradient and state.
        rate: factor on the method's default learning rate, which is AdamW's. Measured: docs/hyperparameters.md.
        parted: whether it can update parts of weights in several processes.
        counters: what it keeps in its groups, beside the state of weights.
        library: that it is of, where that is an extra.
        by_row: whether a row of a weight is updated as if the weight had no others, but for how 8 bits are rounded.
    """

    make: Callable[[Any, Groups], list[Any]]
    bytes_a_weight: int
    rate: float = 1.0
    parted: bool = False
    counters: tuple[str, ...] = ()
    library: str = ""
    by_row: bool = True


def kind_of(config: Section) -> Kind:
    """The table's entry for an `optim.optimizer` section."""
    return look_up(OPTIMIZERS, getattr(config, "type", ""), "optimizer")


def usual_rate(config: Section, of_method: float) -> float:
    """The peak learning rate where a recipe gives none: the method's, fitted to the optimizer."""
    return min(MOST_RATE, of_method * kind_of(config).rate)


def refuse_optimizer(config: Section, in_parts: bool) -> None:
    """Refuse an optimizer that cannot work here.

    Args:
        config: the recipe's `optim.optimizer`.
        in_parts: whether each process holds a part of every weight.

    Raises:
        ConfigError: it cannot update parts, or its library is missing.
    """
    name, kind = str(getattr(config, "type", "")), kind_of(config)
    if in_parts and not kind.parted:
        can = ", ".join(name for name, one in OPTIMIZERS.items() if one.parted)
        raise ConfigError(
            f"optim.optimizer = {name!r}: it needs whole weights, and sharding=full parts them among processes. Set "
            f"sharding=none, or take one of {can}."
        )
    if kind.library and find_spec(kind.library) is None:
        raise ConfigError(
            f"optim.optimizer = {name!r}: it needs the {kind.library} package, which is not installed. Run: pip "
            "install 'tunesmith[optimizers]', or take optim.optimizer=adamw."
        )


def make_optimizers(config: Section, groups: Groups, in_parts: bool) -> list[Any]:
    """Torch optimizers that update all groups together, one after another.

    Args:
        config: the recipe's `optim.optimizer`.
        groups: of the weights; empty ones are left out.
        in_parts: whether each process holds a part of every weight.

    Raises:
        ConfigError: it cannot update parts, or its library is missing.
    """
    refuse_optimizer(config, in_parts)
    return kind_of(config).make(config, [group for group in groups if group["params"]])


def _plain(groups: Groups) -> Groups:
    """Groups without what only we know of them."""
    return [{name: value for name, value in group.items() if name != "matrix"} for group in groups]


def _adamw(config: AdamW | Muon, groups: Groups) -> list[Any]:
    import torch

    return [torch.optim.AdamW(_plain(groups), betas=config.betas, eps=config.eps, fused=True)] if groups else []


def _adamw_8bit(config: AdamW8bit, groups: Groups) -> list[Any]:
    from tunesmith.train.weights.eight_bit import AdamW8bit as Optimizer

    return [Optimizer(_plain(groups), lr=groups[0]["lr"], betas=config.betas, eps=config.eps)]


def _schedule_free(config: ScheduleFree, groups: Groups) -> list[Any]:
    from schedulefree import AdamWScheduleFree

    optimizer = AdamWScheduleFree(_plain(groups), betas=config.betas, eps=config.eps, foreach=False)
    optimizer.train()
    return [optimizer]


def _adafactor(config: Adafactor, groups: Groups) -> list[Any]:
    import torch

    settings: dict[str, Any] = {"beta2_decay": config.beta2_decay, "d": config.clip_threshold}
    return [torch.optim.Adafactor(_plain(groups), **settings)]


def _lion(config: Lion, groups: Groups) -> list[Any]:
    from bitsandbytes.optim import Lion32bit

    return [Lion32bit(_plain(groups), betas=config.betas)]


def _sgd(config: Sgd, groups: Groups) -> list[Any]:
    import torch

    # Not all at once, which would write over gradients that a method reads afterwards.
    return [torch.optim.SGD(_plain(groups), momentum=config.momentum, nesterov=config.nesterov, foreach=False)]


def _muon(config: Muon, groups: Groups) -> list[Any]:
    import torch

    matrices = _plain([group for group in groups if group["matrix"]])
    settings: dict[str, Any] = {"momentum": config.momentum, "ns_steps": config.iterations}
    # So that a rate and a decay mean what they mean for AdamW.
    muon = [torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **settings)] if matrices else []
    return [*muon, *_adamw(config, [group for group in groups if not group["matrix"]])]


OPTIMIZERS: dict[str, Kind] = {
    "adamw": Kind(_adamw, 12, parted=True),  # a gradient and two moments of four bytes each
    "adamw_8bit": Kind(_adamw_8bit, 6),
    "schedule_free": Kind(
        _schedule_free,
        12,
        parted=True,
        counters=("k", "lr_max", "weight_sum", "scheduled_lr", "train_mode"),
        library="schedulefree",
    ),
    "adafactor": Kind(_adafactor, 4, rate=100.0, by_row=False),
    "lion": Kind(_lion, 8, rate=0.3, library="bitsandbytes"),
    "sgd": Kind(_sgd, 8, rate=50.0, parted=True),
    "muon": Kind(_muon, 12),
}
