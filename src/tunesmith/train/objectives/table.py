"""The objectives that a recipe can name. A new one is a file of its own, and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunesmith.core.names import look_up
from tunesmith.train.objective import Objective
from tunesmith.train.objectives.classify import make_classify
from tunesmith.train.objectives.seq2seq import make_seq2seq
from tunesmith.train.objectives.sft import make_sft

OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "sft": make_sft, "classify": make_classify, "seq2seq": make_seq2seq,
}  # fmt: skip


def objective_for(config: Any) -> Objective:
    """The objective of a recipe's section."""
    return look_up(OBJECTIVES, config.type, "objective")(config)
