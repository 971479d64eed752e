"""The words of a text, and where they stand: what is between white space, parted at punctuation and symbols.

Each sign of punctuation, each symbol, and each character of a script without spaces (Chinese, Japanese) is a word of
its own, much as BERT's tokenizer parts texts before it looks for pieces of words.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

SPACE, WORD, ALONE = range(3)
WITHOUT_SPACES = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))
WITHIN = "\u200c\u200d\u00ad"  # joiners and soft hyphens: nobody sees them, and they part no word


@lru_cache(maxsize=1 << 14)
def _class_of(character: str) -> int:
    if character in WITHIN:
        return WORD
    if character.isspace() or unicodedata.category(character) in ("Cc", "Cf"):
        return SPACE
    code = ord(character)
    single = unicodedata.category(character)[0] in "PS" or any(low <= code <= high for low, high in WITHOUT_SPACES)
    return ALONE if single else WORD


def words_in(text: str) -> list[tuple[int, int]]:
    """Begin and end of the characters of each word."""
    found: list[tuple[int, int]] = []
    begin: int | None = None
    for place, character in enumerate(text):
        kind = _class_of(character)
        if kind == WORD:
            begin = place if begin is None else begin
            continue
        if begin is not None:
            found.append((begin, place))
            begin = None
        if kind == ALONE:
            found.append((place, place + 1))
    return found if begin is None else [*found, (begin, len(text))]


def places_of(words: Sequence[str], text: str) -> list[int] | None:
    """Where each word begins in a text that holds them in this order with white space between; None if it does not."""
    places: list[int] = []
    end = 0
    for word in words:
        place = text.find(word, end)
        if place < 0 or any(_class_of(character) != SPACE for character in text[end:place]):
            return None
        places.append(place)
        end = place + len(word)
    return None if any(_class_of(character) != SPACE for character in text[end:]) else places
