"""What a turn says: a text, or a list of parts as OpenAI, Anthropic, Google and Amazon write them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from tunesmith.data.formats.media import media_fault
from tunesmith.data.formats.tools import call_of
from tunesmith.data.formats.values import Path, Values, kind_of
from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.messages import ToolCall

TEXT_TYPES = ("text", "input_text", "output_text", "refusal")
CALLS = ("tool_use", "toolUse", "functionCall", "function_call", "tool_call", "tool-call")
ANSWERS = ("tool_result", "toolResult", "functionResponse", "function_response", "tool-result")
THOUGHTS = ("thinking", "reasoning", "reasoningContent", "thought")
UNTYPED = (*CALLS, *ANSWERS, "reasoningContent", "json", "text", "value", "content")  # keys of parts without a type
MEDIA = re.compile(r"image|video|audio|file|document|inline.?data|media", re.IGNORECASE)
UNKNOWN = 'Write its text as {"type": "text", "text": ...}, take it out, or drop the row.'


@dataclass
class Said:
    """What the parts of one turn say.

    Attributes:
        texts: in order.
        thoughts: what was thought before.
        calls: of tools.
        answers: of tools, each with the id of its call and the tool's name, if they are given.
    """

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    answers: list[tuple[str, str | None, str | None]] = field(default_factory=list)


def read_parts(parts: list[Any], where: str, path: Path) -> Said:
    """The parts of a turn, sorted.

    Args:
        parts: texts and objects.
        where: what the list is called.
        path: what leads to it.

    Raises:
        RowFault: a part that is neither text nor a call, an answer or a thought; it is named.
    """
    said = Said()
    for i, part in enumerate(parts):
        _read_part(part, said, f"{where}[{i}]", (*path, i))
    return said


def joined(parts: list[Any], said: Said) -> str:
    """The texts as one: plain strings on lines of their own, parts without anything between, as templates do it."""
    return ("\n" if parts and all(isinstance(part, str) for part in parts) else "").join(said.texts)


def _read_part(part: Any, said: Said, where: str, path: Path) -> None:
    if isinstance(part, str):
        said.texts.append(part)
        return
    if not isinstance(part, dict):
        raise RowFault("not_text", f"{where} is {kind_of(part)}; tunesmith trains on text.", UNKNOWN, path)
    kind = part.get("type")
    if kind is None:
        kind = next((key for key in UNTYPED if part.get(key) is not None), None)
    if kind in (*CALLS, *ANSWERS):
        inner = part[kind] if isinstance(part.get(kind), dict) else part
        if kind in CALLS:
            said.calls.append(_call(inner, where, path))
        else:
            said.answers.append(_answer(inner, where, path))
    elif kind in THOUGHTS or (kind == "text" and part.get("thought") is True):
        said.thoughts.append(_thought(part, where, path))
    elif kind == "json":
        said.texts.append(json.dumps(part["json"], ensure_ascii=False))
    elif kind in TEXT_TYPES or ("type" not in part and kind in ("value", "content")):
        said.texts.append(_text(part, where, path))
    else:
        raise _unknown(part, kind, where, path)


def _unknown(part: Values, kind: Any, where: str, path: Path) -> RowFault:
    keys = ", ".join(map(repr, part))
    what = f"is a part of type {kind!r}" if kind is not None else f"is a part with the keys {keys or 'of none'}"
    if MEDIA.search(str(kind) if kind is not None else keys):
        return media_fault(f"{where} {what}", path)
    return RowFault("not_text", f"{where} {what}; tunesmith trains on text.", UNKNOWN, path)


def _text(part: Values, where: str, path: Path) -> str:
    names = ("refusal", "text", "value", "content") if part.get("type") == "refusal" else ("text", "value", "content")
    text = next((part[name] for name in names if part.get(name) is not None), None)
    if not isinstance(text, str):
        raise RowFault("not_text", f"{where} has {kind_of(text)} as text.", "Give its text as a string.", path)
    return text


def _thought(part: Values, where: str, path: Path) -> str:
    """Anthropic's and Mistral's `thinking`, OpenAI's `reasoning`, Amazon's `reasoningContent`, Google's `thought`."""
    value = next((part[key] for key in (*THOUGHTS[:3], "text", "summary") if part.get(key) not in (None, True)), None)
    if isinstance(value, dict):
        value = value.get("reasoningText", value)
        value = value.get("text") if isinstance(value, dict) else value
    if isinstance(value, list):
        return joined(value, read_parts(value, where, path))
    if not isinstance(value, str):
        raise RowFault("not_text", f"{where} is a thought without text.", "Take it out or drop the row.", path)
    return value


def _call(part: Values, where: str, path: Path) -> ToolCall:
    given = next((part[key] for key in ("input", "args", "arguments") if part.get(key) is not None), None)
    id = next((part[key] for key in ("id", "toolUseId", "toolCallId", "call_id") if part.get(key) is not None), None)
    name = part.get("name", part.get("toolName"))
    return call_of({"id": id, "function": {"name": name, "arguments": given}}, where, path)


def _answer(part: Values, where: str, path: Path) -> tuple[str, str | None, str | None]:
    names = ("tool_use_id", "toolUseId", "toolCallId", "call_id", "id")
    id = next((part[key] for key in names if isinstance(part.get(key), str)), None)
    name = part.get("name", part.get("toolName"))
    value = next((part[key] for key in ("content", "response", "output", "result") if part.get(key) is not None), "")
    return tool_text(value, where, path), id, name if isinstance(name, str) else None


def tool_text(value: Any, where: str, path: Path) -> str:
    """What a tool answered, as text: a text, parts, or any other JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(part, str | dict) for part in value):
        first = value[0]
        if isinstance(first, str) or "type" in first or any(key in first for key in ("text", "json")):
            said = read_parts(value, where, path)
            return "\n".join(said.texts)
    return json.dumps(value, ensure_ascii=False)
