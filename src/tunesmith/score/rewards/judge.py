"""The score that another model gives: it is shown the answer with a rubric, and says a number, or one of some words.

It answers behind a URL, or on this machine.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from tunesmith.core.errors import ConfigError, TunesmithError
from tunesmith.data.prompting.schema import parsed
from tunesmith.infer.endpoint import Retry
from tunesmith.infer.generator import Answering, Generator, GivenUp, NoSchemas, Options, Prompt
from tunesmith.infer.remote import RemoteModel, parse_remote
from tunesmith.prompt.messages import Conversation, Message
from tunesmith.score.rewards.config import JudgeScore
from tunesmith.score.rewards.sample import Sample
from tunesmith.score.rewards.score import Items, Score, Value
from tunesmith.score.rewards.template import Template, Unscored, Worthless, template

PATIENCE = Retry(tries=5, seconds=60.0)  # with one question; training waits meanwhile
AT_ONCE = 256  # questions that are handed over together
FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
Settled = float | int | Unscored  # what nobody needs to be asked for


def make_judge(config: JudgeScore, where: str, generator: Generator | None = None, device: str = "auto") -> Score:
    """What a judge says.

    Args:
        config: which one, and what it is asked.
        where: what sentences call it.
        generator: who answers instead of the one that the section names.
        device: that a model of this machine is loaded on: `auto`, `cpu` or `cuda`.

    Raises:
        ConfigError: the address cannot be used, or the model does not chat.
        MissingError: there is no such model here.
    """
    if generator is None and (named := parse_remote(config.model)) is not None:
        generator = RemoteModel(
            *named, concurrency=config.concurrency, timeout=config.timeout, retry=PATIENCE, most_waiting=AT_ONCE
        )
    turns = [{"role": "user", "content": config.rubric}] if isinstance(config.rubric, str) else config.rubric
    rubric = [(turn["role"], template(turn["content"], f"{where}.rubric")) for turn in turns]
    judge = Judge(config, where, rubric, generator or Here(config.model, where, device))
    return Score(judge.values, tuple(one for _, one in rubric), judge.refuse)


class Here:
    """A `Generator` of this machine, loaded when it is asked first."""

    def __init__(self, name: str, where: str, device: str) -> None:
        from tunesmith.model.export import find_model

        self.exported, self.device = find_model(name), device
        if not self.exported.chats:
            raise ConfigError(f"{where}.model = {name!r}: this model does not chat. Name one that does, or an address.")

    @cached_property
    def engine(self) -> Any:
        """What answers."""
        from tunesmith.infer.local import LocalEngine

        return LocalEngine(self.exported.load(self.device), self.exported.contract())

    def submit(self, prompt: Prompt, options: Options) -> Answering:
        """Begin to answer; see `Generator`."""
        return self.engine.submit(prompt, options)


class Judge:
    """A model that judges; it is asked for JSON by a schema until its server says that it takes none."""

    def __init__(
        self, config: JudgeScore, where: str, rubric: Sequence[tuple[str, Template]], generator: Generator
    ) -> None:
        self.config, self.where, self.rubric, self.generator = config, where, rubric, generator
        self.key = "score" if config.labels is None else "label"
        self.lowest = config.least if config.labels is None else min(config.labels.values())
        self.options = Options(
            max_new_tokens=config.max_new_tokens, temperature=config.temperature, schema=json.dumps(self._schema())
        )

    def _schema(self) -> dict[str, Any]:
        said = {"type": "number", "minimum": self.config.least, "maximum": self.config.most}
        if self.config.labels is not None:
            said = {"type": "string", "enum": list(self.config.labels)}
        return {"type": "object", "properties": {self.key: said}, "required": [self.key], "additionalProperties": False}

    def question(self, sample: Sample) -> Conversation:
        """What the judge is asked of an answer."""
        turns = [Message(role, one.fill(sample)) for role, one in self.rubric]
        labels = self.config.labels
        what = f"Say how much that is worth, from {self.config.least:g} to {self.config.most:g}"
        if labels is not None:
            what = f"Say which of these it is: {', '.join(labels)}"
        how = f'{what}, as JSON and nothing else: {{"{self.key}": {"number" if labels is None else "..."}}}'
        if turns[-1].role != "user":
            return (*turns, Message("user", how))
        return (*turns[:-1], Message("user", f"{turns[-1].content}\n\n{how}"))

    def values(self, samples: Sequence[Sample]) -> list[Value]:
        """What the judge says of each answer."""
        found: list[Value] = []
        for begin in range(0, len(samples), AT_ONCE):
            try:
                self._some(samples[begin : begin + AT_ONCE], found)
            except GivenUp as fault:  # the others would wait as long, and in vain
                return [*found, *[Unscored(str(fault), "server")] * (len(samples) - len(found))]
        return found

    def _some(self, samples: Sequence[Sample], found: list[Value]) -> None:
        """Ask of some answers at once, and add what is said to what is found.

        Raises:
            GivenUp: the server is not there, or too busy.
        """
        asked: list[Answering | Value] = [self._asked(sample) for sample in samples]
        try:
            for sample, one in zip(samples, asked, strict=True):
                found.append(one if isinstance(one, Settled) else self._read(sample, one))
        finally:
            for one in asked:
                if not isinstance(one, Settled):
                    one.cancel()

    def refuse(self, items: Items) -> None:
        """Ask once, of an empty answer to the first row: whether there is a judge, and whether it says a score.

        Raises:
            ConfigError: not so; with its own reason.
        """
        for item in items[:1]:
            [value] = self.values([Sample((Message("user", "?"),), "", "stop", item)])
            if isinstance(value, Unscored) and value.kind in ("judge", "server"):
                raise ConfigError(f"{self.where}: the judge was tried, and {value}")

    def _asked(self, sample: Sample) -> Answering | Value:
        try:
            return self.generator.submit(self.question(sample), self.options)
        except Worthless:
            return self.lowest
        except Unscored as fault:
            return fault
        except TunesmithError as fault:
            return Unscored(str(fault), "server")

    def _read(self, sample: Sample, answering: Answering) -> Value:
        try:
            return self._value(answering.result().choice.text)
        except NoSchemas:
            self.options = replace(self.options, schema=None)
            again = self._asked(sample)
            return again if isinstance(again, Settled) else self._read(sample, again)
        except GivenUp:
            raise
        except Unscored as fault:
            return fault
        except TunesmithError as fault:
            return Unscored(str(fault), "server")

    def _value(self, text: str) -> float:
        """The score that an answer is, or has under its key; prose is not looked through for one.

        Raises:
            Unscored: it is no such answer, or lies outside the range.
        """
        fenced = FENCED.fullmatch(text.strip())
        said = fenced[1] if fenced else text.strip()
        try:
            value = parsed(said)
        except ValueError:
            value = said
        if isinstance(value, dict) and value.keys() == {self.key}:
            value = value[self.key]
        if self.config.labels is not None:
            if isinstance(value, str) and value in self.config.labels:
                return self.config.labels[value]
            raise Unscored(f"the judge answers {said[:60]!r}, and none of {', '.join(self.config.labels)}", "judge")
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
            raise Unscored(f'the judge answers {said[:60]!r}, and not {{"{self.key}": number}}', "judge")
        if not self.config.least <= value <= self.config.most:
            outside = f"outside {self.config.least:g} to {self.config.most:g}"
            raise Unscored(f"the judge says {str(value)[:20]}, {outside}", "judge")
        return float(value)
