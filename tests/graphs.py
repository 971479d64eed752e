"""The graphs that a model's layers are compiled from, as a compiler is given them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from gpu.small import learner_on, plan_on, rows_of
from method_cells import CELLS
from tunesmith.core.config import validate
from tunesmith.model.soft import soft_tokens
from tunesmith.train.objective import Draw
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.planning.compiled import why_not_compiled
from tunesmith.train.planning.planner import one_backward
from tunesmith.train.prefixed import prefixed
from tunesmith.train.recipe import Recipe


def config_of(cell: str) -> Any:
    """The method of a cell, as a recipe has it."""
    return validate(Recipe, {"method": CELLS[cell], "data": {"train": "rows.jsonl"}}, cell).method


def graphs_of_layers(
    cell: str, base: Path, write_rows: Any, device: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[torch.fx.GraphModule], str | None]:
    """Forward and backward graphs of the compiled layers of a model, and why they would not be used.

    Operations run one by one: what a compiler makes of a graph does not matter here.
    """
    seen: list[torch.fx.GraphModule] = []

    def note(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        seen.append(graph)
        return make_boxed_func(graph.forward)

    compile_it = torch.compile
    backend = aot_autograd(fw_compiler=note)
    monkeypatch.setattr(torch, "compile", lambda function, **how: compile_it(function, **{**how, "backend": backend}))
    torch.compiler.reset()
    plan = plan_on(device)
    learner = learner_on(base, plan, config_of(cell))
    objective = prefixed(make_sft(), soft_tokens(learner.model))
    batch = objective.collate(rows_of(write_rows, base)[:4], plan, Draw(), {})
    reason = why_not_compiled(
        learner.model, learner.weights, lambda: one_backward(plan, learner.placed, objective, batch)
    )
    torch.compiler.reset()
    return seen, reason


def tensors_of(graph: torch.fx.GraphModule, inputs_alone: bool = False) -> dict[str, torch.Tensor]:
    """What the nodes of a graph give, by name."""
    found: dict[str, torch.Tensor] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder" or not inputs_alone:
            values = torch.utils._pytree.tree_leaves(node.meta.get("val"))
            found |= {f"{node.name}{i or ''}": one for i, one in enumerate(values) if isinstance(one, torch.Tensor)}
    return found
