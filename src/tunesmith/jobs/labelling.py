"""Pairs of answers for people to judge: of two models, two of one, or brought along; made while they read others."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.core import events
from tunesmith.core.errors import ConfigError, ModelError
from tunesmith.core.events import Report
from tunesmith.data.labels import Answer, Pair, item_of, marked, read_pairs
from tunesmith.data.prompts import read_prompts
from tunesmith.infer.generator import Answering, Generator, GivenUp, Options
from tunesmith.infer.local import LocalEngine
from tunesmith.jobs.prompt_asking import Found, found_models
from tunesmith.model.export import ExportedModel
from tunesmith.prompt.messages import Conversation, Message

AHEAD = 8  # prompts whose answers are made while a person reads
WARM = 0.8  # temperature of two answers of one model, where nobody says
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


class Brought:
    """Pairs whose answers somebody has brought along."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs, self.left_out = pairs, list[str]()

    def __len__(self) -> int:
        return len(self._pairs)

    def items(self) -> list[str]:
        """What there is to judge, in order."""
        return [pair.item for pair in self._pairs]

    def but(self, done: set[str]) -> Iterator[Pair]:
        """The pairs that are not judged yet; what is judged meanwhile is left out as well."""
        for pair in self._pairs:
            if pair.item not in done:
                yield pair

    def close(self) -> None:
        """There is nothing to end."""


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


def pairs_to_judge(options: dict[str, Any], report: Report) -> Brought | Asked:
    """What there is to judge.

    Args:
        options: those of `tunesmith label`, by their names.
        report: hears what is loaded.

    Raises:
        ConfigError: options do not go together.
        DataError: a file holds no prompts, or no answers.
        ModelError: a model cannot be asked.
    """
    refuse_options(options)
    names: list[str] = options["models"]
    if options["answers"]:
        return Brought(list(read_pairs(options["answers"], names or ())))
    prompts, _ = read_prompts(options["prompts"])
    if options["system"]:
        head = Message("system", options["system"])
        prompts = [one if one[0].role == "system" else (head, *one) for one in prompts]
    return Asked(prompts[: options["limit"]], speakers_of(options, report))


def refuse_options(options: dict[str, Any]) -> None:
    """Refuse what makes no sense before anything is read.

    Raises:
        ConfigError: with what to change.
    """
    names, brought = options["models"], options["answers"]
    if brought and options["prompts"]:
        raise ConfigError(f"{options['prompts']} and --answers {brought}: a file of answers brings its prompts along.")
    if brought:
        given = [one for one in ("samples", "temperature", "system", "max_new_tokens") if options[one] is not None]
        if given:
            name = given[0].replace("_", "-")
            raise ConfigError(f"--{name} is for models that are asked, and --answers brings answers. Leave it out.")
        if names and len(names) != 2:
            raise ConfigError("--models: with --answers, the names of whose the two answers are. Give two, or none.")
        return
    if not options["prompts"]:
        raise ConfigError("nothing to judge: give a file of prompts with --models, or --answers FILE.")
    if len(names) not in (1, 2):
        raise ConfigError(
            f"--models names {len(names)}: answers are compared of two models, or two answers of one. Name one or two."
        )
    if len(names) == 2 and options["samples"]:
        raise ConfigError("--samples 2: two answers of one model, and --models names two. Name one, or leave it out.")
    if len(names) == 1 and options["temperature"] == 0:
        raise ConfigError(
            f"--temperature 0: both answers of {names[0]} would be the same. Give one above 0, such as {WARM}."
        )


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
