"""Each optimizer against its library's own, driven by hand; each goes on from a checkpoint to the same bits."""

from __future__ import annotations

import pytest
import torch

from conftest import READS, NoSource, many_rows, save_tiny
from test_train import PLAN
from tunesmith.core.errors import ConfigError
from tunesmith.data.load import load_rows
from tunesmith.data.prepare import prepare
from tunesmith.jobs.finetune import said_of_optimizer
from tunesmith.jobs.preflight import refuse_optimizer
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.methods.full import FullConfig
from tunesmith.model.methods.table import METHODS
from tunesmith.prompt.load import load_contract
from tunesmith.train import optimizers
from tunesmith.train.batch import padded
from tunesmith.train.checkpoint import find_checkpoint, restore, same_optimizer, save_checkpoint, tensors_to_export
from tunesmith.train.config import OptimConfig
from tunesmith.train.learner import Learner
from tunesmith.train.objective import Models
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.optimizers import OPTIMIZERS, make_optimizers
from tunesmith.train.recipe import Recipe
from tunesmith.train.state import TrainerState
from tunesmith.train.validate import validate
from tunesmith.train.weights.placed import Placed

LIBRARIES = {"lion": "bitsandbytes", "schedule_free": "schedulefree"}  # of an extra
STEPS, RATE, DECAY = 8, 2e-3, 0.1
SETTINGS = {
    "adamw": {"betas": [0.8, 0.95], "eps": 1e-6},
    "adamw_8bit": {"betas": [0.8, 0.95]},
    "schedule_free": {"betas": [0.85, 0.95]},
    "adafactor": {"beta2_decay": -0.7},
    "lion": {"betas": [0.8, 0.95]},
    "sgd": {"momentum": 0.8, "nesterov": True},
    "muon": {"momentum": 0.9, "iterations": 4},
}


def theirs(name, matrices, embeddings, others):
    """What the library's own page would write; embeddings are matrices that decay, and none of Muon's."""
    decayed = {"params": [*matrices, *embeddings], "weight_decay": DECAY, "lr": RATE}
    spared = {"params": others, "weight_decay": 0.0, "lr": RATE}
    match name:
        case "adamw":
            return [torch.optim.AdamW([decayed, spared], betas=(0.8, 0.95), eps=1e-6, fused=True)]
        case "schedule_free":
            from schedulefree import AdamWScheduleFree

            optimizer = AdamWScheduleFree([decayed, spared], betas=(0.85, 0.95), warmup_steps=3)
            optimizer.train()
            return [optimizer]
        case "adafactor":
            return [torch.optim.Adafactor([decayed, spared], beta2_decay=-0.7)]
        case "lion":
            from bitsandbytes.optim import Lion32bit

            return [Lion32bit([decayed, spared], betas=(0.8, 0.95))]
        case "sgd":
            return [torch.optim.SGD([decayed, spared], momentum=0.8, nesterov=True)]
    rest = [{**decayed, "params": embeddings}, spared]
    muon = torch.optim.Muon(
        matrices, lr=RATE, weight_decay=DECAY, momentum=0.9, ns_steps=4, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, torch.optim.AdamW(rest, fused=True)]


@pytest.fixture
def batches(write_rows, tiny):
    dataset = load_rows(str(write_rows(many_rows(24))))
    rows = list(prepare(dataset.rows, dataset.reading.ledgers, load_contract(tiny), 512, READS))
    return [padded(rows[start : start + 6], "cpu") for start in range(0, 24, 6)]


def learner_for(folder, name, **optim):
    pytest.importorskip(LIBRARIES.get(name, "torch"))
    model = METHODS["full"].apply(load(folder, LoadSpec()).model, FullConfig()).train()
    optimizer = {"type": name, **SETTINGS.get(name, {})}
    settings = OptimConfig.model_validate(
        {"optimizer": optimizer, "weight_decay": DECAY, "scheduler": "constant", "warmup": 3, "clip": 0, **optim}
    )
    return Learner(Placed(model, PLAN), settings, RATE, STEPS)


def learn(learner, batches, steps):
    objective, models, losses = make_sft(), Models(learner.model, PLAN), []
    for _ in range(steps):
        batch = batches[learner.step_number % len(batches)]
        loss = objective.loss(models, batch, None).terms[0].total / len(batch.target_N)
        learner.backward(loss)
        learner.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adamw_8bit"])  # ours: test_eight_bit
def test_an_optimizer_does_what_its_library_does(tiny, batches, name):
    """Weights after eight steps with a warm-up, weight decay and settings of its own."""
    learner = learner_for(tiny, name)
    ours = learn(learner, batches, STEPS)
    model = load(tiny, LoadSpec()).model.train()
    named = dict(model.named_parameters())
    matrices = [weight for key, weight in named.items() if weight.ndim == 2 and ".layers." in key]
    embeddings = [weight for key, weight in named.items() if weight.ndim == 2 and ".layers." not in key]
    optimizers, losses = theirs(name, matrices, embeddings, [w for w in named.values() if w.ndim < 2]), []
    for step in range(STEPS):
        batch = batches[step % len(batches)]
        loss = make_sft().loss(Models(model, PLAN), batch, None).terms[0].total / len(batch.target_N)
        loss.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:  # schedule-free has the warm-up itself
                group["lr"] = RATE if name == "schedule_free" else RATE * min(1.0, (step + 1) / 3)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert ours == pytest.approx(losses, rel=1e-5)
    assert ours[-1] != ours[-1 - len(batches)]
    for key, weight in learner.weights.items():
        torch.testing.assert_close(weight, named[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_to_the_same_bits(tiny, batches, tmp_path, name):
    """With a schedule, groups of several rates, and looks at validation rows in between, which leave no trace."""
    settings = {"layer_decay": 0.7, "scheduler": "constant" if name == "schedule_free" else "wsd"}
    whole, broken = (learner_for(tiny, name, **settings) for _ in range(2))
    learn(whole, batches, 3)
    watched = validate(make_sft(), Models(whole.model, PLAN), whole, batches[:1])
    save_checkpoint(whole, TrainerState(), NoSource(), tmp_path, keep_last=1)
    want = learn(whole, batches, 5)
    checkpoint, _ = find_checkpoint(tmp_path)
    assert checkpoint is not None
    restore(broken, checkpoint)
    assert validate(make_sft(), Models(broken.model, PLAN), broken, batches[:1]) == watched
    assert learn(broken, batches, 5) == want
    assert all(torch.equal(weight, broken.weights[key]) for key, weight in whole.weights.items())
    assert [group["lr"] for one in whole.optimizers for group in one.param_groups] == [
        group["lr"] for one in broken.optimizers for group in one.param_groups
    ]


def test_schedule_free_is_watched_and_exported_as_its_average(tiny, batches, tmp_path):
    """Against the library's own `eval`, and with the weights bit by bit as they were afterwards."""
    learner = learner_for(tiny, "schedule_free")
    learn(learner, batches, 4)
    before = {name: weight.detach().clone() for name, weight in learner.weights.items()}
    models = Models(learner.model, PLAN)
    watched = validate(make_sft(), models, learner, batches)["loss"]
    save_checkpoint(learner, TrainerState(), NoSource(), tmp_path, keep_last=1)
    assert all(torch.equal(weight, before[name]) for name, weight in learner.weights.items())
    checkpoint, _ = find_checkpoint(tmp_path)
    assert checkpoint is not None
    learner.optimizers[0].eval()
    average = {name: weight.detach().clone() for name, weight in learner.weights.items()}
    learner.average = None
    assert validate(make_sft(), models, learner, batches)["loss"] == watched
    found = tensors_to_export(checkpoint)
    assert all(torch.equal(found[name], weight) for name, weight in average.items())
    assert any(not torch.equal(before[name], weight) for name, weight in average.items())


def test_what_cannot_be_parted_is_refused(tmp_path):
    model = METHODS["full"].apply(load(save_tiny(tmp_path), LoadSpec()).model, FullConfig())
    pytest.importorskip("schedulefree")
    groups = [{"params": list(model.parameters()), "lr": 1.0, "weight_decay": 0.0, "matrix": False}]
    for name, kind in OPTIMIZERS.items():
        config = OptimConfig(optimizer=name).optimizer
        if kind.parted:
            make_optimizers(config, groups, in_parts=True)
        else:
            with pytest.raises(ConfigError, match="it needs whole weights"):
                make_optimizers(config, groups, in_parts=True)


def test_a_missing_library_is_named_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(optimizers, "find_spec", lambda name: None)
    for name in ("lion", "schedule_free"):
        with pytest.raises(ConfigError, match=r"which is not installed\. Run: pip install"):
            refuse_optimizer(Recipe.model_validate({"data": {"train": "hotel"}, "optim": {"optimizer": name}}))


@pytest.mark.parametrize(("before", "after"), [
    ({"weight_decay": 0.0}, {"weight_decay": 0.2}), ({}, {"layer_decay": 0.7}),
    ({}, {"groups": {"*embed*": {"rate": 2}}}), ({}, {"ema": 0.9}), ({"ema": 0.9}, {}),
    *(({"optimizer": one}, {"optimizer": other}) for one, other in (
        ("adamw", "lion"), ("adamw", "muon"), ("adamw", "schedule_free"), ("schedule_free", "adamw"),
        ("adamw", "adafactor"), ("adamw_8bit", "adamw"), ("adamw", "adamw_8bit"), ("adamw", "sgd"), ("muon", "sgd"),
    )),
])  # fmt: skip
def test_a_run_goes_on_with_other_settings_where_somebody_has_accepted_that(tiny, batches, tmp_path, before, after):
    """Moments stay where they mean the same; those of another optimizer are begun anew, and it is said."""
    whole, other = (learner_for(tiny, **{"name": "adamw", **one}) for one in (named(before), named(after)))
    learn(whole, batches, 3)
    save_checkpoint(whole, TrainerState(), NoSource(), tmp_path, keep_last=1)
    checkpoint, _ = find_checkpoint(tmp_path)
    assert checkpoint is not None
    restore(other, checkpoint)
    assert all(torch.equal(weight, other.weights[key]) for key, weight in whole.weights.items())
    kept = any(state for one in other.optimizers for state in one.state.values())
    assert kept == same_optimizer(other, checkpoint) == (whole.optimizer_type == other.optimizer_type)
    assert len(list(said_of_optimizer(other, checkpoint))) == (not kept)
    assert all(torch.isfinite(torch.tensor(learn(other, batches, 3))))
    save_checkpoint(other, TrainerState(), NoSource(), tmp_path, keep_last=1)


def named(settings):
    return {"name" if key == "optimizer" else key: value for key, value in settings.items()}


def test_counters_stay_with_their_weights_in_other_groups(tiny, batches, tmp_path):
    """A schedule-free optimizer that forgot how many steps it has averaged would throw its average away."""
    whole, other = learner_for(tiny, "schedule_free"), learner_for(tiny, "schedule_free", layer_decay=0.9)
    learn(whole, batches, 4)
    save_checkpoint(whole, TrainerState(), NoSource(), tmp_path, keep_last=1)
    checkpoint, _ = find_checkpoint(tmp_path)
    assert checkpoint is not None
    restore(other, checkpoint)
    groups = other.optimizers[0].param_groups
    assert len(groups) > 2
    assert {group["k"] for group in groups} == {4}
    assert {group["weight_sum"] for group in groups} == {whole.optimizers[0].param_groups[0]["weight_sum"]}


def test_muon_without_matrices_says_that_it_is_adamw(tiny):
    model = METHODS["layernorm"].apply(load(tiny, LoadSpec()).model, METHODS["layernorm"].config())
    learner = Learner(Placed(model, PLAN), OptimConfig(optimizer="muon"), RATE, STEPS)
    [sentence] = said_of_optimizer(learner, None)
    assert "all of it is AdamW" in sentence


def test_a_moving_average_goes_with_every_optimizer(tiny, batches):
    learner = learner_for(tiny, "muon", ema=0.9)
    learn(learner, batches, 3)
    assert learner.average is not None
    shown = learner.average.tensors()
    assert any(not torch.equal(shown[name], weight) for name, weight in learner.weights.items())
