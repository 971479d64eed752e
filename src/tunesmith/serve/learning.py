"""How a job learns: a request's `method`, as sections of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from tunesmith.core.errors import TunesmithError
from tunesmith.score.rewards.config import (
    CombinedScore,
    FunctionScore,
    JsonScore,
    JudgeScore,
    LengthScore,
    ModelScore,
    RegexScore,
)
from tunesmith.score.rewards.reward import make_rewards
from tunesmith.serve.errors import refused
from tunesmith.serve.graders import Grader, score_of
from tunesmith.serve.models import finder_of
from tunesmith.serve.server import Key, Server

SAMPLES = 8  # answers to a prompt where nobody says otherwise; compute_multiplier multiplies them
MOST_SAMPLES = 64


class Hyperparameters(BaseModel):
    """What a client may set; `auto` is ours to choose."""

    n_epochs: Literal["auto"] | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: Literal["auto"] | Annotated[float, Field(gt=0, le=1000)] = "auto"


class DpoHyperparameters(Hyperparameters):
    """And how closely the model is held to its base."""

    beta: Literal["auto"] | Annotated[float, Field(gt=0, le=2)] = "auto"


class ReinforcementHyperparameters(Hyperparameters):
    """And how much is tried, and how often it is looked at. `eval_samples` and `reasoning_effort` are passed over."""

    compute_multiplier: Literal["auto"] | Annotated[float, Field(gt=0.00001, le=10)] = "auto"
    eval_interval: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"


class Supervised(BaseModel):
    """Supervised fine-tuning."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Dpo(BaseModel):
    """Direct preference optimisation."""

    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class Reinforcement(BaseModel):
    """Reinforcement fine-tuning."""

    grader: Grader
    hyperparameters: ReinforcementHyperparameters = ReinforcementHyperparameters()


class Method(BaseModel):
    """How to learn."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised = Supervised()
    dpo: Dpo = Dpo()
    reinforcement: Reinforcement | None = None


@dataclass(frozen=True)
class Learning:
    """How a job learns.

    Attributes:
        asked: hyperparameters that all methods have.
        objective: the recipe's section.
        evaluate: what of the recipe's section is not as always.
        rewards: that the server vouches for, whatever they reach for.
        told: what a job is described by: its `type`, `hyperparameters` of its own, its `grader`.
    """

    asked: Hyperparameters
    objective: Mapping[str, Any] = field(default_factory=lambda: {"type": "sft"})
    evaluate: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rewards: tuple[Any, ...] = ()
    told: Mapping[str, Any] = field(default_factory=lambda: {"type": "supervised", "hyperparameters": {}})


def learning_of(here: Server, key: Key, method: Method | None, otherwise: Hyperparameters | None) -> Learning:
    """What a request asks for.

    Args:
        here: the server.
        key: who asks.
        method: of the request.
        otherwise: hyperparameters as they were given before there were methods.

    Raises:
        ApiError: it cannot be done.
    """
    if method is None:
        return Learning(otherwise or Hyperparameters())
    if method.type == "supervised":
        return Learning(method.supervised.hyperparameters)
    if method.type == "dpo":
        asked = method.dpo.hyperparameters
        beta = 0.1 if asked.beta == "auto" else asked.beta
        told = {"type": "dpo", "hyperparameters": {"beta": beta}}
        return Learning(asked, {"type": "dpo", "beta": beta}, told=told)
    if method.reinforcement is None:
        raise refused("method.reinforcement: a grader is missing, which says what an answer is worth.", "method")
    return _reinforced(here, key, method.reinforcement)


def _reinforced(here: Server, key: Key, method: Reinforcement) -> Learning:
    asked = method.hyperparameters
    score = score_of(method.grader, lambda name: _judge_of_jobs(here, key, name))
    try:
        make_rewards([score], where="grader")
    except TunesmithError as error:
        raise refused(str(error), "method.reinforcement.grader") from None
    times = 1.0 if asked.compute_multiplier == "auto" else asked.compute_multiplier
    samples = max(2, min(MOST_SAMPLES, round(SAMPLES * times)))
    objective = {"type": "grpo", "rewards": [score.model_dump(mode="json")], "samples": samples}
    evaluate = {} if asked.eval_interval == "auto" else {"every": asked.eval_interval}
    shown = {"compute_multiplier": times, "eval_interval": asked.eval_interval}
    told = {
        "type": "reinforcement", "hyperparameters": shown, "grader": method.grader.model_dump(exclude_none=True)
    }  # fmt: skip
    return Learning(asked, objective, evaluate, (score,), told)


def _judge_of_jobs(here: Server, key: Key, name: str) -> str:
    """What a job calls a model that grades: one elsewhere, by its address, or a base, which the worker loads.

    Raises:
        ApiError: there is none of this name, or it is a tuned one.
    """
    if name in here.graders:
        return here.graders[name]
    if name in here.bases.table:
        return here.bases.table[name]
    finder_of(here, key.project, name)
    raise refused(
        f"{name}: a tuned model cannot grade a job here. Take a base ({', '.join(here.bases.table)}), or let the "
        "operator name its address: --grader NAME=https://host/v1#model.",
        "method.reinforcement.grader",
    )


def reaches_out(config: Any) -> bool:
    """Whether a score reads files, loads models or asks servers, or is an expression, which may look for ever."""
    match config:
        case JudgeScore() | ModelScore() | FunctionScore() | RegexScore():
            return True
        case JsonScore():
            return isinstance(config.json_schema, str)
        case LengthScore():
            return config.tokenizer is not None
        case CombinedScore():
            return any(map(reaches_out, config.scores.values()))
        case _:
            return False


def described(told: Mapping[str, Any], hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """The `method` of a job, as clients read it."""
    inside = {"hyperparameters": {**hyperparameters, **told["hyperparameters"]}}
    if "grader" in told:
        inside["grader"] = told["grader"]
    return {"type": told["type"], told["type"]: inside}
