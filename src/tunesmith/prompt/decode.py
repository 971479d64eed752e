"""Tokens to text as they come: piece by piece what decoding all of them gives, without decoding all again each time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tokenizers.decoders import DecodeStream

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # a token that stands for one byte of a character


def decode_whole(tokenizer: Any, ids: Iterable[int]) -> str:
    """The text of tokens without special ones, as the tokens spell it: no space before a full stop is tidied away."""
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


class Decoder:
    """The same text in pieces, as tokens come. A character is held back until all its bytes are there.

    Tokens of single bytes wait for the end of their run: should it be no text in the end, none of it is.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Nothing has come yet.

        Args:
            tokenizer: a fast one of transformers.
        """
        self._tokenizer, self._backend = tokenizer, tokenizer.backend_tokenizer
        added = self._backend.get_added_tokens_decoder()
        self._silent = {number for number, token in added.items() if token.special}
        self._stream = DecodeStream(skip_special_tokens=True)
        self._taken: list[int] = []
        self._waiting: list[int] = []
        self._said = 0

    def add(self, token: int) -> str:
        """The text that is there now and was not before; often none."""
        spelled = self._backend.id_to_token(token)
        if spelled is None or token in self._silent:  # they end no run of bytes either
            return ""
        self._taken.append(token)
        self._waiting.append(token)
        if BYTE.fullmatch(spelled):
            return ""
        piece = self._stream.step(self._backend, self._waiting) or ""
        self._waiting = []
        self._said += len(piece)
        return piece

    def end(self) -> str:
        """What is left when no token will come any more."""
        return decode_whole(self._tokenizer, self._taken)[self._said :]
