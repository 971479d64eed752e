"""What a recipe's rewards name on this machine, brought along with a queued job: schemas, tokenizers, models."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tunesmith.core.errors import ConfigError
from tunesmith.core.files import expanded
from tunesmith.infer.remote import parse_remote
from tunesmith.model.export import find_model
from tunesmith.prompt.base import EMBEDDED, resolve
from tunesmith.prompt.bases.hub import WANTED
from tunesmith.score.rewards.config import CombinedScore, FunctionScore, JsonScore, JudgeScore, LengthScore, ModelScore


def with_rewards(objective: Any, place: str, paths: dict[str, Path]) -> Any:
    """An objective's section as it reads in a job's folder.

    Args:
        objective: of the recipe, with rewards or without.
        place: where in that folder their files go.
        paths: of what goes along, by its place; added to.

    Raises:
        ConfigError: a score cannot go along.
        TunesmithError: what it names is not there.
    """
    rewards = getattr(objective, "rewards", None)
    if rewards is None:
        return objective
    moved = [_moved(one, f"{place}/{number}", paths) for number, one in enumerate(rewards)]
    return objective.model_copy(update={"rewards": moved})


def _moved(config: Any, place: str, paths: dict[str, Path]) -> Any:
    match config:
        case JsonScore(json_schema=str() as name):
            paths[at := f"{place}/{Path(name).name}"] = expanded(name)
            return config.model_copy(update={"json_schema": at})
        case LengthScore(tokenizer=str() as name):
            return config.model_copy(update={"tokenizer": _base_at(name, place, paths)})
        case JudgeScore() | ModelScore() if parse_remote(config.model) is None:
            return config.model_copy(update={"model": _model_at(config.model, place, paths)})
        case FunctionScore():
            raise ConfigError(
                f"rewards: {config.file}: a queued job runs no functions, since nobody can allow them where it is "
                "done. Train here, without the queue."
            )
        case CombinedScore():
            scores = {name: _moved(one, f"{place}/{number}", paths)
                      for number, (name, one) in enumerate(config.scores.items())}  # fmt: skip
            return config.model_copy(update={"scores": scores})
        case _:
            return config


def _model_at(name: str, place: str, paths: dict[str, Path]) -> str:
    """What a job calls a model that answers or gives rewards.

    Raises:
        ConfigError: it is an adapter, which needs a base of its own.
    """
    exported = find_model(name)
    if exported.base is not None:
        raise ConfigError(
            f"rewards: {name}: an adapter does not go along with a queued job. `tunesmith merge` makes a whole model "
            "of it: name that one."
        )
    return _folder_at(exported.folder, place, paths) if exported.card else _base_at(name, place, paths)


def _base_at(name: str, place: str, paths: dict[str, Path]) -> str:
    """What a job calls a base."""
    base = resolve(name)
    return name if base.commit is not None or name == EMBEDDED else _folder_at(base.folder, place, paths)


def _folder_at(folder: Path, place: str, paths: dict[str, Path]) -> str:
    wanted = [path for path in folder.iterdir() if any(fnmatch(path.name, pattern) for pattern in WANTED)]
    paths |= {f"{place}/{path.name}": path for path in wanted}
    return place
