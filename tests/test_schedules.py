"""Schedules against transformers' own, and what is told of them."""

from __future__ import annotations

import math

import pytest
import torch
import transformers.optimization as library
from pydantic import ValidationError

from tunesmith.train.config import OptimConfig
from tunesmith.train.schedules import Constant, Cosine, InverseSqrt, Linear, Polynomial, Wsd, schedule

RISE, STEPS = 5, 40
THEIRS = {
    "linear": (Linear(), lambda o: library.get_linear_schedule_with_warmup(o, RISE, STEPS)),
    "cosine": (Cosine(), lambda o: library.get_cosine_schedule_with_warmup(o, RISE, STEPS)),
    "cosine to a minimum": (
        Cosine(minimum=0.1),
        lambda o: library.get_cosine_with_min_lr_schedule_with_warmup(o, RISE, STEPS, min_lr_rate=0.1),
    ),
    "polynomial": (
        Polynomial(power=3.0, minimum=0.2),
        lambda o: library.get_polynomial_decay_schedule_with_warmup(o, RISE, STEPS, lr_end=0.2, power=3.0),
    ),
    "inverse root": (InverseSqrt(), lambda o: library.get_inverse_sqrt_schedule(o, RISE)),
    "inverse root, slower": (InverseSqrt(timescale=30), lambda o: library.get_inverse_sqrt_schedule(o, RISE, 30)),
    **{
        f"wsd, {shape}": (
            Wsd(decay=0.25, shape=shape, minimum=0.1),
            lambda o, theirs=theirs: library.get_wsd_schedule(
                o, RISE, 10, num_training_steps=STEPS, decay_type=theirs, min_lr_ratio=0.1
            ),
        )
        for shape, theirs in (("linear", "linear"), ("cosine", "cosine"), ("root", "1-sqrt"))
    },
}


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_after_the_warm_up_a_schedule_is_the_librarys(name):
    """In it ours is a step ahead: the first step learns, where transformers takes one at a rate of zero."""
    config, make = THEIRS[name]
    theirs = make(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0))
    ours, want = schedule(config, RISE, STEPS), []
    for _ in range(STEPS):
        want.append(theirs.get_last_lr()[0])
        theirs.step()
    assert [ours(step) for step in range(RISE, STEPS)] == pytest.approx(want[RISE:], abs=1e-9)
    if "wsd" not in name:  # whose warm-up begins at its minimum there
        assert [ours(step) for step in range(RISE)] == pytest.approx(want[1 : RISE + 1])


@pytest.mark.parametrize(
    ("config", "warmup", "want"),
    [
        (Constant(), 2, [0.5, 1, 1, 1, 1, 1]),
        (Linear(), 2, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        (Cosine(), 0, [0.5 * (1 + math.cos(math.pi * i / 6)) for i in range(6)]),
        (Constant(), 0.5, [1 / 3, 2 / 3, 1, 1, 1, 1]),
        (Wsd(decay=1.0), 0, [1 - i / 6 for i in range(6)]),
        (Wsd(decay=1.0), 3, [1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3]),  # it does not fall before it has risen
    ],
)
def test_schedules(config, warmup, want):
    factor = schedule(config, warmup, 6)
    assert [factor(step) for step in range(6)] == pytest.approx(want)


def test_a_schedule_may_be_written_as_its_name(tmp_path):
    assert OptimConfig(scheduler="wsd").scheduler == Wsd()
    assert OptimConfig.model_validate({"scheduler": {"minimum": 0.1}}).scheduler == Cosine(minimum=0.1)
    assert OptimConfig(optimizer="schedule_free").scheduler == Constant()
    with pytest.raises(ValidationError, match="ema"):
        OptimConfig(optimizer="schedule_free", ema=0.9)
