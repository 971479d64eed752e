"""Answers that a policy draws to prompts, with the weights of this very step, and what they are worth."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tunesmith.core.errors import DataError
from tunesmith.data.kinds.prepared import Prepared
from tunesmith.infer.generator import Options, answer_all
from tunesmith.infer.local import LocalEngine
from tunesmith.prompt.contract import Contract
from tunesmith.score.rewards.reward import Rewards
from tunesmith.score.rewards.sample import Sample, asked_of
from tunesmith.train.planning.compiled import as_they_are
from tunesmith.train.policy_config import SamplingConfig


@dataclass(frozen=True)
class Drawn:
    """An answer.

    Attributes:
        place: of its prompt among the rows.
        ids: prompt and answer.
        begin: where the answer begins.
        drawn: the log probability of each of its tokens, as the engine drew it at temperature 1.
        ended: whether it came to its end.
        reward: what it is worth; None where that is not known.
        parts: the scores that this is made of, by name.
        reason: why it is not known.
    """

    place: int
    ids: list[int]
    begin: int
    drawn: list[float]
    ended: bool
    reward: float | None
    parts: dict[str, float | None]
    reason: str = ""


@dataclass
class Sampler:
    """Draws and scores answers of a model that is being trained.

    Attributes:
        model: that is trained; put into evaluation mode, with the library's attention, while it draws.
        contract: how it is prompted.
        config: how answers are drawn.
        rewards: what they are worth.
        attention: the library's, by its name; None where the model has no other now.
        compiled: whether its decoding is compiled before the first answer.
    """

    model: Any
    contract: Contract
    config: SamplingConfig
    rewards: Rewards
    attention: str | None = None
    compiled: bool = False
    _engine: LocalEngine | None = None
    _plain: bool = False

    def ready(self) -> None:
        """Make the engine, and compile its layers where that is wanted, before anything is asked."""
        if self._engine is None:
            with self._answering():
                pass

    def draw(self, asked: Sequence[tuple[int, Prepared, int]], samples: int, greedy: bool = False) -> list[Drawn]:
        """Answers to prompts, `samples` to each, those to one prompt side by side.

        What is drawn depends on weights and seeds alone: on no other prompt, and on no time.

        Args:
            asked: of each prompt its place, its row, and the seed of its first answer; others count on from it.
            samples: answers to each.
            greedy: whether the likeliest answer is taken.
        """
        options = [
            Options(
                max_new_tokens=self.config.max_new_tokens, temperature=0.0 if greedy else self.config.temperature,
                n=samples, seed=seed, logprobs=not greedy,
            )
            for _, _, seed in asked
        ]  # fmt: skip
        questions = [asked_of(row.row) for _, row, _ in asked]
        prompts = [self.contract.prompt(turns, tools) for turns, tools, _ in questions]
        with self._answering() as engine:
            refuse_long(engine, asked, prompts)
            completions = answer_all(engine, list(zip(prompts, options, strict=True)))
        choices = [choice for completion in completions for choice in completion.choices]
        each = [place for place in range(len(asked)) for _ in range(samples)]
        scored = self.rewards.score(
            [
                Sample(questions[place][0], choice.text, choice.finish_reason, questions[place][2])
                for place, choice in zip(each, choices, strict=True)
            ]
        )
        return [
            Drawn(
                asked[place][0], [*prompts[place], *choice.ids], len(prompts[place]),
                choice.logprobs or [0.0] * len(choice.ids), choice.ended, one.total, dict(one.parts), one.reason,
            )
            for place, choice, one in zip(each, choices, scored, strict=True)
        ]  # fmt: skip

    @contextmanager
    def _answering(self) -> Generator[LocalEngine]:
        """The engine, with the weights of now."""
        training, ours = self.model.training, self.model.config._attn_implementation
        self.model.eval()
        if self.attention is not None:
            self.model.set_attn_implementation(self.attention)
        try:
            with ExitStack() as stack:
                if self._engine is None:
                    self._engine = LocalEngine(self.model, self.contract, self.config.batch_size, compile_after=None)
                    with as_they_are():
                        self._plain = bool(self._engine.reason)
                    if self.compiled:
                        self._engine.compile()
                else:
                    self._engine.refresh()
                if self._plain:  # the model itself decodes
                    stack.enter_context(as_they_are())
                yield self._engine
        finally:
            if self.attention is not None:
                self.model.set_attn_implementation(ours)
            self.model.train(training)

    @property
    def reason(self) -> str:
        """Why answers are drawn in a slower way than they could be; empty if they are not, or nothing was drawn."""
        return "" if self._engine is None else self._engine.reason


def refuse_long(
    engine: LocalEngine, asked: Sequence[tuple[int, Prepared, int]], prompts: Sequence[Sequence[int]]
) -> None:
    """Refuse prompts that leave no room for an answer.

    Raises:
        DataError: with the first.
    """
    for (_, row, _), ids in zip(asked, prompts, strict=True):
        if engine.positions is not None and len(ids) >= engine.positions:
            raise DataError(
                f"{row.source}: the prompt has {len(ids)} tokens and the model takes {engine.positions}, which leaves "
                "no room for an answer. Shorten it, or set data.max_length with data.over_long=drop."
            )


def seed_of(seed: int, turn: int, place: int) -> int:
    """Where the random numbers of a prompt's answers begin, by the run's seed, the step and the prompt alone."""
    digest = hashlib.sha256(f"{seed}/{turn}/{place}".encode()).digest()
    return int.from_bytes(digest[:4], "big")  # as many bits as a generator's seed has
