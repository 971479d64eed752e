"""Turns as files have them become messages: OpenAI's keys, mistral-finetune's, ShareGPT's, Anthropic's, Google's."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

from tunesmith.data.formats.media import is_media_key, media_fault, media_key
from tunesmith.data.formats.parts import Said, joined, read_parts, tool_text
from tunesmith.data.formats.tools import calls_in_text, calls_of
from tunesmith.data.formats.values import Path, Values, Warn, holds_nothing, kind_of, list_of, text_of
from tunesmith.data.quality.ledger import RowFault
from tunesmith.data.read.json import parse_json
from tunesmith.prompt.messages import ROLES, Conversation, Message

CALL = "function_call"  # ShareGPT's role of a turn that is a call
ROLE_NAMES = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "ai": "assistant", "bot": "assistant",
    "chatbot": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "ipython": "tool",
    CALL: CALL,
}  # fmt: skip
SPEAKERS, CONTENTS = ("role", "from", "speaker"), ("content", "text", "value", "message", "parts", "refusal")
REASONING = ("reasoning_content", "reasoning", "thinking")
WEIGHTS = ("weight", "loss_weight", "loss", "train")  # the last three only where they say yes or no
MESSAGE_KEYS = frozenset((
    *SPEAKERS, *CONTENTS, *REASONING, *WEIGHTS[:2], "name", "tool_calls", "tool_call_id", "function_call",
    "annotations",
))  # fmt: skip
PLAIN = {"role", "content"}
SYSTEM_KEYS = ("system", "system_prompt", "system_instruction")


def conversation_of(row: Values, key: str, warn: Warn, within: Path = ()) -> Conversation:
    """The turns under `key`, after the system text that may stand beside them."""
    return with_system(row, messages_of(row, key, warn, within), warn, within)


def with_system(row: Values, turns: Conversation, warn: Warn, within: Path = ()) -> Conversation:
    """The turns after the row's own system text; `warn` hears if there is another one among them."""
    try:
        system = system_of(row)
    except RowFault as fault:
        raise fault.inside(*within) from None
    if system and turns and turns[0].role == "system":
        if turns[0].content == system[0].content:
            return turns
        found = "a system text stands beside the turns and another one among them."
        warn(RowFault("two_systems", found, "Both are kept; data.clean=[turns] joins them.", turns[0].origin))
    return (*(replace(one, origin=(*within, *one.origin)) for one in system), *turns)


def system_of(row: Values) -> Conversation:
    """The system turn that stands beside a row's turns: a text, a list of parts, or a turn of its own.

    Raises:
        RowFault: it is none of these.
    """
    key = next((key for key in SYSTEM_KEYS if not holds_nothing(row.get(key))), None)
    if key is None:
        return ()
    value, where = row[key], repr(key)
    if isinstance(value, dict):
        value = next((value[name] for name in CONTENTS if value.get(name) is not None), value)
    if isinstance(value, list):
        try:
            value = "\n".join(read_parts(value, key, ()).texts)
        except RowFault as fault:
            raise fault.inside(key) from None
    if not isinstance(value, str):
        raise RowFault("not_text", f"{where} is {kind_of(value)}, not text.", f"Give {where} as a string.", (key,))
    return (Message("system", value, origin=(key,)),)


def messages_of(row: Values, key: str, warn: Warn, within: Path = ()) -> Conversation:
    """The turns under `key` of a row, or of the object that `within` leads to in it."""
    conversation: list[Message] = []
    try:
        turns = list_of(row, key)
    except RowFault as fault:
        raise fault.inside(*within) from None
    for i, turn in enumerate(turns):
        origin = (*within, key, i)
        try:
            conversation += _messages(turn, f"{key}[{i}]", origin, warn)
        except RowFault as fault:
            raise fault.inside(*origin) from None
    return tuple(conversation)


def _messages(turn: Any, where: str, origin: Path, warn: Warn) -> list[Message]:
    """The messages of one turn: one, or several where parts of it are answers of tools."""
    known = '{"from": ..., "value": ...}' if "conversations" in origin else '{"role": ..., "content": ...}'
    if not isinstance(turn, dict):
        raise RowFault("not_an_object", f"{where} is {kind_of(turn)}.", f"Write {known}.")
    if turn.keys() == PLAIN and turn["role"] in ROLES and isinstance(turn["content"], str):
        return [Message(turn["role"], turn["content"], origin=origin)]  # as nearly all are, and a third faster
    if not turn.keys() & SPEAKERS:
        turn = {str(key).lower(): value for key, value in turn.items()}
    role = _role(turn, where, known)
    if not turn.keys() <= MESSAGE_KEYS:
        _look_at_keys(turn, where, origin, warn)
    if role == CALL:
        calls = calls_in_text(_content_value(turn, where, CALL)[1], where, ())
        return [Message("assistant", "", _weight(turn, role, where, origin, warn), calls, origin=origin)]
    calls = calls_of(turn, where)
    said = _said(turn, where, role, optional=bool(calls))
    calls = (*calls, *said.calls)
    if calls and role != "assistant":
        path = ("tool_calls",) if not said.calls else ()
        raise RowFault("tool_call_role", f"{where} ({role}) calls a tool.", "Only the assistant may.", path)
    thought = _optional_text(turn, next(filter(turn.get, REASONING), "reasoning"), where)
    answers = [Message("tool", text, tool_call_id=id, name=name, origin=origin) for text, id, name in said.answers]
    text = said.texts[0] if said.texts else ""
    if answers and not text.strip() and not calls:
        return answers
    message = Message(
        role,
        text,
        weight=_weight(turn, role, where, origin, warn),
        tool_calls=calls,
        tool_call_id=_optional_text(turn, "tool_call_id", where),
        name=_optional_text(turn, "name", where),
        reasoning=thought or "\n".join(said.thoughts) or None,
        origin=origin,
    )
    return [*answers, message]


def _role(turn: Values, where: str, known: str) -> str:
    key = next((key for key in SPEAKERS if turn.get(key) is not None), None)
    if key is None and "role" in turn:
        key = "role"
    if key is None:
        lacks = "from" if "from" in known else "role"
        raise RowFault("missing_role", f"{where} has no {lacks}.", f"Write {known}.")
    given = turn[key]
    role = ROLE_NAMES.get(given.strip().lower()) if isinstance(given, str) else None
    if role is None:
        close = difflib.get_close_matches(str(given), ROLE_NAMES, n=1, cutoff=0.75)
        hint = f"Did you mean {close[0]!r}?" if close else f"Use one of {', '.join(ROLE_NAMES)}."
        found = f"{where} has role {given!r}." if key == "role" else f"{where} is from {given!r}."
        raise RowFault("unknown_role", found, hint, (key,))
    return role


def _weight(turn: Values, role: str, where: str, origin: Path, warn: Warn) -> int:
    """Whether an assistant's turn is trained on."""
    key = next((key for key in WEIGHTS if turn.get(key) is not None), None)
    if key is None or (key not in MESSAGE_KEYS and turn[key] not in (0, 1)):
        return 1
    weight = turn[key]
    if weight not in (0, 1, "0", "1") or (key == "weight" and isinstance(weight, bool)):
        raise RowFault("bad_weight", f"{where} has {key} {weight!r}.", "Use 0 or 1.", (key,))
    if role not in ("assistant", CALL):
        if int(weight):
            found = f"{where} has a {key}, and is no assistant turn."
            warn(RowFault("useless_weight", found, "It is passed over.", (*origin, key)))
        return 1
    return int(weight)


def _look_at_keys(turn: Values, where: str, origin: Path, warn: Warn) -> None:
    if (key := media_key(turn, turn)) is not None:
        raise media_fault(f"{where} has {key!r} beside its text", (key,))
    for key, value in turn.items():
        if key in MESSAGE_KEYS or value is None or is_media_key(key) or (key in WEIGHTS and value in (0, 1)):
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


def _content_value(turn: Values, where: str, role: str) -> tuple[str, Any]:
    """The key under which a turn says something, and what stands there.

    Raises:
        RowFault: there are two.
    """
    keys = [key for key in CONTENTS if turn.get(key) is not None]
    if len(keys) > 1 and any(turn[key] != turn[keys[0]] and not holds_nothing(turn[key]) for key in keys[1:]):
        found = f"{where} ({role}) has both {keys[0]!r} and {keys[1]!r}."
        raise RowFault("two_contents", found, "Keep one of them.", (keys[1],))
    usual = "value" if "from" in turn else "content"
    key = keys[0] if keys else next((key for key in CONTENTS if key in turn), usual)
    return key, turn.get(key)


def _said(turn: Values, where: str, role: str, optional: bool) -> Said:
    """What a turn says: at most one text, with the calls, answers and thoughts that its parts hold.

    Raises:
        RowFault: it says nothing, unless that is `optional`, or what is no text.
    """
    key, content = _content_value(turn, where, role)
    if isinstance(content, str):
        return Said([content])
    if content is None and optional:
        return Said()
    if role == "tool" and isinstance(content, dict | list) and key != "parts":
        return Said([tool_text(content, f"{where}.{key}", (key,))])
    if isinstance(content, list):
        said = read_parts(content, f"{where}.{key}", (key,))
        return replace(said, texts=[joined(content, said)])
    if content is None:
        found = f"no {key}" if key not in turn else f"null as {key}"
        raise RowFault("not_text", f"{where} ({role}) has {found}.", f"Give its {key} as a string.", (key,))
    found = f"{where} ({role}) has {kind_of(content)} as {key}."
    raise RowFault("not_text", found, f"Give its {key} as a string.", (key,))


def instruction_of(row: Values, extra_key: str) -> str:
    """An instruction, with what it is about below it."""
    instruction, extra = text_of(row, "instruction"), text_of(row, extra_key, required=False)
    return f"{instruction}\n{extra}" if extra.strip() else instruction


def continuation_of(row: Values, key: str, warn: Warn) -> Conversation:
    """What follows a prompt: text, one message (OpenAI's or ShareGPT's), or a list of them."""
    value = row.get(key)
    turns = _turns_in_cell(value) if isinstance(value, str) else value
    if turns is None or isinstance(turns, str):
        return (Message("assistant", text_of(row, key), origin=(key,)),)
    return messages_of({key: [turns] if isinstance(turns, dict) else turns}, key, warn)


def _turns_in_cell(text: str) -> object:
    """The turns that a table's cell holds as JSON; None if it holds an answer, which may be JSON too."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        value = parse_json(text)
    except RowFault:
        return None
    first = value[0] if isinstance(value, list) and value else value
    return value if isinstance(first, dict) and ("role" in first or "from" in first) else None
