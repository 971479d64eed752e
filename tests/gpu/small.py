"""What tests on a GPU share: a plan, rows, a learner, and how far a tensor is from what it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from conftest import READS, many_rows
from tunesmith.data.load import load_rows
from tunesmith.data.prepare import prepare
from tunesmith.model.attention import PACKED
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.methods.table import METHODS, method_for
from tunesmith.prompt.load import load_contract
from tunesmith.train.config import OptimConfig
from tunesmith.train.learner import Learner
from tunesmith.train.planning.plan import Plan
from tunesmith.train.weights.placed import Placed
from tunesmith.train.weights.ranks import ALONE, Ranks


class Rows(list):
    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(row.ids) for row in self])


def rows_of(write_rows: Any, base: Path, count: int = 24) -> Rows:
    dataset = load_rows(str(write_rows(many_rows(count))))
    return Rows(prepare(dataset.rows, dataset.reading.ledgers, load_contract(base), 512, READS))


def plan_on(device: str, precision: str = "bf16", sharding: str = "none") -> Plan:
    return Plan(
        device=device, precision=precision, packing=True, micro_tokens=300, accumulation=None, processes=1,
        sharding=sharding, threads=torch.get_num_threads(), reasons={}, versions={}, machine="test", chunked=True,
    )  # fmt: skip


def learner_on(base: Path, plan: Plan, config: Any, rate: float = 1e-3, ranks: Ranks = ALONE) -> Learner:
    """A learner of a small model without clipping, warm-up or schedule."""
    torch.manual_seed(0)
    untouched = METHODS[config.type].base_untouched
    model = load(base, LoadSpec(precision=plan.precision if untouched else "fp32")).model
    model.set_attn_implementation(PACKED)
    model = METHODS[config.type].apply(model, config).train()
    optim = OptimConfig(clip=0, scheduler="constant", warmup=0, weight_decay=0.1)
    return Learner(Placed(model, plan, ranks), optim, rate, 200, method_for(config))


def off(found: torch.Tensor, want: torch.Tensor) -> float:
    """How far a tensor is from another, relative to that one's norm, in double precision."""
    found, want = found.detach().double().cpu(), want.detach().double().cpu()
    return ((found - want).norm() / want.norm().clamp(min=1e-300)).item()
