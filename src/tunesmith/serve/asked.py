"""What a client asks of a model, made into what our engine takes."""

from __future__ import annotations

import json
import random
from typing import Annotated, Any

from pydantic import BaseModel, Field

from tunesmith.infer.engine.steer import OBJECT
from tunesmith.infer.generator import LEAST_TEMPERATURE, Options
from tunesmith.prompt.messages import Conversation, Message, ToolCall
from tunesmith.serve.errors import refused

USUAL = 512  # tokens of an answer, where nobody says
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
         "function": "tool"}  # fmt: skip


Metadata = dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]]


class Sampling(BaseModel):
    """How to answer: what chat and plain completions share. Other keys are passed over."""

    model: str
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: int | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None

    def options(self, most: int | None, **more: Any) -> Options:
        """The same for our engine; `most` new tokens, or a usual number; `more` of its own.

        Raises:
            ApiError: a bias is of no token.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        temperature = 1.0 if self.temperature is None else self.temperature
        if not all(token.isdecimal() and len(token) < 10 for token in self.logit_bias or {}):
            raise refused("logit_bias: its keys must be ids of tokens.", "logit_bias")
        return Options(
            max_new_tokens=USUAL if most is None else max(1, most),
            temperature=0.0 if temperature < LEAST_TEMPERATURE else temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=random.getrandbits(31) if self.seed is None else self.seed % 2**31,
            n=self.n or 1,
            stop=tuple(one for one in stop if one),
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias=tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
            **more,
        )


class ChatRequest(Sampling):
    """A chat completion."""

    messages: list[dict[str, Any]]
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    response_format: dict[str, Any] | None = None
    store: bool | None = None
    metadata: Metadata | None = None

    def functions(self) -> tuple[dict[str, Any], ...]:
        """What may be called, by name.

        Raises:
            ApiError: a tool is none, or one must be called and there is none.
        """
        if not self.tools and self.tool_choice not in (None, "auto", "none"):
            raise refused("tool_choice: there are no tools to choose from.", "tool_choice")
        if self.tool_choice == "none" or not self.tools:
            return ()
        for number, tool in enumerate(self.tools):
            function = tool.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
                raise refused(f"no function with a name - 'tools.[{number}]'", f"tools.[{number}]")
        return tuple(tool["function"] for tool in self.tools)

    def must_call(self) -> tuple[dict[str, Any], ...]:
        """The functions of which one must be called; none if none must.

        Raises:
            ApiError: the choice makes no sense, or names none of the functions.
        """
        match self.tool_choice:
            case None | "auto" | "none":
                return ()
            case "required":
                return self.functions()
            case {"type": "function", "function": {"name": str() as name}}:
                named = tuple(function for function in self.functions() if function["name"] == name)
                if not named:
                    raise refused(f"tool_choice: there is no function {name!r} in tools.", "tool_choice")
                return named
            case _:
                known = "none, auto, required, or {'type': 'function', 'function': {'name': ...}}"
                raise refused(f"tool_choice must be one of {known}.", "tool_choice")

    def answer_schema(self) -> str | None:
        """The JSON schema that the answer must match.

        Raises:
            ApiError: the format is none.
        """
        asked = self.response_format or {}
        match asked.get("type", "text"):
            case "text":
                return None
            case "json_object":
                return OBJECT
            case "json_schema":
                schema = (asked.get("json_schema") or {}).get("schema")
                if not isinstance(schema, dict):
                    raise refused("response_format.json_schema.schema must be an object.", "response_format")
                return json.dumps(schema)
            case other:
                known = "text, json_object or json_schema"
                raise refused(f"response_format.type = {other!r}: must be {known}.", "response_format")

    @property
    def most(self) -> int | None:
        """New tokens at most."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TextRequest(Sampling):
    """A plain completion."""

    prompt: str | list[str] | list[Annotated[int, Field(ge=0, lt=2**31)]] = "\n"
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None


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
