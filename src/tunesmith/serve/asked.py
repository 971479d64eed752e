"""What a client asks of a model, made into what our engine takes."""

from __future__ import annotations

import json
import random
from typing import Annotated, Any

from pydantic import BaseModel, Field

from tunesmith.infer.generator import LEAST_TEMPERATURE, Options
from tunesmith.prompt.messages import Conversation, Message, ToolCall
from tunesmith.serve.errors import refused

USUAL = 512  # tokens of an answer, where nobody says
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
         "function": "tool"}  # fmt: skip


class Sampling(BaseModel):
    """How to answer: what chat and plain completions share. Other keys are passed over."""

    model: str
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None

    def options(self, most: int | None, logprobs: bool = False, tools: tuple[Any, ...] = ()) -> Options:
        """The same for our engine; `most` new tokens, or a usual number."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        temperature = 1.0 if self.temperature is None else self.temperature
        return Options(
            max_new_tokens=USUAL if most is None else max(1, most),
            temperature=0.0 if temperature < LEAST_TEMPERATURE else temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=random.getrandbits(31) if self.seed is None else self.seed % 2**31,
            n=self.n or 1,
            stop=tuple(one for one in stop if one),
            logprobs=logprobs,
            tools=tools,
        )


def conversation_of(messages: list[dict[str, Any]]) -> Conversation:
    """Messages as the API has them, as a conversation.

    Raises:
        ApiError: they are none; the parameter is named.
    """
    if not messages:
        raise refused("[] is too short - 'messages'", "messages")
    return tuple(_message(message, f"messages.[{number}]") for number, message in enumerate(messages))


def _message(message: dict[str, Any], place: str) -> Message:
    role = ROLES.get(str(message.get("role")))
    if role is None:
        raise refused(f"{message.get('role')!r} is not one of {list(ROLES)} - '{place}.role'", f"{place}.role")
    calls = tuple(_call(call, place) for call in message.get("tool_calls") or ())
    content = _text(message.get("content"), place)
    if role in ("user", "system", "tool") and message.get("content") is None:
        raise refused(f"Missing content - '{place}.content'", f"{place}.content")
    id, name = message.get("tool_call_id"), message.get("name")
    return Message(role, content, tool_calls=calls, tool_call_id=id, name=name)


def _text(content: Any, place: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise refused(f"content must be a text or parts - '{place}.content'", f"{place}.content")
    texts: list[str] = []
    for number, part in enumerate(content):
        where = f"{place}.content.[{number}]"
        if not isinstance(part, dict) or part.get("type") not in ("text", "refusal"):
            raise refused(f"this model reads text alone - '{where}'", where)
        texts.append(str(part.get("text", part.get("refusal", ""))))
    return "".join(texts)


def _call(call: Any, place: str) -> ToolCall:
    try:
        function = call["function"]
        arguments = json.loads(function["arguments"] or "{}")
        return ToolCall(str(function["name"]), arguments, call.get("id"))
    except (KeyError, TypeError, ValueError):
        raise refused(f"not a call of a function - '{place}.tool_calls'", f"{place}.tool_calls") from None
