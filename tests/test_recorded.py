"""Batches of few shapes, and passes that are recorded: what fills a batch up changes nothing, nor does recording.

A recording on a CPU computes when it is launched, from the tensors that it was made of: as a GPU's does.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from conftest import READS, many_rows
from tunesmith.core.errors import OutOfMemory
from tunesmith.data.load import load_rows
from tunesmith.data.prepare import prepare
from tunesmith.model.attention import PACKED
from tunesmith.model.packed import few_of, packed_inputs
from tunesmith.prompt.load import load_contract
from tunesmith.train.config import OptimConfig
from tunesmith.train.learner import Learner
from tunesmith.train.loop import LoopSettings, train
from tunesmith.train.objective import Draw, Models
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.planning.packing_check import why_not_packed
from tunesmith.train.planning.plan import Plan, in_smaller_pieces
from tunesmith.train.planning.planner import Wishes, decide_graphs
from tunesmith.train.recorded import RecordedPasses
from tunesmith.train.sources.rows import RowSource
from tunesmith.train.state import TrainerState
from tunesmith.train.weights.placed import Placed

PLAN = Plan(
    device="cpu", precision="bf16", packing=True, micro_tokens=600, accumulation=None, processes=1, sharding="none",
    threads=1, reasons={}, versions={}, machine="test", chunked=True, graphs=True,
)  # fmt: skip
SFT = make_sft()


@pytest.fixture
def rows(write_rows, tiny):
    dataset = load_rows(str(write_rows(many_rows(30))))
    return list(prepare(dataset.rows, dataset.reading.ledgers, load_contract(tiny), 512, READS))


def learner_of(tiny, plan):
    torch.manual_seed(0)
    model = LlamaForCausalLM.from_pretrained(tiny).train()
    model.set_attn_implementation(PACKED)
    placed = Placed(model, plan)
    placed.keeps_gradients = plan.graphs is True
    return Learner(placed, OptimConfig(warmup=0), 1e-3, 100)


def stand_in(run):
    found = {}
    return found, lambda: found.update(run())


def test_few_numbers_are_powers_of_two_and_one_and_a_half_of_one():
    assert sorted({few_of(n) for n in range(1, 1025)}) == [128, 192, 256, 384, 512, 768, 1024]
    assert all(n <= few_of(n, 8) <= max(8, 1.5 * n) for n in range(1, 3000))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_fills_a_batch_up_changes_nothing(rows, tiny, precision):
    few, many = replace(PLAN, precision=precision), replace(PLAN, precision=precision, graphs=False)
    found = []
    for plan in (few, many):
        learner = learner_of(tiny, plan)
        batch = SFT.collate(rows[:7], plan, Draw(), {})
        loss = SFT.loss(Models(learner.model, plan), batch, None)
        loss.terms[0].total.backward()
        found.append((loss.terms[0].total.detach(), loss.counts["correct"],
                      *(weight.grad for weight in learner.weights.values())))  # fmt: skip
        assert batch.units["tokens"] == sum(int(row.mask[1:].sum()) for row in rows[:7])
    assert len(SFT.collate(rows[:7], few, Draw(), {}).target_N) == few_of(batch.units["tokens"])
    close = {"rtol": 1e-5, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.05, "atol": 0.15}
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **close)


def test_a_recorded_pass_gives_what_computing_it_gives(rows, tiny, monkeypatch):
    passes = []

    def recorded(*given):
        passes.append(RecordedPasses(*given, record=stand_in))
        return passes[0]

    weights, told = [], []
    for make in (recorded, lambda *given: RecordedPasses(*given, record=refuse, most=0)):
        monkeypatch.setattr("tunesmith.train.loop.RecordedPasses", make)
        learner, steps = learner_of(tiny, PLAN), []
        source = RowSource(rows, SFT, PLAN, 10, 12)
        settings = LoopSettings(12, validate_every=10**6, checkpoint_every=10**6)
        hear = lambda event, steps=steps: steps.append(event)  # noqa: E731
        train(SFT, Models(learner.model, PLAN), learner, source, settings, TrainerState(), [], lambda: None, hear)
        weights.append(learner.weights)
        told.append([(step.loss, step.gradient_norm) for step in steps if step.kind == "step"])
    assert passes[0].count >= 6
    assert told[0] == told[1]
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name])


def refuse(run):
    raise RuntimeError("cannot be recorded\nat all")


def test_what_cannot_be_recorded_is_left_to_another_process(rows, tiny):
    learner = learner_of(tiny, PLAN)
    passes = RecordedPasses(SFT, Models(learner.model, PLAN), learner, record=refuse)
    batch = SFT.collate(rows[:7], PLAN, Draw(), {})
    passes.gradients(batch, {"tokens": 10.0})
    with pytest.raises(OutOfMemory, match=r"kernels cannot be recorded \(cannot be recorded\)"):
        passes.gradients(batch, {"tokens": 10.0})
    assert passes.gradients(batch, {"tokens": 0.0}) == {}
    smaller = in_smaller_pieces(PLAN, 8, [len(row.ids) for row in rows])
    assert smaller == replace(PLAN, graphs=False, reasons=smaller.reasons)


def test_a_run_that_goes_on_is_packed_as_before_and_records_no_more_than_it_may(rows, tiny):
    model = learner_of(tiny, PLAN).model
    model.set_attn_implementation("sdpa")
    assert why_not_packed(SFT, Models(model, PLAN), rows) is None  # and what is filled up does not stand in its way
    placed = Placed(model, replace(PLAN, graphs=None))
    wishes = Wishes("off", "off", 8, 4, plain=True)
    assert decide_graphs(PLAN, wishes, placed, SFT, rows).graphs is False  # there is no GPU
    assert placed.keeps_gradients is False


def test_equal_rows_stay_a_batch():
    rows = [np.arange(64) for _ in range(6)]
    assert len(packed_inputs(rows, "cpu", few_shapes=True)["cu_seq_lens_q"]) == 7
    assert len(packed_inputs([*rows, np.arange(9)], "cpu", few_shapes=True)["cu_seq_lens_q"]) == 12
