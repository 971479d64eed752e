"""Two continuations of a prompt, one of which people prefer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tunesmith.data.formats.format import Format, sets
from tunesmith.data.formats.tools import TOOL_KEYS, tools_of
from tunesmith.data.formats.turns import (
    SYSTEM_KEYS,
    continuation_of,
    conversation_of,
    instruction_of,
    messages_of,
    with_system,
)
from tunesmith.data.formats.values import Values, Warn, kind_of, text_of
from tunesmith.data.formats.written import frame_of
from tunesmith.data.kinds.conversation import openai_turns, said, tools_key, unshown_parts, without_weight
from tunesmith.data.kinds.kind import RowKind
from tunesmith.data.kinds.row import Edit, Row
from tunesmith.data.kinds.teach import refuse_pairs
from tunesmith.data.quality.check import check_answer, check_prompt, list_place
from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.contract import Contract, Draft
from tunesmith.prompt.messages import Conversation, Message, Tools, plain


@dataclass(frozen=True)
class Preference:
    """Two continuations of a prompt, one of which people prefer."""

    kind: ClassVar[str] = "preference"
    prompt: Conversation
    chosen: Conversation
    rejected: Conversation
    tools: Tools = ()

    def to_plain(self) -> dict[str, Any]:
        """OpenAI's format for direct preference optimisation."""
        return {
            "input": {"messages": openai_turns(self.prompt), **tools_key(self.tools)},
            "preferred_output": openai_turns(self.chosen),
            "non_preferred_output": openai_turns(self.rejected),
        }

    def texts(self) -> Iterable[str]:
        """Prompt and both continuations."""
        return (*said(self.prompt), *said(self.chosen), *said(self.rejected))

    def asked(self) -> str:
        """The prompt."""
        return repr(plain(self.prompt))


# Formats -------------------------------------------------------------------------------------------------------------


def openai_preference(row: Values, warn: Warn) -> Preference:
    """OpenAI's preference pair, in both of its spellings."""
    given = row["input"]
    if not isinstance(given, dict):
        raise RowFault("not_an_object", f"'input' is {kind_of(given)}.", 'Write {"messages": [...]}.', ("input",))
    prompt = conversation_of(given, "messages", warn, within=("input",))
    try:
        tools = tools_of(given)
    except RowFault as fault:
        raise fault.inside("input") from None
    sides = [
        next(key for key in (f"{side}_output", f"{side}_completion") if row.get(key) is not None)
        for side in ("preferred", "non_preferred")
    ]
    return Preference(prompt, continuation_of(row, sides[0], warn), continuation_of(row, sides[1], warn), tools)


def preference(row: Values, warn: Warn) -> Preference:
    """A preference pair as TRL, ShareGPT and Alpaca files have it."""
    chosen, rejected = continuation_of(row, "chosen", warn), continuation_of(row, "rejected", warn)
    asked = _asked(row, warn)
    shared = 0  # what both begin with: it may repeat the prompt, go on from it, or be all there is of it
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    common = chosen[:shared]
    spoken, repeats = _spoken(asked), _spoken(common)
    repeated = spoken in (repeats[: len(spoken)], repeats[len(repeats) - len(spoken) :])
    systems = (
        tuple(turn for turn in asked if turn.role == "system") if common[:1] and common[0].role != "system" else ()
    )
    prompt = with_system(row, (*systems, *common) if repeated and common else (*asked, *common), warn)
    if not repeated and common and asked and asked[-1].role == common[0].role:
        found = "the prompt and the turns of chosen and rejected ask two things."
        warn(
            RowFault("asked_twice", found, "Both are kept: take one out if they are to be the same.", asked[-1].origin)
        )
    if not any(message.role != "system" for message in prompt):
        written = isinstance(row["chosen"], str) and frame_of(row["chosen"]) is not None
        found = (
            "chosen and rejected are chats written out as text." if written else "chosen and rejected share no prompt."
        )
        advice = "Give them as lists of turns, or the prompt apart from its answers." if written else "Give the prompt."
        raise RowFault("no_prompt", found, advice, ("chosen",))
    return Preference(prompt, chosen[shared:], rejected[shared:], tools_of(row))


def _spoken(turns: Conversation) -> list[Message]:
    """Turns but for system texts and the space around them, to be compared."""
    return [replace(turn, content=turn.content.strip()) for turn in turns if turn.role != "system"]


def _asked(row: Values, warn: Warn) -> Conversation:
    """The turns before a preference, if they are given apart from its sides."""
    key = next((key for key in ("conversations", "messages") if row.get(key) is not None), None)
    if key is None and isinstance(row.get("prompt"), list):
        key = "prompt"
    if key is not None:
        return messages_of(row, key, warn)
    key = next((key for key in ("prompt", "question", "instruction") if row.get(key) is not None), None)
    if key is None:
        return ()
    asked = instruction_of(row, "input") if key == "instruction" else text_of(row, key)
    return (Message("user", asked, origin=(key,)),)


# What is done with it ------------------------------------------------------------------------------------------------


def drafts(content: Preference, contract: Contract) -> list[Draft]:
    """Two sequences: the prompt with the chosen side, and with the rejected one."""
    context = without_weight(content.prompt)
    return [contract.draft((*context, *side), content.tools) for side in (content.chosen, content.rejected)]


def check(content: Preference, warn: Warn) -> None:
    """A prompt that asks, and two answers that differ."""
    check_prompt(content.prompt)
    for side, turns in (("chosen", content.chosen), ("rejected", content.rejected)):
        check_answer(content.prompt, turns, side)
    if content.chosen == content.rejected:
        raise RowFault("equal_sides", "chosen and rejected are equal.", "Delete the row.", list_place(content.rejected))


def turns(content: Preference) -> Conversation:
    """All turns, the prompt's once."""
    return (*content.prompt, *content.chosen, *content.rejected)


def shown_pair(row: Row) -> list[tuple[list[dict[str, Any]], str]]:
    """The prompt, and the chosen answer."""
    content: Any = row.content
    return [(plain(content.prompt), content.chosen[-1].content)]


def edit(content: Preference, change: Edit) -> Preference:
    """The pair with its turns changed; only the chosen side is learned."""
    return replace(
        content,
        prompt=change.asked(change.turns(content.prompt)),
        chosen=change.learned(change.turns(content.chosen)),
        rejected=change.turns(content.rejected),
    )


KIND = RowKind(
    name=Preference.kind,
    words="preferences",
    formats=(
        Format(
            "openai-preference",
            Preference.kind,
            sets(
                "input preferred_output non_preferred_output",
                "input preferred_completion non_preferred_completion",
            ),
            openai_preference,
        ),
        Format(
            "preference",
            Preference.kind,
            sets(
                "chosen rejected",
                "prompt chosen rejected",
                "conversations chosen rejected",
                "messages chosen rejected",
                "question chosen rejected",
                "instruction chosen rejected",
            ),
            preference,
            frozenset(("input", "parallel_tool_calls", *SYSTEM_KEYS, *TOOL_KEYS)),
        ),
    ),
    chat=True,
    drafts=drafts,
    check=check,
    turns=turns,
    edit=edit,
    unshown=lambda content, contract: unshown_parts(turns(content), content.tools, contract),
    refuse=refuse_pairs,
    shown=shown_pair,
)
