"""A question and the passage that is to answer it, as `tokenizer(question, passage)` gives them, with known places.

The spans of what is rendered part the passage's tokens: those before the answer, the answer, those behind it; where it
holds none, one span is all of it. Where a tokenizer does not tell two texts apart by type, an empty span follows.

A long passage is read in windows that overlap, each behind the whole question.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tunesmith.prompt.contract import Contract, Draft, Rendered

Span = tuple[int, int]
LEAST_ROOM = 8  # tokens of a passage that a window has at least


@dataclass(frozen=True)
class Layout:
    """What the spans of a rendered passage say.

    Attributes:
        passage: begin and end of its tokens.
        answer: begin and end of the answer's, if it has one.
        border: where the second type of tokens begins; None where there are no types.
    """

    passage: Span
    answer: Span | None
    border: int | None


@dataclass(frozen=True)
class Window:
    """A part of a rendered passage behind the whole question.

    Attributes:
        ids: of both, framed.
        spans: as those of the whole.
        first: the token of the passage that it begins with.
    """

    ids: list[int]
    spans: tuple[Span, ...]
    first: int


def draft_passage(question: str, passage: str, answer: Span | None) -> Draft:
    """A question and a passage, as a reader reads them.

    Args:
        question: the question.
        passage: what may hold the answer.
        answer: begin and end of its characters.
    """
    return Draft("", (), {}, read=partial(rendered_passage, question=question, passage=passage, answer=answer))


def rendered_passage(contract: Contract, question: str, passage: str, answer: Span | None) -> Rendered:
    """The ids of both in the tokenizer's frame of two; a line break stands between them where it puts nothing."""
    frame = contract.frames[1]
    asked, (ids, starts) = contract.encode(question)[0], contract.encode(passage)
    before = [*frame.before, *asked, *(frame.between or contract.encode("\n")[0])]
    end = len(before) + len(ids)
    marked = None
    if answer is not None:
        begin, last = token_at(starts, answer[0]), token_at(starts, answer[1] - 1)
        marked = (len(before) + begin, len(before) + last + 1)
    spans = spans_of((len(before), end), marked, frame.first is not None)
    return Rendered(array("i", [*before, *ids, *frame.behind]), spans)


def token_at(starts: Sequence[int], place: int) -> int:
    """The token that holds the character at `place`, by where tokens start; of several the first."""
    after = bisect_right(starts, place)
    return bisect_left(starts, starts[after - 1]) if after else 0


def spans_of(passage: Span, answer: Span | None, typed: bool) -> tuple[Span, ...]:
    """How a layout is written into spans."""
    begin, end = passage
    parts = (passage,) if answer is None else ((begin, answer[0]), answer, (answer[1], end))
    return parts if typed else (*parts, (end, end))


def layout_of(spans: Sequence[Span]) -> Layout:
    """What spans say."""
    typed, answered = len(spans) % 2 == 1, len(spans) > 2
    begin, end = spans[0][0], spans[2 if answered else 0][1]
    return Layout((begin, end), spans[1] if answered else None, begin if typed else None)


def windows(tokens: int, room: int, stride: int) -> Iterator[Span]:
    """Begin and end of each window on a passage.

    Args:
        tokens: of the passage.
        room: of a window.
        stride: tokens that neighbours share; at most half of a window.
    """
    step = room - min(stride, room // 2)
    for begin in range(0, max(1, tokens), step):
        yield begin, min(begin + room, tokens)
        if begin + room >= tokens:
            return


def in_windows(ids: Sequence[int], spans: Sequence[Span], longest: int, stride: int) -> Iterator[Window]:
    """A rendered passage in windows of at most `longest` tokens; none if the question leaves no room.

    A window that holds only a part of the answer has none.
    """
    layout = layout_of(spans)
    begin, end = layout.passage
    head, tail = list(ids[:begin]), list(ids[end:])
    room = longest - len(head) - len(tail)
    if room < LEAST_ROOM:
        return
    for first, last in windows(end - begin, room, stride):
        own = list(ids[begin + first : begin + last])
        answer = layout.answer
        if answer is not None:
            answer = (answer[0] - first, answer[1] - first)
            answer = answer if begin <= answer[0] and answer[1] <= begin + len(own) else None
        yield Window(
            [*head, *own, *tail], spans_of((begin, begin + len(own)), answer, layout.border is not None), first
        )
