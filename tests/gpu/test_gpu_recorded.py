"""On a GPU: cuDNN's attention for rows of one length, recorded passes, and batches that are made ahead."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from gpu.small import learner_on, off, plan_on, rows_of
from tunesmith.model.attention_gpu import attend_any, attend_by_cudnn
from tunesmith.model.kernels import CUDNN, KERNELS, OWN, fastest, kernels_for, put_in_place, trial
from tunesmith.model.methods.full import FullConfig
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.train.loop import LoopSettings, train
from tunesmith.train.objective import Models
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.recorded import RecordedPasses
from tunesmith.train.sources.rows import RowSource
from tunesmith.train.state import TrainerState

SFT = make_sft()


@pytest.mark.parametrize("ends", [[0, 64, 128, 192], [0, 1, 40, 192], [0, 1, 40, 192, 192, 192]])
@pytest.mark.parametrize("causal", [True, False])
def test_cudnn_takes_equal_rows_and_torch_all_others(card, ends, causal):
    """The last rows have no token: they fill up the number of rows."""
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = [(192, heads, 64) for heads in (8, 2, 2, 8)]
    *given, direction = (torch.randn(s, generator=generator, device="cuda").bfloat16() for s in shapes)
    given = [one.requires_grad_() for one in given]
    offsets = torch.tensor(ends, dtype=torch.int32, device="cuda")
    longest = 64 if ends[1] == 64 else 152
    found = []
    for attention in (attend_any, attend_by_cudnn):
        output = attention(*given, offsets, longest, 0.125, causal)
        output = output if isinstance(output, torch.Tensor) else output[0]
        found.append([output, *torch.autograd.grad(output, given, direction)])
    for one, other in zip(*found, strict=True):
        assert off(one, other) < 0.01


@pytest.mark.parametrize("lengths", [[256] * 4, [300, 17, 1, 90]], ids=["equal", "mixed"])
def test_every_kernel_that_is_there_is_measured_and_the_fastest_is_taken(card, lengths):
    names = kernels_for(len(set(lengths)) == 1, torch.cuda.get_device_capability()[0])
    assert names[0] == OWN
    assert (CUDNN in names) == (len(set(lengths)) == 1)
    try:
        chosen, said = fastest(names, trial(8, 4, 64, lengths))
    finally:
        put_in_place(KERNELS[OWN])
    assert chosen in names
    for name in names:
        assert re.search(rf"{KERNELS[name].said} (takes|does not take|is not there)", said), said
    assert "torch's takes " in said


@pytest.mark.parametrize("config", [LoraConfig(rank=4), FullConfig()], ids=["lora", "full"])
def test_recorded_passes_learn_what_computed_ones_learn(card, write_rows, tiny, monkeypatch, config):
    plan, made = replace(plan_on("cuda"), graphs=True, micro_tokens=1024), []
    rows = rows_of(write_rows, tiny)

    def recorded(*given):
        made.append(RecordedPasses(*given))
        return made[-1]

    found = []
    for make in (recorded, lambda *given: RecordedPasses(*given, most=0)):
        monkeypatch.setattr("tunesmith.train.loop.RecordedPasses", make)
        learner, steps = learner_on(tiny, plan, config), []
        learner.placed.keeps_gradients = True
        source = RowSource(rows, SFT, plan, 8, 20)
        settings = LoopSettings(20, validate_every=10**6, checkpoint_every=10**6)
        train(
            SFT, Models(learner.model, plan), learner, source, settings, TrainerState(), [], lambda: None, steps.append
        )
        assert source.taken == 20
        found.append([step.loss for step in steps if step.kind == "step"])
    assert made[0].count >= 10
    # Attention's backward pass adds in any order, so two runs part, slowly.
    assert found[0][:4] == pytest.approx(found[1][:4], rel=1e-3)
    assert found[0] == pytest.approx(found[1], rel=2e-2)
