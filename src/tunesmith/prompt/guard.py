"""Content never yields control tokens: what a user writes stays text, whatever it spells.

Before the template runs, each control token that content spells out gives way to one private
character; the rendered text is then encoded in segments that are cut inside the spelling. Rows
without such a spelling, nearly all, pass untouched.

Every added token is guarded in what users, systems and tools say. In what an assistant says only
the special ones are: `<think>` or `<tool_call>`, which a model has to write itself, stay tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tunesmith.prompt.messages import Conversation, Message, ToolCall, Tools

PRIVATE_USE = range(0xF0000, 0xFFFFE)  # characters of Unicode that no template or tokenizer treats specially


@dataclass(frozen=True)
class Guarded:
    """A conversation in which nothing spells a control token.

    Attributes:
        messages: with private characters where control tokens were spelled.
        tools: likewise.
        hidden: for each private character, the text that it stands for; empty when nothing was hidden.
    """

    messages: Conversation
    tools: Tools
    hidden: Mapping[str, str]


@dataclass(frozen=True)
class Guard:
    """Hides spelled-out control tokens.

    Attributes:
        special: texts of the special tokens.
        added: texts of all added tokens, the special ones among them.
    """

    special: frozenset[str]
    added: frozenset[str]

    @cached_property
    def _first_characters(self) -> frozenset[str]:
        return frozenset(text[0] for text in self.added if text)

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        return _any_of(self.special)

    @cached_property
    def _added_pattern(self) -> re.Pattern[str]:
        return _any_of(self.added)

    def found_in(self, message: Message) -> list[str]:
        """The control tokens that a turn spells out."""
        pattern = self._pattern(message)
        if not self._spells(message):
            return []
        return [hit for text in _texts(message) for hit in pattern.findall(text)]

    def spells(self, text: str) -> bool:
        """Whether a text that somebody gives spells an added token."""
        return self._may_spell(text) and self._added_pattern.search(text) is not None

    def hide(self, messages: Conversation, tools: Tools) -> Guarded:
        """The conversation with its spelled-out control tokens hidden."""
        schema = json.dumps(list(tools), ensure_ascii=False) if tools else ""
        if not any(self._spells(message) for message in messages) and not self._added_pattern.search(schema):
            return Guarded(messages, tools, {})
        used = set(schema).union(*(text for message in messages for text in _texts(message)))
        free = (chr(code) for code in PRIVATE_USE if chr(code) not in used)
        stand_in = dict(zip(sorted(self.added), free, strict=False))

        def hider(pattern: re.Pattern[str]) -> Callable[[str], str]:
            return lambda text: pattern.sub(lambda hit: stand_in[hit.group()], text)

        safe = tuple(_mapped(message, hider(self._pattern(message))) for message in messages)
        safe_tools = tuple(_walk(tool, hider(self._added_pattern)) for tool in tools)
        return Guarded(safe, safe_tools, {character: token for token, character in stand_in.items()})

    def _pattern(self, message: Message) -> re.Pattern[str]:
        return self._special_pattern if message.role == "assistant" else self._added_pattern

    def _spells(self, message: Message) -> bool:
        return any(
            self._may_spell(text) and self._pattern(message).search(text) is not None for text in _texts(message)
        )

    def _may_spell(self, text: str) -> bool:
        return any(first in text for first in self._first_characters)


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern for the longest of `texts` at each place; one that never matches when there are none."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")


def _texts(message: Message) -> list[str]:
    texts = [message.content, *filter(None, (message.name, message.reasoning))]
    for call in message.tool_calls:
        texts += [call.name, json.dumps(call.arguments, ensure_ascii=False)]
    return texts


def _mapped(message: Message, change: Callable[[str], str]) -> Message:
    return replace(
        message,
        content=change(message.content),
        name=message.name and change(message.name),
        reasoning=message.reasoning and change(message.reasoning),
        tool_calls=tuple(
            ToolCall(change(call.name), _walk(call.arguments, change), call.id) for call in message.tool_calls
        ),
    )


def _walk(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with `change` applied to every string in it, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _walk(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(item, change) for item in value]
    return value
