"""The loop: sums divided once, packed equals padded, nothing infinite reaches the weights."""

from __future__ import annotations

import json
import math
import platform
import weakref
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch

from conftest import READS, NoSource, many_rows, save_tiny
from tunesmith.core import events
from tunesmith.core.errors import ConfigError, TrainingError
from tunesmith.data.load import load_rows
from tunesmith.data.prepare import prepare
from tunesmith.exec.machine import LIBRARIES
from tunesmith.model import native
from tunesmith.model.attention import PACKED
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.methods.full import FullConfig
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.model.methods.method import trainable
from tunesmith.model.methods.table import METHODS
from tunesmith.prompt.load import load_contract
from tunesmith.train.batch import LazyBatches, packed, padded
from tunesmith.train.checkpoint import save_checkpoint
from tunesmith.train.config import OptimConfig
from tunesmith.train.learner import Learner
from tunesmith.train.loop import LoopSettings, train
from tunesmith.train.objective import Models
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.planning.packing_check import why_not_packed
from tunesmith.train.planning.plan import Plan
from tunesmith.train.planning.planner import halved_until_it_fits, make_plan
from tunesmith.train.planning.speed import choose_precision
from tunesmith.train.sources.rows import RowSource
from tunesmith.train.state import TrainerState
from tunesmith.train.validate import validate
from tunesmith.train.weights.placed import Placed
from tunesmith.train.weights.ranks import ALONE, Ranks

PLAN = Plan(
    device="cpu", precision="fp32", packing=True, micro_tokens=300, accumulation=None, processes=1, sharding="none",
    threads=2, reasons={}, versions={}, machine="test",
)  # fmt: skip


@pytest.fixture
def rows(write_rows, tiny):
    dataset = load_rows(str(write_rows(many_rows(24))))
    return list(prepare(dataset.rows, dataset.reading.ledgers, load_contract(tiny), 512, READS))


def run(folder, rows, plan=PLAN, accumulation=None, steps=4, method="full", batch_size=8, **optim):
    """Train a little; the losses and the final weights."""
    torch.manual_seed(0)
    model = load(folder, LoadSpec()).model
    if plan.packing:
        model.set_attn_implementation(PACKED)
    model = METHODS[method].apply(model, FullConfig() if method == "full" else LoraConfig())
    objective, plan = make_sft(), replace(plan, accumulation=accumulation)
    source = RowSource(rows, objective, plan, batch_size, steps)
    learner = Learner(Placed(model, plan), OptimConfig(clip=0.5, **optim), 1e-3, steps)
    heard = []
    settings = LoopSettings(steps, validate_every=2, checkpoint_every=steps)
    models = Models(learner.model, plan)
    train(
        objective, models, learner, source, settings, TrainerState(), source.cut(rows[:5]), lambda: None, heard.append
    )
    losses = [event.loss for event in heard if isinstance(event, events.Step)]
    return losses, {name: weight.detach().clone() for name, weight in trainable(model).items()}, heard


def test_watched_rows_are_on_the_device_while_they_are_looked_at(tiny, rows):
    """The same numbers as with all of them there; for one of three processes too."""
    there, most = weakref.WeakSet(), []

    class Watched(LazyBatches):
        def __getitem__(self, place):
            batch = super().__getitem__(place)
            there.add(getattr(batch, "real", batch).target_N)
            most.append(len(there))
            return batch

    model = METHODS["full"].apply(load(tiny, LoadSpec()).model, FullConfig())
    model.set_attn_implementation(PACKED)
    learner, objective = Learner(Placed(model, PLAN), OptimConfig(), 1e-3, 4), make_sft()
    for ranks in (ALONE, Ranks(1, 3)):
        lazy = RowSource(rows, objective, replace(PLAN, micro_tokens=60), 8, ranks=ranks).cut(rows)
        all_there = list(lazy)
        assert len(lazy) == len(all_there) > 2
        assert len(lazy[1:]) == len(lazy) - 1
        watched = Watched(lazy.groups, lazy.make)
        models = Models(learner.model, PLAN)
        assert validate(objective, models, learner, watched) == validate(objective, models, learner, all_there)
    assert max(most) <= 2


@pytest.mark.parametrize("method", ["full", "lora"])
def test_packed_padded_and_accumulated_runs_are_the_same_run(tiny, rows, method):
    together, weights, _ = run(tiny, rows, method=method, accumulation=1)
    assert together[0] > together[-1]
    for plan, accumulation in ((PLAN, 3), (PLAN, 8), (PLAN, None), (replace(PLAN, packing=False), None),
                               (replace(PLAN, packing=False), 2)):  # fmt: skip
        losses, others, _ = run(tiny, rows, plan, accumulation, method=method)
        assert losses == pytest.approx(together, rel=2e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(others[name], weight, rtol=1e-3, atol=2e-5)


def test_bf16_follows_fp32(tiny, rows):
    """In bf16, with fp32 masters of what is trained: the losses stay within two percent."""
    exact, _, _ = run(tiny, rows, method="lora", steps=6)
    torch.manual_seed(0)
    plan = replace(PLAN, precision="bf16")
    model = load(tiny, LoadSpec(precision="bf16")).model
    assert why_not_packed(make_sft(), Models(model, PLAN), rows) is None
    model = METHODS["lora"].apply(model, LoraConfig())
    assert {weight.dtype for weight in trainable(model).values()} == {torch.float32}
    objective, heard = make_sft(), []
    learner = Learner(Placed(model, plan), OptimConfig(clip=0.5), 1e-3, 6)
    source, models = RowSource(rows, objective, plan, 8, 6), Models(learner.model, plan)
    train(objective, models, learner, source, LoopSettings(6, 9, 9), TrainerState(), [], lambda: None, heard.append)
    losses = [event.loss for event in heard]
    assert losses == pytest.approx(exact, rel=0.02)
    assert losses != exact


def test_the_first_loss_is_that_of_five_naive_lines(tiny, rows):
    [first, *_], _, heard = run(tiny, rows, steps=1, batch_size=24)
    model = load(tiny, LoadSpec()).model
    total = count = 0.0
    for row in rows:
        log_probability = model(torch.tensor([row.ids.tolist()])).logits[0].log_softmax(-1)
        for place in range(1, len(row.ids)):
            total -= row.mask[place] * log_probability[place - 1, row.ids[place]].item()
            count += row.mask[place]
    assert first == pytest.approx(total / count, rel=1e-5)
    assert heard[0].trained_tokens == count
    [validation] = [event for event in heard if isinstance(event, events.Validation)]
    assert math.isfinite(validation.loss)


def test_batches_mark_the_same_targets(rows):
    one, other = packed(rows[:3], "cpu"), padded(rows[:3], "cpu")
    assert one.target_N.tolist() == other.target_N.tolist()
    assert one.target_N.tolist() == [i for row in rows[:3] for i, m in zip(row.ids, row.mask, strict=True) if m]
    assert one.units == other.units
    assert one.tokens == other.tokens == sum(len(row.ids) for row in rows[:3])


def test_gpt2_is_packed_and_adapted_too(rows):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=4096, n_embd=64, n_layer=2, n_head=4, n_positions=256)).eval()
    assert why_not_packed(make_sft(), Models(model, PLAN), rows) is None
    names = trainable(METHODS["lora"].apply(model, LoraConfig()))
    assert any("c_attn" in name for name in names)


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_rows(tmp_path, rows):
    folder = save_tiny(tmp_path / "broken")
    model = load(folder, LoadSpec()).model
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    model.save_pretrained(folder)
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan on rows .*rows\.jsonl:\d+"):
        run(folder, rows, replace(PLAN, packing=False))


def test_an_infinite_gradient_is_refused_and_the_weights_stay(tiny, rows):
    model = METHODS["full"].apply(load(tiny, LoadSpec()).model, FullConfig())
    learner = Learner(Placed(model, PLAN), OptimConfig(), 1e-3, 4)
    before = [weight.clone() for weight in model.parameters()]
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, torch.inf)
    with pytest.raises(TrainingError, match="the gradient is"):
        learner.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_checkpoint_holds_weights_moments_and_a_manifest(tiny, tmp_path):
    from safetensors.torch import load_file

    from tunesmith.core.files import sha256_of

    model = METHODS["lora"].apply(load(tiny, LoadSpec()).model, LoraConfig())
    learner = Learner(Placed(model, PLAN), OptimConfig(), 1e-3, 4)
    for _ in range(3):
        for weight in trainable(model).values():
            weight.grad = torch.ones_like(weight)
        learner.step()
        folder = save_checkpoint(learner, TrainerState(), NoSource(), tmp_path, keep_last=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003"]
    saved = load_file(folder / "trainable.safetensors")
    assert saved.keys() == trainable(model).keys()
    assert all(torch.equal(saved[name], weight) for name, weight in trainable(model).items())
    moments = load_file(folder / "optimizer.safetensors")
    assert len(moments) == 3 * len(saved)
    assert json.loads((folder / "state.json").read_text())["step"] == 3
    manifest = json.loads((folder / "MANIFEST.json").read_text())["sha256"]
    assert manifest == {name: sha256_of(folder / name) for name in manifest}
    assert len(manifest) == 3


def test_the_plan_says_what_was_asked_for_and_what_is_here():
    plan = make_plan("fp32", "off", 1024, accumulation=3, device="cpu")
    assert (plan.device, plan.precision, plan.packing, plan.micro_tokens, plan.accumulation) == (
        "cpu", "fp32", False, 1024, 3,
    )  # fmt: skip
    assert (plan.processes, plan.sharding, plan.threads) == (1, "none", torch.get_num_threads())
    own = {"python": platform.python_version(), "cpp": native.version()}
    assert plan.versions == {name: version(name) for name in LIBRARIES} | own
    assert {"device", "precision", "packing"} <= plan.reasons.keys()


def test_a_card_computes_in_bf16_if_it_can_and_is_not_asked_to_if_it_cannot(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    for capability, precision in (((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        assert choose_precision("auto", "cuda")[0] == precision
        assert choose_precision("fp32", "cuda")[0] == "fp32"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(ConfigError, match=r"Tesla T4 has no bf16 units\. Set precision=fp32"):
        choose_precision("bf16", "cuda")


def test_as_much_goes_at_once_as_has_room():
    plan = make_plan("fp32", "auto", 16384, device="cpu")
    halved, found = halved_until_it_fits(plan, lambda plan: "no room" if plan.micro_tokens > 5000 else None)
    assert (halved.micro_tokens, found) == (4096, None)
    assert halved.reasons["micro_tokens"] == "auto: there is no room for 8192 tokens at once"
    halved, found = halved_until_it_fits(plan, lambda plan: "no room")
    assert (halved.micro_tokens, found) == (2048, "no room")
    assert make_plan("fp32", "auto", "auto", device="cpu").micro_tokens == 4096


@pytest.mark.parametrize(("gain", "precision"), [(0.9, "fp32"), (1.2, "fp32"), (1.4, "bf16"), (8.0, "bf16")])
def test_the_precision_is_that_of_the_faster_product(monkeypatch, gain, precision):
    """Of a processor whose bf16 products are so many times as fast as fp32's."""
    rates = {torch.bfloat16: gain * 1e11, torch.float32: 1e11}
    monkeypatch.setattr("tunesmith.train.planning.speed.product_rate", lambda device, dtype: rates[dtype])
    assert make_plan("auto", "auto", 1024, device="cpu").precision == precision
    assert make_plan("bf16", "auto", 1024, device="cpu").precision == "bf16"
    assert make_plan("fp32", "auto", 1024, device="cpu").precision == "fp32"
