"""What a newcomer adds is one small thing of its own: an objective, a source, a method, from this file alone."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax, softplus

from conftest import READS, NoSource, many_rows
from tunesmith.core import events
from tunesmith.core.config import Section
from tunesmith.core.errors import TrainingError
from tunesmith.data.load import load_rows
from tunesmith.data.prepare import prepare
from tunesmith.infer.generator import Options, answer_all
from tunesmith.infer.local import LocalEngine
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.model.methods.method import Method
from tunesmith.model.methods.table import METHODS
from tunesmith.prompt.load import load_contract
from tunesmith.train.batch import TokenBatch, padded
from tunesmith.train.checkpoint import Checkpoint, find_checkpoint, restore, save_checkpoint
from tunesmith.train.config import OptimConfig
from tunesmith.train.learner import Learner
from tunesmith.train.loop import LoopSettings, train
from tunesmith.train.objective import Loss, Models, Objective, Term
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.planning.plan import Plan
from tunesmith.train.planning.planner import Wishes, complete_plan
from tunesmith.train.precompute import precomputed
from tunesmith.train.sources.rows import RowSource
from tunesmith.train.state import TrainerState
from tunesmith.train.weights.placed import Placed

PLAN = Plan(
    device="cpu", precision="fp32", packing=False, micro_tokens=300, accumulation=None, processes=1, sharding="none",
    threads=1, reasons={}, versions={}, machine="test", chunked=False,
)  # fmt: skip


class Rows(list):
    @property
    def lengths(self):
        return np.array([len(row.ids) for row in self])

    every_length = lengths


@pytest.fixture
def rows(write_rows, tiny):
    read = load_rows(str(write_rows(many_rows(24))))
    return Rows(prepare(read.rows, read.reading.ledgers, load_contract(tiny), 512, READS))


def learner_for(folder, plan=PLAN, method=METHODS["lora"], config=None):
    torch.manual_seed(0)
    model = load(folder, LoadSpec(precision=plan.precision)).model
    model = method.apply(model, config or LoraConfig())
    return Learner(Placed(model, plan), OptimConfig(clip=0, warmup=0), 1e-3, 8, method)


def go(objective, learner, source, steps, folder=None, state=None):
    """Train to a step, with a checkpoint at its end; what was told of each step."""
    heard, state = [], state or TrainerState()
    learner.model.train()
    train(
        objective, Models(learner.model, learner.placed.plan), learner, source, LoopSettings(steps, 99, 99), state, [],
        lambda: folder and save_checkpoint(learner, state, source, folder, 1), heard.append,
    )  # fmt: skip
    return [event for event in heard if isinstance(event, events.Step)]


def found(folder) -> Checkpoint:
    checkpoint, _ = find_checkpoint(folder)
    assert checkpoint is not None
    return checkpoint


# An objective: pairs of sequences, a statistic of the whole step, and counts that are vectors.


@dataclass(frozen=True)
class PairBatch:
    both: TokenBatch  # first the rows, then the same backwards
    rows: list
    units: dict
    tokens: int
    size: int


def collate_pairs(rows, plan, draw, columns):
    backwards = [replace(row, ids=row.ids[::-1].copy()) for row in rows]
    both = padded([*rows, *backwards], plan.device)
    return PairBatch(both, rows, {"pairs": len(rows)}, both.tokens, both.size)


def margins(models, batch):
    logits_BTV = models.policy(**batch.both.inputs).logits[:, :-1]
    ids_BT, seen_BT = batch.both.inputs["input_ids"][:, 1:], batch.both.inputs["attention_mask"][:, 1:]
    log_probability_BT = log_softmax(logits_BTV.float(), -1).gather(-1, ids_BT[..., None])[..., 0]
    sums_B = (log_probability_BT * seen_BT).sum(-1)
    return 0.1 * (sums_B[: len(batch.rows)] - sums_B[len(batch.rows) :])


def mean_margin(models, micro, ranks):
    with torch.no_grad():
        every = torch.cat([torch.zeros(0), *(margins(models, batch) for batch in micro)])
    sums = ranks.sum({"margin": every.sum().item(), "pairs": len(every)})
    return sums["margin"] / sums["pairs"]


def pair_loss(models, batch, whole):
    margin = margins(models, batch)
    long = torch.tensor([len(row.ids) > 40 for row in batch.rows])
    won = torch.stack([((margin > 0) & kind).sum() for kind in (long, ~long)])
    return Loss([Term("pairs", softplus(abs(whole) - margin).sum(), "pairs")], {"won": won})


def pair_curves(sums, scale):
    return {"loss": float(sums["loss"]), "won": float(sums["won"].sum()) / scale["pairs"]}


PAIRS = Objective("toy pairs", frozenset({"chat"}), collate_pairs, pair_loss, pair_curves, before=mean_margin)


def test_an_objective_of_pairs_is_the_same_in_one_batch_and_in_many(tiny, rows):
    found = []
    for plan in (replace(PLAN, accumulation=1), replace(PLAN, accumulation=4)):
        learner = learner_for(tiny, plan)
        steps = go(PAIRS, learner, RowSource(rows, PAIRS, plan, 8, 4), 4)
        found.append(([step.curves for step in steps], {name: w.clone() for name, w in learner.weights.items()}))
    (one, weights), (other, others) = found
    assert one[0]["loss"] > one[-1]["loss"]
    assert [curve["won"] for curve in one] == [curve["won"] for curve in other]
    assert [curve["loss"] for curve in one] == pytest.approx([curve["loss"] for curve in other], rel=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=1e-3, atol=1e-5)


def test_what_is_computed_beforehand_comes_with_its_rows_in_any_order(tiny, rows, tmp_path):
    """Two terms, one of them called `loss`; rows arranged otherwise; no random number of the run is drawn."""
    seen, sft = [], make_sft()

    def compute(models, rows):
        assert not models.policy.training
        torch.rand(3)
        return {"length": torch.tensor([float(len(row.ids)) for row in rows])}

    def collate(rows, plan, draw, columns):
        seen.append([(len(row.ids), length) for row, length in zip(rows, columns["length"].tolist(), strict=True)])
        return sft.collate(rows, plan, draw, {})

    def two_terms(models, batch, whole):
        loss = sft.loss(models, batch, whole)
        return Loss([*loss.terms, Term("zero", loss.terms[0].total * 0, "rows")], loss.counts)

    toy = replace(sft, collate=collate, loss=two_terms, precompute=compute, arrange=lambda rows, draw: rows[::-1])
    learner = learner_for(tiny)
    learner.model.train()
    before = torch.get_rng_state()
    bound = precomputed(toy, Models(learner.model, PLAN), rows, tmp_path, "base")
    assert torch.equal(torch.get_rng_state(), before)
    assert learner.model.training
    steps = go(bound, learner, RowSource(rows, bound, PLAN, 8, 4), 4)  # more than one epoch
    plain = learner_for(tiny)
    expected = go(sft, plain, RowSource(rows, sft, PLAN, 8, 4), 4)
    assert [step.loss for step in steps] == pytest.approx([step.loss for step in expected], rel=1e-5)
    assert all(length == ids for batch in seen for ids, length in batch)
    [kept] = tmp_path.glob("columns-*.safetensors")
    other = precomputed(toy, Models(learner.model, PLAN), rows, tmp_path, "another base")
    assert other is not bound
    assert len(list(tmp_path.glob("columns-*.safetensors"))) == 2
    assert kept.exists()


def test_a_source_that_ends_too_early_is_an_error(tiny):
    with pytest.raises(TrainingError, match="the source of batches ended after step 0 of 3"):
        go(make_sft(), learner_for(tiny), NoSource(), 3)


def test_the_planner_packs_no_objective_that_does_not_say_how_it_is_checked(tiny, rows):
    heard, placed = [], learner_for(tiny).placed
    plan = replace(PLAN, packing=True, chunked=None)
    whole = complete_plan(plan, Wishes("off", "auto", 8, 4), placed, PAIRS, rows, heard.append)
    assert (whole.packing, whole.chunked, whole.checkpointing, whole.compiled) == (False, False, False, False)
    assert heard[0].sentence.startswith("packing is off: objective toy pairs does not say")


def test_a_step_without_a_unit_is_left_out_and_said(tiny, rows):
    empty = [replace(row, spans=()) for row in rows[:8]]
    sft, learner, heard = make_sft(), learner_for(tiny), []
    source = RowSource(empty, sft, PLAN, 8, 2)
    before = {name: weight.clone() for name, weight in learner.weights.items()}
    train(
        sft, Models(learner.model, PLAN), learner, source, LoopSettings(2, 99, 99), TrainerState(), [], lambda: None,
        heard.append,
    )  # fmt: skip
    assert [event.sentence for event in heard] == [f"step {step} is left out: it has no tokens." for step in (1, 2)]
    assert all(torch.equal(weight, before[name]) for name, weight in learner.weights.items())


# A source: the model's own answers, each rollout learned from in two epochs.


@dataclass
class Rollouts:
    learner: Learner
    prompts: list
    objective: Objective
    planned_steps: int = 8
    rollout: tuple = ()
    place: int = 0  # among the four steps of a rollout: two batches, twice

    def steps(self):
        while True:
            if self.place % 4 == 0:
                self.rollout = tuple(self.answers())
            rows, self.place = self.rollout, self.place + 1
            half = (self.place - 1) % 2
            yield [self.objective.collate(rows[4 * half : 4 * half + 4], PLAN, None, {})]

    def answers(self):
        seed = int(torch.randint(1 << 30, ()))
        engine = LocalEngine(self.learner.model.eval(), None, compile_after=None)
        options = Options(max_new_tokens=6, temperature=1.0, seed=seed)
        completions = answer_all(engine, [(row.ids.tolist(), options) for row in self.prompts])
        for row, completion in zip(self.prompts, completions, strict=True):
            answer = completion.choice
            ids = np.array([*row.ids, *answer.ids], dtype=np.int32)
            yield replace(row, ids=ids, spans=((len(row.ids), len(ids)),))
        self.learner.model.train()

    def state(self):
        tensors = {str(i): torch.from_numpy(row.ids.copy()) for i, row in enumerate(self.rollout)}
        return tensors, {"place": self.place, "spans": [row.spans for row in self.rollout]}

    def restore(self, tensors, values):
        self.place, ids = values["place"], [tensors[str(i)].numpy() for i in range(len(tensors))]
        self.rollout = tuple(
            replace(row, ids=one, spans=tuple(map(tuple, spans)))
            for row, one, spans in zip(self.prompts, ids, values["spans"], strict=True)
        )


def test_a_source_of_rollouts_goes_on_to_the_same_bits_in_the_middle_of_two_epochs(tiny, rows, tmp_path):
    sft, prompts = make_sft(), [replace(row, ids=row.ids[:12]) for row in rows[:8]]
    whole = learner_for(tiny)
    expected = [step.curves for step in go(sft, whole, Rollouts(whole, prompts, sft), 8)]
    broken = learner_for(tiny)
    go(sft, broken, Rollouts(broken, prompts, sft), 3, tmp_path)  # in the second epoch over the first rollout
    again = learner_for(tiny)
    source = Rollouts(again, prompts, sft)
    state = restore(again, found(tmp_path), source)
    assert [step.curves for step in go(sft, again, source, 8, state=state)] == expected[3:]
    assert all(torch.equal(weight, again.weights[name]) for name, weight in whole.weights.items())
    assert len({str(curve) for curve in expected}) == 8


# A method with all hooks.


class GainConfig(Section):
    type: str = "gain"


class Gain(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.gain = layer, torch.nn.Parameter(torch.ones(layer.out_features))
        self.importance, self.until = torch.zeros_like(self.gain), 0

    def forward(self, x):
        return self.layer(x) * self.gain


def gains(model):
    return {name: part for name, part in model.named_modules() if isinstance(part, Gain)}


def add_gains(model, config):
    model.requires_grad_(False)
    for layer in model.model.layers:
        layer.mlp.down_proj = Gain(layer.mlp.down_proj)
    return model


def prepare_gains(model, config, rows, steps):
    for part in gains(model).values():
        part.until = steps // 2  # then the least important half is taken away


def prune(model, weights, step):
    for name, part in gains(model).items():
        weight = weights[f"{name}.gain"]
        assert (weight.dtype, weight.grad.dtype) == (torch.float32, torch.float32)
        part.importance = 0.9 * part.importance + (weight * weight.grad).detach().abs()
        if step >= part.until:
            weight.data[part.importance.argsort()[: len(weight) // 2]] = 0.0


def gains_state(model):
    return {name: part.importance for name, part in gains(model).items()}, {
        name: part.until for name, part in gains(model).items()
    }


def restore_gains(model, tensors, values):
    for name, part in gains(model).items():
        part.importance, part.until = tensors[name], values[name]


def gains_penalty(model, weights):
    return 0.1 * sum((part.gain.float() - 1).square().sum() for part in gains(model).values())


GAIN = Method(
    GainConfig, add_gains, 1e-2, frozenset({"base_untouched"}), prepare_gains, gains_penalty, prune, gains_state,
    restore_gains,
)  # fmt: skip


def test_a_method_with_all_hooks_steps_on_masters_and_goes_on_to_the_same_bits(tiny, rows, tmp_path):
    plan, sft = replace(PLAN, precision="bf16"), make_sft()

    def make():
        learner = learner_for(tiny, plan, GAIN, GainConfig())
        GAIN.prepare(learner.model, GainConfig(), rows, 6)
        return learner, RowSource(rows, sft, plan, 8, 6)

    whole, source = make()
    expected = go(sft, whole, source, 6)
    for name, part in gains(whole.model).items():
        master = whole.weights[f"{name}.gain"]
        assert (part.gain.dtype, master.dtype) == (torch.bfloat16, torch.float32)
        assert torch.equal(part.gain, master.to(torch.bfloat16))
        assert (master == 0).sum() == len(master) // 2
    go(sft, *make(), 4, tmp_path)
    again, source = make()
    state = restore(again, found(tmp_path), source)
    assert [step.loss for step in go(sft, again, source, 6, state=state)] == [step.loss for step in expected[4:]]
    assert all(torch.equal(weight, again.weights[name]) for name, weight in whole.weights.items())
    assert [step.step for step in itertools.islice(expected, 2)] == [1, 2]
