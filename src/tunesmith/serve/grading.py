"""`/v1/fine_tuning/alpha/graders`: a grader is looked at, or tried on an answer, before a job learns from it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
from fastapi import APIRouter
from pydantic import BaseModel

from tunesmith.core.errors import TunesmithError
from tunesmith.data.prompting.schema import parsed
from tunesmith.infer.generator import Completion, Delta, Options, Prompt, deltas_of
from tunesmith.score.rewards.combined import combine, read_formula
from tunesmith.score.rewards.config import CombinedScore, ScoreConfig
from tunesmith.score.rewards.reward import Surroundings, finite, make_score
from tunesmith.score.rewards.sample import Sample
from tunesmith.score.rewards.score import Score, Value
from tunesmith.score.rewards.template import Unscored
from tunesmith.serve.answers import Answers
from tunesmith.serve.engines import Serving
from tunesmith.serve.errors import refused
from tunesmith.serve.graders import LONGEST, Grader, Text, score_of
from tunesmith.serve.models import finder_of
from tunesmith.serve.server import Caller, Here, Key, Server

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders")
FLAGS = (
    "formula_parse_error", "invalid_variable_error", "model_grader_parse_error", "model_grader_refusal_error",
    "model_grader_server_error", "other_error", "python_grader_runtime_error", "python_grader_server_error",
    "sample_parse_error", "truncated_observation_error", "unresponsive_reward_error",
)  # fmt: skip
FLAG_OF = {"field": "invalid_variable_error", "judge": "model_grader_parse_error",
           "server": "model_grader_server_error", "formula": "formula_parse_error"}  # fmt: skip


class Validate(BaseModel):
    """A grader to look at."""

    grader: Grader


class Run(BaseModel):
    """A grader to try."""

    grader: Grader
    model_sample: Text
    item: dict[str, Any] | None = None


@router.post("/validate")
def validate(here: Here, key: Caller, body: Validate) -> dict[str, Any]:
    """Whether a grader could be used."""
    prepared(here, key, body.grader)
    return {"grader": body.model_dump(exclude_none=True)["grader"]}


@router.post("/run")
async def run(here: Here, key: Caller, body: Run) -> dict[str, Any]:
    """What a grader says of an answer. Where it says nothing, the reward is 0 and its errors say why."""
    return await anyio.to_thread.run_sync(partial(graded, here, key, body))


def prepared(here: Server, key: Key, grader: Any) -> tuple[ScoreConfig, dict[str, Score], dict[str, Served]]:
    """A grader's section, its scores by their names, and the models of this server that judge for it.

    Raises:
        ApiError: it cannot be used.
    """
    judges: dict[str, Served] = {}

    def judge(name: str) -> str:
        if name in here.graders:
            return here.graders[name]
        known, _ = finder_of(here, key.project, name)
        judges[known] = Served(here, key, known)
        return known

    config = score_of(grader, judge)
    try:
        around = Surroundings(judges=judges)
        make_score(config, "grader", around)
        parts = config.scores if isinstance(config, CombinedScore) else {grader.name: config}
        return config, {name: make_score(one, f"grader.{name}", around) for name, one in parts.items()}, judges
    except TunesmithError as error:
        raise refused(str(error), "grader") from None


def graded(here: Server, key: Key, body: Run) -> dict[str, Any]:
    """The answer to `run`; it may wait for a model."""
    began = time.perf_counter()
    if len(json.dumps(body.item)) > LONGEST:
        raise refused(f"item may have at most {LONGEST:,} characters as JSON.", "item")
    config, scores, judges = prepared(here, key, body.grader)
    sample = Sample((), body.model_sample, "stop", body.item or {})
    found: dict[str, Value] = {name: finite(score.values([sample])[0]) for name, score in scores.items()}
    reward = next(iter(found.values()))
    if isinstance(config, CombinedScore):
        reward = finite(combine(read_formula(config.formula, scores, "grader.calculate_output")[0], found))
    numbers = {name: None if isinstance(value, Unscored) else value for name, value in found.items()}
    usage = {name: one.usage for name, one in judges.items() if one.usage}
    return {
        "reward": 0.0 if isinstance(reward, Unscored) else reward,
        "metadata": {
            "name": body.grader.name,
            "type": body.grader.type,
            "errors": errors_of([reward, *found.values()], sample, scores),
            "execution_time": time.perf_counter() - began,
            "scores": numbers,
            "token_usage": sum(one["total_tokens"] for one in usage.values()) if usage else None,
            "sampled_model_name": getattr(body.grader, "model", None),
        },
        "sub_rewards": numbers if isinstance(config, CombinedScore) else {},
        "model_grader_token_usage_per_model": usage,
    }


def errors_of(values: list[Value], sample: Sample, scores: Mapping[str, Score]) -> dict[str, Any]:
    """What went wrong, as OpenAI's flags have it."""
    flags: dict[str, Any] = dict.fromkeys(FLAGS, False)
    for value in values:
        if isinstance(value, Unscored):
            flags[FLAG_OF.get(value.kind, "other_error")] = True
            if value.kind == "server":
                flags["model_grader_server_error_details"] = str(value)
    places = [place for score in scores.values() for one in score.templates for place in one.places]
    if any(place[:2] == ("sample", "output_json") for place in places):
        try:
            parsed(sample.answer)
        except ValueError:
            flags["sample_parse_error"] = True
    return flags


class Served:
    """A model of this server as a `Generator`, for threads that wait; it has its turn as any other request.

    Attributes:
        usage: tokens that it has read and written.
    """

    def __init__(self, here: Server, key: Key, model: str) -> None:
        self.here, self.key, self.model = here, key, model
        self.usage: dict[str, int] = {}

    def submit(self, prompt: Prompt, options: Options) -> Waiting:
        """Ask once the answer is waited for."""
        return Waiting(self, prompt, options)

    async def answer(self, prompt: Prompt, options: Options) -> Completion:
        """The answer to a conversation.

        Raises:
            ApiError: too many wait, or the model does not chat.
        """

        def prepare(serving: Serving) -> tuple[Prompt, Options]:
            if serving.engine.contract.template is None:
                raise refused(f"The model `{self.model}` has no chat template, so that it cannot grade.", "grader")
            return prompt, replace(options, adapter=serving.adapter)

        answers = await Answers.begin(self.here, self.key, self.model, 1, prepare)
        try:
            done = await answers.whole()
        finally:
            answers.close()
        if done.usage is not None:
            read, wrote = done.usage.prompt_tokens, done.usage.completion_tokens
            for name, count in (("prompt_tokens", read), ("completion_tokens", wrote), ("total_tokens", read + wrote)):
                self.usage[name] = self.usage.get(name, 0) + count
        return done


class Waiting:
    """An `Answering` of a served model."""

    def __init__(self, served: Served, prompt: Prompt, options: Options) -> None:
        self._served, self._prompt, self._options = served, prompt, options

    def __iter__(self) -> Iterator[Delta]:
        yield from deltas_of(self.result())

    def result(self, timeout: float | None = None) -> Completion:
        """All of it, from the thread of the event loop."""
        return anyio.from_thread.run(self._served.answer, self._prompt, self._options)

    def cancel(self) -> None:
        """Nothing is under way but while it is waited for."""
