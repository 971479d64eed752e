"""The recipe's `objective` section where something is learned from what people prefer."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from tunesmith.core.config import Section, option


class DpoConfig(Section):
    """Direct preference optimisation (Rafailov et al., 2023): prefer one answer to another more than the base does."""

    type: Literal["dpo"] = "dpo"
    loss: Literal["sigmoid", "hinge", "ipo", "robust"] = option(
        "sigmoid", "What is made of a pair's margin: DPO's own, SLiC's hinge, IPO's square, or DPO for noisy pairs."
    )
    beta: float = option(0.1, "How closely the model is held to the base: a reward is beta x log ratio.", gt=0)
    label_smoothing: float = option(
        0.0, "Share of the pairs that are taken to be the wrong way round; of sigmoid and robust.", ge=0, lt=0.5
    )
    length_desensitised: float = option(
        1.0,
        "How much the tokens count by which an answer is longer than the other of its pair (LD-DPO's alpha); 1 as all "
        "others.",
        "0 to 1.",
        ge=0,
        le=1,
    )
    sft_weight: float = option(
        0.0, "How much the likelihood of the chosen answers counts beside the preference (RPO).", "0 to 1.", ge=0
    )

    @model_validator(mode="after")
    def _noise_fits(self) -> DpoConfig:
        if self.label_smoothing and self.loss in ("hinge", "ipo"):
            raise ValueError(f"label_smoothing is for the losses sigmoid and robust; leave it out with {self.loss}")
        if self.loss == "robust" and not self.label_smoothing:
            raise ValueError("give loss robust a label_smoothing above 0: the share of pairs that are wrong")
        return self


class SimpoConfig(Section):
    """SimPO (Meng et al., 2024): prefer by the mean log probability of a token, without a reference."""

    type: Literal["simpo"] = "simpo"
    beta: float = option(2.0, "A reward is beta x mean log probability.", "2 to 10.", gt=0)
    gamma: float = option(1.0, "By how much the chosen answer's reward is to be higher.", "0.3 to 1.6.", ge=0)


class OrpoConfig(Section):
    """ORPO (Hong et al., 2024): learn the chosen answers, and their odds against the rejected ones, in one go."""

    type: Literal["orpo"] = "orpo"
    weight: float = option(0.1, "How much the odds count beside the chosen answers' likelihood.", "0.05 to 1.", gt=0)


class CpoConfig(Section):
    """CPO (Xu et al., 2024): DPO without a reference, held by the likelihood of the chosen answers."""

    type: Literal["cpo"] = "cpo"
    beta: float = option(0.1, "A reward is beta x log probability.", gt=0)
    label_smoothing: float = option(0.0, "Share of the pairs that are taken to be the wrong way round.", ge=0, lt=0.5)
    sft_weight: float = option(1.0, "How much the likelihood of the chosen answers counts beside it.", ge=0)


class KtoConfig(Section):
    """KTO (Ethayarajh et al., 2024): learn from single answers that people found good or bad."""

    type: Literal["kto"] = "kto"
    beta: float = option(0.1, "How closely the model is held to the base: a reward is beta x log ratio.", gt=0)
    desirable_weight: float = option(1.0, "How much an answer that was found good counts.", gt=0)
    undesirable_weight: float = option(1.0, "How much one counts that was found bad.", gt=0)


class BcoConfig(Section):
    """BCO (Jung et al., 2024): tell good answers from bad ones by their log ratio, as a classifier does."""

    type: Literal["bco"] = "bco"
    beta: float = option(0.1, "How closely the model is held to the base: a reward is beta x log ratio.", gt=0)


class RewardConfig(Section):
    """A reward model: a number for each answer, higher for those that people prefer (Bradley and Terry, 1952)."""

    type: Literal["reward"] = "reward"
    center_rewards: float = option(
        0.0, "How much the square of a pair's summed rewards counts, which holds their mean at 0.", "0 to 0.1.", ge=0
    )


Paired = DpoConfig | SimpoConfig | OrpoConfig | CpoConfig
Unpaired = KtoConfig | BcoConfig
Preferring = Paired | Unpaired | RewardConfig
