"""IA3: factors on what keys, values and the feed-forward layer compute (Liu et al., 2022, arXiv 2205.05638)."""

from __future__ import annotations

from typing import Any, Literal

from tunesmith.core.config import Section, option
from tunesmith.core.errors import ModelError
from tunesmith.model.methods.added import CONTINUE_FROM, TRAIN_ALSO, add, has_turned_weights
from tunesmith.model.methods.method import Method


class Ia3Config(Section):
    """Train one factor for each key, value and feed-forward unit (Liu et al., 2022): the fewest weights of all."""

    type: Literal["ia3"] = "ia3"
    targets: list[str] = option([], "Names of the layers to scale; keys, values and the last feed-forward if empty.")
    feedforward: list[str] = option([], "Those of them whose input is scaled, not their output.")
    train_also: list[str] = TRAIN_ALSO
    continue_from: str | None = CONTINUE_FROM


def apply(model: Any, config: Ia3Config) -> Any:
    """The model with factors, all 1 at first.

    Raises:
        ModelError: nobody has said which layers of such a model are scaled.
    """
    from peft import IA3Config as PeftIA3
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD,
    )
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS,
    )

    kind = model.config.model_type
    targets, feedforward = config.targets or TARGETS.get(kind, []), config.feedforward or FEEDFORWARD.get(kind, [])
    if not targets:
        raise ModelError(
            f"method.type = ia3: which layers of a {kind} model are keys, values and feed-forward is not known. Name "
            "them: method.targets, and in method.feedforward the last feed-forward one."
        )
    if config.targets and not config.feedforward:
        feedforward = [name for name in feedforward if name in config.targets]

    def make(common: dict[str, Any]) -> Any:
        fan = has_turned_weights(model)
        return PeftIA3(**{**common, "feedforward_modules": feedforward}, fan_in_fan_out=fan)

    settings = config.model_copy(update={"targets": list(targets)})
    return add(model, settings, "IA3", make, {})


IA3 = Method(
    Ia3Config,
    apply,
    learning_rate=5e-3,
    label="IA3",
    source="Liu et al., 2022, arXiv 2205.05638",
    can=frozenset({"base_untouched", "merge", "continue", "quantize"}),
    unfit="families that peft does not know, unless targets are named: Phi-3",
)
