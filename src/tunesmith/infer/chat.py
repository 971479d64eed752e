"""A published model as people use it: `tunesmith.load(path).generate("...")`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tunesmith.infer.engine import Engine, Sampling
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.messages import Message, as_conversation


class Chat:
    """An engine behind its prompt contract: conversations in, text out."""

    def __init__(self, engine: Engine, contract: Contract) -> None:
        self.engine = engine
        self.contract = contract

    def generate(self, turns: str | Iterable[Message | dict[str, str]], **sampling: Any) -> str:
        """The answer to a question, or to a conversation that ends with the user's turn.

        Args:
            turns: a question, or messages with `role` and `content`.
            **sampling: fields of `Sampling`: max_new_tokens, temperature, top_p, seed.
        """
        [completion] = self.engine.generate([self.contract.prompt(as_conversation(turns))], Sampling(**sampling))
        return self.contract.decode(completion.ids).strip()

    def stream(self, turns: str | Iterable[Message | dict[str, str]], **sampling: Any) -> Iterator[str]:
        """The same answer in pieces, as it comes. A character is held back until all its bytes are there."""
        prompt = self.contract.prompt(as_conversation(turns))
        return self.contract.decode_each(self.engine.stream(prompt, Sampling(**sampling)))
