"""A conversation: what people exchange with a model, before any template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class ToolCall:
    """An assistant's call of a function. `arguments` are the parsed JSON object, as templates read them."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        role: one of `ROLES`.
        content: what is said; empty where an assistant only calls tools.
        weight: 0 keeps an assistant's turn as context that is not trained on.
        tool_calls: functions that an assistant calls.
        tool_call_id: for a tool's turn, the call that it answers.
        name: of the speaker or of the tool.
        reasoning: what an assistant thought before it spoke; templates of reasoning models show it.
        origin: keys and indices that lead to it in the row it came from, such as ("messages", 1); for
            findings about it, no part of what it says.
    """

    role: str
    content: str
    weight: int = 1
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None
    origin: tuple[str | int, ...] = field(default=(), compare=False, repr=False)


Conversation = tuple[Message, ...]
Tools = tuple[Mapping[str, Any], ...]  # JSON schemas of the functions that may be called


def as_conversation(turns: str | Iterable[Message | dict[str, str]]) -> Conversation:
    """A question, or turns as the OpenAI client writes them, as a conversation."""
    if isinstance(turns, str):
        return (Message("user", turns),)
    return tuple(turn if isinstance(turn, Message) else Message(turn["role"], turn["content"]) for turn in turns)


def plain(conversation: Iterable[Message]) -> list[dict[str, Any]]:
    """The turns as dictionaries, which is what chat templates read."""
    return [_plain_turn(message) for message in conversation]


def _plain_turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                **({"id": call.id} if call.id is not None else {}),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    for key, value in (
        ("tool_call_id", message.tool_call_id),
        ("name", message.name),
        ("reasoning_content", message.reasoning),
        ("thinking", message.reasoning),  # as gpt-oss templates call it
    ):
        if value is not None:
            turn[key] = value
    return turn
