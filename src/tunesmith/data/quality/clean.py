"""Cleanings that a user may ask for. A short list, each counted; nothing is ever rewritten unasked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace

from tunesmith.data.kinds.row import Content, Edit
from tunesmith.data.kinds.table import KINDS
from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.messages import Conversation, Message

# What hosted assistants say whatever was asked. Only whole sentences at an answer's begin or end are taken away.
OPENINGS = re.compile(
    r"^(?:(?:as an ai(?: language)? model|as a large language model)[^.!?]*[.!?]|sure(?: thing)?[!,.]"
    r"|certainly[!,.]|of course[!,.]|absolutely[!,.]|great question[!,.])\s+(?=\S)",
    re.IGNORECASE,
)
CLOSINGS = re.compile(
    r"(?<=[.!?])\s+(?:i hope (?:this|that) helps|(?:please )?let me know if you (?:have any|need any)[^.!?]*"
    r"|is there anything else[^.!?]*|feel free to ask[^.!?]*)[.!?]\s*$",
    re.IGNORECASE,
)


def cleaned(content: Content, names: Sequence[str]) -> tuple[Content, RowFault | None]:
    """The content after the cleanings called `names`, and what was done to it (None: nothing)."""
    kind = KINDS[content.kind]
    done: list[str] = []
    before = content
    for name, change in CLEANINGS.items():  # in this order whatever the recipe's
        if name not in names:
            continue
        after = kind.edit(content, change)
        if after != content:
            done.append(name)
            content = after
    if not done:
        return content, None
    joined = len(kind.turns(before)) - len(kind.turns(content))
    more = f" ({joined} turn{'s' if joined > 1 else ''} joined to the one before)" if joined else ""
    return content, RowFault("+".join(done), f"cleaned: {', '.join(done)}{more}.", "")


def _of_texts(change: Callable[[str], str]) -> Edit:
    """A cleaning of all texts, those of turns too."""
    return Edit(
        text=change,
        turns=lambda messages: tuple(replace(message, content=change(message.content)) for message in messages),
    )


def _whitespace(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").strip().split("\n"))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _boilerplate(messages: Conversation) -> Conversation:
    return tuple(
        replace(message, content=CLOSINGS.sub("", OPENINGS.sub("", message.content)))
        if message.role == "assistant"
        else message
        for message in messages
    )


def _joined(messages: Conversation) -> Conversation:
    """Neighbours of one role as one turn."""
    turns: list[Message] = []
    for message in messages:
        if turns and _belong_together(turns[-1], message):
            turns[-1] = _one_of(turns[-1], message)
        else:
            turns.append(message)
    return tuple(turns)


def _belong_together(one: Message, two: Message) -> bool:
    """Whether two neighbours are one turn: not answers of tools, other speakers, or what is trained on beside what is
    not."""
    same = (one.role, one.name, one.weight) == (two.role, two.name, two.weight)
    return same and one.role != "tool" and not one.tool_calls


def _one_of(one: Message, two: Message) -> Message:
    reasoning = "\n\n".join(filter(None, (one.reasoning, two.reasoning))) or None
    content = "\n\n".join(filter(None, (one.content, two.content)))
    return replace(one, content=content, tool_calls=two.tool_calls, reasoning=reasoning)


CLEANINGS = {
    "whitespace": _of_texts(_whitespace),
    "nfc": _of_texts(_nfc),
    "boilerplate": Edit(learned=_boilerplate),
    "turns": Edit(asked=_joined),
}
