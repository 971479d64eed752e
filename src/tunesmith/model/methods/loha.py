"""LoHa: an addition that is the elementwise product of two low-rank ones (Hyeon-Woo et al., 2022, arXiv 2108.06098)."""

from __future__ import annotations

from typing import Any, Literal

from tunesmith.core.config import Section, option
from tunesmith.model.methods.added import CONTINUE_FROM, TARGETS, TRAIN_ALSO, Targets, add
from tunesmith.model.methods.method import Method


class LohaConfig(Section):
    """Train the elementwise product of two low-rank additions (Hyeon-Woo et al., 2022)."""

    type: Literal["loha"] = "loha"
    rank: int = option(8, "Rank of each of the two.", "4 to 16; their product has up to its square.", ge=1)
    alpha: float = option(16.0, "Scale: the addition is multiplied by alpha / rank.", gt=0)
    rank_dropout: float = option(0.0, "Dropout on the additions' rows.", ge=0, lt=1)
    targets: Targets = TARGETS
    train_also: list[str] = TRAIN_ALSO
    continue_from: str | None = CONTINUE_FROM


def apply(model: Any, config: LohaConfig) -> Any:
    """The model with LoHa beside its layers."""
    from peft import LoHaConfig

    def make(common: dict[str, Any]) -> Any:
        return LoHaConfig(r=config.rank, alpha=config.alpha, rank_dropout=config.rank_dropout, **common)  # pyright: ignore

    return add(model, config, "LoHa", make, {"rank": "r", "alpha": "alpha"}, "rank_dropout", bounded=True)


LOHA = Method(
    LohaConfig,
    apply,
    learning_rate=1e-3,
    label="LoHa",
    source="Hyeon-Woo et al., 2022, arXiv 2108.06098",
    can=frozenset({"base_untouched", "merge", "continue"}),
    unfit="GPT-2, whose layers store W transposed",
)
