"""tunesmith as a contender of `sft_gpu.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from gpu_cases import (
    ALPHA,
    RANK,
    RATES,
    TIMED,
    WARM,
    Case,
    Contender,
    make_model,
    measured,
    now,
    product_rate,
    rows_a_step,
    rows_of,
)


def run_tunesmith(case: Case, contender: Contender, folder: Path) -> dict[str, Any]:
    """The road of `tunesmith train` from its plan to its last step, on a model and rows made in place."""
    import numpy as np

    from tunesmith.data.kinds.prepared import Prepared
    from tunesmith.data.kinds.row import Row
    from tunesmith.data.kinds.text import Text
    from tunesmith.data.pack import epoch_order
    from tunesmith.data.quality.ledger import Source
    from tunesmith.model.methods.full import FullConfig
    from tunesmith.model.methods.lora import LoraConfig
    from tunesmith.model.methods.table import METHODS
    from tunesmith.train.config import OptimConfig
    from tunesmith.train.learner import Learner
    from tunesmith.train.loop import LoopSettings, train
    from tunesmith.train.objective import Models
    from tunesmith.train.objectives.sft import make_sft
    from tunesmith.train.planning.planner import Wishes, complete_plan, make_plan
    from tunesmith.train.sources.rows import RowSource
    from tunesmith.train.state import TrainerState
    from tunesmith.train.weights.placed import Placed

    def prepared(ids: list[int], line: int) -> Prepared:
        source = Source("made in place", line)
        return Prepared(np.array(ids, dtype=np.int32), ((0, len(ids)),), source, Row(Text(""), source))

    def say(event: Any) -> None:
        if event.kind == "warning":
            print(event.sentence, file=sys.stderr)
        if event.kind == "step":
            ends.append(now())
            losses.append(event.loss)

    class Rows(list[Prepared]):
        """Rows in memory that tell their lengths, as those on disk do."""

        @property
        def lengths(self) -> np.ndarray:
            return np.array([len(row.ids) for row in self])

        every_length = lengths

    rate, ends, losses = product_rate(), [], []
    rows = Rows(prepared(ids, line) for line, ids in enumerate(rows_of(case), 1))
    config = LoraConfig(rank=RANK, alpha=ALPHA) if case.method == "lora" else FullConfig()
    started = now()
    plan = make_plan("bf16", "auto", case.length * case.together)
    placed, objective = Placed(METHODS[case.method].apply(make_model(case), config), plan), make_sft()
    wishes = Wishes("on", "off", rows_a_step(case), WARM + TIMED, micro_tokens=plan.micro_tokens, plain=True)
    plan = complete_plan(plan, wishes, placed, objective, rows, say)
    print("\n".join(f"{name}: {reason}" for name, reason in plan.reasons.items()), file=sys.stderr)
    optim = OptimConfig(scheduler="constant", warmup=0)
    learner = Learner(placed, optim, RATES[case.method], WARM + TIMED)
    source, models = RowSource(rows, objective, plan, rows_a_step(case), WARM + TIMED), Models(learner.model, plan)
    settings = LoopSettings(WARM + TIMED, validate_every=10**6, checkpoint_every=10**6)
    train(objective, models, learner, source, settings, TrainerState(), [], lambda: None, say)
    order = epoch_order(len(rows), 0, 0)
    return measured(case, [len(rows[i].ids) for i in order], ends, losses, rate, started)
