"""One answer under way: what was asked, and what has come so far."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch

from tunesmith.infer.engine import Completion, Sampling

Wait = Callable[[Callable[[], bool]], None]


class Ticket:
    """An `Answering` of the local engine: whoever drives the batch writes it, whoever asked reads it.

    Attributes:
        prompt: token ids.
        sampling: how tokens are chosen.
        limit: most tokens of the answer, within the positions that the model has.
        adapter: index of its adapter, -1 for none.
        embeddings: soft prompt (tokens, width) before the prompt, or None.
        ids: its tokens so far; a stop token is not among them.
        last: the newest token, stop token or not.
        length: positions that its cache holds.
        cancelled: nobody waits for it any more.
        ended: nothing more will come.
    """

    def __init__(
        self,
        prompt: list[int],
        sampling: Sampling,
        limit: int,
        adapter: int,
        embeddings: torch.Tensor | None,
        wait: Wait,
    ) -> None:
        """Nothing runs yet.

        Args:
            prompt: see the attributes; so are those that are not named here.
            sampling: the same.
            limit: the same.
            adapter: the same.
            embeddings: the same.
            wait: returns when a condition on this ticket holds; the batch runs meanwhile.
        """
        self.prompt, self.sampling, self.limit, self.adapter = prompt, sampling, limit, adapter
        self.embeddings = embeddings
        self.ids: list[int] = []
        self.last = -1
        self.length = 0
        self.cancelled = False
        self.ended = limit <= 0
        self._random = torch.Generator().manual_seed(sampling.seed)
        self._stopped = False
        self._error: BaseException | None = None
        self._wait = wait

    @property
    def prompted(self) -> int:
        """Positions that soft prompt and prompt fill."""
        return len(self.prompt) + (0 if self.embeddings is None else len(self.embeddings))

    def draw(self) -> float:
        """The next number in [0, 1) of this answer's own sampler."""
        return float(torch.rand((), generator=self._random, dtype=torch.float64))

    def add(self, token: int, stops: bool) -> bool:
        """Take the next token; true if it is the last."""
        self.last = token
        if not stops:
            self.ids.append(token)
        if stops or len(self.ids) >= self.limit:
            self.end(stops)
        return self.ended

    def end(self, stopped: bool = False, error: BaseException | None = None) -> None:
        """Nothing more will come; what ended it first counts."""
        if self.ended:
            return
        self._stopped, self._error = stopped, error
        self.ended = True

    def __iter__(self) -> Iterator[int]:
        for place in itertools.count():
            self._wait(lambda place=place: place < len(self.ids) or self.ended)
            if place >= len(self.ids):
                break
            yield self.ids[place]
        if self._error is not None:
            raise self._error

    def result(self) -> Completion:
        """Wait for the whole answer; what there is of it if it was cancelled."""
        self._wait(lambda: self.ended)
        if self._error is not None:
            raise self._error
        return Completion(list(self.ids), self._stopped)

    def cancel(self) -> None:
        """Want no more of it."""
        self.cancelled = True
