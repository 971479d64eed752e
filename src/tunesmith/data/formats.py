"""Formats: a raw row's keys become a conversation. One entry of `FORMATS` for each format that people have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tunesmith.core.errors import DataError
from tunesmith.core.names import did_you_mean
from tunesmith.data.ledger import RowFault
from tunesmith.data.read import parse_json
from tunesmith.prompt.messages import ROLES, Conversation, Message

RawValues = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """A way to write a row.

    Attributes:
        name: what users call it.
        needs: sets of keys, one of which a row has wholly if it is of this format.
        uses: every key that the format reads; others travel along as labels.
        convert: makes the conversation, or raises `RowFault`.
    """

    name: str
    needs: tuple[frozenset[str], ...]
    uses: frozenset[str]
    convert: Callable[[RawValues], Conversation]

    def fits(self, keys: Iterable[str]) -> bool:
        """Whether a row with these keys is of this format."""
        return any(need <= set(keys) for need in self.needs)


def _text(row: RawValues, key: str, required: bool = True) -> str:
    value = row.get(key)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        found = f"{key!r} is missing." if value is None else f"{key!r} is {type(value).__name__}, not text."
        raise RowFault("not_text", found, f"Give {key!r} as a string.")
    if required and not value.strip():
        raise RowFault("empty_text", f"{key!r} is empty.", "Fill it in or delete the row.")
    return value


def _exchange(question: str, answer: str, system: str = "") -> Conversation:
    head = (Message("system", system),) if system.strip() else ()
    return (*head, Message("user", question), Message("assistant", answer))


def _list(value: Any, key: str) -> list[Any]:
    if isinstance(value, str):  # a CSV cell
        value = parse_json(value)
    if value == []:
        raise RowFault("not_a_list", f"{key!r} is empty.", "Give at least a question and an answer.")
    if not isinstance(value, list):
        raise RowFault("not_a_list", f"{key!r} is not a list with turns.", f"Give {key!r} as a list of turns.")
    return value


def _chat(row: RawValues) -> Conversation:
    return tuple(_openai_message(turn, i) for i, turn in enumerate(_list(row["messages"], "messages"), start=1))


def _openai_message(turn: Any, number: int) -> Message:
    where = f"messages[{number}]"
    if not isinstance(turn, dict):
        raise RowFault("not_an_object", f"{where} is {type(turn).__name__}.", 'Write {"role": ..., "content": ...}.')
    role, content, weight = turn.get("role"), turn.get("content"), turn.get("weight", 1)
    role = "system" if role == "developer" else role
    if not isinstance(role, str) or role not in ROLES:
        raise RowFault("unknown_role", f"{where} has role {role!r}.", f"Use one of {', '.join(ROLES)}.")
    if turn.get("tool_calls") or turn.get("function_call"):
        raise RowFault("tool_call", f"{where} calls a tool, which is not trained on yet.", "Drop the row.")
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        found = "no content" if content is None else f"content of type {type(content).__name__}"
        raise RowFault("not_text", f"{where} ({role}) has {found}.", "Give its content as a string.")
    if isinstance(weight, bool) or weight not in (0, 1):
        raise RowFault("bad_weight", f"{where} has weight {weight!r}.", "Use 0 or 1.")
    return Message(role, content, int(weight))


SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def _sharegpt(row: RawValues) -> Conversation:
    messages: list[Message] = []
    if isinstance(row.get("system"), str) and row["system"].strip():
        messages.append(Message("system", row["system"]))
    for number, turn in enumerate(_list(row["conversations"], "conversations"), start=1):
        speaker = turn.get("from") if isinstance(turn, dict) else None
        if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
            known = ", ".join(SHAREGPT_ROLES)
            raise RowFault("unknown_role", f"conversations[{number}] is from {speaker!r}.", f"Use one of {known}.")
        messages.append(Message(SHAREGPT_ROLES[speaker], _text(turn, "value")))
    return tuple(messages)


def _alpaca(row: RawValues) -> Conversation:
    instruction, extra = _text(row, "instruction"), _text(row, "input", required=False)
    question = f"{instruction}\n{extra}" if extra.strip() else instruction
    return _exchange(question, _text(row, "output"), _text(row, "system", required=False))


def _pair(question_key: str, answer_key: str) -> Callable[[RawValues], Conversation]:
    def convert(row: RawValues) -> Conversation:
        system = _text(row, "system", required=False)
        return _exchange(_text(row, question_key), _text(row, answer_key), system)

    return convert


def _pair_format(name: str, question: str, answer: str) -> Format:
    keys = frozenset({question, answer})
    return Format(name, (keys,), keys | {"system"}, _pair(question, answer))


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format("chat", (frozenset({"messages"}),), frozenset({"messages"}), _chat),
        Format("sharegpt", (frozenset({"conversations"}),), frozenset({"conversations", "system"}), _sharegpt),
        Format(
            "alpaca",
            (frozenset({"instruction", "output"}),),
            frozenset({"instruction", "input", "output", "system"}),
            _alpaca,
        ),
        _pair_format("prompt-completion", "prompt", "completion"),
        _pair_format("question-answer", "question", "answer"),
    )
}


def find_format(rows: Iterable[RawValues], file: str) -> Format:
    """The one format that fits the most of `rows`.

    Raises:
        DataError: none fits; the message shows the keys that were found and those that are known.
    """
    samples = list(rows)
    if samples and {"chosen", "rejected"} <= set(samples[0]):
        raise DataError(f"{file}: preference pairs (chosen, rejected), which objective sft cannot train on.")
    votes = {entry.name: sum(entry.fits(row) for row in samples) for entry in FORMATS.values()}
    best = max(votes, key=lambda name: votes[name])
    if not votes[best]:
        known = "; ".join(f"{f.name}: {', '.join(sorted(f.needs[0]))}" for f in FORMATS.values())
        keys = ", ".join(map(repr, samples[0])) if samples else "none"
        raise DataError(f"{file}: no known format has the keys {keys}. Known formats and their keys: {known}.")
    return FORMATS[best]


def named_format(name: str) -> Format:
    """The format called `name`.

    Raises:
        DataError: there is none.
    """
    if name not in FORMATS:
        raise DataError(f"format {name!r}: {did_you_mean(name, FORMATS)}")
    return FORMATS[name]
