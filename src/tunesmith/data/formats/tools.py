"""Tools that a row declares and calls that its turns make, as OpenAI, Anthropic, Google and Amazon write them."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from tunesmith.data.formats.values import Path, Values, holds_nothing, kind_of, list_in_text
from tunesmith.data.quality.ledger import RowFault
from tunesmith.data.read.json import parse_json
from tunesmith.prompt.messages import ToolCall, Tools

TOOL_KEYS = ("tools", "available_tools", "functions", "tool_config")
SCHEMAS = ("parameters", "input_schema", "inputSchema", "parametersJsonSchema")  # keys of a function's schema
GROUPS = ("functionDeclarations", "function_declarations")  # Google's lists of functions in a tool
TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
TOOL_ADVICE = 'Write {"type": "function", "function": {"name": ..., "parameters": {...}}}.'


def tools_of(row: Values) -> Tools:
    """The tools that a row declares, each as `{"type": "function", "function": {...}}`.

    Raises:
        RowFault: they are no functions with a name and a schema.
    """
    key = next((key for key in TOOL_KEYS if not holds_nothing(row.get(key))), None)
    if key is None:
        return ()
    value = row[key]
    if isinstance(value, str):
        value = list_in_text(value, key)
    if isinstance(value, dict) and isinstance(value.get("tools"), list):  # Amazon's toolConfig
        value = value["tools"]
    if isinstance(value, dict) and not _looks_like_a_tool(value):
        found = f"{key!r} is an object that names no function."
        raise RowFault("bad_tool", found, f"Give a list of functions. {TOOL_ADVICE}", (key,))
    if not isinstance(value, dict | list):
        raise RowFault("not_a_list", f"{key!r} is {kind_of(value)}, not a list.", "Give a list of functions.", (key,))
    if isinstance(value, dict):
        return _declared(value, key, (key,))
    return tuple(tool for i, one in enumerate(value) for tool in _declared(one, f"{key}[{i}]", (key, i)))


def _looks_like_a_tool(value: Values) -> bool:
    return any(value.get(name) is not None for name in ("name", "function", "toolSpec", *GROUPS))


def _declared(tool: Any, where: str, path: Path) -> Tools:
    """The functions of one entry: one, or Google's several."""
    if isinstance(tool, str):
        with suppress(RowFault):  # the sentence on text fits better
            tool = parse_json(tool)
    if not isinstance(tool, dict):
        raise RowFault("bad_tool", f"{where} is {kind_of(tool)}.", TOOL_ADVICE, path)
    group = next((tool[name] for name in GROUPS if isinstance(tool.get(name), list)), None)
    if group is None:
        return (_tool(tool, where, path),)
    return tuple(tool for i, one in enumerate(group) for tool in _declared(one, f"{where}[{i}]", path))


def _tool(tool: dict[str, Any], where: str, path: Path) -> dict[str, Any]:
    inner = next((tool[name] for name in ("function", "toolSpec") if isinstance(tool.get(name), dict)), None)
    function = dict(tool if inner is None else inner)
    name = function.get("name")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        kind = tool.get("type")
        what = f"is of type {kind!r} and" if kind not in (None, "function") and inner is None else "has no usable"
        found = f"{where} {what} names no function." if what.startswith("is") else f"{where} {what} name ({name!r})."
        raise RowFault("bad_tool", found, TOOL_ADVICE, path)
    if inner is None:
        function.pop("type", None)
    _normalise_schema(function, f"{where} ({name})", path)
    outer = dict(tool) if inner is not None and "function" in tool else {}
    return {**outer, "type": "function", "function": function}


def _normalise_schema(function: dict[str, Any], where: str, path: Path) -> None:
    """Bring the schema under `parameters`, as templates read it."""
    key = next((key for key in SCHEMAS if function.get(key) is not None), None)
    if key is None:
        return
    schema = function.pop(key)
    if isinstance(schema, str):
        with suppress(RowFault):  # the sentence below fits
            schema = parse_json(schema)
    if isinstance(schema, dict) and isinstance(schema.get("json"), dict):  # Amazon's inputSchema
        schema = schema["json"]
    kind = schema.get("type", "object") if isinstance(schema, dict) else None
    if kind is None or (isinstance(kind, str) and kind.lower() != "object"):
        found = f"{where} has parameters that are no JSON schema of an object."
        raise RowFault("bad_tool", found, 'Write {"type": "object", "properties": {...}}.', path)
    function["parameters"] = schema


def calls_of(turn: Values, where: str) -> tuple[ToolCall, ...]:
    """The calls of a turn: `tool_calls`, or `function_call` as it was before them.

    Raises:
        RowFault: they are none.
    """
    calls, old = turn.get("tool_calls"), turn.get("function_call")
    if holds_nothing(calls):
        if holds_nothing(old):
            return ()
        return (call_of({"function": old}, f"{where}.function_call", ("function_call",)),)
    if not isinstance(calls, list):
        found = f"{where} has {kind_of(calls)} as tool_calls."
        raise RowFault("bad_tool_call", found, "Give a list of calls.", ("tool_calls",))
    return tuple(call_of(call, f"{where}.tool_calls[{i}]", ("tool_calls", i)) for i, call in enumerate(calls))


def call_of(call: Any, where: str, path: Path) -> ToolCall:
    """One call.

    Raises:
        RowFault: it names no function, or has arguments that are no object.
    """
    function = (call.get("function") or call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        advice = 'Write {"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}.'
        raise RowFault("bad_tool_call", f"{where} names no function.", advice, path)
    if call.get("type") not in (None, "function"):
        found = f"{where} is of type {call['type']!r}."
        raise RowFault("bad_tool_call", found, "Only functions can be called.", (*path, "type"))
    name, id = function["name"], call.get("id")
    if not TOOL_NAME.fullmatch(name):
        found = f"{where} calls {name!r}, which is no name of a function."
        raise RowFault("bad_tool_name", found, "Use letters, digits, _, - and . only, at most 64.", path)
    if id is not None and not isinstance(id, str):
        raise RowFault("bad_tool_call", f"{where} has {kind_of(id)} as id.", "Give the id as a string.", (*path, "id"))
    given = next((function[key] for key in ("arguments", "args", "parameters", "input") if key in function), None)
    return ToolCall(name, arguments_of(given, where, path), id)


def arguments_of(value: Any, where: str, path: Path) -> dict[str, Any]:
    """The arguments of a call as an object, whether they stand as an object or as its JSON text.

    Raises:
        RowFault: they are neither.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    advice = "Give the arguments as the JSON text of an object."
    if isinstance(value, str):
        value = _parsed(value, "bad_arguments", f"{where} has arguments that are", advice, path)
    if not isinstance(value, dict):
        raise RowFault("bad_arguments", f"{where} has {kind_of(value)} as arguments.", advice, path)
    return value


def calls_in_text(value: Any, where: str, path: Path) -> tuple[ToolCall, ...]:
    """The calls that ShareGPT's function_call turns hold: an object or a list of them, mostly as JSON text.

    Raises:
        RowFault: they are none.
    """
    if isinstance(value, str):
        advice = 'Write {"name": ..., "arguments": {...}} as text.'
        value = _parsed(value, "bad_tool_call", f"{where} is a function_call that is", advice, path)
    calls = value if isinstance(value, list) else [value]
    return tuple(call_of(call, where, path) for call in calls)


def _parsed(text: str, code: str, found: str, advice: str, path: Path) -> Any:
    """The JSON that a text holds; what is wrong with it follows on `found`."""
    try:
        return parse_json(text)
    except RowFault as fault:
        raise RowFault(code, f"{found} {fault.found}", advice, path) from None
