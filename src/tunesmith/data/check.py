"""Checks of what a row says: can anything be learned from it? Refused with the place and what to do."""

from __future__ import annotations

from itertools import pairwise

from tunesmith.data.ledger import RowFault
from tunesmith.data.rows import Chat, Content, Preference, Task, Verdict
from tunesmith.data.turns import Warn
from tunesmith.prompt.messages import Conversation, Message, Tools


def check_content(content: Content, warn: Warn) -> None:
    """Refuse what nothing can be learned from; tell `warn` of what is only odd.

    Raises:
        RowFault: with the place.
    """
    for text in content.texts():
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            found = "a text holds half a character (a lone surrogate such as \\ud83d)."
            raise RowFault("lone_surrogate", found, "Write the whole character, or take it out.")
    if isinstance(content, Chat):
        check_conversation(content.messages, content.tools, warn)
    elif isinstance(content, Preference):
        _check_prompt(content.prompt, "prompt")
        for side, turns in (("chosen", content.chosen), ("rejected", content.rejected)):
            _check_answer(content.prompt, turns, content.tools, side)
        if content.chosen == content.rejected:
            raise RowFault("equal_sides", "chosen and rejected are equal.", "Delete the row.", ("rejected",))
    elif isinstance(content, Verdict):
        _check_prompt(content.prompt, "prompt")
        _check_answer(content.prompt, content.completion, (), "completion")
    elif isinstance(content, Task):
        _check_prompt(content.prompt, "messages")
        if not content.item:
            warn(RowFault("no_item", "no field beside messages that a grader could use.", "Add the reference answer."))


def check_conversation(conversation: Conversation, tools: Tools = (), warn: Warn = lambda fault: None) -> None:
    """Refuse a conversation from which nothing can be learned.

    Raises:
        RowFault: no trained assistant turn, an empty turn, turns in an impossible order, or tool calls that
            do not fit the tools and their answers.
    """
    if not any(message.role == "assistant" for message in conversation):
        raise RowFault("no_assistant", "no assistant turn to learn from.", "Add the answer.", ("messages",))
    if not any(message.role == "assistant" and message.weight for message in conversation):
        raise RowFault("no_assistant", "no assistant turn that is trained on.", "Give one weight 1.", ("messages",))
    if not any(message.role == "user" for message in conversation):
        raise RowFault("no_user", "no user turn.", "Add the question.", ("messages",))
    _check_order(conversation, "messages")
    _check_tools(conversation, tools, warn)
    if conversation[-1].role != "assistant":
        found = f"the last turn is the {conversation[-1].role}'s, which teaches nothing."
        warn(RowFault("ends_unanswered", found, "Add the answer.", ("messages", len(conversation) - 1)))


def _check_order(conversation: Conversation, key: str) -> None:
    for i, message in enumerate(conversation):
        where = f"turn {i + 1} ({message.role})"
        if not message.content.strip() and not message.tool_calls and message.role not in ("system", "tool"):
            advice = "Fill it in or delete the row."
            raise RowFault("empty_turn", f"{where} is empty.", advice, (key, i, "content"))
        if message.role == "system" and i > 0:
            raise RowFault("late_system", f"turn {i + 1} is a system message.", "Put it first.", (key, i))
    for i, (one, two) in enumerate(pairwise(conversation), start=1):
        if one.role == two.role and one.role != "tool":
            found = f"turns {i} and {i + 1} are both {one.role}."
            raise RowFault("repeated_role", found, "Join or reorder them.", (key, i))
        if two.role == "tool" and not one.tool_calls and one.role != "tool":
            found = f"turn {i + 1} is a tool's, and turn {i} calls none."
            raise RowFault("tool_order", found, "Put it after the assistant's call.", (key, i))
    first = 1 if conversation[0].role == "system" else 0
    if first < len(conversation) and conversation[first].role in ("assistant", "tool"):
        found = f"the {conversation[first].role} speaks first."
        raise RowFault("assistant_first", found, "Start with the user's turn.", (key, first))


def _check_tools(conversation: Conversation, tools: Tools, warn: Warn) -> None:
    names = {tool["function"]["name"] for tool in tools if isinstance(tool.get("function"), dict)}
    open_calls: list[str | None] = []
    for i, message in enumerate(conversation):
        if message.role == "tool":
            open_calls = _answered(message, open_calls, i)
            continue
        if open_calls:
            found = f"turn {i + 1} ({message.role}) comes before {len(open_calls)} of the calls are answered."
            raise RowFault("tool_unanswered", found, "Add the tools' turns.", ("messages", i))
        for call in message.tool_calls:
            if tools and call.name not in names:
                found = f"turn {i + 1} calls {call.name!r}, which the row's tools do not have."
                advice = f"Declare it, or call one of {', '.join(sorted(names))}."
                raise RowFault("unknown_tool", found, advice, ("messages", i, "tool_calls"))
            if not tools:
                fault = RowFault(
                    "no_tools", "the row calls tools and declares none.", "Add its tools.", ("messages", i)
                )
                warn(fault)
        ids = [call.id for call in message.tool_calls]
        if twice := [id for id in ids if id is not None and ids.count(id) > 1]:
            found = f"turn {i + 1} gives the id {twice[0]!r} to two calls."
            raise RowFault("bad_tool_call", found, "Give each call its own.", ("messages", i, "tool_calls"))
        open_calls = list(ids)


def _answered(message: Message, open_calls: list[str | None], i: int) -> list[str | None]:
    """The calls that are still open after this tool's turn."""
    if not open_calls:
        found = f"turn {i + 1} (tool) answers no call."
        raise RowFault("tool_order", found, "Each call has one answer.", ("messages", i))
    if message.tool_call_id is None or None in open_calls:
        return open_calls[1:]  # answered in order
    if message.tool_call_id not in open_calls:
        found = f"turn {i + 1} answers the call {message.tool_call_id!r}, which nobody made."
        advice = f"Use one of {', '.join(map(repr, open_calls))}."
        raise RowFault("tool_order", found, advice, ("messages", i, "tool_call_id"))
    rest = list(open_calls)
    rest.remove(message.tool_call_id)
    return rest


def _check_prompt(prompt: Conversation, key: str) -> None:
    if not prompt or not any(message.role == "user" for message in prompt):
        raise RowFault("no_user", "the prompt has no user turn.", "Add the question.", (key,))
    _check_order(prompt, key)
    if prompt[-1].role == "assistant":
        advice = "End it with the user's turn."
        raise RowFault("prompt_ends", "the prompt ends with an assistant's turn.", advice, (key, len(prompt) - 1))


def _check_answer(prompt: Conversation, turns: Conversation, tools: Tools, key: str) -> None:
    if not turns or turns[-1].role != "assistant" or any(turn.role not in ("assistant", "tool") for turn in turns):
        found = f"{key} is not an assistant's answer."
        raise RowFault("no_assistant", found, "Give one assistant turn, after tools' turns if need be.", (key,))
    try:
        _check_order((*prompt, *turns), key)
    except RowFault as fault:
        raise RowFault(fault.code, f"{key}: {fault.found}", fault.advice, (key,)) from None
