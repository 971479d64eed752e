"""The answers of the local engine to one prompt, as whoever asked reads them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from tunesmith.infer.engine.request import Request
from tunesmith.infer.generator import Choice, Completion, Delta, Usage
from tunesmith.infer.text import TextStream, whole_text
from tunesmith.prompt.contract import Contract

Wait = Callable[[Callable[[], bool]], None]


class LocalAnswering:
    """An `Answering` over requests in a batch, one for each answer.

    Attributes:
        requests: in the order of their indices.
    """

    def __init__(self, requests: Sequence[Request], contract: Contract | None, wait: Wait) -> None:
        """Nothing is read yet.

        Args:
            requests: at least one, all of the same prompt.
            contract: how tokens become text; there is no text if None.
            wait: returns when a condition on the requests holds; the batch runs meanwhile.
        """
        self.requests, self._contract, self._wait = requests, contract, wait
        self._readers = [_Reader(index, request, contract) for index, request in enumerate(requests)]

    def __iter__(self) -> Iterator[Delta]:
        while not self.over:
            self._wait(lambda: any(reader.has_news for reader in self._readers))
            yield from self.news()

    def news(self) -> Iterator[Delta]:
        """What has come since it was last read, without waiting: for who hears otherwise when there is some."""
        for reader in [one for one in self._readers if one.has_news]:
            delta = reader.read()
            if delta.finish_reason is not None:
                self._readers.remove(reader)
            yield delta

    @property
    def ended(self) -> int:
        """How many of the answers have all their tokens, read or not."""
        return sum(request.ended for request in self.requests)

    @property
    def over(self) -> bool:
        """Whether all was read."""
        return not self._readers

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for all answers; see `Answering`."""
        late = None if timeout is None else time.monotonic() + timeout

        def ended() -> bool:
            return all(request.ended for request in self.requests)

        self._wait(lambda: ended() or (late is not None and time.monotonic() > late))
        if not ended():
            raise TimeoutError(f"no answer within {timeout} s")
        for request in self.requests:
            if request.error is not None:
                raise request.error
        first = self.requests[0]
        return Completion(
            [self._choice(request) for request in self.requests],
            Usage(len(first.prompt), sum(len(request.ids) for request in self.requests), first.copied),
            max(request.seconds for request in self.requests),
        )

    def cancel(self) -> None:
        """Want no more of it: the places in the batch are free after the step under way."""
        for request in self.requests:
            request.cancelled = True

    def _choice(self, request: Request) -> Choice:
        text = "" if self._contract is None else whole_text(self._contract, request.ids, request.options.stop)
        asked = request.options.logprobs
        logprobs, tops = (list(request.logprobs), list(request.tops)) if asked else (None, None)
        return Choice(text, request.finish_reason, list(request.ids), logprobs, tops)


class _Reader:
    """Where the reader of one answer is."""

    def __init__(self, index: int, request: Request, contract: Contract | None) -> None:
        self._index, self._request = index, request
        self._text = None if contract is None else TextStream(contract, request.options.stop)
        self._taken = 0

    @property
    def has_news(self) -> bool:
        """Whether there are tokens that were not read, or it is over."""
        return self._taken < len(self._request.ids) or self._request.ended

    def read(self) -> Delta:
        """What has come.

        Raises:
            Exception: what this answer failed of, once all tokens before were read.
        """
        request = self._request
        ended = request.ended  # to be asked before the tokens are counted
        taken, until = self._taken, len(request.ids)
        if ended and request.error is not None and taken == until:
            raise request.error
        over = ended and request.error is None
        ids, self._taken = request.ids[taken:until], until
        text = ""
        if self._text is not None:
            text = "".join(map(self._text.add, ids)) + (self._text.end() if over else "")
        asked = request.options.logprobs
        logprobs = request.logprobs[taken:until] if asked else None
        tops = request.tops[taken:until] if asked else None
        return Delta(self._index, text, ids, logprobs, request.finish_reason if over else None, tops)
