"""What a tokenizer itself puts around a text that is read, and around two: BERT's `[CLS] ... [SEP] ... [SEP]`."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Spans = tuple[tuple[int, int], ...]
PROBE = ("a", "room", "a", "room")


@dataclass(frozen=True)
class Frame:
    """What a tokenizer puts around texts that it is given: token ids before, between and behind them.

    Attributes:
        before: ids before the first text; `[CLS]`.
        between: ids between two, empty of one text.
        behind: ids behind the last.
        first: how many of those between two belong to the first text, as types of tokens have it; None where the
            tokenizer knows no types.
    """

    before: list[int]
    between: list[int]
    behind: list[int]
    first: int | None


def frames_of(tokenizer: Any) -> tuple[Frame, Frame]:
    """What a tokenizer puts around one text, and around two."""
    one = tokenizer("a")
    first, last = _ends(one.sequence_ids(0), 0)
    alone = Frame(one["input_ids"][:first], [], one["input_ids"][last:], None)
    two = tokenizer("a", "a", return_token_type_ids=True)
    places, ids, types = two.sequence_ids(0), two["input_ids"], two["token_type_ids"]
    first, border = _ends(places, 0)
    second, last = _ends(places, 1)
    own = types.index(1) - border if 1 in types else None
    return alone, Frame(ids[:first], ids[border:second], ids[last:], own)


def target_frame(tokenizer: Any) -> Frame:
    """What a tokenizer puts around a text that is to be written, given another."""
    one = tokenizer(text_target="a")
    first, last = _ends(one.sequence_ids(0), 0)
    return Frame(one["input_ids"][:first], [], one["input_ids"][last:], None)


def framed(frames: tuple[Frame, Frame], texts: Sequence[list[int]]) -> tuple[array[int], Spans]:
    """The ids of one text or two in their frame; a span for each, where the tokenizer tells them apart by type."""
    frame = frames[len(texts) - 1]
    ids = array("i", [*frame.before, *texts[0]])
    border = len(ids) + (frame.first or 0)
    for text in texts[1:]:
        ids.extend([*frame.between, *text])
    ids.extend(frame.behind)
    return ids, ((0, len(ids)),) if frame.first is None else ((0, border), (border, len(ids)))


def _ends(places: list[int | None], number: int) -> tuple[int, int]:
    """Where the tokens of one of several texts begin and end."""
    own = [place for place, one in enumerate(places) if one == number]
    return own[0], own[-1] + 1


def needs_spaces(tokenizer: Any) -> bool:
    """Whether words, encoded one by one, must have the space before them to be the tokens that they are in a text."""
    encode = tokenizer.backend_tokenizer.encode
    text = encode(" ".join(PROBE), add_special_tokens=False).ids
    given = [word if i == 0 else f" {word}" for i, word in enumerate(PROBE)]
    alone, with_spaces = (
        encode(list(words), is_pretokenized=True, add_special_tokens=False).ids for words in (PROBE, given)
    )
    return alone != text and with_spaces == text


def starts_with_bos(tokenizer: Any) -> bool:
    """Whether the model was trained with a beginning-of-sequence token before every text."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
