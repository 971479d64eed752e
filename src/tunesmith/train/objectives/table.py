"""The objectives that a recipe can name. A new one is a file of its own, and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunesmith.core.names import look_up
from tunesmith.model.heads import end_token
from tunesmith.model.load import language_task
from tunesmith.train.objective import Objective
from tunesmith.train.objectives.classify import make_classify
from tunesmith.train.objectives.dpo import make_dpo
from tunesmith.train.objectives.extract import make_extract
from tunesmith.train.objectives.kto import make_unpaired
from tunesmith.train.objectives.policy import make_policy
from tunesmith.train.objectives.ppo import make_ppo
from tunesmith.train.objectives.pretrain import BY_TASK
from tunesmith.train.objectives.reward import make_reward
from tunesmith.train.objectives.seq2seq import make_seq2seq
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.objectives.token_classify import make_token_classify

# Of a recipe's section and the configuration of its base, on which it may depend what is learned.
OBJECTIVES: dict[str, Callable[[Any, Any], Objective]] = {
    "sft": lambda config, model: make_sft(config),
    "classify": lambda config, model: make_classify(config, end=end_token(model)),
    "token_classify": lambda config, model: make_token_classify(config),
    "extract": lambda config, model: make_extract(config),
    "seq2seq": lambda config, model: make_seq2seq(config),
    "pretrain": lambda config, model: BY_TASK[language_task(model)](config),
    **dict.fromkeys(("dpo", "simpo", "orpo", "cpo"), lambda config, model: make_dpo(config)),
    **dict.fromkeys(("kto", "bco"), lambda config, model: make_unpaired(config)),
    **dict.fromkeys(("grpo", "rloo"), lambda config, model: make_policy(config)),
    "ppo": lambda config, model: make_ppo(config),
    "reward": lambda config, model: make_reward(config),
}


def objective_for(config: Any, model: Any) -> Objective:
    """The objective of a recipe's section.

    Args:
        config: the section.
        model: the configuration of the base, as `read_config` gives it.
    """
    return look_up(OBJECTIVES, config.type, "objective")(config, model)
