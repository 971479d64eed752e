"""Cleanings that a user may ask for. A short list, each counted; nothing is ever rewritten unasked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace

from tunesmith.data.ledger import RowFault
from tunesmith.data.rows import Chat, Content, Labelled, Pair, Preference, Task, Text, Verdict
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
    done: list[str] = []
    before = content
    for name, clean in CLEANINGS.items():  # in this order whatever the recipe's
        if name not in names:
            continue
        after = clean(content)
        if after != content:
            done.append(name)
            content = after
    if not done:
        return content, None
    joined = _count(before) - _count(content)
    more = f" ({joined} turn{'s' if joined > 1 else ''} joined to the one before)" if joined else ""
    return content, RowFault("+".join(done), f"cleaned: {', '.join(done)}{more}.", "")


def _count(content: Content) -> int:
    match content:
        case Chat():
            return len(content.messages)
        case Preference() | Verdict() | Task():
            return len(content.prompt)
        case _:
            return 0


def _whitespace(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").strip().split("\n"))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _changed(messages: Conversation, change: Callable[[Message], str]) -> Conversation:
    return tuple(replace(message, content=change(message)) for message in messages)


def _everywhere(content: Content, change: Callable[[str], str]) -> Content:
    def turns(messages: Conversation) -> Conversation:
        return _changed(messages, lambda message: change(message.content))

    match content:
        case Chat():
            return replace(content, messages=turns(content.messages))
        case Preference():
            return replace(
                content, prompt=turns(content.prompt), chosen=turns(content.chosen), rejected=turns(content.rejected)
            )
        case Verdict():
            return replace(content, prompt=turns(content.prompt), completion=turns(content.completion))
        case Task():
            return replace(content, prompt=turns(content.prompt))
        case Text():
            return Text(change(content.text))
        case Labelled():
            return replace(content, text=change(content.text), second=content.second and change(content.second))
        case Pair():
            return Pair(change(content.source), change(content.target))
        case _:  # words with tags and answers with places would no longer fit
            return content


def _boilerplate(content: Content) -> Content:
    def trimmed(message: Message) -> str:
        if message.role != "assistant":
            return message.content
        return CLOSINGS.sub("", OPENINGS.sub("", message.content))

    match content:
        case Chat():
            return replace(content, messages=_changed(content.messages, trimmed))
        case Preference():
            return replace(content, chosen=_changed(content.chosen, trimmed))
        case _:
            return content


def _turns(content: Content) -> Content:
    """Neighbours of one role as one turn."""
    match content:
        case Chat():
            return replace(content, messages=_joined(content.messages))
        case Preference() | Verdict() | Task():
            return replace(content, prompt=_joined(content.prompt))
        case _:
            return content


def _joined(messages: Conversation) -> Conversation:
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


CLEANINGS: dict[str, Callable[[Content], Content]] = {
    "whitespace": lambda content: _everywhere(content, _whitespace),
    "nfc": lambda content: _everywhere(content, _nfc),
    "boilerplate": _boilerplate,
    "turns": _turns,
}
