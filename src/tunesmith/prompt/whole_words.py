"""Which tokens of a row are the pieces of one word, known from the tokenizer's vocabulary alone.

Rows are kept as ids, so that nothing is encoded again. Of WordPiece (BERT) the answer is exactly that of
`word_ids()`: a piece with `##` goes on. Of the others a token goes on if it has no mark of a space (byte-level BPE's
`Ġ`, SentencePiece's `▁`) and begins with the kind of character that the one before ends with: a letter or a digit.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

MARKS = ("Ġ", "▁")  # of a space before a token
LETTER, DIGIT, OTHER = 1, 2, 0
LONGEST_WORD = 16  # pieces: what is longer, as writing without spaces is, counts as words of one piece each


@dataclass(frozen=True)
class Words:
    """What a tokenizer's tokens are, by id; of V tokens.

    Attributes:
        special_V: whether a token is special, and no part of any word: [CLS], [PAD], [UNK].
        opens_V: whether it always begins a word.
        first_V: the kind of its first character: letter, digit or other.
        last_V: that of its last.
        mask: the token that stands for a hidden one; None where there is none.
    """

    special_V: np.ndarray
    opens_V: np.ndarray
    first_V: np.ndarray
    last_V: np.ndarray
    mask: int | None

    @property
    def ordinary(self) -> np.ndarray:
        """The ids of all tokens that are not special."""
        return np.flatnonzero(~self.special_V)

    def words_in(self, ids: np.ndarray) -> list[np.ndarray]:
        """The places of each word's pieces among `ids`; special tokens stand in none."""
        places = np.flatnonzero(~self.special_V[ids])
        if not len(places):
            return []
        own = ids[places]
        goes_on = ~self.opens_V[own[1:]] & (self.first_V[own[1:]] == self.last_V[own[:-1]])
        goes_on &= (self.first_V[own[1:]] != OTHER) & (np.diff(places) == 1)
        words = np.split(places, np.flatnonzero(~goes_on) + 1)
        return [part for word in words for part in (np.split(word, len(word)) if len(word) > LONGEST_WORD else [word])]


def words_of(tokenizer: Any) -> Words:
    """What the tokens of a fast tokenizer are."""
    texts: list[str] = [text or "" for text in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    special_V = np.zeros(len(texts), dtype=bool)
    special_V[[id for id in tokenizer.all_special_ids if id < len(texts)]] = True
    kind = type(tokenizer.backend_tokenizer.model).__name__
    if kind in ("WordPiece", "WordLevel"):
        prefix = tokenizer.backend_tokenizer.model.continuing_subword_prefix if kind == "WordPiece" else None
        opens_V = np.array([prefix is None or not text.startswith(prefix) for text in texts])
        kinds = np.full(len(texts), LETTER)
        return Words(special_V, opens_V, kinds, kinds, tokenizer.mask_token_id)
    opens_V = np.array([text.startswith(MARKS) for text in texts])
    in_bytes = any(text.startswith("Ġ") for text in texts)
    said = [_said(text) if in_bytes else text.removeprefix("▁") for text in texts]
    first_V, last_V = (np.array([_kind(text[place] if text else " ") for text in said]) for place in (0, -1))
    return Words(special_V, opens_V, first_V, last_V, tokenizer.mask_token_id)


def _said(token: str) -> str:
    """A byte-level token as text; what its first or last bytes are a part of, it may not hold."""
    table = _bytes()
    if any(character not in table for character in token):
        return token
    return bytes(table[character] for character in token).decode("utf-8", "replace").removeprefix(" ")


def _kind(character: str) -> int:
    """What a character is; a part of one is taken for a letter."""
    if character.isdigit():
        return DIGIT
    return LETTER if character.isalpha() or character == "\ufffd" else OTHER


@functools.cache
def _bytes() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (Radford et al., 2019)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}
