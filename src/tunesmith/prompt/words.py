"""Words, and passages with answers, as token ids whose places are known: what a head over tokens reads.

Words are encoded one by one, as `tokenizer(words, is_split_into_words=True)` does it. Where a tokenizer tells words by
the space before them (byte-level BPE), they have it, all but the first and those that stand close to the one before:
the ids are then those of the text, but for contractions that such tokenizers keep together.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial

from tunesmith.core.errors import ModelError
from tunesmith.prompt.contract import Contract, Draft, Rendered


def draft_words(words: Sequence[str], close: Sequence[bool] = ()) -> Draft:
    """Words as a tagger reads them.

    Rendered, each word has a span: its first token, or an empty one where the tokenizer makes nothing of it.

    Args:
        words: at least one.
        close: whether each stands close to the one before it, with no space between; none does if absent.
    """
    return Draft("", (), {}, read=partial(rendered_words, words=words, close=close))


def rendered_words(contract: Contract, words: Sequence[str], close: Sequence[bool] = ()) -> Rendered:
    """The ids of words in the tokenizer's frame, and the place of each word's first token.

    Raises:
        ModelError: the tokenizer makes nothing of any of them.
    """
    pieces = list(words)
    if contract.spaced:
        pieces = [f" {word}" if i and not (close and close[i]) else word for i, word in enumerate(words)]
    frame = contract.frames[0]
    ids, spans = [*frame.before], list[tuple[int, int]]()
    for own in _ids_of(contract, pieces):
        spans.append((len(ids), len(ids) + bool(own)))
        ids += own
    if all(begin == end for begin, end in spans):
        raise ModelError(f"the model's tokenizer makes no token of {' '.join(words)[:60]!r}.")
    ids += frame.behind
    last = len(ids) - 1
    return Rendered(array("i", ids), tuple((min(begin, last), min(end, last + 1)) for begin, end in spans))


def _ids_of(contract: Contract, pieces: Sequence[str]) -> list[list[int]]:
    """The ids of each piece; a control token that one spells comes as text."""
    if any(map(contract.guard.spells, pieces)):
        return [contract.encode(piece)[0] for piece in pieces]
    encoding = contract.tokenizer.backend_tokenizer.encode(list(pieces), is_pretokenized=True, add_special_tokens=False)
    found: list[list[int]] = [[] for _ in pieces]
    for id, word in zip(encoding.ids, encoding.word_ids, strict=True):
        found[word].append(id)
    return found
