"""One answer under way: what was asked, and what has come so far."""

from __future__ import annotations

import time

import torch

from tunesmith.infer.engine.steer import Steer
from tunesmith.infer.generator import Options, Tops
from tunesmith.infer.text import TextStream

DRAWS = 32  # numbers that are drawn at once: the same ones as one by one


class Request:
    """Whoever drives the batch writes it; whoever asked reads it.

    Attributes:
        prompt: token ids.
        options: how it is answered.
        limit: most tokens of the answer, within the positions that the model has.
        adapter: index of its adapter, -1 for none.
        embeddings: soft prompt (tokens, width) before the prompt, or None.
        ids: its tokens so far, the stop token among them.
        logprobs, tops: of these tokens, if they were asked for; never fewer than there are ids.
        length: positions that its cache holds.
        copied: of these, how many were not read but copied from a prompt that began alike.
        version: of the weights that read them.
        cancelled: nobody waits for it any more.
        ended: nothing more will come.
        finish_reason: why it ended; empty before, and where it failed.
        error: why it failed.
        seconds: from its beginning to its end.
    """

    def __init__(
        self,
        prompt: list[int],
        options: Options,
        limit: int,
        adapter: int = -1,
        embeddings: torch.Tensor | None = None,
        watch: TextStream | None = None,
        seed: int = 0,
        steer: Steer | None = None,
    ) -> None:
        """Nothing runs yet.

        Args:
            prompt: see the attributes; so are those that are not named here.
            options: the same.
            limit: the same; at least 1.
            adapter: the same.
            embeddings: the same.
            watch: reads along, to end the answer at a stop string; None if there are none.
            seed: of this answer's own sampler.
            steer: changes its logits; None if nothing is to be changed.
        """
        assert limit > 0
        self.prompt, self.options, self.limit, self.adapter = prompt, options, limit, adapter
        self.embeddings = embeddings
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.tops: list[Tops] = []
        self.length = self.copied = 0
        self.version = -1
        self.cancelled = self.ended = False
        self.finish_reason = ""
        self.error: BaseException | None = None
        self.seconds = 0.0
        self._begun = time.perf_counter()
        self._random, self._drawn = torch.Generator().manual_seed(seed), list[float]()
        self._watch, self.steer = watch, steer

    @property
    def last(self) -> int:
        """The newest token."""
        return self.ids[-1]

    @property
    def tokens(self) -> list[int]:
        """What is to be read before the next token can be drawn: the prompt, and what has come already."""
        return self.prompt + self.ids

    @property
    def reader(self) -> tuple[int, str]:
        """Whose keys and values it can use: its adapter's, among those who share prompts."""
        return self.adapter, self.options.shared_by

    @property
    def read(self) -> list[int]:
        """The tokens whose keys and values its slot holds; none where a soft prompt stands before them."""
        return self.tokens[: self.length] if self.embeddings is None else []

    @property
    def filled(self) -> int:
        """Positions that soft prompt, prompt and the answer so far fill."""
        return self._asked + len(self.ids)

    @property
    def longest(self) -> int:
        """Positions that it may fill in the end."""
        return self._asked + self.limit

    @property
    def _asked(self) -> int:
        return len(self.prompt) + (0 if self.embeddings is None else len(self.embeddings))

    def draw(self) -> float:
        """The next number in [0, 1) of this answer's own sampler."""
        if not self._drawn:
            self._drawn = torch.rand(DRAWS, generator=self._random, dtype=torch.float64).tolist()[::-1]
        return self._drawn.pop()

    def add(self, token: int, logprob: float | None, stops: bool, tops: Tops = []) -> None:  # noqa: B006  it is read
        """Take the next token, which may be the last."""
        if logprob is not None:
            self.logprobs.append(logprob)
            self.tops.append(tops)
        self.ids.append(token)
        if self.steer is not None:
            self.steer.took(token)
        if stops:
            self.end("stop")
            return
        if self._watch is not None:
            self._watch.add(token)
        if self._watch is not None and self._watch.stopped:
            self.end("stop")
        elif len(self.ids) >= self.limit:
            self.end("length")

    def end(self, finish_reason: str = "", error: BaseException | None = None) -> None:
        """Nothing more will come; what ended it first counts."""
        if self.ended:
            return
        if finish_reason == "length" and self._watch is not None:
            self._watch.end()  # a last character may have been held back
            finish_reason = "stop" if self._watch.stopped else "length"
        self.finish_reason, self.error = finish_reason, error
        self.seconds = time.perf_counter() - self._begun
        self.ended = True
