"""What answers are worth: the scores that a recipe names, added up.

A score that fails is data. Its answer has no total, with the reason in words: it is left out and counted by whoever
learns from it, and never taken for a 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tunesmith.core.errors import ConfigError
from tunesmith.infer.generator import Generator
from tunesmith.score.rewards.combined import make_combined
from tunesmith.score.rewards.compare import make_number, make_regex, make_similarity, make_string
from tunesmith.score.rewards.config import (
    CombinedScore,
    FunctionScore,
    JsonScore,
    JudgeScore,
    LengthScore,
    ModelScore,
    NumberScore,
    RegexScore,
    ScoreConfig,
    SimilarityScore,
    StringScore,
)
from tunesmith.score.rewards.function import make_function
from tunesmith.score.rewards.judge import make_judge
from tunesmith.score.rewards.learned import make_learned
from tunesmith.score.rewards.sample import Sample
from tunesmith.score.rewards.score import Score, Value, finite
from tunesmith.score.rewards.shape import make_json, make_length
from tunesmith.score.rewards.template import Unscored


@dataclass(frozen=True)
class Scored:
    """What one answer is worth.

    Attributes:
        total: the sum of weights times parts; None if a part failed.
        parts: each score by its name, not yet weighed; None if it failed.
        reason: why there is no total; empty if there is one.
    """

    total: float | None
    parts: dict[str, float | None]
    reason: str = ""


@dataclass(frozen=True)
class Surroundings:
    """What scores need beside their section.

    Attributes:
        allowed: Python files that may be run.
        device: that reward models are loaded on.
        judges: who answers in the place of a judge, by what its section names.
    """

    allowed: Collection[str | Path] = ()
    device: str = "auto"
    judges: Mapping[str, Generator] = field(default_factory=dict[str, Generator])


@dataclass(frozen=True)
class Rewards:
    """Scores with their names and weights.

    Attributes:
        scores: by their names.
        weights: by the same.
    """

    scores: Mapping[str, Score]
    weights: Mapping[str, float]

    def score(self, samples: Sequence[Sample]) -> list[Scored]:
        """What each answer is worth."""
        columns = {name: score.values(samples) for name, score in self.scores.items()}
        return [self._added({name: some[i] for name, some in columns.items()}) for i in range(len(samples))]

    def refuse(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Refuse what would fail for every answer. A judge is asked once.

        Args:
            items: the fields of all rows.

        Raises:
            ConfigError: a template names a field that no row has, no reference holds a number, or a judge does not
                answer as it must.
        """
        for score in self.scores.values():
            for one in score.templates:
                one.refuse(items)
            score.refuse(items)

    def files(self) -> dict[str, list[Path]]:
        """Files that scores are made of, by the scores' names: functions, and weights of reward models."""
        found = {
            name: [file for place in score.made_of for file in _files_in(place)] for name, score in self.scores.items()
        }
        return {name: files for name, files in found.items() if files}

    def _added(self, values: Mapping[str, Value]) -> Scored:
        found = {name: finite(value) for name, value in values.items()}
        parts: dict[str, float | None] = {
            name: None if isinstance(value, Unscored) else value for name, value in found.items()
        }
        faults = [f"{name}: {value}" for name, value in found.items() if isinstance(value, Unscored)]
        if faults:
            return Scored(None, parts, "; ".join(faults))
        total = finite(sum(self.weights[name] * cast(float, value) for name, value in found.items()))
        return Scored(None, parts, str(total)) if isinstance(total, Unscored) else Scored(total, parts)


def _files_in(place: Path) -> list[Path]:
    """A file, or a model's weights and settings."""
    return [place] if place.is_file() else [*place.glob("*.safetensors"), *place.glob("*config.json")]


def make_rewards(
    configs: Sequence[ScoreConfig], *, allowed: Collection[str | Path] = (), device: str = "auto",
    judges: Mapping[str, Generator] | None = None, where: str = "objective.rewards",
) -> Rewards:  # fmt: skip
    """The scores of a recipe, ready.

    Args:
        configs: their sections.
        allowed: Python files that may be run.
        device: that reward models are loaded on: `auto`, `cpu` or `cuda`.
        judges: who answers in the place of a judge, by what its section names.
        where: what sentences call the list.

    Raises:
        ConfigError: there is none, two have one name, or one cannot be used.
        MissingError: a file or model is not there.
    """
    if not configs:
        raise ConfigError(f"{where}: name at least one score, such as {{type: regex, pattern: ...}}.")
    names = [config.name or config.type for config in configs]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ConfigError(f"{where}: {Counter(names)[twice[0]]} scores are called {twice[0]!r}. Give each a name.")
    around = Surroundings(allowed, device, judges or {})
    scores = {name: make_score(config, f"{where}.{name}", around) for name, config in zip(names, configs, strict=True)}
    return Rewards(scores, {name: config.weight for name, config in zip(names, configs, strict=True)})


def make_score(config: ScoreConfig, where: str, around: Surroundings) -> Score:
    """One score, ready.

    Args:
        config: its section.
        where: what sentences call it.
        around: what it needs beside.

    Raises:
        TunesmithError: it cannot be used.
    """
    match config:
        case RegexScore():
            return make_regex(config, where)
        case StringScore():
            return make_string(config, where)
        case NumberScore():
            return make_number(config, where)
        case SimilarityScore():
            return make_similarity(config, where)
        case JsonScore():
            return make_json(config, where)
        case LengthScore():
            return make_length(config, where)
        case JudgeScore():
            return make_judge(config, where, around.judges.get(config.model), around.device)
        case ModelScore():
            return make_learned(config, where, around.device)
        case FunctionScore():
            return make_function(config, where, around.allowed)
        case CombinedScore():
            inside = {name: make_score(one, f"{where}.{name}", around) for name, one in config.scores.items()}
            return make_combined(config, where, inside)
