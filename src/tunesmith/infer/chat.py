"""A model as people use it: `tunesmith.load(path).generate("...")`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

from tunesmith.core.errors import ConfigError
from tunesmith.core.names import did_you_mean
from tunesmith.infer.generator import Completion, Generator, Options
from tunesmith.prompt.messages import Message, as_conversation

Turns = str | Iterable[Message | dict[str, str]]


class Chat:
    """A generator of any kind: conversations in, text out.

    Attributes:
        generator: who answers.
    """

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def generate(self, turns: Turns, **options: Any) -> str:
        """The answer to a question, or to a conversation that ends with the user's turn.

        Args:
            turns: a question, or messages with `role` and `content`.
            **options: fields of `Options`: max_new_tokens, temperature, top_p, seed, stop.
        """
        return self._complete(turns, one_answer(options)).choice.text.strip()

    def complete(self, turns: Turns, **options: Any) -> Completion:
        """All there is to know of the answers: `choices` with text and finish reason, `usage`, `seconds`.

        Args:
            turns: the same.
            **options: the same, and `n` answers, `logprobs`, `tools` and `adapter`.
        """
        return self._complete(turns, make_options(options))

    def _complete(self, turns: Turns, options: Options) -> Completion:
        answering = self.generator.submit(as_conversation(turns), options)
        try:
            return answering.result()
        finally:
            answering.cancel()

    def stream(self, turns: Turns, **options: Any) -> Iterator[str]:
        """What `generate` gives in pieces, as it comes. A character is held back until all its bytes are there."""
        return self._stream(turns, one_answer(options))

    def _stream(self, turns: Turns, options: Options) -> Iterator[str]:
        answering = self.generator.submit(as_conversation(turns), options)
        try:
            yield from (delta.text for delta in answering if delta.text)
        finally:
            answering.cancel()


def one_answer(given: dict[str, Any]) -> Options:
    """Options of a single answer.

    Raises:
        ConfigError: several are asked for, or they make no sense.
    """
    options = make_options(given)
    if options.n != 1:
        raise ConfigError(f"n = {options.n}: this gives one answer. Use `complete` for several.")
    return options


def make_options(given: dict[str, Any]) -> Options:
    """Options from keywords; `stop` may be one string, or a list.

    Raises:
        ConfigError: there is no such option, or it cannot have this value.
    """
    names = [one.name for one in fields(Options)]
    for name in given:
        if name not in names:
            raise ConfigError(f"no option is called {name!r}; {did_you_mean(name, names)}")
    stop = given.get("stop", ())
    return Options(**{**given, "stop": (stop,) if isinstance(stop, str) else tuple(stop or ())})
