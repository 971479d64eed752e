"""Tokens to text as they come: piece by piece what decoding all of them gives, without decoding all again each time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers.decoders import DecodeStream

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # a token that stands for one byte of a character


def decode_whole(tokenizer: Any, ids: Iterable[int]) -> str:
    """The text of tokens without special ones, as the tokens spell it: no space before a full stop is tidied away."""
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def decode_each(tokenizer: Any, ids: Iterable[int]) -> Iterator[str]:
    """The same text in pieces. A character is held back until all its bytes are there.

    Tokens of single bytes wait for the end of their run: should it be no text in the end, none of it is.

    Args:
        tokenizer: a fast one of transformers.
        ids: as they come.
    """
    backend = tokenizer.backend_tokenizer
    silent = {number for number, token in backend.get_added_tokens_decoder().items() if token.special}
    stream = DecodeStream(skip_special_tokens=True)
    taken: list[int] = []
    waiting: list[int] = []
    said = 0
    for token in ids:
        spelled = backend.id_to_token(token)
        if spelled is None or token in silent:  # they end no run of bytes either
            continue
        taken.append(token)
        waiting.append(token)
        if BYTE.fullmatch(spelled):
            continue
        piece = stream.step(backend, waiting)
        waiting = []
        if piece:
            said += len(piece)
            yield piece
    if rest := decode_whole(tokenizer, taken)[said:]:
        yield rest
