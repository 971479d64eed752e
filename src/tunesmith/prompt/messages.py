"""A conversation: what people exchange with a model, before any template."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn. `weight` 0 keeps an assistant's turn as context that is not trained on."""

    role: str
    content: str
    weight: int = 1


Conversation = tuple[Message, ...]


def as_conversation(turns: str | Iterable[Message | dict[str, str]]) -> Conversation:
    """A question, or turns as the OpenAI client writes them, as a conversation."""
    if isinstance(turns, str):
        return (Message("user", turns),)
    return tuple(turn if isinstance(turn, Message) else Message(turn["role"], turn["content"]) for turn in turns)


def plain(conversation: Iterable[Message]) -> list[dict[str, str]]:
    """The turns as dictionaries, which is what chat templates read."""
    return [{"role": message.role, "content": message.content} for message in conversation]
