"""Pairs of answers for people to judge: of two models, or two of one; made while they read others."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.core import events
from tunesmith.core.errors import ConfigError, ModelError
from tunesmith.core.events import Report
from tunesmith.data.labels import WARM, Answer, Pair, item_of, marked
from tunesmith.data.prompts import read_prompts
from tunesmith.infer.generator import Answering, Generator, GivenUp, Options
from tunesmith.infer.local import LocalEngine
from tunesmith.jobs.prompt_asking import Found, found_models
from tunesmith.model.export import ExportedModel
from tunesmith.prompt.messages import Conversation, Message

AHEAD = 8  # prompts whose answers are made while a person reads
SEEDS = 1_000_003  # between those of two answers to a prompt


@dataclass(frozen=True)
class Speaker:
    """A model that gives one of the two answers.

    Attributes:
        name: as it is written down.
        generator: who answers.
        options: how; the seed is that of the first prompt.
    """

    name: str
    generator: Generator
    options: Options

    def submit(self, prompt: Conversation, place: int) -> Answering:
        """Begin to answer the prompt at `place`."""
        return self.generator.submit(prompt, replace(self.options, seed=self.options.seed + place))


class Asked:
    """Pairs whose answers two speakers give, some prompts ahead of who judges them.

    Attributes:
        left_out: why prompts were not answered.
    """

    def __init__(self, prompts: Sequence[Conversation], speakers: tuple[Speaker, Speaker]) -> None:
        """Begin nothing yet, but let models of this machine compute whenever there is something to do.

        Args:
            prompts: each once.
            speakers: of the first and the second answer.
        """
        self._prompts, self._speakers, self.left_out = prompts, speakers, list[str]()
        self._stop = threading.Event()
        engines = {id(one.generator): one.generator for one in speakers if isinstance(one.generator, LocalEngine)}
        self._drivers = [
            threading.Thread(target=one.drive, args=(self._stop,), daemon=True) for one in engines.values()
        ]
        for driver in self._drivers:
            driver.start()

    def __len__(self) -> int:
        return len(self._prompts)

    def items(self) -> list[str]:
        """What there is to judge, in order: each prompt with these speakers."""
        whose = sorted(speaker.name for speaker in self._speakers)
        return [item_of(prompt, whose) for prompt in self._prompts]

    def but(self, done: set[str]) -> Iterator[Pair]:
        """The pairs that are not judged yet, as they are answered.

        Raises:
            GivenUp: a server does not answer.
        """
        todo = deque((place, item) for place, item in enumerate(self.items()) if item not in done)
        under_way: deque[tuple[int, str, list[Answering]]] = deque()
        while todo or under_way:
            while todo and len(under_way) < AHEAD:
                place, item = todo.popleft()
                if (answerings := self._submitted(place)) is not None:
                    under_way.append((place, item, answerings))
            if under_way and (pair := self._pair(*under_way.popleft())) is not None:
                yield pair

    def _submitted(self, place: int) -> list[Answering] | None:
        try:
            return [speaker.submit(self._prompts[place], place) for speaker in self._speakers]
        except ModelError as error:
            self.left_out.append(str(error))
            return None

    def _pair(self, place: int, item: str, answerings: Sequence[Answering]) -> Pair | None:
        try:
            texts = [answering.result().choice.text.strip() for answering in answerings]
        except GivenUp:
            raise
        except ModelError as error:
            self.left_out.append(str(error))
            return None
        if not all(texts):
            self.left_out.append("an answer was empty")
            return None
        one, other = (Answer(text, speaker.name) for text, speaker in zip(texts, self._speakers, strict=True))
        return Pair(self._prompts[place], (one, other), item)

    def close(self) -> None:
        """Let the models compute no more."""
        self._stop.set()
        for driver in self._drivers:
            driver.join()


def asked_pairs(options: dict[str, Any], report: Report) -> Asked:
    """What models answer to prompts.

    Args:
        options: those of `tunesmith label`, by their names.
        report: hears what is loaded.

    Raises:
        DataError: a file holds no prompts.
        ModelError: a model cannot be asked.
    """
    prompts, _ = read_prompts(options["prompts"])
    if options["system"]:
        head = Message("system", options["system"])
        prompts = [one if one[0].role == "system" else (head, *one) for one in prompts]
    return Asked(prompts[: options["limit"]], speakers_of(options, report))


def speakers_of(options: dict[str, Any], report: Report) -> tuple[Speaker, Speaker]:
    """Who gives the two answers."""
    models = found_models(options["models"])
    two = len(models) == 2
    warm = options["temperature"] if options["temperature"] is not None else 0.0 if two else WARM
    longest = {} if options["max_new_tokens"] is None else {"max_new_tokens": options["max_new_tokens"]}
    first = Options(temperature=warm, seed=options["seed"], **longest)
    second = replace(first, seed=first.seed + SEEDS)
    generators = [_generator(name, model, options, report) for name, model in models]
    if two:
        one, other = (name for name, _ in models)
        return Speaker(one, generators[0], first), Speaker(other, generators[1], second)
    one, other = (marked(models[0][0], number) for number in (1, 2))
    return Speaker(one, generators[0], first), Speaker(other, generators[0], second)


def _generator(name: str, model: Found, options: dict[str, Any], report: Report) -> Generator:
    if not isinstance(model, ExportedModel):
        return model
    if not model.chats:
        raise ConfigError(f"--models {name}: does not chat, so that it answers no prompts. Name one that does.")
    report(events.Phase(f"loading {name}"))
    try:
        contract = model.contract(options["chat_template"])
    except ModelError as error:
        raise ModelError(str(error).replace("model.template", "--chat-template")) from None
    return LocalEngine(model.load(options["device"]), contract)
