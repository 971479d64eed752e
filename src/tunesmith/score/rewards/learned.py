"""The score that a reward model gives. torch is imported when it is asked first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from tunesmith.core.errors import ConfigError, TunesmithError
from tunesmith.prompt.messages import Message
from tunesmith.score.rewards.config import ModelScore
from tunesmith.score.rewards.sample import Sample
from tunesmith.score.rewards.score import Score, Value
from tunesmith.score.rewards.template import Unscored

TASK = "reward"


def make_learned(config: ModelScore, where: str, device: str = "auto") -> Score:
    """What a reward model says.

    Args:
        config: which one.
        where: what sentences call it.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        MissingError: there is no such model, or its run has none yet.
        ConfigError: it is no reward model.
    """
    from tunesmith.model.export import find_model

    exported = find_model(config.model)
    if exported.task != TASK:
        raise ConfigError(
            f"{where}.model = {config.model!r}: a model for the task {exported.task}, and no reward model. Name a run "
            "with objective.type=reward."
        )
    return Score(Learned(exported, device).values, made_of=(exported.folder,))


class Learned:
    """A reward model, loaded when it is asked first."""

    def __init__(self, exported: Any, device: str) -> None:
        self.exported, self.device = exported, device

    @cached_property
    def model(self) -> Any:
        """A `RewardModel`."""
        from tunesmith.infer.predict.table import load_predictor

        return load_predictor(self.exported, self.device)

    def values(self, samples: Sequence[Sample]) -> list[Value]:
        """The reward of each prompt with its answer, as the model's own chat template has them."""
        reads = [self._read(sample) for sample in samples]
        rewards = iter(self.model.rewards([one for one in reads if not isinstance(one, Unscored)]).tolist())
        return [one if isinstance(one, Unscored) else next(rewards) for one in reads]

    def _read(self, sample: Sample) -> Any:
        """The token ids of a chat, or why there are none."""
        try:
            return self.model.read_turns((*sample.prompt, Message("assistant", sample.answer)))
        except TunesmithError as fault:
            return Unscored(f"the reward model cannot read it: {fault}", "model")
