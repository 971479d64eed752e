"""A model that is asked with a prompt, and what may be learned of its answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tunesmith.core import events
from tunesmith.core.errors import ConfigError, ModelError
from tunesmith.core.events import Report
from tunesmith.data.kinds.row import Row
from tunesmith.data.prompting.around import Around
from tunesmith.data.prompting.schema import as_answer, is_json, label_in, parsed, valid
from tunesmith.data.prompting.variant import answer_of
from tunesmith.evaluate.prompts.ask import Answerer, LabelScorer, Question, Reply, TooLong, Writer
from tunesmith.evaluate.prompts.cache import Answers, identity_of, key_of
from tunesmith.evaluate.prompts.labels import named, refuse_twins
from tunesmith.evaluate.prompts.spending import Budget, Price
from tunesmith.infer.engine.endings import Endings
from tunesmith.infer.generator import Answering, Generator, Options, Prompt
from tunesmith.infer.local import LocalEngine
from tunesmith.infer.remote import RemoteModel
from tunesmith.jobs.prompt_asking import FORMATTED, KEPT_TO, MATCHED, WRITTEN, takes_of
from tunesmith.model.export import ExportedModel

SCORED = "labels scored: the likeliest is the answer"
AROUND_WORDS = ".,;:!?…\"'`\u2018\u2019\u201c\u201d\u201e«»()[]{}*_"
MOST_REFUSED = 3  # questions that a server may refuse before it answers one: more, and it is not for what they ask


@dataclass(frozen=True)
class Manner:
    """How a teacher answers.

    Attributes:
        longest: tokens of an answer.
        temperature: 0 for the likeliest one.
        seed: of the first sample; each further one has the next.
        samples: answers to each question.
    """

    longest: int
    temperature: float = 0.0
    seed: int = 0
    samples: int = 1


class Drawn:
    """A `Generator` whose answers are drawn by chance."""

    def __init__(self, generator: Generator, temperature: float, seed: int) -> None:
        """Draw answers of `generator`."""
        self._generator, self._temperature, self._seed = generator, temperature, seed

    def submit(self, prompt: Prompt, options: Options) -> Answering:
        """Begin to answer; see `Generator`."""
        return self._generator.submit(prompt, replace(options, temperature=self._temperature, seed=self._seed))


class Teacher:
    """A model that is asked about rows with a prompt."""

    def __init__(
        self, name: str, model: ExportedModel | RemoteModel, around: Around, manner: Manner, budget: Budget,
        price: Price | None, chat_template: str | None, device: str, report: Report,
    ) -> None:  # fmt: skip
        """Load a model of this machine.

        Args:
            name: as the user named it.
            model: that is asked.
            around: the prompt.
            manner: how it answers.
            budget: of a server's.
            price: of a server's.
            chat_template: by name, for a base model without one.
            device: for a model of this machine.
            report: hears that it is loaded.

        Raises:
            ConfigError: the model does not chat, or what is asked for is not for it.
        """
        self.labels, self.around, self.manner = around.prompting.labels, around, manner
        self.schema = around.version.answers
        schema = None if self.schema is None else json.dumps(self.schema, ensure_ascii=False)
        seeds = [manner.seed + number for number in range(manner.samples)]
        if isinstance(model, RemoteModel):
            if self.labels:
                refuse_twins(self.labels, name)
            self.how = FORMATTED if schema is not None else MATCHED if self.labels else WRITTEN
            self._ways: list[Answerer] = [
                Writer(self._drawn(model, seed), self.how, self._kept(model.name, seed), manner.longest, None,
                       budget=budget, price=price, schema=schema, most_refused=MOST_REFUSED) for seed in seeds
            ]  # fmt: skip
            return
        if not model.chats:
            raise ConfigError(
                f"--model {name}: does not chat, so it cannot be asked with a prompt. Name one that does."
            )
        report(events.Phase(f"loading {name}"))
        try:
            contract = model.contract(chat_template)
        except ModelError as error:
            raise ModelError(str(error).replace("model.template", "--chat-template")) from None
        loaded = model.load(device)
        engine, takes = LocalEngine(loaded, contract), takes_of(model)
        identity = key_of(identity_of(model, str(loaded.device)), contract.id)
        if self.labels and schema is None:
            if manner.temperature:
                raise ConfigError(
                    "--temperature: labels are scored by a model of this machine, and nothing is drawn. Leave it out."
                )
            self.how = SCORED
            self._ways = [LabelScorer(Endings(engine), contract, self.labels, "sum", Answers(identity), takes)]
            return
        self.how = WRITTEN if schema is None else KEPT_TO
        self._ways = [
            Writer(self._drawn(engine, seed), self.how, self._kept(identity, seed), manner.longest, contract, takes,
                   schema=schema) for seed in seeds
        ]  # fmt: skip

    def _drawn(self, generator: Generator, seed: int) -> Generator:
        return Drawn(generator, self.manner.temperature, seed) if self.manner.temperature else generator

    def _kept(self, identity: str, seed: int) -> Answers:
        """What is kept of its answers; greedy ones are those of `tunesmith prompts`."""
        drawn = [self.manner.temperature, seed] if self.manner.temperature else []
        return Answers(key_of(identity, *drawn) if drawn else identity)

    def replies(self, rows: Sequence[Row], heard: Callable[[int], None]) -> list[list[Reply | None] | None]:
        """The replies to each row, one for each sample.

        Args:
            rows: that are asked about.
            heard: called with how many replies there are.

        Returns:
            None for a row that is too long for the model; a reply is None where the budget did not allow it.
        """
        questions = [self._question(row) for row in rows]
        fits = [self._fits(question) for question in questions]
        asked = [question for question, one in zip(questions, fits, strict=True) if one]
        found: list[list[Reply | None]] = [[] for _ in asked]
        for number, way in enumerate(self._ways if asked else ()):
            before = number * len(asked)
            for place, reply in enumerate(way.replies(asked, lambda done, before=before: heard(before + done))):
                found[place].append(reply)
        replies = iter(found)
        return [next(replies) if one else None for one in fits]

    def _question(self, row: Row) -> Question:
        return Question(self.around.asked(row), row.tools if row.content.kind == "chat" else ())

    def _fits(self, question: Question) -> bool:
        try:
            self._ways[0].refuse_long([question])
        except TooLong:
            return False
        return True

    def answer(self, reply: Reply) -> tuple[str, str]:
        """What may be learned of a reply; or an empty text, and why nothing may."""
        if reply.scores is not None:
            return self.labels[int(np.argmax(reply.scores))], ""
        if reply.refused:
            return "", "refused by the server"
        text = reply.text.strip()
        if not reply.ended:
            return "", f"cut off after {self.manner.longest} tokens"
        if not text:
            return "", "empty"
        if self.schema is not None and not valid(text, self.schema):
            return "", "no JSON that fits the schema"
        if not self.labels:
            return text, ""
        place = named(label_in(text) if self.around.prompting.json else text, self.labels)
        if place is None:
            return "", "names no label"
        label = self.labels[place]
        return (as_answer(label) if self.around.prompting.json else label), ""

    def is_right(self, text: str, row: Row) -> bool:
        """Whether an answer says what the row's own does; case and punctuation around words aside."""
        return worded(text) == worded(self.around.prompting.shown(row) if self.labels else answer_of(row))


def worded(text: str) -> str:
    """What a text says: without case and punctuation around words (1.5 is not 15, nor -5 what 5 is); of JSON, its
    value."""
    if is_json(text):
        return json.dumps(parsed(text), sort_keys=True)
    words = (word.strip(AROUND_WORDS) for word in text.casefold().split())
    return " ".join(word for word in words if word)


def agreed(texts: Sequence[str], of: int) -> str | None:
    """The answer that more than half of `of` samples give, as `worded` compares them; None if there is none."""
    counts = Counter(map(worded, texts))
    said, count = counts.most_common(1)[0] if counts else ("", 0)
    return next(text for text in texts if worded(text) == said) if 2 * count > of else None


def distinct(texts: Sequence[str]) -> list[str]:
    """The answers, each once, as `worded` compares them."""
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(worded(text), text)
    return list(found.values())
