"""Plain text, all of which is learned: how a base takes on the language of a domain.

What is learned of it depends on what the base does: a causal language model predicts each token from those before, an
encoder the tokens that are hidden from it, T5 stretches that were taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tunesmith.core.errors import ConfigError
from tunesmith.train.config import PretrainConfig
from tunesmith.train.objective import Objective
from tunesmith.train.objectives.masked import make_masked
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.objectives.spans import make_spans


def make_causal(config: PretrainConfig) -> Objective:
    """Every token from those before it: what `sft` learns of plain text.

    Raises:
        ConfigError: something is set that only encoders have.
    """
    for name in ("masked", "whole_words", "span_length"):
        if getattr(config, name) != PretrainConfig.model_fields[name].default:
            raise ConfigError(
                f"objective.{name}: the base is a causal language model, which predicts every token and hides none. "
                "Leave it out, or take an encoder or a T5 as model.base."
            )
    return replace(make_sft(), name="pretrain", reads=frozenset({"text"}))


BY_TASK: dict[str, Callable[[PretrainConfig], Objective]] = {
    "causal": make_causal,
    "masked": make_masked,
    "spans": make_spans,
}
