"""What every engine can do, and the words it uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: longest answer.
        temperature: 0 takes the most likely token (greedy); above, the distribution is flattened.
        top_p: sample among the likeliest tokens that together reach this probability.
        seed: of the sampler.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One answer.

    Attributes:
        ids: its tokens, without the stop token.
        stopped: whether it ended by itself, not by reaching the longest length.
    """

    ids: list[int]
    stopped: bool


@dataclass(frozen=True)
class RowScore:
    """How a model predicts the trained tokens of one row, given all before (teacher forcing).

    Attributes:
        loss: sum of negative log likelihoods, in nats.
        tokens: how many tokens were predicted.
        correct: how many of them were the model's first choice.
    """

    loss: float
    tokens: int
    correct: int


class Engine(Protocol):
    """Generates answers and scores given ones."""

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        """One completion for each prompt (token ids), in order."""
        ...

    def stream(self, prompt: list[int], sampling: Sampling) -> Iterator[int]:
        """The tokens of one completion as they come, without the stop token."""
        ...

    def score(self, rows: Sequence[tuple[list[int], list[bool]]]) -> list[RowScore]:
        """The score of each row (ids and mask), in order."""
        ...


class Answering(Protocol):
    """One answer that is being made, while others are; safe to hand to another thread."""

    def __iter__(self) -> Iterator[int]:
        """The tokens as they come, without the stop token. One reader."""
        ...

    def result(self) -> Completion:
        """Wait for the whole answer."""
        ...

    def cancel(self) -> None:
        """Want no more of it: its place in the batch is free after the step under way."""
        ...


class BatchEngine(Engine, Protocol):
    """An engine whose answers join and leave one running batch: what a server drives."""

    def submit(
        self, prompt: list[int], sampling: Sampling, adapter: str | None = None, embeddings: Any | None = None
    ) -> Answering:
        """Begin an answer as soon as there is room; returns at once. Safe from any thread.

        Args:
            prompt: token ids.
            sampling: how tokens are chosen; what comes out depends on no other answer.
            adapter: name of a loaded adapter, "" for the base model, None for the one that the model came with.
            embeddings: a soft prompt (tokens, width), put in front of the prompt.

        Raises:
            ModelError: the prompt fills all positions that the model has, or there is no such adapter.
        """
        ...
