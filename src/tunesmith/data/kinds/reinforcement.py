"""A prompt whose answers a grader will judge, with the fields that it needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tunesmith.data.formats.format import Format, sets
from tunesmith.data.formats.tools import TOOL_KEYS, tools_of
from tunesmith.data.formats.turns import SYSTEM_KEYS, conversation_of, with_system
from tunesmith.data.formats.values import Values, Warn, text_of
from tunesmith.data.kinds.conversation import openai_turns, said, tools_key, unshown_parts, without_weight
from tunesmith.data.kinds.kind import RowKind
from tunesmith.data.kinds.row import Edit
from tunesmith.data.quality.check import check_prompt
from tunesmith.prompt.contract import Contract, Draft
from tunesmith.prompt.messages import Conversation, Message, Tools, plain

BESIDE = frozenset((*SYSTEM_KEYS, *TOOL_KEYS, "parallel_tool_calls"))


@dataclass(frozen=True)
class Task:
    """A prompt, and whatever its grader needs."""

    kind: ClassVar[str] = "reinforcement"
    prompt: Conversation
    item: Mapping[str, Any]
    tools: Tools = ()

    def to_plain(self) -> dict[str, Any]:
        """OpenAI's format for reinforcement fine-tuning: messages and any other keys."""
        return {"messages": openai_turns(self.prompt), **tools_key(self.tools), **self.item}

    def texts(self) -> Iterable[str]:
        """The prompt."""
        return said(self.prompt)

    def asked(self) -> str:
        """The prompt."""
        return repr(plain(self.prompt))


def is_task(row: Values) -> bool:
    """Whether nothing answers the last turn and there are fields for a grader; without them the answer is missing."""
    turns = row.get("messages")
    if not set(row) - {"messages", "parallel_tool_calls", *TOOL_KEYS, *SYSTEM_KEYS}:
        return False
    return isinstance(turns, list) and bool(turns) and isinstance(turns[-1], dict) and turns[-1].get("role") == "user"


def convert(row: Values, warn: Warn) -> Task:
    """A prompt with the fields of its grader."""
    item = {key: value for key, value in row.items() if key != "messages" and key not in BESIDE}
    return Task(conversation_of(row, "messages", warn), item, tools_of(row))


def prompt_alone(row: Values, warn: Warn) -> Task:
    """A prompt as TRL's files have it: a text, or turns."""
    item = {key: value for key, value in row.items() if key != "prompt" and key not in BESIDE}
    if isinstance(row["prompt"], str):
        prompt = with_system(row, (Message("user", text_of(row, "prompt"), origin=("prompt",)),), warn)
    else:
        prompt = conversation_of(row, "prompt", warn)
    return Task(prompt, item, tools_of(row))


def drafts(content: Task, contract: Contract) -> list[Draft]:
    """One sequence, of which nothing is trained on: answers come from the model."""
    return [contract.draft(without_weight(content.prompt), content.tools)]


def check(content: Task, warn: Warn) -> None:
    """A prompt that asks."""
    check_prompt(content.prompt)


def edit(content: Task, change: Edit) -> Task:
    """The task with its turns changed."""
    return replace(content, prompt=change.asked(change.turns(content.prompt)))


KIND = RowKind(
    name=Task.kind,
    words="prompts with what a grader needs",
    formats=(
        Format("reinforcement", Task.kind, sets("messages"), convert, BESIDE, is_task, any_key=True),
        Format("prompts", Task.kind, sets("prompt"), prompt_alone, BESIDE, any_key=True, on_request=True),
    ),
    chat=True,
    drafts=drafts,
    check=check,
    turns=lambda content: content.prompt,
    edit=edit,
    unshown=lambda content, contract: unshown_parts(content.prompt, content.tools, contract),
)
