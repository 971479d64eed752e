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
    for name in ("whitespace", "nfc", "boilerplate"):  # in this order whatever the recipe's
        if name not in names:
            continue
        after = _boilerplate(content) if name == "boilerplate" else _everywhere(content, TEXT_CLEANINGS[name])
        if after != content:
            done.append(name)
            content = after
    if not done:
        return content, None
    return content, RowFault("+".join(done), f"cleaned: {', '.join(done)}.", "")


def _whitespace(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").strip().split("\n"))


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


TEXT_CLEANINGS: dict[str, Callable[[str], str]] = {"whitespace": _whitespace, "nfc": _nfc}


def _turns(messages: Conversation, change: Callable[[Message], str]) -> Conversation:
    return tuple(replace(message, content=change(message)) for message in messages)


def _everywhere(content: Content, change: Callable[[str], str]) -> Content:
    def turns(messages: Conversation) -> Conversation:
        return _turns(messages, lambda message: change(message.content))

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
            return replace(content, messages=_turns(content.messages, trimmed))
        case Preference():
            return replace(content, chosen=_turns(content.chosen, trimmed))
        case _:
            return content
