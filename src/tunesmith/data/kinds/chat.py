"""Conversations whose assistant turns are learned, as OpenAI, ShareGPT, Google, Alpaca and others write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tunesmith.data.formats.format import Format, sets
from tunesmith.data.formats.tools import TOOL_KEYS, tools_of
from tunesmith.data.formats.turns import SYSTEM_KEYS, conversation_of, instruction_of, messages_of, system_of
from tunesmith.data.formats.values import Values, Warn, holds_nothing, kind_of, list_of, text_of
from tunesmith.data.kinds.conversation import openai_turns, said, tools_key, unshown_parts, without_weight
from tunesmith.data.kinds.kind import RowKind
from tunesmith.data.kinds.row import Edit, Row
from tunesmith.data.kinds.teach import refuse_unvaried
from tunesmith.data.quality.check import check_conversation
from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.contract import Contract, Draft
from tunesmith.prompt.messages import ROLES, Conversation, Message, Tools, plain

TURN_KEYS = ("messages", "interactions", "conversations", "contents")  # under which a row's turns stand
BESIDE = frozenset((*SYSTEM_KEYS, *TOOL_KEYS, "parallel_tool_calls"))  # keys that stand beside turns
PROMPT_END = re.compile(  # where an answer would begin
    r"(?:<\|im_start\|>assistant|\[/INST\]|<\|assistant\|>|<start_of_turn>model|assistant<\|end_header_id\|>"
    r"|#{2,3} ?(?:Response|Answer|Output|Assistant):?|^(?:Assistant|AI|Bot|A|Answer|Response) ?:)\s*\Z",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Chat:
    """A conversation whose assistant turns are learned."""

    kind: ClassVar[str] = "chat"
    messages: Conversation
    tools: Tools = ()

    def to_plain(self) -> dict[str, Any]:
        """OpenAI's chat format."""
        return {"messages": openai_turns(self.messages), **tools_key(self.tools)}

    def texts(self) -> Iterable[str]:
        """All that is said."""
        return said(self.messages)

    def asked(self) -> str:
        """What stands before the last answer."""
        last = max(i for i, message in enumerate(self.messages) if message.role == "assistant")
        return repr(plain(self.messages[:last]))


# Formats -------------------------------------------------------------------------------------------------------------


def chat(row: Values, warn: Warn) -> Chat:
    """OpenAI's chat, mistral-finetune's `interactions`, ShareGPT's `conversations`, or Google's `contents`."""
    key = next(key for key in TURN_KEYS if row.get(key) is not None)
    parallel = row.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        found = f"'parallel_tool_calls' is {kind_of(parallel)}."
        raise RowFault("bad_tool", found, "Use true or false.", ("parallel_tool_calls",))
    return Chat(conversation_of(row, key, warn), tools_of(row))


def is_gemini(row: Values) -> bool:
    """Whether `contents` are turns with parts; a text would be another format's."""
    turns = row.get("contents")
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and "parts" in turns[0]


def alpaca(row: Values, warn: Warn) -> Chat:
    """An instruction with its input, after earlier exchanges."""
    answer = "output" if row.get("output") is not None else "response"
    extra_key = "input" if row.get("input") is not None else "context"
    return _exchange(row, "instruction", answer, asked=instruction_of(row, extra_key), warn=warn)


def exchange_of(questions: tuple[str, ...], answers: tuple[str, ...]) -> Callable[[Values, Warn], Chat]:
    """A converter of one question and one answer under the first of these keys that a row has."""

    def convert(row: Values, warn: Warn) -> Chat:
        question = next(key for key in questions if row.get(key) is not None)
        answer = next(key for key in answers if row.get(key) is not None)
        if isinstance(row[question], list):  # TRL's conversational form
            return Chat((*conversation_of(row, question, warn), *messages_of(row, answer, warn)), tools_of(row))
        context, asked = text_of(row, "context", required=False), text_of(row, question)
        asked = f"{context}\n\n{asked}" if context.strip() else asked
        return _exchange(row, question, answer, asked=asked, warn=warn)

    return convert


def _exchange(row: Values, question: str, answer: str, *, asked: str, warn: Warn) -> Chat:
    """A chat of the text `asked`, made from what stands under the key `question`, and the text under `answer`."""
    user = Message("user", asked, origin=(question,))
    says = Message("assistant", text_of(row, answer), origin=(answer,))
    return Chat((*system_of(row), *_history(row, warn), user, says), tools_of(row))


def _history(row: Values, warn: Warn) -> Conversation:
    """Earlier exchanges: a list of [question, answer], or of turns."""
    if holds_nothing(row.get("history")):
        return ()
    exchanges = list_of(row, "history", "exchanges")
    if all(isinstance(turn, dict) for turn in exchanges):
        return messages_of(row, "history", warn)
    turns: list[Message] = []
    for i, pair in enumerate(exchanges):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            advice = "Write [question, answer]."
            raise RowFault("bad_history", f"history[{i}] is not two texts.", advice, ("history", i))
        turns += [Message(role, text, origin=("history", i)) for role, text in zip(ROLES[1:3], pair, strict=True)]
    return tuple(turns)


# What is done with it ------------------------------------------------------------------------------------------------


def drafts(content: Chat, contract: Contract) -> list[Draft]:
    """One sequence."""
    return [contract.draft(content.messages, content.tools)]


def check(content: Chat, warn: Warn) -> None:
    """Whether something can be learned from the conversation; a question that already is framed as a prompt."""
    check_conversation(content.messages, content.tools, warn)
    asked = next((one for one in content.messages if one.role == "user"), None)
    if asked is not None and PROMPT_END.search(asked.content[-60:]):
        found = "the question ends as a prompt does, where an answer would begin; the template frames it again."
        warn(RowFault("written_out", found, "Give the question alone, as the model is asked later.", asked.origin))


def edit(content: Chat, change: Edit) -> Chat:
    """The chat with its turns changed."""
    return replace(content, messages=change.learned(change.asked(change.turns(content.messages))))


def turn_by_turn(row: Row) -> Iterator[Row]:
    """A row for each trained turn, which ends with it: what the model will see when it is asked."""
    turns = row.conversation
    for i, message in enumerate(turns):
        if message.role == "assistant" and message.weight:
            yield replace(row, content=Chat((*without_weight(turns[:i]), message), row.tools), whole=row)


KIND = RowKind(
    name=Chat.kind,
    words="chat (or instruction, question and answer)",
    formats=(
        Format("chat", Chat.kind, sets("messages", "interactions"), chat, BESIDE),
        Format("sharegpt", Chat.kind, sets("conversations"), chat, BESIDE),
        Format("gemini", Chat.kind, sets("contents"), chat, BESIDE, is_gemini),
        Format(
            "alpaca",
            Chat.kind,
            sets(
                "instruction output",
                "instruction response",
                "instruction input output",
                "instruction input response",
                "instruction context response",
            ),
            alpaca,
            BESIDE | {"input", "context", "history"},
        ),
        Format(
            "prompt-completion",
            Chat.kind,
            sets("prompt completion", "prompt response", "input output"),
            exchange_of(("prompt", "input"), ("completion", "response", "output")),
            BESIDE | {"context", "history"},
        ),
        Format(
            "question-answer",
            Chat.kind,
            sets("question answer", "question response", "query response", "query answer"),
            exchange_of(("question", "query"), ("answer", "response")),
            BESIDE | {"context", "history"},
        ),
    ),
    chat=True,
    drafts=drafts,
    check=check,
    turns=lambda content: content.messages,
    edit=edit,
    unshown=lambda content, contract: unshown_parts(content.messages, content.tools, contract),
    refuse=refuse_unvaried,
    shown=lambda row: [(plain(row.prompt), row.answer)],
    turn_by_turn=turn_by_turn,
)
