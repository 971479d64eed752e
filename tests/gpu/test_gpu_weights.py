"""fp32 masters of bf16 copies, and weights in parts, on a GPU."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch
import torch.distributed as distributed

from conftest import save_tiny
from gpu.small import learner_on, off, plan_on, rows_of
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.memory import weight_bytes
from tunesmith.model.methods.full import FullConfig
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.planning.planner import one_backward
from tunesmith.train.sources.rows import RowSource
from tunesmith.train.weights.ranks import Ranks

SFT = make_sft()


@pytest.fixture
def rows(write_rows, tiny):
    return rows_of(write_rows, tiny)


@pytest.mark.parametrize("config", [LoraConfig(), FullConfig()], ids=["lora", "full"])
def test_a_step_of_masters_is_adamw_in_fp32(device, tiny, rows, config):
    plan = plan_on(device)
    learner = learner_on(tiny, plan, config, rate=1e-5)
    for batch in next(RowSource(rows, SFT, plan, 8).steps()):
        one_backward(plan, learner.placed, SFT, batch)
    inside = dict(learner.model.named_parameters())
    before = {name: (weight.detach().double(), weight.grad.double()) for name, weight in learner.weights.items()}
    assert all(weight.grad is None for weight in inside.values())
    assert {weight.dtype for weight in learner.weights.values()} == {torch.float32}
    settings = {id(w): group for one in learner.optimizers for group in one.param_groups for w in group["params"]}
    learner.step()
    moved = 0
    for name, weight in learner.weights.items():
        (start, gradient), group = before[name], settings[id(weight)]
        # The first step: each moment, corrected for its start at zero, is the gradient and its square.
        update = gradient / (gradient.abs() + group["eps"]) + group["weight_decay"] * start
        want = start - 1e-5 * update
        assert (weight.double() - want).abs().max() <= 1e-6 * want.abs().max() + 1e-9
        assert inside[name].dtype == torch.bfloat16
        assert torch.equal(inside[name], weight.to(torch.bfloat16))
        assert weight.device.type == inside[name].device.type == device
        moved += (weight.double() != start).sum().item()
    assert moved > 0


def test_gradients_of_a_step_in_bf16_are_those_of_fp32(device, tiny, rows):
    """All weights together, as far as bf16 goes: nothing is left out and nothing is counted twice."""
    found = []
    for precision in ("bf16", "fp32"):
        plan = plan_on(device, precision)
        learner = learner_on(tiny, plan, FullConfig())
        micro = next(RowSource(rows, SFT, plan, 8).steps())
        assert len(micro) > 1
        for batch in micro:
            one_backward(plan, learner.placed, SFT, batch)
        found.append(torch.cat([weight.grad.flatten() for weight in learner.weights.values()]))
    assert off(*found) < 0.1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("config", [LoraConfig(), FullConfig()], ids=["lora", "full"])
def test_weights_in_parts_of_one_process_learn_as_whole_ones(device, tmp_path, write_rows, config, precision):
    base = save_tiny(tmp_path / "odd", vocab_size=4099, intermediate_size=131, tie_word_embeddings=True)
    rows = rows_of(write_rows, base)
    distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo", store=distributed.FileStore(str(tmp_path / "meeting"), 1), rank=0,
        world_size=1,
    )  # fmt: skip
    try:
        losses = []
        for sharding in ("none", "full"):
            plan = replace(plan_on(device, precision), sharding=sharding)
            learner = learner_on(base, plan, config, ranks=Ranks(0, 1, device))
            found = []
            for micro in islice(RowSource(rows, SFT, plan, 8).steps(), 4):
                found += [one_backward(plan, learner.placed, SFT, batch) for batch in micro]
                learner.step()
            losses.append(found)
    finally:
        distributed.destroy_process_group()
    assert losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4 if precision == "fp32" else 1e-2)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_base_is_never_whole_on_the_card(card, tmp_path, kind):
    pytest.importorskip("bitsandbytes")
    folder = save_tiny(tmp_path, hidden_size=1024, intermediate_size=2816, num_hidden_layers=8)
    whole = weight_bytes(folder, torch.bfloat16)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model = load(folder, LoadSpec(precision="bf16", device=card, quantize=kind)).model
    assert torch.cuda.max_memory_allocated() - before < {"nf4": 0.45, "int8": 0.7}[kind] * whole
    assert torch.isfinite(model(torch.arange(5, 45, device=card)[None]).logits).all()
