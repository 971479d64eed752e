"""The text of an answer, as its tokens come and whole: never past a stop string, never half of one.

An answer ends before the stop string that it completes first; of several that are complete with the same character,
before the longest. So what is shown depends on neither how the tokens cut the text nor how it is read.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.prompt.contract import Contract


class TextStream:
    """Text from tokens, held back while it may be the beginning of a stop string.

    Attributes:
        stopped: whether a stop string has come; there will be no more text.
    """

    def __init__(self, contract: Contract, stop: Sequence[str]) -> None:
        """Nothing has come yet.

        Args:
            contract: whose tokenizer spells the tokens; its stop tokens have no text.
            stop: strings that end the answer.
        """
        self.stopped = False
        self._stop_ids, self._decoder, self._stop = contract.stop_ids, contract.decoder(), stop
        self._held = ""

    def add(self, token: int) -> str:
        """What can be shown now."""
        return "" if token in self._stop_ids else self._show(self._decoder.add(token))

    def end(self) -> str:
        """What is left when no token will come any more."""
        shown = self._show(self._decoder.end())
        shown, self._held = shown + self._held, ""
        return shown

    def _show(self, piece: str) -> str:
        if self.stopped:
            return ""
        text = self._held + piece
        place = stop_in(text, self._stop)
        if place is not None:
            self.stopped, self._held = True, ""
            return text[:place]
        end = len(text) - begun(text, self._stop)
        self._held = text[end:]
        return text[:end]


def whole_text(contract: Contract, ids: Sequence[int], stop: Sequence[str]) -> str:
    """All that a `TextStream` shows of these tokens."""
    text = contract.decode([token for token in ids if token not in contract.stop_ids])
    return text[: stop_in(text, stop)]


def stop_in(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop string begins that the text completes first; None if it completes none."""
    found = [(place + len(one), -len(one)) for one in stop if (place := text.find(one)) >= 0]
    end, length = min(found, default=(0, 0))
    return end + length if found else None


def begun(text: str, stop: Sequence[str]) -> int:
    """The length of the longest end of the text with which a stop string begins."""
    longest = min(max(map(len, stop), default=1) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if any(one.startswith(text[-n:]) for one in stop)), 0)
