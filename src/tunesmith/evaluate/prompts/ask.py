"""Ask one model many things, each of which it has not answered before: labels are scored, or answers written.

Two `Answerer`s: `LabelScorer` of models of this machine and rows with classes, `Writer` of everything else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from tunesmith.core.errors import ModelError, Stopped
from tunesmith.evaluate.prompts.cache import Answers, key_of
from tunesmith.evaluate.prompts.labels import SCORINGS, Scoring, alike, endings_of, label_scores, label_sums
from tunesmith.evaluate.prompts.spending import Budget, Price, bound_of, cost_of
from tunesmith.infer.engine.endings import Endings
from tunesmith.infer.generator import Answering, Completion, Full, Generator, Options
from tunesmith.infer.remote import wire_turns
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.messages import Conversation, Tools

MOST_UNDER_WAY = 64  # questions that a model of this machine answers together
SERVER_UNDER_WAY = 4  # and a server, as many as `RemoteModel` sends at once: what waits is not spent yet
GLANCE_SECONDS = 0.05  # between two looks at what has come


@dataclass(frozen=True)
class Question:
    """What is asked of a model.

    Attributes:
        turns: the conversation.
        tools: that it may call.
        neutral: the same with a question that says nothing.
    """

    turns: Conversation
    tools: Tools = ()
    neutral: Conversation = ()


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Attributes:
        text: that it wrote; empty where labels were scored.
        ended: whether it ended by itself.
        scores: of each label, where they were scored.
        prompt_tokens, answer_tokens: that were read and written; of scored labels, all of them. None where a server
            does not count.
        seconds: that it took, when it was asked.
        cost: dollars, where there is a price.
        new: whether it was asked now, not found among what was kept.
        sure: whether scores are log probabilities, so that they say how sure it is.
    """

    text: str
    ended: bool
    scores: list[float] | None
    prompt_tokens: int | None
    answer_tokens: int | None
    seconds: float
    cost: float | None = None
    new: bool = True
    sure: bool = True


class TooLong(ModelError):  # noqa: N818  it is only too much for one model
    """A question, with its examples, is longer than a model takes."""


class Answerer(Protocol):
    """A model that is asked, as prompts see it.

    Attributes:
        how: what is done with it, for people.
    """

    how: str

    def refuse_long(self, asked: Sequence[Question]) -> None:
        """Refuse questions that are longer than the model takes, by `TooLong`."""
        ...

    def replies(self, asked: Sequence[Question], heard: Callable[[int], None]) -> list[Reply | None]:
        """A reply to each, in order; None to those that the budget did not allow."""
        ...


class LabelScorer:
    """A model of this machine that is asked how likely each label is as the answer."""

    def __init__(
        self, endings: Endings, contract: Contract, labels: Sequence[str], scoring: Scoring, answers: Answers,
        takes: int,
    ) -> None:  # fmt: skip
        """Score `labels`.

        Args:
            endings: scores.
            contract: how the model is prompted.
            labels: the classes.
            scoring: what is compared.
            answers: that are kept.
            takes: tokens that the model takes.

        Raises:
            ModelError: two labels are the same to the model.
        """
        self.how = f"labels scored: {SCORINGS[scoring]}"
        self._scorer, self._contract, self._labels = endings, contract, labels
        self._scoring: Scoring = scoring
        self._answers, self._takes = answers, takes
        self._endings: list[list[int]] | None = None

    def endings(self, first: Question) -> list[list[int]]:
        """Ids of each label as an answer."""
        if self._endings is None:
            self._endings = endings_of(self._contract, first.turns, self._labels)[1]
        return self._endings

    def alike(self, first: Question) -> tuple[int, tuple[str, str]] | None:
        """How many labels begin with the same token as another, and the first two."""
        return alike(self._labels, self.endings(first))

    def refuse_long(self, asked: Sequence[Question]) -> None:
        """Refuse questions that are longer than the model takes; see `Answerer`."""
        longest = max(map(len, self.endings(asked[0])))
        for question in asked:
            length = len(self._contract.prompt(question.turns)) + longest
            if length > self._takes:
                raise too_long(length, self._takes)

    def replies(self, asked: Sequence[Question], heard: Callable[[int], None]) -> list[Reply | None]:
        """The scores of each label after each question; see `Answerer`.

        Raises:
            ModelError: the template writes labels otherwise after other questions.
        """
        endings = self.endings(asked[0])
        few = self._labels[:2]
        prompt, same = endings_of(self._contract, asked[0].turns, few)
        if prompt != self._contract.prompt(asked[0].turns) or same != endings[: len(few)]:
            raise ModelError(
                "under this chat template the tokens of a label depend on the question, so labels cannot be scored."
            )
        found: list[Reply | None] = []
        for done, question in enumerate(asked, 1):
            value, length, new = self._scored(question.turns, endings)
            neutral: list[float] = []
            if self._scoring == "pmi":
                neutral = self._scored(question.neutral, endings)[0]["sums"]
            scores = label_scores(value["sums"], endings, self._scoring, neutral)
            answer, sure = sum(map(len, endings)), self._scoring == "sum"
            found.append(Reply("", True, scores, length, answer, value["seconds"], new=new, sure=sure))
            heard(done)
        return found

    def _scored(self, turns: Conversation, endings: list[list[int]]) -> tuple[dict[str, Any], int, bool]:
        """The log probability of each label and the seconds of that; the prompt's tokens; whether it is new."""
        ids = self._contract.prompt(turns)
        key = key_of("score", ids, endings)
        if (value := self._answers.get(key)) is not None:
            return value, len(ids), False
        started = time.perf_counter()
        sums = label_sums(self._scorer.score(ids, endings))
        value = {"sums": sums, "seconds": time.perf_counter() - started}
        self._answers.put(key, value)
        return value, len(ids), True


class Writer:
    """A model that writes its answers: one of this machine, or a server's."""

    def __init__(
        self, generator: Generator, how: str, answers: Answers, max_new_tokens: int, contract: Contract | None,
        takes: int = 0, budget: Budget | None = None, price: Price | None = None, schema: str | None = None,
    ) -> None:  # fmt: skip
        """Ask `generator`, greedily.

        Args:
            generator: who answers.
            how: what is done with the answers, for people.
            answers: that are kept.
            max_new_tokens: longest answer.
            contract: how a model of this machine is prompted; None of a server's.
            takes: tokens that such a model takes.
            budget: of a server's.
            price: of a server's.
            schema: JSON schema that answers are asked to fit.
        """
        self._schema = schema
        self.how, self._generator, self._answers, self._contract = how, generator, answers, contract
        self._takes, self._budget, self._price, self._most = takes, budget, price, max_new_tokens

    def refuse_long(self, asked: Sequence[Question]) -> None:
        """Refuse questions that leave no room for an answer; see `Answerer`. A server knows itself what it takes."""
        for question in asked if self._contract is not None else ():
            length = len(self._contract.prompt(question.turns, question.tools)) + self._most  # pyright: ignore
            if length > self._takes:
                raise too_long(length, self._takes)

    def replies(self, asked: Sequence[Question], heard: Callable[[int], None]) -> list[Reply | None]:
        """What is written to each; see `Answerer`. Each answer is kept as soon as it has come."""
        keys = [self._key(question) for question in asked]
        found: dict[str, Reply] = {}
        for key in keys:
            if (value := self._answers.get(key)) is not None:
                found[key] = self._reply(value, new=False)
        todo = dict(zip(keys, asked, strict=True))  # equal questions once
        waiting = deque((key, question) for key, question in todo.items() if key not in found)
        under_way: dict[str, tuple[Answering, float]] = {}
        try:
            while self._begin(waiting, under_way) or under_way:
                self._gather(under_way, found)
                heard(sum(key in found for key in keys))
        except (Stopped, ModelError):
            while under_way and self._contract is None:  # a server is paid for them already
                with suppress(ModelError):
                    self._gather(under_way, found)
            raise
        finally:
            for answering, _ in under_way.values():
                answering.cancel()
        return [found.get(key) for key in keys]

    def _begin(self, waiting: deque[tuple[str, Question]], under_way: dict[str, tuple[Answering, float]]) -> bool:
        """Begin what there is room for; whether something was begun."""
        begun = False
        most = MOST_UNDER_WAY if self._contract is not None else SERVER_UNDER_WAY
        while waiting and len(under_way) < most:
            key, question = waiting[0]
            bound = bound_of(self._price, question.turns, question.tools, self._most, self._schema)
            if self._budget is not None and not self._budget.take(bound):
                waiting.clear()
                break
            options = Options(max_new_tokens=self._most, tools=question.tools, schema=self._schema)
            try:
                under_way[key] = self._generator.submit(question.turns, options), bound
            except Full:
                if self._budget is not None:
                    self._budget.give_back(bound)
                if not under_way:
                    raise
                break
            waiting.popleft()
            begun = True
        return begun

    def _gather(self, under_way: dict[str, tuple[Answering, float]], found: dict[str, Reply]) -> None:
        """Keep what has come, after waiting a moment for the first."""
        for place, (key, (answering, bound)) in enumerate(list(under_way.items())):
            try:
                completion = answering.result(0.0 if place else GLANCE_SECONDS)
            except TimeoutError:
                continue
            except ModelError:
                del under_way[key]
                raise
            del under_way[key]
            value = kept_of(completion)
            self._answers.put(key, value)
            if self._budget is not None:
                self._budget.settle(bound, cost_of(self._price, completion.usage))
            found[key] = self._reply(value, new=True)

    def _key(self, question: Question) -> str:
        if self._contract is None:
            said: Any = [wire_turns(question.turns), [dict(tool) for tool in question.tools]]
        else:
            said = self._contract.prompt(question.turns, question.tools)
        return key_of("write", said, self._most, *([self._schema] if self._schema else []))

    def _reply(self, value: dict[str, Any], new: bool) -> Reply:
        prompt, answer = value["prompt_tokens"], value["answer_tokens"]
        cost = None if self._price is None or prompt is None or answer is None else self._price.of(prompt, answer)
        return Reply(value["text"], value["ended"], None, prompt, answer, value["seconds"], cost, new)


def kept_of(completion: Completion) -> dict[str, Any]:
    """What is kept of an answer."""
    choice, usage = completion.choice, completion.usage
    return {
        "text": choice.text,
        "ended": choice.ended,
        "prompt_tokens": (usage and usage.prompt_tokens) or None,  # no prompt is empty: the server did not tell
        "answer_tokens": usage and usage.completion_tokens,
        "seconds": completion.seconds,
    }


def too_long(length: int, takes: int) -> TooLong:
    """The error of a question that no model of this size takes."""
    return TooLong(
        f"prompt and answer have {length} tokens, and the model takes {takes}. Ask for fewer examples with --shots, "
        "or for shorter answers with --max-new-tokens."
    )
