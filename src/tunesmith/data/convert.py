"""Converters: from a raw row of one format to what it teaches. `formats` says which keys call which of them."""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.data.ledger import RowFault
from tunesmith.data.read_json import parse_json
from tunesmith.data.rows import Chat, Content, Labelled, Pair, Passage, Preference, Tagged, Task, Text, Verdict
from tunesmith.data.turns import Values, Warn, kind_of, list_of, messages_of, sharegpt_of, text_of, tools_of
from tunesmith.prompt.messages import ROLES, Conversation, Message

TOOL_KEYS = ("tools", "available_tools", "functions", "parallel_tool_calls")


def _system(row: Values) -> Conversation:
    text = text_of(row, "system", required=False)
    return (Message("system", text, origin=("system",)),) if text.strip() else ()


def _exchange(row: Values, question: str, answer: str, *, asked: str = "", history: Conversation = ()) -> Chat:
    """A chat of the texts under the keys `question` (or of the text `asked` that was made from it) and `answer`."""
    user = Message("user", asked or text_of(row, question), origin=(question,))
    return Chat((*_system(row), *history, user, Message("assistant", text_of(row, answer), origin=(answer,))))


def chat(row: Values, warn: Warn) -> Content:
    """OpenAI's chat, or mistral-finetune's `interactions`."""
    key = "messages" if row.get("messages") is not None else "interactions"
    parallel = row.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        found = f"'parallel_tool_calls' is {kind_of(parallel)}."
        raise RowFault("bad_tool", found, "Use true or false.", ("parallel_tool_calls",))
    return Chat(messages_of(row, key, warn), tools_of(row))


def sharegpt(row: Values, warn: Warn) -> Content:
    """ShareGPT's `conversations`."""
    return Chat(sharegpt_of(row, "conversations"), tools_of(row))


def alpaca(row: Values, warn: Warn) -> Content:
    """An instruction with its input, after earlier exchanges."""
    answer = "output" if row.get("output") is not None else "response"
    extra_key = "input" if row.get("input") is not None else "context"
    return _exchange(row, "instruction", answer, asked=_instruction(row, extra_key), history=_history(row))


def _instruction(row: Values, extra_key: str) -> str:
    instruction, extra = text_of(row, "instruction"), text_of(row, extra_key, required=False)
    return f"{instruction}\n{extra}" if extra.strip() else instruction


def _history(row: Values) -> Conversation:
    """Alpaca's earlier exchanges: a list of [question, answer]."""
    if not row.get("history"):
        return ()
    turns: list[Message] = []
    for i, pair in enumerate(list_of(row, "history", "exchanges")):
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
            return Chat((*messages_of(row, question, warn), *messages_of(row, answer, warn)), tools_of(row))
        context, asked = text_of(row, "context", required=False), text_of(row, question)
        return _exchange(row, question, answer, asked=f"{context}\n\n{asked}" if context.strip() else asked)

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
    if isinstance(turns, dict):
        turns = [turns]
    if isinstance(turns, list) and turns and isinstance(turns[0], dict) and "from" in turns[0]:
        return sharegpt_of({key: turns}, key)
    return messages_of({key: turns}, key, warn)


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
    prompt = messages_of(given, "messages", warn, within=("input",))
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
    if row.get("conversations") is not None:
        prompt = sharegpt_of(row, "conversations")
    elif row.get("messages") is not None:
        prompt = messages_of(row, "messages", warn)
    elif isinstance(row.get("prompt"), list):
        prompt = messages_of(row, "prompt", warn)
    elif key := next((key for key in ("prompt", "question", "instruction") if row.get(key) is not None), None):
        asked = _instruction(row, "input") if key == "instruction" else text_of(row, key)
        prompt = (*_system(row), Message("user", asked, origin=(key,)))
    else:
        prompt = ()
    shared = 0  # what both begin with: it may repeat the prompt, go on from it, or be all there is of it
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    common = chosen[:shared]
    repeated = prompt in (common[: len(prompt)], common[shared - len(prompt) :])
    prompt = common if repeated else (*prompt, *common)
    if not prompt:
        raise RowFault("no_prompt", "chosen and rejected share no prompt.", "Give the prompt.", ("chosen",))
    return Preference(prompt, chosen[shared:], rejected[shared:], tools_of(row))


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
            prompt = messages_of(row, "prompt", warn)
        else:
            prompt = (Message("user", text_of(row, "prompt"), origin=("prompt",)),)
        return Verdict(prompt, _continuation(row, "completion", warn), good)
    sharegpt = row.get("messages") is None
    turns = sharegpt_of(row, "conversations") if sharegpt else messages_of(row, "messages", warn)
    if turns[-1].role != "assistant":
        found = "the last turn is not the assistant's."
        raise RowFault("no_assistant", found, "Add the answer that is judged.", turns[-1].origin[:-1])
    return Verdict(turns[:-1], turns[-1:], good)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def task(row: Values, warn: Warn) -> Content:
    """A prompt with the fields of its grader."""
    used = {"messages", *TOOL_KEYS}
    item = {key: value for key, value in row.items() if key not in used}
    return Task(messages_of(row, "messages", warn), item, tools_of(row))


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
