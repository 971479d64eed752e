"""AdamW with moments in 8 bits: codes near their values, training as with torch's AdamW, the same bits on resume."""

from __future__ import annotations

import pytest
import torch

from conftest import READS, NoSource, many_rows
from tunesmith.data.load import load_rows
from tunesmith.data.prepare import prepare
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.methods.full import FullConfig
from tunesmith.model.methods.table import METHODS
from tunesmith.prompt.load import load_contract
from tunesmith.train.batch import padded
from tunesmith.train.checkpoint import MOMENTS, find_checkpoint, restore, save_checkpoint
from tunesmith.train.config import OptimConfig
from tunesmith.train.learner import Learner
from tunesmith.train.planning.planner import make_plan
from tunesmith.train.state import TrainerState
from tunesmith.train.weights.eight_bit import BLOCK, SMALL, AdamW8bit, decode, encode, make_levels, update_coded
from tunesmith.train.weights.placed import Placed

CPU = torch.device("cpu")


def coded(values, signed):
    """Values of shape (K, 256) as codes and back: codes, numbers, scales."""
    levels = make_levels(signed, CPU)
    codes, scales = torch.zeros(values.shape, dtype=torch.uint8), torch.zeros(len(values), 1)
    encode(values.flatten().clone(), levels, codes, scales)
    return codes, decode(codes, scales, levels).view(values.shape), scales


def blocks_of_all_sizes(signed):
    """Blocks from 1e-20 to 1e10, their values spread over eight decades; and a block of zeros."""
    torch.manual_seed(0)
    values = torch.randn(31, BLOCK) * 10.0 ** (-8 * torch.rand(31, BLOCK)) * 10.0 ** torch.arange(-20, 11)[:, None]
    values = torch.cat([values, torch.zeros(1, BLOCK)])
    return values if signed else values.abs()


@pytest.mark.parametrize("signed", [True, False])
def test_codes_stand_for_the_nearest_level(signed):
    levels = make_levels(signed, CPU).values_L
    assert len(levels.unique()) == 256
    assert levels.tolist() == sorted(levels.tolist())
    values = blocks_of_all_sizes(signed)
    codes, numbers, scales = coded(values, signed)
    assert torch.equal(scales[:, 0], values.abs().amax(1))
    shares = (values / scales.clamp_min(1e-38)).double()
    nearest = (shares[..., None] - levels.double()).abs().amin(-1)
    if not signed:  # above zero stays above zero
        nearest = torch.where(shares > 0, (shares[..., None] - levels[1:].double()).abs().amin(-1), nearest)
    error = (shares - levels[codes.int()].double()).abs()
    assert (error <= nearest + shares.abs() * 2**-11).all()
    torch.testing.assert_close(numbers, levels[codes.int()] * scales)


@pytest.mark.parametrize(("signed", "levels"), [(True, 64), (False, 128)])
def test_errors_are_bounded_by_the_scale_of_a_block(signed, levels):
    """Half the distance of two levels of the uppermost decade; a part of each value of the three uppermost."""
    values = blocks_of_all_sizes(signed)
    _, numbers, scales = coded(values, signed)
    error = (numbers - values).abs()
    assert (error <= scales * (0.9 / levels / 2 + 2**-11)).all()
    upper = values.abs() > scales * 1e-3
    assert upper.sum() > 1000
    assert (error / values.abs())[upper].max() < 16 / levels
    assert numbers[-1].abs().max() == 0
    if not signed:
        assert ((numbers > 0) == (values > 0)).all()


def weights_and_groups(sizes):
    torch.manual_seed(0)
    weights = {f"{i}": torch.nn.Parameter(torch.randn(size)) for i, size in enumerate(sizes)}
    matrices = [w for w in weights.values() if w.ndim >= 2]
    others = [w for w in weights.values() if w.ndim < 2]
    return weights, [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]


def give_gradients(weights, step):
    generator = torch.Generator().manual_seed(step)
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape, generator=generator).to(weight.dtype)


def test_small_weights_and_every_first_step_are_as_in_torchs_adamw():
    sizes = [(SMALL - 1,), (15, 16), (SMALL,), (100, 77)]
    ours, our_groups = weights_and_groups(sizes)
    theirs, their_groups = weights_and_groups(sizes)
    one = AdamW8bit(our_groups, lr=1e-2, betas=(0.8, 0.95), eps=1e-4)
    other = torch.optim.AdamW(their_groups, lr=1e-2, betas=(0.8, 0.95), eps=1e-4)
    for step in range(6):
        for optimizer, weights in ((one, ours), (other, theirs)):
            optimizer.param_groups[0]["lr"] = 1e-2 / (step + 1)  # as a schedule sets it
            give_gradients(weights, step)
            optimizer.step()
        for name in ours if step == 0 else ("0", "1"):
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-7)
    assert {one.state[ours[name]]["exp_avg"].dtype for name in ("0", "1")} == {torch.float32}
    assert {one.state[ours[name]]["exp_avg"].dtype for name in ("2", "3")} == {torch.uint8}
    for name in ("2", "3"):
        difference = (ours[name] - theirs[name]).norm() / (theirs[name] - weights_and_groups(sizes)[0][name]).norm()
        assert 0 < difference < 0.02


def test_a_state_takes_two_bytes_a_weight():
    weights, groups = weights_and_groups([(512, 512)])
    optimizer = AdamW8bit(groups, lr=1e-3)
    give_gradients(weights, 0)
    optimizer.step()
    state = optimizer.state[weights["0"]]
    tensors = [tensor for key, tensor in state.items() if key != "step"]
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) == 512 * 512 * (2 + 8 / BLOCK)
    assert all(type(tensor) is torch.Tensor for tensor in state.values())


@pytest.mark.parametrize("weight", [
    torch.randn(90, 77),  # the last block is short
    torch.randn(77, 90).T,  # values do not stand in a row
    torch.randn(600, 700),  # several pieces
], ids=["short", "turned", "long"])  # fmt: skip
def test_shapes_make_no_difference(weight):
    whole = torch.zeros(-(-weight.numel() // BLOCK) * BLOCK)
    whole[: weight.numel()] = weight.reshape(-1)
    one, other = torch.nn.Parameter(weight.clone()), torch.nn.Parameter(whole)
    assert one.stride() == weight.stride()
    optimizers = AdamW8bit([one], lr=1e-2, weight_decay=0.1), AdamW8bit([other], lr=1e-2, weight_decay=0.1)
    for step in range(3):
        give_gradients({"": one}, step)
        other.grad = torch.zeros_like(other)
        other.grad[: weight.numel()] = one.grad.reshape(-1)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(one.reshape(-1), other[: weight.numel()])


def test_a_weight_in_bf16_is_rounded_once():
    torch.manual_seed(0)
    start = torch.randn(8192).bfloat16()
    one, other = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.float())
    for weight in (one, other):
        weight.grad = torch.linspace(-1, 1, 8192).to(weight.dtype).bfloat16().to(weight.dtype)
        AdamW8bit([weight], lr=1e-2).step()
    assert torch.equal(one, other.bfloat16())


def test_a_gradient_that_was_seen_once_moves_a_weight_no_further_than_adamw_does():
    """Were the second moment of a value far below its block's largest rounded to zero, the step would be enormous."""
    start = torch.zeros(SMALL)
    moved = []
    for make in (AdamW8bit, torch.optim.AdamW):
        weight = torch.nn.Parameter(start.clone())
        optimizer = make([weight], lr=1e-3, weight_decay=0.0)
        for step in range(20):
            weight.grad = torch.full_like(weight, 1e-5 if step == 0 else 0.0)
            weight.grad[::BLOCK] = 1.0
            optimizer.step()
        moved.append(weight.detach().abs().max())
    assert moved[0] <= 1.01 * moved[1]


def test_it_is_captured_whole_by_the_compiler():
    """Without a break, and once for all steps and learning rates."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    updates = update_coded, torch.compile(update_coded, backend="eager", fullgraph=True)
    ends = []
    for update in updates:
        weights, groups = weights_and_groups([(128, 256), (64, 512)])
        optimizer = AdamW8bit(groups, lr=1e-2, update=update)
        for step in range(4):
            optimizer.param_groups[0]["lr"] = 1e-2 / (step + 1)
            give_gradients(weights, step)
            optimizer.step()
        ends.append(weights)
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight, rtol=0, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


@pytest.fixture
def batches(write_rows, tiny):
    dataset = load_rows(str(write_rows(many_rows(64))))
    rows = list(prepare(dataset.rows, dataset.reading.ledgers, load_contract(tiny), 512, READS))
    return [padded(rows[start : start + 8], "cpu") for start in range(0, 64, 8)]


def learn(learner, batches, steps):
    """The losses of some steps, by hand."""
    from tunesmith.train.objective import Models
    from tunesmith.train.objectives.sft import make_sft

    objective, models, losses = make_sft(), Models(learner.model, make_plan("fp32", "off", 1024)), []
    for _ in range(steps):
        batch = batches[learner.step_number % len(batches)]
        loss = objective.loss(models, batch, None).terms[0].total / len(batch.target_N)
        loss.backward()
        learner.optimizers[0].step()
        learner.forget_gradients()
        learner.step_number += 1
        losses.append(loss.item())
    return losses


def make_learner(folder, eight_bit):
    model = METHODS["full"].apply(load(folder, LoadSpec()).model, FullConfig())
    name = "adamw_8bit" if eight_bit else "adamw"
    optim = OptimConfig(optimizer=name, weight_decay=0.1, scheduler="constant", warmup=0)
    return Learner(Placed(model, make_plan("fp32", "off", 1024)), optim, 1e-3, 100)


def test_it_learns_as_torchs_adamw_does(tiny, batches):
    ours, theirs = (learn(make_learner(tiny, eight_bit), batches, 100) for eight_bit in (True, False))
    assert theirs[-1] < 0.5 * theirs[0]
    assert ours == pytest.approx(theirs, rel=0.03)
    assert ours != theirs


def test_a_checkpoint_goes_on_to_the_same_bits(tiny, batches, tmp_path):
    whole = make_learner(tiny, True)
    learn(whole, batches, 6)
    save_checkpoint(whole, TrainerState(), NoSource(), tmp_path, keep_last=1)
    expected = learn(whole, batches, 6)
    broken = make_learner(tiny, True)
    checkpoint, _ = find_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.folder / MOMENTS).stat().st_size < 2.5 * sum(
        weight.numel() for weight in broken.weights.values()
    )
    restore(broken, checkpoint)
    assert learn(broken, batches, 6) == expected
    for name, weight in whole.weights.items():
        assert torch.equal(weight, broken.weights[name])
        states = whole.optimizers[0].state[weight], broken.optimizers[0].state[broken.weights[name]]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
