"""Lists of prompts: what a base model is asked when it writes the rows itself that are replayed beside a user's.

A text file holds one prompt a line. Files of rows may be any that tunesmith reads: of a chat, everything up to its last
question is the prompt, and the answers of a file are passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tunesmith.core.errors import DataError
from tunesmith.data.formats.turns import conversation_of
from tunesmith.data.formats.values import text_of
from tunesmith.data.quality.ledger import Ledger, RowFault, Source
from tunesmith.data.read.files import TEXTS, read_rows
from tunesmith.data.source import SourceFile, find_files
from tunesmith.prompt.messages import Conversation, Message

TURNS = ("messages", "conversations", "prompt")  # keys of prompts that are several turns
QUESTIONS = ("prompt", "instruction", "question", "query", "text")  # keys of prompts that are one text
MORE = {"instruction": "input", "question": "context"}  # what belongs to such a text


def read_prompts(name: str) -> tuple[list[Conversation], Ledger]:
    """The prompts of a file in order, each once, and the account of its rows.

    Raises:
        MissingError: there is no such file.
        DataError: a row holds no prompt, or there are none at all.
    """
    files = find_files(name)
    ledger = Ledger(name)
    found: dict[Conversation, Source] = {}
    for file in files:
        for source, value in _values(file, ledger.notes):
            try:
                prompt = prompt_of(value)
            except RowFault as fault:
                ledger.note("dropped", source, fault)
                continue
            if prompt in found:
                ledger.note("duplicate", source, RowFault("duplicate", f"equal to {found[prompt]}.", "It is left out."))
            else:
                found[prompt] = source
                ledger.keep()
    if lost := ledger.outcomes["dropped"]:
        raise DataError(f"{name}: {lost} of {ledger.read} rows hold no prompt. First: {ledger.dropped()[0]}")
    if not found:
        raise DataError(f"{name}: no prompts. Give one a line, or rows with a prompt, a question or messages.")
    return list(found), ledger


def _values(file: SourceFile, notes: Counter[str]) -> Iterator[tuple[Source, dict[str, Any] | RowFault]]:
    """The rows of a file; of a text file its lines."""
    is_text = any(suffix.lower() in TEXTS for suffix in file.path.suffixes)
    for row in read_rows(file.path, notes, file.name):
        if not is_text or isinstance(row.value, RowFault) or row.value.keys() != {"text"}:
            yield row.source, row.value
            continue
        for number, line in enumerate(row.value["text"].splitlines()):
            yield Source(file.name, row.source.line + number), {"prompt": line}


def prompt_of(row: dict[str, Any] | RowFault) -> Conversation:
    """What a row asks: its turns up to the last one of the user, or its question.

    Raises:
        RowFault: it asks nothing.
    """
    if isinstance(row, RowFault):
        raise row
    turns: Conversation = ()
    if key := next((key for key in TURNS if isinstance(row.get(key), list)), None):
        turns = conversation_of(row, key, lambda fault: None)
    elif key := next((key for key in QUESTIONS if row.get(key) is not None), None):
        more = text_of(row, MORE.get(key, "input"), required=False).strip()
        turns = (Message("user", f"{text_of(row, key)}\n{more}".strip()),)
    asked = max((i + 1 for i, turn in enumerate(turns) if turn.role == "user"), default=0)
    if not asked or not turns[asked - 1].content.strip():
        keys = ", ".join(dict.fromkeys((*TURNS, *QUESTIONS)))
        raise RowFault("no_user", "nothing is asked.", f"Give a question under one of {keys}.")
    if any(turn.tool_calls or turn.role == "tool" for turn in turns[:asked]):
        raise RowFault("tool_order", "tools have been called before the question.", "Give prompts without tools.")
    return turns[:asked]
