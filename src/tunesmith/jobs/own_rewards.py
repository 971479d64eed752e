"""A run that learns from rewards of the model's own answers: what draws and scores them, and what it is planned on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from tunesmith.core.errors import ConfigError
from tunesmith.core.events import Report
from tunesmith.core.files import sha256_of
from tunesmith.data.kinds.prepared import Prepared
from tunesmith.model.layers import drops
from tunesmith.model.load import ATTENTION_DROPOUTS, HIDDEN_DROPOUTS
from tunesmith.prompt.contract import Contract
from tunesmith.score.rewards.reward import Rewards, make_rewards
from tunesmith.score.rewards.sample import asked_of
from tunesmith.train.objective import Models, Objective
from tunesmith.train.recipe import Recipe
from tunesmith.train.sampling import Sampler
from tunesmith.train.sources.rollouts import RolloutSource
from tunesmith.train.sources.rows import RowSource
from tunesmith.train.sources.turn import answered
from tunesmith.train.start import Start


@dataclass(frozen=True)
class Imagined(Sequence[Prepared]):
    """Prompts as if each were answered as long as an answer may be: what a plan is made on, and exports are tried on.

    Attributes:
        rows: the prompts.
        contract: how they are asked.
        tokens: of each answer.
        most: tokens that the model takes.
    """

    rows: Any
    contract: Contract
    tokens: int
    most: int | None

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Prepared: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Prepared]: ...
    def __getitem__(self, place: int | slice) -> Prepared | Sequence[Prepared]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        row = self.rows[place]
        turns, tools, _ = asked_of(row.row)
        asked = self.contract.prompt(turns, tools)
        count = self.tokens if self.most is None else max(1, min(self.tokens, self.most - len(asked)))
        return answered(row, [*asked, *np.resize(row.ids, count).tolist()], len(asked))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each, about: those of the whole row beside the longest answer."""
        return self.rows.lengths + self.tokens

    @property
    def every_length(self) -> np.ndarray:
        """The same, of all epochs."""
        return self.rows.every_length + self.tokens


def planned_rows(rows: Any, objective: Objective, contract: Contract, most: int | None) -> Any:
    """The rows that a plan is made on: as they are, or prompts with answers as long as they may be."""
    if objective.rollouts is None:
        return rows
    return Imagined(rows, contract, objective.rollouts.config.sampling.max_new_tokens, most)


def rewards_of(
    recipe: Recipe, objective: Objective, rows: Sequence[Prepared], allowed: Sequence[str]
) -> Rewards | None:
    """The scores that the recipe names, which these rows can be given; None where it names none.

    Raises:
        ConfigError: one cannot be used, or fails for every row.
    """
    if objective.rollouts is None:
        return None
    rewards = make_rewards(objective.rollouts.config.rewards, allowed=allowed, device=recipe.device)
    rewards.refuse([asked_of(row.row)[2] for row in rows])
    return rewards


def sources_of(rewards: Rewards | None) -> dict[str, str]:
    """What the files are that scores are made of, by their names: SHA-256 of functions and of models' weights."""
    found: dict[str, str] = {}
    for name, files in ({} if rewards is None else rewards.files()).items():
        digest = hashlib.sha256()
        for file in sorted(files):
            digest.update(f"{file.name} {sha256_of(file)} ".encode())
        found[name] = digest.hexdigest()
    return found


def answering_source(
    source: RowSource, models: Models, contract: Contract, rewards: Rewards, attention: str, report: Report
) -> RolloutSource:  # fmt: skip
    """A source of answers to the prompts of another one.

    Args:
        source: of prompts.
        models: whose policy is what the run starts from; nothing was learned or restored yet.
        contract: how it is prompted.
        rewards: what answers are worth.
        attention: the library's, by its name.
        report: hears what is odd.

    Raises:
        ConfigError: something is left out at random in training.
    """
    refuse_dropout(models.policy)
    rollouts, plan = source.objective.rollouts, models.plan
    assert rollouts is not None
    ours = attention if plan.packing else None
    sampler = Sampler(models.policy, contract, rollouts.config.sampling, rewards, ours, plan.compiled is True)
    return RolloutSource(
        source.rows, source.objective, models, Start(models.policy), sampler, source.batch_size, source.planned_steps,
        source.seed, source.ranks, report,
    )  # fmt: skip


def refuse_dropout(model: Any) -> None:
    """Refuse to leave something out at random: how likely an answer was would be noise.

    Raises:
        ConfigError: with what to set.
    """
    config = model.config.get_text_config().to_dict()
    if drops(model) or any((config.get(name) or 0) > 0 for name in (*ATTENTION_DROPOUTS, *HIDDEN_DROPOUTS)):
        raise ConfigError(
            "answers are learned from by how likely they were when they were drawn, and dropout makes that noise. Set "
            "model.dropout=0, and method.dropout=0 or method.rank_dropout=0."
        )
