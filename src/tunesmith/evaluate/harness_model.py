"""What lm_eval takes for a model: log likelihoods and answers of an engine.

Texts become tokens as lm_eval's own class for Hugging Face models makes them (HFLM), so that scores can be compared
with exported ones: context and continuation are encoded together and cut where the context alone ends, spaces at
the context's end belong to the continuation, and what the model cannot read is cut off on the left. A text without
context follows one prefix token, the tokenizer's beginning of sequence or else its end of sequence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

from tunesmith.core import events
from tunesmith.core.errors import ConfigError, DataError
from tunesmith.core.events import Report
from tunesmith.infer.generator import Generator, Options, Prompt, Scorer, answer_all
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.messages import as_conversation

REQUESTS_BETWEEN_PULSES = 128  # that are scored
LONGEST_UNSTATED = 2048  # tokens that a model reads at once, where neither it nor its tokenizer says
UNSTATED = 10**9  # a tokenizer's length from here on means that none was stated
GENERATION_OPTIONS = ("do_sample", "max_gen_toks", "temperature", "top_p", "until")


class HarnessEngine(Generator, Scorer, Protocol):
    """What lm_eval's tasks need: a model that takes token ids, answers and scores."""


@dataclass(frozen=True)
class EngineModel:
    """An engine under the names that lm_eval's `evaluate` calls. A request's `args` are what a method describes.

    Attributes:
        engine: the model.
        contract: its tokenizer and template.
        report: hears a `pulse` from time to time.
    """

    engine: HarnessEngine
    contract: Contract
    report: Report
    rank: ClassVar[int] = 0
    world_size: ClassVar[int] = 1

    @cached_property
    def longest(self) -> int:
        """Tokens that the model reads at once."""
        positions: int | None = getattr(self.engine, "positions", None)
        stated = self.contract.tokenizer.model_max_length
        return positions or (stated if stated < UNSTATED else LONGEST_UNSTATED)

    @cached_property
    def prefix(self) -> int:
        """The token before a text without context."""
        tokenizer = self.contract.tokenizer
        known = (tokenizer.bos_token_id, tokenizer.eos_token_id, self.contract.stop_ids[0])
        return next(token for token in known if token is not None)

    @property
    def tokenizer_name(self) -> str:
        """What tells this template's prompts from those of another."""
        return self.contract.id

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text that asks for an answer, or whose last answer has only begun."""
        turns = as_conversation(chat_history)
        if add_generation_prompt:
            return self.contract.text(turns, ask=True)
        return self.contract.text(turns[:-1], ask=True) + turns[-1].content

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """For each (context, continuation): the continuation's log likelihood, and whether it is the first choice."""
        return self._score([self._pair(*request.args) for request in requests], "scoring answers")

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """The log likelihood of each (text,), every token of it predicted once, in windows of `longest` tokens."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        pairs: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            ids = self._encode(request.args[0], self._opening)
            windows = get_rolling_token_windows(ids, self.prefix, max_seq_len=self.longest, context_len=1)
            pairs += map(make_disjoint_window, windows)
            owners += [owner] * (len(pairs) - len(owners))
        totals = [0.0] * len(requests)
        for owner, (likelihood, _) in zip(owners, self._score(pairs, "scoring texts"), strict=True):
            totals[owner] += likelihood
        return totals

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answer to each (context, options), cut before the first of the strings that end it."""
        asked: list[tuple[Prompt, Options]] = []
        drawn: Counter[str] = Counter()
        for request in requests:
            context, wanted = request.args
            options = read_options(wanted, self.longest, request.task_name)
            if options.temperature:  # a task that repeats a prompt wants another answer each time
                options = replace(options, seed=drawn[context])
                drawn[context] += 1
            ids = self._encode(context, self.contract.tokenizer.bos_token)
            asked.append((ids[options.max_new_tokens - self.longest :], options))
        completions = answer_all(self.engine, asked, lambda done: self._pulse("writing answers", done, len(requests)))
        return [completion.choice.text for completion in completions]

    @cached_property
    def _opening(self) -> str:
        """How a text begins that brings its own beginning of sequence along."""
        return self.contract.tokenizer.decode(self.prefix)

    def _encode(self, text: str, opening: str | None) -> list[int]:
        """Ids of `text`, with what the tokenizer puts around it unless the text begins with `opening`."""
        begun = opening is not None and text.startswith(opening)
        return self.contract.tokenizer.encode(text, add_special_tokens=not begun)

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not context:
            ids = self.contract.tokenizer.encode(continuation, add_special_tokens=False)
            return (ids[:1], ids[1:]) if ids[:1] == [self.prefix] else ([self.prefix], ids)
        before = self._encode(context.rstrip(), self._opening)
        return before or [self.prefix], self._encode(context + continuation, self._opening)[len(before) :]

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]], doing: str) -> list[tuple[float, bool]]:
        rows = [self._row(*pair) for pair in pairs]
        scores: list[tuple[float, bool]] = []
        for start in range(0, len(rows), REQUESTS_BETWEEN_PULSES):
            found = self.engine.score(rows[start : start + REQUESTS_BETWEEN_PULSES])
            scores += [(-score.loss, score.correct == score.tokens) for score in found]
            self._pulse(doing, len(scores), len(rows))
        return scores

    def _row(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[bool]]:
        """Ids and mask of a pair. The last token is only predicted, so one more fits than the model reads."""
        if not 0 < len(continuation) <= self.longest:
            raise DataError(
                f"an answer to be scored has {len(continuation)} tokens, and must have 1 to {self.longest} for this "
                "model. Change the task's choices, or where they meet the question (target_delimiter)."
            )
        ids = (context + continuation)[-self.longest - 1 :]
        return ids, [place >= len(ids) - len(continuation) for place in range(len(ids))]

    def _pulse(self, doing: str, done: int, of: int) -> None:
        self.report(events.Pulse(doing, done, of))


def read_options(options: dict[str, Any], longest: int, task: str) -> Options:
    """How a task wants its answers written.

    Raises:
        ConfigError: it asks for what an engine does not do, or for answers that leave no room for a question.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    read: dict[str, Any] = {**normalize_gen_kwargs(options)}
    for name, value in read.items():
        if name not in GENERATION_OPTIONS and (name, value) != ("num_beams", 1):
            raise ConfigError(
                f"the task {task!r}: generation_kwargs.{name} = {value!r} is nothing that an engine does. "
                f"Known: {', '.join(GENERATION_OPTIONS)}."
            )
    length = read["max_gen_toks"]
    if not 0 < length < longest:
        raise ConfigError(
            f"the task {task!r}: generation_kwargs.max_gen_toks = {length}, and the model reads {longest} tokens, "
            f"question and answer together. Give 1 to {longest - 1}."
        )
    temperature = float(read.get("temperature", 1.0)) if read["do_sample"] else 0.0
    stop = tuple(filter(None, read["until"]))
    return Options(length, temperature, float(read.get("top_p", 1.0)), stop=stop)
