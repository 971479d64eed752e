"""LoKr: an addition that is a Kronecker product of two matrices, the larger one of low rank.

Yeh et al., 2024, arXiv 2309.14859.
"""

from __future__ import annotations

from typing import Any, Literal

from tunesmith.core.config import Section, option
from tunesmith.model.methods.added import CONTINUE_FROM, TARGETS, TRAIN_ALSO, Targets, add
from tunesmith.model.methods.method import Method


class LokrConfig(Section):
    """Train a Kronecker product of small matrices beside each linear layer (Yeh et al., 2024)."""

    type: Literal["lokr"] = "lokr"
    rank: int = option(8, "Rank of the larger matrix.", ge=1)
    alpha: float = option(16.0, "Scale: the addition is multiplied by alpha / rank.", gt=0)
    factor: int = option(-1, "Size of the smaller matrix; near the square root of the layer's if -1.", ge=-1)
    both: bool = option(False, "Give the smaller matrix a low rank, too.")
    rank_dropout: float = option(0.0, "Dropout on the additions' rows.", ge=0, lt=1)
    targets: Targets = TARGETS
    train_also: list[str] = TRAIN_ALSO
    continue_from: str | None = CONTINUE_FROM


def apply(model: Any, config: LokrConfig) -> Any:
    """The model with LoKr beside its layers."""
    from peft import LoKrConfig

    def make(common: dict[str, Any]) -> Any:
        return LoKrConfig(
            r=config.rank,
            alpha=config.alpha,  # pyright: ignore[reportArgumentType]  peft takes any number
            decompose_factor=config.factor,
            decompose_both=config.both,
            rank_dropout=config.rank_dropout,
            **common,
        )

    same = {"rank": "r", "alpha": "alpha", "factor": "decompose_factor", "both": "decompose_both"}
    return add(model, config, "LoKr", make, same, "rank_dropout")


LOKR = Method(
    LokrConfig,
    apply,
    learning_rate=1e-3,
    label="LoKr",
    source="Yeh et al., 2024, arXiv 2309.14859",
    can=frozenset({"base_untouched", "merge", "continue"}),
    unfit="GPT-2, whose layers store W transposed",
)
