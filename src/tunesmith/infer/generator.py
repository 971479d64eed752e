"""What answers prompts, wherever it runs, and the words that all of it shares.

`Generator` is the seam: a model of this machine is one and so is a model behind a URL, and whoever evaluates, chats,
serves or trains on a model's own answers knows no other. What only some can do is a protocol of its own: `Scorer` and
`Updatable`. `answer_all` asks any of them many things at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard, runtime_checkable

from tunesmith.core.errors import ConfigError, ModelError, TunesmithError
from tunesmith.prompt.messages import Conversation, Message, Tools

LEAST_TEMPERATURE = 1e-5  # below, logits divided by it are no numbers any more
BEAT_SECONDS = 1.0  # between two signs of life, at each of which whoever listens may end the work

Prompt = Conversation | Sequence[int]
Tops = list[tuple[int, float]]  # tokens and log probabilities, the likeliest first


class Full(TunesmithError, RuntimeError):  # noqa: N818  nothing went wrong
    """A generator has as many answers waiting as it takes; nothing was begun. Later there will be room."""


class GivenUp(ModelError):  # noqa: N818
    """A server did not answer, however often it was asked."""


class Refused(ModelError):  # noqa: N818
    """A server refuses a request for what it asks; others it may answer."""


class NoSchemas(ModelError):  # noqa: N818
    """A server keeps no answer to a JSON schema, or not to this one."""


@dataclass(frozen=True)
class Options:
    """How a prompt is to be answered.

    Attributes:
        max_new_tokens: longest answer.
        temperature: 0 takes the most likely token (greedy); above, the distribution is flattened.
        top_p: sample among the likeliest tokens that together reach this probability.
        seed: of the sampler; the answer of index i among several has that of `seed + i`.
        n: answers to the prompt.
        stop: an answer ends before the first of these strings that it completes.
        logprobs: whether the log probability of each token is wanted: under the model's own distribution, before
            temperature and nucleus, before penalties and biases.
        top_logprobs: how many of the likeliest tokens are told beside each, with the same.
        frequency_penalty, presence_penalty: what a token's logit loses for each time that it has come in the answer,
            and once it has come.
        logit_bias: what is added to the logits of tokens, by their ids.
        schema: JSON schema that the answer must match; any text if None.
        tools: functions that the model may call, for a prompt that is a conversation.
        adapter: name of a loaded adapter, "" for the base model, None for the one that the model came with.
        shared_by: among whom it may be noticed that prompts begin alike, which are then answered sooner.

    Raises:
        ConfigError: one of them makes no sense.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    n: int = 1
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    tools: Tools = ()
    adapter: str | None = None
    top_logprobs: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    schema: str | None = None
    shared_by: str = ""

    def __post_init__(self) -> None:
        strings = isinstance(self.stop, tuple) and all(isinstance(one, str) and one for one in self.stop)
        for name, fits, allowed in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature == 0 or LEAST_TEMPERATURE <= self.temperature < math.inf,
             f"0, or at least {LEAST_TEMPERATURE}"),
            ("top_p", 0 <= self.top_p <= 1, "between 0 and 1"),
            ("seed", abs(self.seed) < 2**62, "a number of at most 62 bits"),
            ("n", self.n >= 1, "at least 1"),
            ("stop", strings, "a tuple of strings, none of them empty"),
            ("top_logprobs", 0 <= self.top_logprobs <= 20, "between 0 and 20"),
            ("frequency_penalty", abs(self.frequency_penalty) <= 2, "between -2 and 2"),
            ("presence_penalty", abs(self.presence_penalty) <= 2, "between -2 and 2"),
            ("logit_bias", all(abs(bias) <= 100 for _, bias in self.logit_bias), "numbers between -100 and 100"),
        ):  # fmt: skip
            if not fits:
                raise ConfigError(f"{name} = {getattr(self, name)!r}: must be {allowed}.")


@dataclass(frozen=True)
class Usage:
    """What was computed.

    Attributes:
        prompt_tokens: of the prompt.
        completion_tokens: of all answers to it.
        cached_tokens: of the prompt, those that were known from another that begins alike.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Choice:
    """One answer.

    Attributes:
        text: what it says, without stop token and stop string; empty where a model only called tools.
        finish_reason: `stop` (a stop token or string), `length` or `cancelled`; a remote model has others as well.
        ids: all tokens that were drawn, the stop token among them; empty where a remote model does not tell.
        logprobs: of each of these tokens; None where nobody asked, or nobody tells.
        tops: the likeliest tokens beside each of these, with their log probabilities; None as above.
    """

    text: str
    finish_reason: str
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] | None = None
    tops: list[Tops] | None = None

    @property
    def ended(self) -> bool:
        """Whether it ended by itself, not by reaching the longest length."""
        return self.finish_reason in ("stop", "tool_calls")


@dataclass(frozen=True)
class Completion:
    """All that there is to know of the answers to one prompt.

    Attributes:
        choices: the answers, as many as were asked for.
        usage: None where a remote model does not tell.
        seconds: from the request to its end; of a remote model, tries that failed before do not count.
    """

    choices: list[Choice]
    usage: Usage | None
    seconds: float

    @property
    def choice(self) -> Choice:
        """The answer, where one was asked for."""
        [choice] = self.choices
        return choice


@dataclass(frozen=True)
class Delta:
    """What has come of one answer since its last delta.

    Attributes:
        index: which of several answers.
        text: never part of a stop string; may be empty while a character or a stop string may be under way.
        ids: tokens; empty where a remote model does not tell.
        logprobs: of each of these, where asked for.
        finish_reason: of the last delta of an answer; None before.
        tops: the likeliest tokens beside each of these, where asked for.
    """

    index: int
    text: str
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] | None = None
    finish_reason: str | None = None
    tops: list[Tops] | None = None


class Answering(Protocol):
    """The answers to one prompt, which are being made while others are; safe to hand to another thread."""

    def __iter__(self) -> Iterator[Delta]:
        """What comes, as it comes. One reader."""
        ...

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for all of it; what there is of it if it was cancelled.

        Args:
            timeout: most seconds to wait; for ever if None.

        Raises:
            TimeoutError: it is not there yet.
            Exception: what went wrong with this prompt.
        """
        ...

    def cancel(self) -> None:
        """Want no more of it: its place is soon free."""
        ...


class Generator(Protocol):
    """A model that answers."""

    def submit(self, prompt: Prompt, options: Options) -> Answering:
        """Begin to answer as soon as there is room; returns at once. Safe from any thread.

        Args:
            prompt: a conversation; or token ids, of models that take them.
            options: how; what comes out depends on no other prompt.

        Raises:
            Full: too many wait already. Nothing is begun, and nobody else is harmed.
            TunesmithError: this prompt cannot be answered.
        """
        ...


@dataclass(frozen=True)
class RowScore:
    """How a model predicts the marked tokens of one row, given all before (teacher forcing).

    Attributes:
        logprobs: log likelihood of each marked token, in nats.
        correct: how many of them were the model's first choice.
    """

    logprobs: list[float]
    correct: int

    @property
    def loss(self) -> float:
        """Sum of negative log likelihoods, in nats."""
        return -math.fsum(self.logprobs)

    @property
    def tokens(self) -> int:
        """How many tokens were predicted."""
        return len(self.logprobs)


@runtime_checkable
class Scorer(Protocol):
    """A model that shows how likely given rows are to it: those of this machine."""

    def score(self, rows: Sequence[tuple[list[int], list[bool]]]) -> list[RowScore]:
        """The score of each row (ids and mask), in order."""
        ...


@runtime_checkable
class Updatable(Protocol):
    """A generator whose weights may change between two prompts, as they do while it learns from its own answers.

    Answers under way go on with the new weights from their next token on.
    """

    def refresh(self) -> None:
        """Answer with the weights that the model has now, all of them; returns when that is so."""
        ...

    def set_adapter(self, name: str, tensors: Mapping[str, Any], config: Any = None) -> None:
        """Let the adapter called `name` have these tensors from now on.

        Args:
            name: of a known adapter, or a new one.
            tensors: by peft's names.
            config: peft's `LoraConfig`; may be None for a known adapter, whose scaling is kept.
        """
        ...


def is_conversation(prompt: Prompt) -> TypeGuard[Conversation]:
    """Whether a prompt is turns, not token ids."""
    return len(prompt) > 0 and isinstance(prompt[0], Message)


def answer_all(
    generator: Generator,
    asked: Sequence[tuple[Prompt, Options]],
    heard: Callable[[int], None] = lambda done: None,
) -> list[Completion]:
    """Answer many prompts, as many together as the generator takes: all of them, or an error.

    Args:
        generator: who answers.
        asked: each prompt with its options.
        heard: called with the number of prompts that are answered, after each and each second; what it raises ends
            the work.

    Returns:
        One completion for each prompt, in order.

    Raises:
        TunesmithError: one of them cannot be answered.
    """
    found: dict[int, Completion] = {}
    under_way: deque[tuple[int, Answering]] = deque()

    def finish_first() -> None:
        index, answering = under_way[0]
        while index not in found:
            try:
                found[index] = answering.result(BEAT_SECONDS)
            except TimeoutError:
                heard(len(found))
        under_way.popleft()
        heard(len(found))

    try:
        for index in sorted(range(len(asked)), key=lambda index: size_of(asked[index][0])):
            while (answering := _submitted(generator, *asked[index], bool(under_way))) is None:
                finish_first()
            under_way.append((index, answering))
        while under_way:
            finish_first()
    except GivenUp as fault:
        share = f"{len(found)} of {len(asked)} rows were answered"
        raise GivenUp(f"{fault} {share}; none is kept. Try again later.") from None
    finally:
        for _, answering in under_way:
            answering.cancel()
    return [found[index] for index in range(len(asked))]


def _submitted(generator: Generator, prompt: Prompt, options: Options, others: bool) -> Answering | None:
    """None if there is no room until one of the others is done."""
    try:
        return generator.submit(prompt, options)
    except Full:
        if not others:
            raise
        return None


def size_of(prompt: Prompt) -> int:
    """How long a prompt is, to bring those of near lengths together: tokens, or characters of a conversation."""
    return sum(len(turn.content) for turn in prompt) if is_conversation(prompt) else len(prompt)


@dataclass(frozen=True)
class Answered:
    """An `Answering` that is over: of a generator that answers at once."""

    completion: Completion

    def __iter__(self) -> Iterator[Delta]:
        yield from deltas_of(self.completion)

    def result(self, timeout: float | None = None) -> Completion:
        """What was answered."""
        return self.completion

    def cancel(self) -> None:
        """It is over already."""


def deltas_of(completion: Completion) -> Iterator[Delta]:
    """Each whole answer as the only delta of its index."""
    for index, choice in enumerate(completion.choices):
        yield Delta(index, choice.text, choice.ids, choice.logprobs, choice.finish_reason, choice.tops)
