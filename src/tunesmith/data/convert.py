"""Converters: from a raw row of one format to what it teaches. `formats` says which keys call which of them."""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.data.ledger import RowFault
from tunesmith.data.read_json import parse_json
from tunesmith.data.rows import Chat, Content, Labelled, Pair, Passage, Preference, Tagged, Task, Text, Verdict
from tunesmith.data.tools import TOOL_KEYS, tools_of
from tunesmith.data.turns import SYSTEM_KEYS, conversation_of, messages_of, system_of, with_system
from tunesmith.data.values import Values, Warn, holds_nothing, kind_of, list_of, text_of
from tunesmith.data.written import frame_of
from tunesmith.prompt.messages import ROLES, Conversation, Message

TURN_KEYS = ("messages", "interactions", "conversations", "contents")  # under which a row's turns stand


def _exchange(row: Values, question: str, answer: str, *, asked: str = "", warn: Warn) -> Chat:
    """A chat of the texts under the keys `question` (or of the text `asked` that was made from it) and `answer`."""
    user = Message("user", asked or text_of(row, question), origin=(question,))
    said = Message("assistant", text_of(row, answer), origin=(answer,))
    return Chat((*system_of(row), *_history(row, warn), user, said), tools_of(row))


def chat(row: Values, warn: Warn) -> Content:
    """OpenAI's chat, mistral-finetune's `interactions`, ShareGPT's `conversations`, or Google's `contents`."""
    key = next(key for key in TURN_KEYS if row.get(key) is not None)
    parallel = row.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        found = f"'parallel_tool_calls' is {kind_of(parallel)}."
        raise RowFault("bad_tool", found, "Use true or false.", ("parallel_tool_calls",))
    return Chat(conversation_of(row, key, warn), tools_of(row))


def alpaca(row: Values, warn: Warn) -> Content:
    """An instruction with its input, after earlier exchanges."""
    answer = "output" if row.get("output") is not None else "response"
    extra_key = "input" if row.get("input") is not None else "context"
    return _exchange(row, "instruction", answer, asked=_instruction(row, extra_key), warn=warn)


def _instruction(row: Values, extra_key: str) -> str:
    instruction, extra = text_of(row, "instruction"), text_of(row, extra_key, required=False)
    return f"{instruction}\n{extra}" if extra.strip() else instruction


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


def exchange_of(questions: tuple[str, ...], answers: tuple[str, ...]) -> Callable[[Values, Warn], Content]:
    """A converter of one question and one answer under the first of these keys that a row has."""

    def convert(row: Values, warn: Warn) -> Content:
        question = next(key for key in questions if row.get(key) is not None)
        answer = next(key for key in answers if row.get(key) is not None)
        if isinstance(row[question], list):  # TRL's conversational form
            return Chat((*conversation_of(row, question, warn), *messages_of(row, answer, warn)), tools_of(row))
        context, asked = text_of(row, "context", required=False), text_of(row, question)
        asked = f"{context}\n\n{asked}" if context.strip() else asked
        return _exchange(row, question, answer, asked=asked, warn=warn)

    return convert


def text(row: Values, warn: Warn) -> Content:
    """Plain text."""
    return Text(text_of(row, "text" if row.get("text") is not None else "content"))


def _continuation(row: Values, key: str, warn: Warn) -> Conversation:
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


def openai_preference(row: Values, warn: Warn) -> Content:
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
    return Preference(prompt, _continuation(row, sides[0], warn), _continuation(row, sides[1], warn), tools)


def preference(row: Values, warn: Warn) -> Content:
    """A preference pair as TRL, ShareGPT and Alpaca files have it."""
    chosen, rejected = _continuation(row, "chosen", warn), _continuation(row, "rejected", warn)
    asked = _asked(row, warn)
    shared = 0  # what both begin with: it may repeat the prompt, go on from it, or be all there is of it
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    common = chosen[:shared]
    repeated = asked in (common[: len(asked)], common[shared - len(asked) :])
    prompt = with_system(row, common if repeated else (*asked, *common), warn)
    if not any(message.role != "system" for message in prompt):
        written = isinstance(row["chosen"], str) and frame_of(row["chosen"]) is not None
        found = (
            "chosen and rejected are chats written out as text." if written else "chosen and rejected share no prompt."
        )
        advice = "Give them as lists of turns, or the prompt apart from its answers." if written else "Give the prompt."
        raise RowFault("no_prompt", found, advice, ("chosen",))
    return Preference(prompt, chosen[shared:], rejected[shared:], tools_of(row))


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
    asked = _instruction(row, "input") if key == "instruction" else text_of(row, key)
    return (Message("user", asked, origin=(key,)),)


def verdict(row: Values, warn: Warn) -> Content:
    """A continuation with a verdict."""
    key = "label" if row.get("label") is not None else "kto_tag"
    good = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}.get(
        row[key].strip().lower() if isinstance(row[key], str) else row[key] if isinstance(row[key], int) else None
    )
    if good is None:
        raise RowFault("bad_label", f"{key!r} is {_shown(row[key])}.", "Use true or false.", (key,))
    if row.get("completion") is not None:
        if isinstance(row["prompt"], list):
            prompt = conversation_of(row, "prompt", warn)
        else:
            prompt = (*system_of(row), Message("user", text_of(row, "prompt"), origin=("prompt",)))
        return Verdict(prompt, _continuation(row, "completion", warn), good)
    turns = conversation_of(row, "messages" if row.get("messages") is not None else "conversations", warn)
    if turns[-1].role != "assistant":
        found = "the last turn is not the assistant's."
        raise RowFault("no_assistant", found, "Add the answer that is judged.", turns[-1].origin[:-1])
    return Verdict(turns[:-1], turns[-1:], good)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def task(row: Values, warn: Warn) -> Content:
    """A prompt with the fields of its grader."""
    used = {"messages", *TOOL_KEYS, *SYSTEM_KEYS, "parallel_tool_calls"}
    item = {key: value for key, value in row.items() if key not in used}
    return Task(conversation_of(row, "messages", warn), item, tools_of(row))


TEXT_PAIRS = (("text", "text_pair"), ("premise", "hypothesis"), ("sentence1", "sentence2"))


def _texts(row: Values) -> tuple[str, str | None]:
    for first, second in TEXT_PAIRS:
        if row.get(first) is not None and row.get(second) is not None:
            return text_of(row, first), text_of(row, second)
    return text_of(row, "text" if row.get("text") is not None else "sentence"), None


def labelled(row: Values, warn: Warn) -> Content:
    """A text with one class."""
    label, (text, second) = row["label"], _texts(row)
    if isinstance(label, bool) or not isinstance(label, str | int | float) or label == "":
        raise RowFault("bad_label", f"'label' is {_shown(label)}.", "Give a class as text or number.", ("label",))
    return Labelled(text, label, second)


def multi_labelled(row: Values, warn: Warn) -> Content:
    """A text with several classes."""
    labels, (text, second) = row["labels"], _texts(row)
    if isinstance(labels, str):
        labels = list_of(row, "labels", "classes") if labels.lstrip().startswith("[") else labels.split(",")
    if not isinstance(labels, list) or not all(isinstance(one, str | int) for one in labels):
        raise RowFault("bad_label", f"'labels' is {kind_of(labels)}.", "Give a list of classes.", ("labels",))
    return Labelled(text, tuple(name for one in labels if (name := str(one).strip())), second)


def scored(row: Values, warn: Warn) -> Content:
    """A text with a number."""
    key = next(key for key in ("score", "number", "value") if row.get(key) is not None)
    try:
        number = float(row[key])
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if number != number or number in (float("inf"), float("-inf")):
        raise RowFault("bad_label", f"{key!r} is {_shown(row[key])}.", "Give a number.", (key,))
    text, second = _texts(row)
    return Labelled(text, number, second)


def tagged(row: Values, warn: Warn) -> Content:
    """Words with tags."""
    words = next(key for key in ("tokens", "words") if row.get(key) is not None)
    tags = next(key for key in ("tags", "ner_tags", "pos_tags", "labels") if row.get(key) is not None)
    tokens, marks = list_of(row, words, "words"), list_of(row, tags, "tags")
    if not all(isinstance(token, str) for token in tokens):
        raise RowFault("not_text", f"{words!r} holds what is not text.", "Give words as strings.", (words,))
    if not all(isinstance(mark, str | int) for mark in marks):
        raise RowFault("bad_label", f"{tags!r} holds what is no tag.", "Give tags as texts or numbers.", (tags,))
    if len(tokens) != len(marks):
        found = f"{len(tokens)} words and {len(marks)} tags."
        raise RowFault("unequal_lengths", found, "Give each word one tag.", (tags,))
    return Tagged(tuple(tokens), tuple(marks))


def pair(row: Values, warn: Warn) -> Content:
    """A source and its target."""
    return Pair(text_of(row, "source"), text_of(row, "target"))


def passage(row: Values, warn: Warn) -> Content:
    """A question, its context and the answers in it, each of which must stand where it says."""
    question, context, answers = text_of(row, "question"), text_of(row, "context"), row["answers"]
    if isinstance(answers, str):
        answers = list_of({"answers": f"[{answers}]"}, "answers")[0]
    if isinstance(answers, list):  # [{"text": ..., "answer_start": ...}]
        pairs = [
            (one.get("text"), one.get("answer_start")) if isinstance(one, dict) else (one, None) for one in answers
        ]
    elif isinstance(answers, dict) and isinstance(answers.get("text"), list):
        starts = answers.get("answer_start")
        starts = starts if isinstance(starts, list) else []
        pairs = list(zip(answers["text"], [*starts, *[None] * (len(answers["text"]) - len(starts))], strict=False))
    else:
        advice = 'Write {"text": [...], "answer_start": [...]}.'
        raise RowFault("bad_answers", f"'answers' is {kind_of(answers)}.", advice, ("answers",))
    found: list[tuple[str, int]] = []
    for text, start in pairs:
        if not isinstance(text, str) or isinstance(start, bool) or not isinstance(start, int):
            raise RowFault("bad_answers", "an answer lacks its text or its answer_start.", "Give both.", ("answers",))
        if context[start : start + len(text)] != text or start < 0:
            there = f"at character {start} of the context stands {context[max(start, 0) : start + len(text)]!r}"
            where = context.find(text)
            advice = f"It begins at {where}." if where >= 0 else "The context does not hold it."
            raise RowFault("wrong_span", f"the answer is {text!r}, and {there}.", advice, ("answers",))
        found.append((text, start))
    return Passage(question, context, tuple(found))
