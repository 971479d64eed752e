"""Checks of conversations: can anything be learned from them? Refused with the place and what to do."""

from __future__ import annotations

from itertools import pairwise

from tunesmith.data.formats.values import Path, Warn
from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.messages import Conversation, Message, Tools


def list_place(turns: Conversation) -> Path:
    """Where the list stands that these turns are of; a single text's own place."""
    origin = turns[-1].origin if turns else ()
    return origin[:-1] if origin and isinstance(origin[-1], int) else origin


def _number(turns: Conversation, i: int) -> int:
    """Which turn this is, from 1, in the list that the file has: a system message may have come before it since."""
    origin = turns[i].origin
    return origin[-1] + 1 if origin and isinstance(origin[-1], int) else i + 1


def check_conversation(conversation: Conversation, tools: Tools = (), warn: Warn = lambda fault: None) -> None:
    """Refuse a conversation from which nothing can be learned.

    Raises:
        RowFault: no trained assistant turn, an empty turn, or tool calls that do not fit the tools and their
            answers. Whose turn it is by right only the model's own template knows; `warn` hears of what some refuse.
    """
    place = list_place(conversation)
    if not any(message.role == "assistant" for message in conversation):
        raise RowFault("no_assistant", "no assistant turn to learn from.", "Add the answer.", place)
    if not any(message.role == "assistant" and message.weight for message in conversation):
        raise RowFault("no_assistant", "no assistant turn that is trained on.", "Give one weight 1.", place)
    if not any(message.role == "user" for message in conversation):
        raise RowFault("no_user", "no user turn.", "Add the question.", place)
    _check_turns(conversation)
    _look_at_order(conversation, warn)
    _check_tools(conversation, tools, warn)
    if conversation[-1].role != "assistant":
        found = f"the last turn is the {conversation[-1].role}'s, which teaches nothing."
        warn(RowFault("ends_unanswered", found, "Add the answer.", conversation[-1].origin))


def _check_turns(turns: Conversation) -> None:
    for i, message in enumerate(turns):
        if not message.content.strip() and not message.tool_calls and message.role not in ("system", "tool"):
            found = f"turn {_number(turns, i)} ({message.role}) is empty."
            raise RowFault("empty_turn", found, "Fill it in or delete the row.", (*message.origin, "content"))
    for i, (one, two) in enumerate(pairwise(turns)):
        if two.role == "tool" and not one.tool_calls and one.role != "tool":
            found = f"turn {_number(turns, i + 1)} is a tool's, and turn {_number(turns, i)} calls none."
            raise RowFault("tool_order", found, "Put it after the assistant's call.", two.origin)


def _look_at_order(turns: Conversation, warn: Warn) -> None:
    """Tell of an order of roles that many templates take and some refuse."""
    some = "Many templates take that; a model whose own refuses it drops the row."
    first = next((message for message in turns if message.role != "system"), None)
    listed = [i for i, message in enumerate(turns) if message.origin and isinstance(message.origin[-1], int)]
    start = listed[0] if listed else 0  # of the turns in the file's list: a system text may stand beside it
    late = next((i for i, message in enumerate(turns) if message.role == "system" and i > start), None)
    twins = next((i for i in range(start + 1, len(turns)) if turns[i - 1].role == turns[i].role != "tool"), None)
    if twins is not None:
        found = f"turns {_number(turns, twins - 1)} and {_number(turns, twins)} are both {turns[twins].role}."
        advice = "Many templates take that; data.clean=[turns] joins neighbours for those that refuse it."
        warn(RowFault("unusual_order", found, advice, turns[twins].origin))
    elif late is not None:
        found = f"turn {_number(turns, late)} is a system message."
        warn(RowFault("unusual_order", found, some, turns[late].origin))
    elif first is not None and first.role != "user":
        warn(RowFault("unusual_order", f"the {first.role} speaks first.", some, first.origin))


def _check_tools(conversation: Conversation, tools: Tools, warn: Warn) -> None:
    names = {tool["function"]["name"] for tool in tools if isinstance(tool.get("function"), dict)}
    open_calls: list[str | None] = []
    for i, message in enumerate(conversation):
        turn = f"turn {_number(conversation, i)}"
        if message.role == "tool":
            open_calls = _answered(message, open_calls, turn)
            continue
        if open_calls:
            found = f"{turn} ({message.role}) comes before {len(open_calls)} of the calls are answered."
            raise RowFault("tool_unanswered", found, "Add the tools' turns.", message.origin)
        for call in message.tool_calls:
            if tools and call.name not in names:
                found = f"{turn} calls {call.name!r}, which the row's tools do not have."
                advice = f"Declare it, or call one of {', '.join(sorted(names))}."
                raise RowFault("unknown_tool", found, advice, (*message.origin, "tool_calls"))
            if not tools:
                found = "the row calls tools and declares none."
                warn(RowFault("no_tools", found, "Add its tools.", message.origin))
        ids = [call.id for call in message.tool_calls]
        if twice := [id for id in ids if id is not None and ids.count(id) > 1]:
            found = f"{turn} gives the id {twice[0]!r} to two calls."
            raise RowFault("bad_tool_call", found, "Give each call its own.", (*message.origin, "tool_calls"))
        open_calls = list(ids)


def _answered(message: Message, open_calls: list[str | None], turn: str) -> list[str | None]:
    """The calls that are still open after this tool's turn."""
    if not open_calls:
        found = f"{turn} (tool) answers no call."
        raise RowFault("tool_order", found, "Each call has one answer.", message.origin)
    if message.tool_call_id is None or None in open_calls:
        return open_calls[1:]  # answered in order
    if message.tool_call_id not in open_calls:
        found = f"{turn} answers the call {message.tool_call_id!r}, which nobody made."
        advice = f"Use one of {', '.join(map(repr, open_calls))}."
        raise RowFault("tool_order", found, advice, (*message.origin, "tool_call_id"))
    rest = list(open_calls)
    rest.remove(message.tool_call_id)
    return rest


def check_prompt(prompt: Conversation) -> None:
    """Refuse a prompt that asks nothing, or whose last turn is an answer.

    Raises:
        RowFault: with the place.
    """
    if not any(message.role == "user" for message in prompt):
        raise RowFault("no_user", "the prompt has no user turn.", "Add the question.", list_place(prompt))
    _check_turns(prompt)
    if prompt[-1].role == "assistant":
        found = "the prompt ends with an assistant's turn."
        raise RowFault("prompt_ends", found, "End it with the user's turn.", prompt[-1].origin)


def check_answer(prompt: Conversation, turns: Conversation, side: str) -> None:
    """Refuse what does not answer a prompt.

    Raises:
        RowFault: with the place.
    """
    if not turns or turns[-1].role != "assistant" or any(turn.role not in ("assistant", "tool") for turn in turns):
        place = list_place(turns)
        side = str(place[0]) if place else side
        found = f"{side} is not an assistant's answer."
        raise RowFault("no_assistant", found, "Give one assistant turn, after tools' turns if need be.", place)
    _check_turns((*prompt, *turns))
