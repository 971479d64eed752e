"""The score that another model gives: it is shown the answer with a rubric, and must say a number within a range."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from tunesmith.core.errors import ConfigError, TunesmithError
from tunesmith.data.prompting.schema import parsed
from tunesmith.infer.endpoint import Retry
from tunesmith.infer.generator import Answering, Generator, GivenUp, NoSchemas, Options
from tunesmith.infer.remote import RemoteModel, parse_remote
from tunesmith.prompt.messages import Message
from tunesmith.score.rewards.config import JudgeScore
from tunesmith.score.rewards.sample import Sample
from tunesmith.score.rewards.score import Items, Score, Value
from tunesmith.score.rewards.template import Template, Unscored, Worthless, template

PATIENCE = Retry(tries=5, seconds=60.0)  # with one question; training waits meanwhile
MOST_WAITING = 100_000
FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
SCORE = "score"
Settled = float | int | Unscored  # what nobody needs to be asked for


def make_judge(config: JudgeScore, where: str, generator: Generator | None = None) -> Score:
    """What a judge says.

    Args:
        config: which one, and what it is asked.
        where: what sentences call it.
        generator: who answers instead of the server that the URL names.

    Raises:
        ConfigError: the URL cannot be used.
    """
    if generator is None:
        if (named := parse_remote(config.url)) is None:
            raise ConfigError(
                f"{where}.url = {config.url!r}: must be an address, such as http://127.0.0.1:8000/v1#name."
            )
        generator = RemoteModel(
            *named, concurrency=config.concurrency, timeout=config.timeout, retry=PATIENCE, most_waiting=MOST_WAITING
        )
    judge = Judge(config, template(config.rubric, f"{where}.rubric"), generator)
    return Score(judge.values, (judge.rubric,), judge.refuse)


class Judge:
    """A model that judges; it is asked for JSON by a schema until its server says that it takes none."""

    def __init__(self, config: JudgeScore, rubric: Template, generator: Generator) -> None:
        self.config, self.rubric, self.generator = config, rubric, generator
        self.options = Options(
            max_new_tokens=config.max_new_tokens, temperature=config.temperature, schema=json.dumps(self._schema())
        )

    def _schema(self) -> dict[str, Any]:
        number = {"type": "number", "minimum": self.config.least, "maximum": self.config.most}
        return {"type": "object", "properties": {SCORE: number}, "required": [SCORE], "additionalProperties": False}

    def _question(self, sample: Sample) -> tuple[Message]:
        least, most = self.config.least, self.config.most
        how = f'Say how much that is worth, from {least:g} to {most:g}, as JSON and nothing else: {{"{SCORE}": number}}'
        return (Message("user", f"{self.rubric.fill(sample)}\n\n{how}"),)

    def values(self, samples: Sequence[Sample]) -> list[Value]:
        """What the judge says of each answer."""
        asked: list[Answering | Value] = [self._asked(sample) for sample in samples]
        found: list[Value] = []
        try:
            for sample, one in zip(samples, asked, strict=True):
                try:
                    found.append(one if isinstance(one, Settled) else self._read(sample, one))
                except GivenUp as fault:  # the others would wait as long, and in vain
                    return [*found, *[Unscored(str(fault))] * (len(samples) - len(found))]
        finally:
            for one in asked:
                if not isinstance(one, Settled):
                    one.cancel()
        return found

    def refuse(self, items: Items) -> None:
        """Ask once, of an empty answer to the first row: whether there is a judge, and whether it says a number.

        Raises:
            ConfigError: not so; with its own reason.
        """
        for item in items[:1]:
            [value] = self.values([Sample((Message("user", "?"),), "", "stop", item)])
            if isinstance(value, Unscored):
                raise ConfigError(f"{self.rubric.where.removesuffix('.rubric')}: the judge was tried, and {value}")

    def _asked(self, sample: Sample) -> Answering | Value:
        try:
            return self.generator.submit(self._question(sample), self.options)
        except Worthless:
            return self.config.least
        except Unscored as fault:
            return fault
        except TunesmithError as fault:
            return Unscored(str(fault))

    def _read(self, sample: Sample, answering: Answering) -> Value:
        try:
            return self._number(answering.result().choice.text)
        except NoSchemas:
            self.options = Options(max_new_tokens=self.config.max_new_tokens, temperature=self.config.temperature)
            again = self._asked(sample)
            return again if isinstance(again, Settled) else self._read(sample, again)
        except GivenUp:
            raise
        except (TunesmithError, Unscored) as fault:
            return fault if isinstance(fault, Unscored) else Unscored(str(fault))

    def _number(self, text: str) -> float:
        """The number that an answer is, or has under its key; nothing else is looked through for one.

        Raises:
            Unscored: it is no such answer, or lies outside the range.
        """
        fenced = FENCED.fullmatch(text.strip())
        try:
            value = parsed(fenced[1] if fenced else text)
        except ValueError:
            value = None
        if isinstance(value, dict) and value.keys() == {SCORE}:
            value = value[SCORE]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise Unscored(f'the judge answers {text.strip()[:60]!r}, and not {{"{SCORE}": number}}')
        if not self.config.least <= value <= self.config.most:
            raise Unscored(f"the judge says {value:g}, outside {self.config.least:g} to {self.config.most:g}")
        return float(value)
