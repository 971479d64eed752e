"""Turns as files have them become messages: OpenAI's and mistral-finetune's keys, ShareGPT's, tools and their calls."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from tunesmith.data.ledger import RowFault
from tunesmith.data.read_json import parse_json
from tunesmith.prompt.messages import ROLES, Conversation, Message, ToolCall, Tools

Values = Mapping[str, Any]
Warn = Callable[[RowFault], None]
Path = tuple[str | int, ...]

ROLE_NAMES = {"developer": "system", "function": "tool", **{role: role for role in ROLES}}
SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant", "model": "assistant", "function_call": "function_call",
    "system": "system", "observation": "tool", "tool": "tool", "function_response": "tool", "function": "tool",
}  # fmt: skip
MESSAGE_KEYS = frozenset((
    "role", "content", "text", "name", "weight", "tool_calls", "tool_call_id", "function_call", "reasoning_content",
    "reasoning", "thinking", "refusal", "audio", "annotations",
))  # fmt: skip
REASONING = ("reasoning_content", "reasoning", "thinking")
TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def text_of(row: Values, key: str, required: bool = True) -> str:
    """The text under `key`; empty if it is absent and not required.

    Raises:
        RowFault: it is no text, or empty though required.
    """
    value = row.get(key)
    if value is None and not required:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise RowFault("not_text", f"{key!r} is a number, not text.", f'Give {key!r} as a string: "{value}".', (key,))
    if not isinstance(value, str):
        found = f"{key!r} is missing." if value is None else f"{key!r} is {kind_of(value)}, not text."
        raise RowFault("not_text", found, f"Give {key!r} as a string.", (key,))
    if required and not value.strip():
        raise RowFault("empty_text", f"{key!r} is empty.", "Fill it in or delete the row.", (key,))
    return value


def kind_of(value: Any) -> str:
    """What JSON calls a value, with its article."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), "a number")


def list_of(row: Values, key: str, what: str = "turns") -> list[Any]:
    """The list under `key`; in a table's cell it is JSON.

    Raises:
        RowFault: it is no list, or empty.
    """
    value = row.get(key)
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except RowFault as fault:
            advice = fault.advice if "json.dumps" in fault.advice else f"Give {key!r} as a list."
            raise RowFault(fault.code, f"{key!r} is text and {fault.found}", advice, (key,)) from None
    if value == []:
        raise RowFault("not_a_list", f"{key!r} is empty.", f"Give at least one of its {what}.", (key,))
    if not isinstance(value, list):
        found = f"{key!r} is {kind_of(value)}, not a list." if key in row else f"{key!r} is missing."
        raise RowFault("not_a_list", found, f"Give a list of {what}.", (key,))
    return value


def messages_of(row: Values, key: str, warn: Warn, within: Path = ()) -> Conversation:
    """The OpenAI messages under `key` of a row, or of the object that `within` leads to in it."""
    conversation: list[Message] = []
    try:
        turns = list_of(row, key)
    except RowFault as fault:
        raise fault.inside(*within) from None
    for i, turn in enumerate(turns):
        origin = (*within, key, i)
        try:
            conversation.append(_message(turn, f"{key}[{i}]", origin, warn))
        except RowFault as fault:
            raise fault.inside(*origin) from None
    return tuple(conversation)


def _message(turn: Any, where: str, origin: Path, warn: Warn) -> Message:
    if not isinstance(turn, dict):
        raise RowFault("not_an_object", f"{where} is {kind_of(turn)}.", 'Write {"role": ..., "content": ...}.')
    if "role" not in turn:
        known = 'Write {"role": ..., "content": ...}.'
        if "from" in turn:
            known = "These are ShareGPT's keys: call the list conversations."
        raise RowFault("missing_role", f"{where} has no role.", known)
    role = turn["role"]
    if not isinstance(role, str) or role not in ROLE_NAMES:
        close = difflib.get_close_matches(str(role), ROLE_NAMES, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Use one of {', '.join(ROLE_NAMES)}."
        raise RowFault("unknown_role", f"{where} has role {role!r}.", hint, ("role",))
    if not turn.keys() <= MESSAGE_KEYS:
        _refuse_misspelt(turn, where, origin, warn)
    weight = _weight(turn, where)
    if turn.get("weight") is not None and role != "assistant":
        found = f"{where} has a weight, and is no assistant turn."
        warn(RowFault("useless_weight", found, "It is passed over.", (*origin, "weight")))
    calls = _calls(turn, where)
    if calls and role != "assistant":
        raise RowFault("tool_call_role", f"{where} ({role}) calls a tool.", "Only the assistant may.", ("tool_calls",))
    return Message(
        ROLE_NAMES[role],
        _content(turn, where, role, optional=bool(calls)),
        weight=weight,
        tool_calls=calls,
        tool_call_id=_optional_text(turn, "tool_call_id", where),
        name=_optional_text(turn, "name", where),
        reasoning=_optional_text(turn, next(filter(turn.get, REASONING), "reasoning"), where),
        origin=origin,
    )


def _weight(turn: Values, where: str) -> int:
    weight = turn.get("weight")
    if weight is None:
        return 1
    if isinstance(weight, bool) or weight not in (0, 1, "0", "1"):
        raise RowFault("bad_weight", f"{where} has weight {weight!r}.", "Use 0 or 1.", ("weight",))
    return int(weight)


def _refuse_misspelt(turn: Values, where: str, origin: Path, warn: Warn) -> None:
    for key, value in turn.items():
        if key in MESSAGE_KEYS or value is None:
            continue
        close = difflib.get_close_matches(key, sorted(MESSAGE_KEYS), n=1, cutoff=0.8)
        if close and close[0] not in turn:
            raise RowFault("unknown_key", f"{where} has the key {key!r}.", f"Did you mean {close[0]!r}?", (key,))
        found = f"{where} has the key {key!r}, which is not used."
        warn(RowFault("unused_key", found, "It is passed over.", (*origin, key)))


def _optional_text(turn: Values, key: str, where: str) -> str | None:
    value = turn.get(key)
    if value is not None and not isinstance(value, str):
        raise RowFault("not_text", f"{where} has {key} of {kind_of(value)}.", f"Give {key} as a string.", (key,))
    return value


def _content(turn: Values, where: str, role: str, optional: bool) -> str:
    key = "text" if "content" not in turn and "text" in turn else "content"
    content = turn.get(key)
    if content is None and isinstance(turn.get("refusal"), str):
        key, content = "refusal", turn["refusal"]
    if content is None and optional:
        return ""
    if isinstance(content, list):
        return "".join(_part(part, f"{where}.{key}[{i}]", (key, i)) for i, part in enumerate(content))
    if content is None:
        found = "no content" if key not in turn else "null as content"
        raise RowFault("not_text", f"{where} ({role}) has {found}.", "Give its content as a string.", (key,))
    if not isinstance(content, str):
        found = f"{where} ({role}) has {kind_of(content)} as content."
        raise RowFault("not_text", found, "Give its content as a string.", (key,))
    return content


def _part(part: Any, where: str, path: Path) -> str:
    kind = part.get("type", "text") if isinstance(part, dict) else None
    if kind not in ("text", "refusal"):
        what = f"is a part of type {kind!r}" if kind else f"is {kind_of(part)}"
        raise RowFault("not_text", f"{where} {what}; tunesmith trains on text.", "Take it out or drop the row.", path)
    text = part.get(kind)
    if not isinstance(text, str):
        raise RowFault("not_text", f"{where} has {kind_of(text)} as text.", "Give its text as a string.", path)
    return text


def _calls(turn: Values, where: str) -> tuple[ToolCall, ...]:
    calls, old = turn.get("tool_calls"), turn.get("function_call")
    if old is not None:
        return (_call({"function": old}, f"{where}.function_call", ("function_call",)),)
    if not calls:
        return ()
    if not isinstance(calls, list):
        found = f"{where} has {kind_of(calls)} as tool_calls."
        raise RowFault("bad_tool_call", found, "Give a list of calls.", ("tool_calls",))
    return tuple(_call(call, f"{where}.tool_calls[{i}]", ("tool_calls", i)) for i, call in enumerate(calls))


def _call(call: Any, where: str, path: Path) -> ToolCall:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        advice = 'Write {"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}.'
        raise RowFault("bad_tool_call", f"{where} names no function.", advice, path)
    if call.get("type", "function") != "function":
        found = f"{where} is of type {call['type']!r}."
        raise RowFault("bad_tool_call", found, "Only functions can be called.", (*path, "type"))
    name, id = function["name"], call.get("id")
    if not TOOL_NAME.fullmatch(name):
        found = f"{where} calls {name!r}, which is no name of a function."
        raise RowFault("bad_tool_name", found, "Use letters, digits, _, - and . only, at most 64.", path)
    if id is not None and not isinstance(id, str):
        raise RowFault("bad_tool_call", f"{where} has {kind_of(id)} as id.", "Give the id as a string.", (*path, "id"))
    return ToolCall(name, arguments_of(function.get("arguments"), where, path), id)


def arguments_of(value: Any, where: str, path: Path) -> dict[str, Any]:
    """The arguments of a call as an object, whether they stand as an object or as its JSON text.

    Raises:
        RowFault: they are neither.
    """
    if value in (None, ""):
        return {}
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except RowFault as fault:
            found = f"{where} has arguments that are {fault.found}"
            raise RowFault("bad_arguments", found, "Give the arguments as the JSON text of an object.", path) from None
    if not isinstance(value, dict):
        found = f"{where} has {kind_of(value)} as arguments."
        raise RowFault("bad_arguments", found, "Give the arguments as the JSON text of an object.", path)
    return value


def tools_of(row: Values, keys: tuple[str, ...] = ("tools", "available_tools", "functions")) -> Tools:
    """The tools that a row declares, each as `{"type": "function", "function": {...}}`.

    Raises:
        RowFault: they are no list of functions with a name and a schema.
    """
    key = next((key for key in keys if row.get(key)), None)
    if key is None:
        return ()
    return tuple(_tool(tool, f"{key}[{i}]", (key, i)) for i, tool in enumerate(list_of(row, key, "functions")))


def _tool(tool: Any, where: str, path: Path) -> dict[str, Any]:
    advice = 'Write {"type": "function", "function": {"name": ..., "parameters": {...}}}.'
    if not isinstance(tool, dict):
        raise RowFault("bad_tool", f"{where} is {kind_of(tool)}.", advice, path)
    function = tool["function"] if isinstance(tool.get("function"), dict) else tool
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        raise RowFault("bad_tool", f"{where} has no usable name ({name!r}).", advice, path)
    if parameters is not None and (not isinstance(parameters, dict) or parameters.get("type", "object") != "object"):
        found = f"{where} ({name}) has parameters that are no JSON schema of an object."
        raise RowFault("bad_tool", found, 'Write {"type": "object", "properties": {...}}.', path)
    return {"type": "function", "function": dict(function)} if function is tool else dict(tool)


def sharegpt_of(row: Values, key: str) -> Conversation:
    """The ShareGPT turns under `key`, after the row's `system` text."""
    system = row.get("system")
    head = [Message("system", system, origin=("system",))] if isinstance(system, str) and system.strip() else []
    return (*head, *(_sharegpt_turn(turn, f"{key}[{i}]", (key, i)) for i, turn in enumerate(list_of(row, key))))


def _sharegpt_turn(turn: Any, where: str, path: Path) -> Message:
    if not isinstance(turn, dict):
        found = f"{where} is {kind_of(turn)}."
        raise RowFault("not_an_object", found, 'Write {"from": ..., "value": ...}.', path)
    if "role" in turn and "from" not in turn:
        turn = {"from": turn["role"], "value": turn.get("content"), **turn}
    speaker = turn.get("from")
    if speaker is None:
        raise RowFault("missing_role", f"{where} has no from.", 'Write {"from": ..., "value": ...}.', path)
    if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
        found = f"{where} is from {speaker!r}."
        raise RowFault("unknown_role", found, f"Use one of {', '.join(SHAREGPT_ROLES)}.", (*path, "from"))
    try:
        text, weight = text_of(turn, "value"), _weight(turn, where)
    except RowFault as fault:
        found = fault.found if fault.found.startswith(where) else f"{where}: {fault.found}"
        raise RowFault(fault.code, found, fault.advice, (*path, *fault.path)) from None
    role = SHAREGPT_ROLES[speaker]
    if role == "function_call":
        return Message("assistant", "", weight, tool_calls=_sharegpt_calls(text, where, path), origin=path)
    return Message(role, text, weight, origin=path)


def _sharegpt_calls(text: str, where: str, path: Path) -> tuple[ToolCall, ...]:
    try:
        value = parse_json(text)
    except RowFault as fault:
        found = f"{where} is a function_call that is {fault.found}"
        raise RowFault("bad_tool_call", found, 'Write {"name": ..., "arguments": {...}} as text.', path) from None
    calls = value if isinstance(value, list) else [value]
    return tuple(_call(call, where, path) for call in calls)
