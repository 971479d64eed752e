"""What an objective says of learning from a model's own answers, and what the answers of a step are.

Axes: S answers, those to one prompt side by side; T tokens of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from tunesmith.data.kinds.prepared import Prepared

# Log probabilities: as the policy gives them when it has drawn, as the engine told when it drew, as the start gives
# them; and what was expected.
LEFT_OUT = "left out"  # the share of answers without a score, as people watch it
View = Literal["old", "drawn", "reference", "value"]


@dataclass(frozen=True)
class Collected:
    """The answers to the prompts of a step.

    Attributes:
        rows: prompt and answer of each, (S,): the answer is what is trained on.
        places: of each one's prompt among the training rows.
        samples: answers to each prompt.
        reward_S: what each is worth; NaN where that is not known, or where it is not to be learned from.
        part_S: its parts, by the names of the scores.
        ended_S: whether it came to its end.
        views: of each answer a vector over its tokens, (T,), by name.
    """

    rows: Sequence[Prepared]
    places: Sequence[int]
    samples: int
    reward_S: np.ndarray
    part_S: Mapping[str, np.ndarray]
    ended_S: np.ndarray
    views: Mapping[str, list[np.ndarray]]

    @property
    def by_prompt(self) -> np.ndarray:
        """The rewards as (prompts, samples)."""
        return self.reward_S.reshape(-1, self.samples)

    @property
    def kl(self) -> np.ndarray | None:
        """How far the policy is from the start in nats, (S,): of each answer its log ratio, right on average."""
        if "reference" not in self.views:
            return None
        pairs = zip(self.views.get("old", self.views["drawn"]), self.views["reference"], strict=True)
        return np.array([float((old - start).sum(dtype=np.float64)) for old, start in pairs])


@dataclass(frozen=True)
class Rollouts:
    """How an objective learns from a model's own answers.

    Attributes:
        config: the recipe's section: `rewards`, `sampling`, `samples`, `passes`, `parts`, `beta`, `max_kl`.
        needs: which views are computed of answers, before anything is learned from them.
        look: of a batch the `old` log probabilities, and `value` where it has one: (N,) each.
        learn: what is learned by, given answers and the KL penalty: vectors over the tokens of each answer, by name;
            those of answers that teach nothing are NaN.
        adapt: the next KL penalty, by the last one and the mean KL of a reply.
    """

    config: Any
    needs: frozenset[View]
    look: Callable[[Any, Any], Mapping[str, torch.Tensor]]
    learn: Callable[[Collected, float], Mapping[str, list[np.ndarray]]]
    adapt: Callable[[float, float], float] = lambda beta, kl: beta

    @property
    def updates(self) -> int:
        """Optimizer steps that are made of the answers of one step."""
        return self.config.passes * self.config.parts
