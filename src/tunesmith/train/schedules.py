"""Learning-rate schedules: the factor on the peak rate at each step, after a warm-up from zero. No torch is imported.

Each falls to `minimum`, a share of the peak, just after the last step: the last step is still learned from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from tunesmith.core.config import Section, option

TIMESCALE = 10_000  # steps, of a fall by the root without a warm-up
MINIMUM = option(0.0, "Where it ends, as a share of the peak.", "0 to 0.1.", ge=0, lt=1)


class Constant(Section):
    """The peak rate to the end."""

    type: Literal["constant"] = "constant"


class Linear(Section):
    """Falls in a line."""

    type: Literal["linear"] = "linear"
    minimum: float = MINIMUM


class Cosine(Section):
    """Falls along half a cosine (Loshchilov and Hutter, 2017, arXiv 1608.03983, without restarts)."""

    type: Literal["cosine"] = "cosine"
    minimum: float = MINIMUM


class Polynomial(Section):
    """Falls as a power of what is left: 1 is a line, 2 a parabola."""

    type: Literal["polynomial"] = "polynomial"
    power: float = option(2.0, "The power.", "1 to 3.", gt=0)
    minimum: float = MINIMUM


class InverseSqrt(Section):
    """Falls as one over the root of the steps (Vaswani et al., 2017, arXiv 1706.03762); it never ends."""

    type: Literal["inverse_sqrt"] = "inverse_sqrt"
    timescale: int | None = option(
        None, "Steps over which it falls to the root of a half; as many as the warm-up has, or 10,000, if absent.", ge=1
    )


class Wsd(Section):
    """Warm-up, stable, decay: stays at the peak and falls in the end (Hu et al., 2024, arXiv 2404.06395)."""

    type: Literal["wsd"] = "wsd"
    decay: float = option(0.2, "Share of all steps in which it falls.", "0.1 to 0.2.", gt=0, le=1)
    shape: Literal["linear", "cosine", "root"] = option(
        "linear", "How it falls: in a line, along a cosine, or as 1 minus the root of the share done."
    )
    minimum: float = MINIMUM


SchedulerConfig = Annotated[Constant | Linear | Cosine | Polynomial | InverseSqrt | Wsd, Field(discriminator="type")]


def schedule(config: Section, warmup: float, steps: int) -> Callable[[int], float]:
    """The factor on the peak learning rate for each step, counted from 0.

    Args:
        config: the recipe's `optim.scheduler`.
        warmup: a share of all steps if below 1, else a number of steps, in which the rate rises in a line.
        steps: of the whole run.
    """
    rise = int(warmup) if warmup >= 1 else math.ceil(warmup * steps)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return after(config, step - rise, max(1, steps - rise), rise)

    return factor


def after(config: Section, step: int, steps: int, rise: int) -> float:
    """The factor `step` steps after the warm-up of `rise` steps, of `steps` that there are."""
    done = min(1.0, step / steps)
    match config:
        case Linear():
            return _above(config.minimum, 1 - done)
        case Cosine():
            return _above(config.minimum, _half_cosine(done))
        case Polynomial():
            return _above(config.minimum, (1 - done) ** config.power)
        case InverseSqrt():
            scale = config.timescale or rise or TIMESCALE
            return math.sqrt(scale / (step + scale))
        case Wsd():
            fall = max(1, min(steps, math.ceil(config.decay * (steps + rise))))
            fallen = max(0.0, min(1.0, (step - (steps - fall)) / fall))
            shapes = {"linear": 1 - fallen, "cosine": _half_cosine(fallen), "root": 1 - math.sqrt(fallen)}
            return _above(config.minimum, shapes[config.shape])
        case _:
            return 1.0


def _above(minimum: float, share: float) -> float:
    return minimum + (1 - minimum) * share


def _half_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))
