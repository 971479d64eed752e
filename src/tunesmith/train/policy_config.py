"""The recipe's `objective` section where a model learns from rewards of its own answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tunesmith.core.config import Section, option
from tunesmith.score.rewards.config import ScoreConfig

Rewards = Annotated[list[ScoreConfig], Field(min_length=1)]
REWARDS = "What an answer is worth: the weighted sum of these scores."
SAMPLES = "Answers to each prompt, which are compared with one another."
PASSES = "How often the answers of a step are learned from before new ones are drawn."
PARTS = "Updates in each pass over them: each learns from a part."
MOST_KL = "Nats that a reply may be from the start, on average, before the run ends; nothing is watched if null."


class SamplingConfig(Section):
    """How answers are drawn that are learned from."""

    max_new_tokens: int = option(128, "Longest answer in tokens.", "64 to 1024.", ge=1)
    temperature: float = option(1.0, "1 draws by the model's own probabilities.", "0.7 to 1.2.", gt=0, le=5)
    batch_size: int = option(32, "Answers that are drawn at a time.", ge=1)
    unfinished: Literal["keep", "leave_out"] = option(
        "keep", "Whether answers that were cut off at their longest length are learned from (DAPO leaves them out)."
    )


class GrpoConfig(Section):
    """GRPO (Shao et al., 2024): prefer the better ones of several answers to a prompt, without a value model."""

    type: Literal["grpo"] = "grpo"
    rewards: Rewards = option(..., REWARDS)
    sampling: SamplingConfig = option(SamplingConfig(), "How answers are drawn.")
    samples: int = option(8, SAMPLES, "4 to 16.", ge=2, le=256)
    loss: Literal["grpo", "dr_grpo", "dapo", "gspo"] = option(
        "grpo",
        "GRPO's own; Dr. GRPO, which favours no length; DAPO, where each token counts alike; GSPO, which weighs whole "
        "answers.",
    )
    scale: Literal["group", "batch", "none"] | None = option(
        None, "What rewards are divided by: the spread of a prompt's answers, of all, nothing (dr_grpo's default)."
    )
    beta: float = option(0.04, "How much the KL divergence from the start counts.", "0 to 0.1.", ge=0)
    clip: float | None = option(
        None, "How far an answer may become less likely at once and still be learned from; 0.2, of gspo 0.0003.", gt=0
    )
    clip_high: float | None = option(
        None, "And more likely; as `clip`, but 0.28 of dapo and 0.0004 of gspo.", gt=0
    )  # fmt: skip
    passes: int = option(1, PASSES, "1 to 4.", ge=1)
    parts: int = option(1, PARTS, ge=1)
    max_kl: float | None = option(100.0, MOST_KL, gt=0)


class RlooConfig(Section):
    """RLOO (Ahmadian et al., 2024): REINFORCE, each answer against the mean of the others to the same prompt."""

    type: Literal["rloo"] = "rloo"
    rewards: Rewards = option(..., REWARDS)
    sampling: SamplingConfig = option(SamplingConfig(), "How answers are drawn.")
    samples: int = option(4, SAMPLES, "2 to 8.", ge=2, le=256)
    beta: float = option(0.05, "How much the KL divergence from the start takes from a reward.", "0 to 0.1.", ge=0)
    normalize: bool = option(False, "Divide advantages by their spread over all answers of a step.")
    clip: float = option(0.2, "How far an answer may become less or more likely and still be learned from.", gt=0)
    passes: int = option(1, PASSES, "1 to 4.", ge=1)
    parts: int = option(1, PARTS, ge=1)
    max_kl: float | None = option(100.0, MOST_KL, gt=0)


class ValueConfig(Section):
    """What is expected of an answer before it ends: a value for each token, from a head beside the output layer."""

    weight: float = option(0.1, "How much its loss counts.", "0.05 to 1.", gt=0)
    clip: float = option(0.2, "How far a value may move from what it was when the answer was drawn.", gt=0)
    gamma: float = option(1.0, "What a reward is worth one token earlier.", gt=0, le=1)
    lam: float = option(0.95, "Between a value of the next token (0) and the whole answer (1): GAE.", ge=0, le=1)


class PpoConfig(Section):
    """PPO (Schulman et al., 2017; Ouyang et al., 2022): token by token, by how much better than expected it went."""

    type: Literal["ppo"] = "ppo"
    rewards: Rewards = option(..., REWARDS)
    sampling: SamplingConfig = option(SamplingConfig(), "How answers are drawn.")
    samples: int = option(1, "Answers to each prompt.", ge=1, le=256)
    beta: float = option(0.05, "How much the KL divergence from the start takes from a reward, token by token.", ge=0)
    target_kl: float | None = option(
        None, "Nats a reply towards which `beta` is adapted (Ziegler et al., 2019); it stays as it is if absent.", gt=0
    )
    value: ValueConfig = option(ValueConfig(), "What is expected of answers.")
    clip: float = option(0.2, "How far a token may become less or more likely and still be learned from.", gt=0)
    whiten_rewards: bool = option(False, "Divide the rewards of a step by their spread.")
    passes: int = option(4, PASSES, "1 to 4.", ge=1)
    parts: int = option(1, PARTS, ge=1)
    max_kl: float | None = option(100.0, MOST_KL, gt=0)

    @model_validator(mode="after")
    def _has_a_penalty(self) -> PpoConfig:
        if self.target_kl is not None and self.beta == 0:
            raise ValueError("target_kl adapts beta: give a beta above 0 to begin with")
        return self


Rewarded = GrpoConfig | RlooConfig | PpoConfig
