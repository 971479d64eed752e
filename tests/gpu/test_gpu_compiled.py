"""Compiled layers on a GPU: nothing of theirs is on the CPU, and they compute what they do as they are."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from gpu.small import learner_on, plan_on, rows_of
from graphs import graphs_of_layers, tensors_of
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.planning.planner import Wishes, decide_layers, one_backward
from tunesmith.train.sources.rows import RowSource

SFT = make_sft()
CELLS = ["full", "lora", "adalora", "vera", "ia3", "oft", "prefix_tuning, projection", "adapter, Houlsby"]


@pytest.mark.parametrize("cell", CELLS)
def test_nothing_in_a_graph_is_on_the_cpu(device, cell, tiny, write_rows, monkeypatch):
    """Or the compiler would build kernels for the CPU beside those for the GPU, and try that machine's compiler."""
    graphs, reason = graphs_of_layers(cell, tiny, write_rows, device, monkeypatch)
    assert reason is None
    assert len(graphs) >= 2  # forward and backward
    for graph in graphs:
        elsewhere = {name: one for name, one in tensors_of(graph).items() if one.device.type != device}
        assert not elsewhere


def test_compiled_layers_give_the_losses_of_those_that_are_not(device, tiny, write_rows):
    rows, results = rows_of(write_rows, tiny), []
    for wanted in ("off", "on"):
        torch.compiler.reset()
        plan, heard = plan_on(device), []
        learner = learner_on(tiny, plan, LoraConfig())
        plan = decide_layers(plan, Wishes(wanted, "off", 8, 4), learner.placed, SFT, rows, heard.append)
        assert plan.compiled == (wanted == "on"), plan.reasons
        assert not heard
        found = []
        with torch.compiler.set_stance("fail_on_recompile" if wanted == "on" else "default"):
            for micro in islice(RowSource(rows, SFT, plan, 8).steps(), 5):
                found += [one_backward(plan, learner.placed, SFT, batch) for batch in micro]
                learner.step()
        results.append(found)
    assert results[1] == pytest.approx(results[0], rel=1e-2)
