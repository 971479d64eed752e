"""What a compiler is given of a layer: no number of the layer's own is a tensor there."""

from __future__ import annotations

import pytest
import torch

from graphs import graphs_of_layers, tensors_of
from method_cells import CELLS, NOT_COMPILED, UNFIT
from tunesmith.model.methods.table import METHODS

QUICK = {"lora", "prefix_tuning, projection"}
FIT = [cell for cell in CELLS if ("Llama", cell) not in UNFIT]


def test_every_method_has_a_cell():
    assert {cell["type"] for cell in CELLS.values()} == set(METHODS)


@pytest.mark.parametrize("cell", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in FIT])
def test_scales_and_epsilons_are_constants_of_the_graph(cell, tiny, write_rows, monkeypatch):
    """As tensors of double precision on the CPU they would have a GPU's graph call for a kernel of the CPU."""
    graphs, reason = graphs_of_layers(cell, tiny, write_rows, "cpu", monkeypatch)
    assert (reason is None) == (cell not in NOT_COMPILED), reason
    assert len(graphs) >= 2 or cell in NOT_COMPILED  # forward and backward
    for graph in graphs:
        numbers = {name: one for name, one in tensors_of(graph, inputs_alone=True).items()
                   if one.dim() == 0 and one.dtype == torch.float64}  # fmt: skip
        assert not numbers
