"""What people's files look like: read as they mean it, or answered with a sentence that says what would read them."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from conftest import READS, chat_row
from tunesmith.core.errors import DataError, ModelError
from tunesmith.data.config import DataConfig
from tunesmith.data.kinds.chat import Chat
from tunesmith.data.kinds.row import Row
from tunesmith.data.kinds.verdict import Verdict
from tunesmith.data.load import load_rows
from tunesmith.data.prepare import prepare, rendered_rows
from tunesmith.data.quality.ledger import Ledger, Source
from tunesmith.data.split import load_splits
from tunesmith.prompt.base import resolve
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.load import load_contract
from tunesmith.prompt.messages import Message, ToolCall

ASK, SAY = Message("user", "Hi?"), Message("assistant", "Hello.")
KIND = Message("system", "Be kind.")
TURNS = chat_row("Hi?", "Hello.")["messages"]
SHAREGPT = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]
SCHEMA = {"type": "object", "properties": {"town": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
ASKED_AND_TOLD = (
    ASK,
    Message("assistant", "", tool_calls=(ToolCall("weather", {"town": "Ulm"}, "c1"),)),
    Message("tool", "dry", tool_call_id="c1"),
    SAY,
)


@pytest.fixture(scope="module")
def ember():
    return load_contract(resolve("ember").folder)


@pytest.fixture(scope="module")
def chatml():
    return load_contract(resolve("ember").folder, "chatml")


def one(write_rows, row, **options):
    """The only row of a file that holds it, which nothing is said about."""
    dataset = load_rows(str(write_rows([row])), **options)
    assert [str(entry) for entry in dataset.ledger.entries] == []
    return dataset.rows[0]


def without_ids(conversation):
    calls = [tuple((call.name, dict(call.arguments)) for call in message.tool_calls) for message in conversation]
    return [(m.role, m.content, m.reasoning, c) for m, c in zip(conversation, calls, strict=True)]


# Tools ---------------------------------------------------------------------------------------------------------------

NO_TOOLS = ["", " ", "[]", " [ ]\n", "null", "None", "{}", None, [], {}, [{}], "[null]"]


@pytest.mark.parametrize("tools", NO_TOOLS, ids=repr)
def test_every_way_to_say_that_there_are_no_tools(write_rows, tools):
    for row in ({"conversations": SHAREGPT}, {"messages": TURNS}):
        for key in ("tools", "functions"):
            assert one(write_rows, {**row, key: tools}).content == Chat((ASK, SAY))


BARE = {"name": "weather", "parameters": SCHEMA}
DECLARED = {
    "openai": [TOOL],
    "bare": [BARE],
    "flat": [{"type": "function", **BARE}],
    "one_object": BARE,
    "one_openai_object": TOOL,
    "json_text": json.dumps([TOOL]),
    "json_text_of_one": json.dumps(BARE),
    "list_of_json_texts": [json.dumps(BARE)],
    "schema_as_text": [{"name": "weather", "parameters": json.dumps(SCHEMA)}],
    "anthropic": [{"name": "weather", "input_schema": SCHEMA}],
    "google": [{"functionDeclarations": [BARE]}],
    "amazon": {"tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": SCHEMA}}}]},
}


@pytest.mark.parametrize("tools", DECLARED.values(), ids=DECLARED)
def test_tools_as_their_makers_write_them(write_rows, tools):
    assert one(write_rows, {"messages": TURNS, "tools": tools}).tools == (TOOL,)


@pytest.mark.parametrize(
    ("tools", "found"),
    [
        ("weather", "'tools' is text and not JSON"),
        ([{"type": "web_search"}], "tools[0] is of type 'web_search' and names no function"),
        ({"weather": BARE}, "'tools' is an object that names no function"),
        (17, "'tools' is a number"),
    ],
)
def test_what_is_no_tool_is_named(write_rows, tools, found):
    [entry] = load_rows(str(write_rows([{"messages": TURNS, "tools": tools}]))).ledger.entries
    assert found in entry.found


def test_old_function_calls_and_sharegpts_are_calls_like_any(write_rows):
    old = [
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"town": "Ulm"}'}},
        {"role": "function", "name": "weather", "content": "dry"},
        {"role": "assistant", "content": "Hello.", "function_call": None},
    ]
    spoken = [
        SHAREGPT[0],
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"town": "Ulm"}}'},
        {"from": "observation", "value": "dry"},
        SHAREGPT[1],
    ]
    want = without_ids(ASKED_AND_TOLD)
    assert without_ids(one(write_rows, {"messages": old, "functions": [BARE]}).conversation) == want
    assert without_ids(one(write_rows, {"conversations": spoken, "tools": json.dumps([BARE])}).conversation) == want


def test_chatml_shows_tools_calls_answers_and_thoughts_and_trains_on_calls(chatml):
    thought = Message("assistant", "Hello.", reasoning="Be polite.")
    chat = (KIND, *ASKED_AND_TOLD[:-1], thought)
    text = chatml.text(chat, tools=(TOOL,))
    assert re.search(r"<\|im_start\|>system\nBe kind\..*<tools>\n(.*)\n</tools>", text, re.DOTALL)
    assert json.loads(re.search(r"<tools>\n(.*)\n</tools>", text)[1]) == TOOL
    assert "<|im_start|>user\n<tool_response>\ndry\n</tool_response><|im_end|>" in text
    rendered = chatml.render(chat, (TOOL,))
    said = [chatml.tokenizer.decode(list(rendered.ids[begin:end])) for begin, end in rendered.spans]
    call = '<tool_call>\n{"name": "weather", "arguments": {"town": "Ulm"}}\n</tool_call><|im_end|>'
    assert said == [call, "<think>\nBe polite.\n</think>\n\nHello.<|im_end|>"]
    asked = chatml.prompt(chat[:-1], (TOOL,))
    assert rendered.ids[: len(asked)].tolist() == asked


def test_rows_with_calls_train_under_the_template_that_the_refusal_names(write_rows, ember, chatml):
    path = write_rows([{"messages": [
        TURNS[0], {"role": "assistant", "function_call": {"name": "weather", "arguments": {"town": f"Ulm {i}"}}},
    ], "functions": [BARE]} for i in range(3)])  # fmt: skip
    config = DataConfig(train=str(path), validation=0, test=0, near_duplicates="off")
    with pytest.raises(DataError, match=r"does not show that the assistant calls 'weather'.*model\.template=chatml"):
        load_splits(config, ember, 512, READS)
    splits = load_splits(config, chatml, 512, READS)
    assert len(splits.train) == 3
    assert splits.ledgers[0].by_code("warning") == {}


def test_tools_and_thoughts_that_a_template_leaves_out_are_told(ember, chatml):
    rows = [
        Row(Chat((ASK, SAY), (TOOL,)), Source("a", 1)),
        Row(Chat((ASK, Message("assistant", "Hello.", reasoning="Hm."))), Source("a", 2)),
    ]
    for contract, want in ((ember, {"unshown_tools": 1, "unshown_reasoning": 1}), (chatml, {})):
        ledgers = {"a": Ledger("a")}
        assert len(list(prepare(rows, ledgers, contract, 512, READS))) == 2
        assert ledgers["a"].by_code("warning") == want


# Pictures ------------------------------------------------------------------------------------------------------------

WITH_PICTURE = [
    {"images": ["a.png"]}, {"image": "a.png"}, {"image": {"bytes": None, "path": "a.png"}}, {"Image Path": "a.png"},
    {"image_url": "https://example.com/a.png"}, {"videos": ["a.mp4"]}, {"audio": {"array": [0.1], "path": None}},
    {"images": "['a.png']"}, {"img": "data:image/png;base64,AAAA"}, {"image_id": 7}, {"pixel_values": [[0.5]]},
]  # fmt: skip
WITHOUT = [{"images": []}, {"image": None}, {"image": ""}, {"images": "[]"}, {"images": [None]}, {"videos": {}},
           {"image": {"bytes": None, "path": None}}, {"has_image": False}]  # fmt: skip


@pytest.mark.parametrize("beside", WITH_PICTURE, ids=lambda one: next(iter(one)))
def test_a_conversation_over_a_picture_is_refused(write_rows, beside):
    key = next(iter(beside))
    rows = [{"messages": TURNS}, {"conversations": SHAREGPT}, {"prompt": "Hi?", "completion": "Hello."},
            {"prompt": "Hi?", "chosen": "A.", "rejected": "B."}]  # fmt: skip
    for row in rows:
        dataset = load_rows(str(write_rows([{**row, **beside}])))
        assert [(entry.code, entry.outcome) for entry in dataset.ledger.entries] == [("picture", "dropped")], row
        assert f"the row has {key!r} beside its text" in dataset.ledger.entries[0].found
    inside = [{**TURNS[0], **beside}, TURNS[1]]
    [entry] = load_rows(str(write_rows([{"messages": inside}]))).ledger.entries
    assert (entry.code, entry.outcome) == ("picture", "dropped")


@pytest.mark.parametrize("beside", WITHOUT, ids=repr)
def test_no_picture_is_no_fault(write_rows, beside):
    assert one(write_rows, {"messages": TURNS, **beside}).conversation == (ASK, SAY)


def test_markdown_pictures_are_text_and_a_text_beside_a_picture_is_warned_of(write_rows):
    said = "Here: ![plan](https://example.com/plan.png) <imagine> that."
    assert one(write_rows, chat_row("Hi?", said)).answer == said
    dataset = load_rows(str(write_rows([{"text": "A boat.", "image": "a.png"}])))
    assert [(entry.code, entry.outcome) for entry in dataset.ledger.entries] == [("picture", "warning")]
    assert dataset.ledger.remarks == ["Columns not read: 'image' in 1 row."]


# System texts, parts and turns ---------------------------------------------------------------------------------------

SYSTEMS = {
    "text": {"system": "Be kind."},
    "prompt": {"system_prompt": "Be kind."},
    "capital": {"System": "Be kind."},
    "parts": {"system": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]},
    "untyped_parts": {"system": [{"text": "Be kind."}]},
    "turn": {"system": {"role": "system", "content": "Be kind."}},
    "instruction": {"systemInstruction": {"role": "system", "parts": [{"text": "Be kind."}]}},
}


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_a_system_text_beside_the_turns_is_the_system_turn(write_rows, system):
    for row in ({"messages": TURNS}, {"conversations": SHAREGPT}, {"prompt": TURNS[:1], "completion": TURNS[1:]},
                {"question": "Hi?", "answer": "Hello."}, {"instruction": "Hi?", "output": "Hello."}):  # fmt: skip
        assert one(write_rows, {**system, **row}).conversation == (KIND, ASK, SAY)
    verdict = one(write_rows, {**system, "prompt": "Hi?", "completion": "Hello.", "label": True}).content
    assert verdict == Verdict((KIND, ASK), (SAY,), True)


def test_a_system_text_that_is_there_twice_is_one_and_two_are_told(write_rows):
    again = {"system": "Be kind.", "messages": [{"role": "system", "content": "Be kind."}, *TURNS]}
    assert one(write_rows, again).conversation == (KIND, ASK, SAY)
    path = str(write_rows([{**again, "system": "Be brief."}]))
    dataset = load_rows(path)
    assert dataset.rows[0].conversation == (Message("system", "Be brief."), KIND, ASK, SAY)
    assert dataset.ledger.by_code("warning") == {"two_systems": 1}
    joined = load_rows(path, clean=["turns"]).rows[0].conversation
    assert joined == (Message("system", "Be brief.\n\nBe kind."), ASK, SAY)


CONTENTS = {
    "openai": [{"type": "text", "text": "Hi?"}],
    "value": [{"type": "text", "value": "Hi?"}],
    "content": [{"type": "text", "content": "Hi?"}],
    "string": ["Hi?"],
    "input_text": [{"type": "input_text", "text": "Hi?"}],
    "output_text": [{"type": "output_text", "text": "Hi?", "annotations": []}],
    "untyped": [{"text": "Hi?"}],
    "nulls_of_a_table": [{"type": "text", "text": "Hi?", "image_url": None}],
    "several": [{"type": "text", "text": "H"}, {"type": "text", "text": "i?"}],
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_content_of_parts_is_their_text(write_rows, content):
    for key in ("content", "parts", "value"):
        assert one(write_rows, {"messages": [{"role": "user", key: content}, TURNS[1]]}).conversation == (ASK, SAY)


def test_strings_in_a_list_stand_on_lines_of_their_own(write_rows):
    row = {"messages": [{"role": "user", "content": ["Hi?", "You?"]}, TURNS[1]]}
    assert one(write_rows, row).conversation[0].content == "Hi?\nYou?"


ANSWERED = {
    "anthropic": {"messages": [
        TURNS[0],
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Look.", "signature": "x"},
                                          {"type": "text", "text": "Wait."},
                                          {"type": "tool_use", "id": "c1", "name": "weather",
                                           "input": {"town": "Ulm"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1",
                                      "content": [{"type": "text", "text": "dry"}]}]},
        TURNS[1]]},
    "amazon": {"messages": [
        {"role": "user", "content": [{"text": "Hi?"}]},
        {"role": "assistant", "content": [{"reasoningContent": {"reasoningText": {"text": "Look."}}}, {"text": "Wait."},
                                          {"toolUse": {"toolUseId": "c1", "name": "weather",
                                                       "input": {"town": "Ulm"}}}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "c1", "content": [{"text": "dry"}]}}]},
        {"role": "assistant", "content": [{"text": "Hello."}]}]},
    "google": {"contents": [
        {"role": "user", "parts": [{"text": "Hi?"}]},
        {"role": "model", "parts": [{"text": "Look.", "thought": True}, {"text": "Wait."},
                                    {"functionCall": {"id": "c1", "name": "weather", "args": {"town": "Ulm"}}}]},
        {"role": "user", "parts": [{"functionResponse": {"id": "c1", "name": "weather", "response": "dry"}}]},
        {"role": "model", "parts": [{"text": "Hello."}]}]},
    "mistral": {"messages": [
        TURNS[0],
        {"role": "assistant", "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Look."}]},
                                          {"type": "text", "text": "Wait."}],
         "tool_calls": [{"id": "c1", "function": {"name": "weather", "arguments": '{"town": "Ulm"}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "dry"},
        TURNS[1]]},
}  # fmt: skip


@pytest.mark.parametrize("row", ANSWERED.values(), ids=ANSWERED)
def test_calls_answers_and_thoughts_in_parts(write_rows, row):
    read = one(write_rows, {**row, "tools": [BARE]}).conversation
    want = [ASK, Message("assistant", "Wait.", tool_calls=ASKED_AND_TOLD[1].tool_calls, reasoning="Look."),
            ASKED_AND_TOLD[2], SAY]  # fmt: skip
    assert without_ids(read) == without_ids(want)
    assert read[1].tool_calls[0].id == read[2].tool_call_id == "c1"


UNREADABLE = {
    "unknown": ({"type": "hologram"}, "not_text", "content[0] is a part of type 'hologram'"),
    "picture": ({"type": "input_image", "image_url": "a.png"}, "picture", "a part of type 'input_image'"),
    "inline": ({"inlineData": {"mimeType": "image/png", "data": "AAAA"}}, "picture", "the keys 'inlineData'"),
    "document": ({"type": "document", "source": {}}, "picture", "a part of type 'document'"),
    "untyped": ({"x": 1}, "not_text", "a part with the keys 'x'"),
    "redacted": ({"type": "redacted_thinking", "data": "x"}, "not_text", "a part of type 'redacted_thinking'"),
}


@pytest.mark.parametrize(("part", "code", "found"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_part_that_is_no_text_is_named(write_rows, part, code, found):
    path = write_rows([{"messages": [{"role": "user", "content": [part]}, TURNS[1]]}])
    [entry] = load_rows(str(path)).ledger.entries
    assert (entry.code, entry.outcome) == (code, "dropped")
    assert found in entry.found


SPOKEN = {
    "sharegpt_as_messages": {"messages": SHAREGPT},
    "messages_as_sharegpt": {"conversations": TURNS},
    "capital_roles": {"messages": [{"role": "User", "content": "Hi?"}, {"role": "ASSISTANT", "content": "Hello."}]},
    "cohere": {"messages": [{"role": "User", "message": "Hi?"}, {"role": "Chatbot", "message": "Hello."}]},
    "model": {"messages": [TURNS[0], {"role": "model", "content": "Hello."}]},
    "weights_of_others": {"messages": [{**TURNS[0], "loss_weight": 0.0}, {**TURNS[1], "loss_weight": 1.0}]},
}


@pytest.mark.parametrize("row", SPOKEN.values(), ids=SPOKEN)
def test_turns_by_other_names(write_rows, row):
    assert one(write_rows, row).conversation == (ASK, SAY)


@pytest.mark.parametrize("no", [{"weight": 0}, {"loss_weight": 0.0}, {"loss": False}, {"train": False}], ids=repr)
def test_a_turn_that_says_that_it_is_not_trained_on_is_not(write_rows, no):
    row = {"messages": [TURNS[0], {**TURNS[1], **no}, *chat_row("And?", "Bye.")["messages"]]}
    assert [message.weight for message in one(write_rows, row).conversation] == [1, 0, 1, 1]


def test_a_turn_that_says_two_things_is_refused(write_rows):
    path = write_rows([{"messages": [TURNS[0], {"role": "assistant", "content": "A.", "text": "B."}]}])
    [entry] = load_rows(str(path)).ledger.dropped()
    assert (entry.code, entry.found) == ("two_contents", "messages[1] (assistant) has both 'content' and 'text'.")


# The order of roles --------------------------------------------------------------------------------------------------

A1, A2 = Message("assistant", "One."), Message("assistant", "Two.")
ORDERS = {
    "assistant_first": (A1, ASK, SAY),
    "two_users": (ASK, Message("user", "You?"), SAY),
    "two_assistants": (ASK, A1, A2),
    "late_system": (ASK, A1, KIND, Message("user", "You?"), A2),
    "two_systems": (KIND, Message("system", "Be brief."), ASK, SAY),
}
STRICT = (
    "{% for m in messages %}{% if m['role'] == 'system' and not loop.first %}{{ raise_exception('system first') }}"
    "{% elif not loop.first and m['role'] == loop.previtem['role'] %}{{ raise_exception('take turns') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NEEDS_A_TURN = STRICT.replace("{% for", "{% set first = messages[0]['role'] %}{% for", 1)  # as Qwen's does


@pytest.mark.parametrize("chat", ORDERS.values(), ids=ORDERS)
def test_an_order_that_the_template_takes_is_trained_on_with_the_right_mask(write_rows, ember, chat):
    path = write_rows([{"messages": [{"role": m.role, "content": m.content} for m in chat]}])
    dataset = load_rows(str(path))
    assert dataset.rows[0].conversation == chat
    for rule in ("assistant", "last", "all"):
        contract = Contract(ember.tokenizer, ember.template, ember.stop_ids, rule)
        [(_, [rendered])] = rendered_rows(dataset.rows, contract)
        said = [contract.tokenizer.decode(list(rendered.ids[begin:end])) for begin, end in rendered.spans]
        answers = [f"{m.content}<|im_end|>" for m in chat if m.role == "assistant"]
        assert said == {"assistant": answers, "last": answers[-1:], "all": [contract.text(chat)]}[rule]


def test_a_template_that_refuses_an_order_refuses_the_rows_and_joining_neighbours_helps(write_rows, ember):
    strict = Contract(ember.tokenizer, STRICT, ember.stop_ids)
    rows = [{"messages": [{"role": m.role, "content": m.content} for m in ORDERS[name]]} for name in ORDERS]
    path = str(write_rows(rows))
    refused = [name for name, (_, result) in zip(ORDERS, rendered_rows(load_rows(path).rows, strict), strict=True)
               if isinstance(result, ModelError)]  # fmt: skip
    assert refused == ["two_users", "two_assistants", "late_system", "two_systems"]
    dataset = load_rows(path, clean=["turns"])
    assert dataset.ledger.counts() == {"read": 5, "kept": 2, "repaired": 3}
    assert {entry.found for entry in dataset.ledger.entries if entry.outcome == "repaired"} == {
        "cleaned: turns (1 turn joined to the one before)."}  # fmt: skip
    refused = [name for name, (_, result) in zip(ORDERS, rendered_rows(dataset.rows, strict), strict=True)
               if isinstance(result, ModelError)]  # fmt: skip
    assert refused == ["late_system"]


def test_only_turns_that_belong_together_are_joined(write_rows):
    rows = [
        [
            {"role": "user", "name": "Anna", "content": "Hi?"},
            {"role": "user", "name": "Ben", "content": "Hi?"},
            TURNS[1],
        ],
        [TURNS[0], {**TURNS[1], "weight": 0}, {"role": "assistant", "content": "Two."}],
        [TURNS[0], TURNS[0], TURNS[1], {"role": "assistant", "content": "Two."}],
    ]
    dataset = load_rows(str(write_rows([{"messages": turns} for turns in rows])), clean=["turns"])
    assert [len(row.conversation) for row in dataset.rows] == [3, 3, 2]
    assert dataset.rows[2].conversation == (Message("user", "Hi?\n\nHi?"), Message("assistant", "Hello.\n\nTwo."))


def test_a_greeting_is_found_where_the_template_cannot_ask_for_it(ember):
    contract = Contract(ember.tokenizer, NEEDS_A_TURN, ember.stop_ids)
    assert contract.render(ORDERS["assistant_first"]) == ember.render(ORDERS["assistant_first"])


def test_a_template_that_leaves_a_turn_out_is_refused(ember):
    deaf = ember.template.replace("{% for message in messages %}", "{% for message in messages if "
                                  "loop is not defined and (message['role'] != 'system') %}")  # fmt: skip
    contract = Contract(ember.tokenizer, deaf, ember.stop_ids)
    contract.render((ASK, SAY))
    with pytest.raises(ModelError, match=r"leaves out turn 1 \(system\)\. Put system turns first"):
        contract.render((KIND, ASK, SAY))


# Nearly a format -----------------------------------------------------------------------------------------------------

CASED = {
    "question": {"Question": "Hi?", "Answer": "Hello."},
    "input": {"INPUT": "Hi?", "OUTPUT": "Hello."},
    "spaces": {" prompt": "Hi?", "Completion ": "Hello."},
    "alpaca": {"Instruction": "Hi?", "Input": "", "Output": "Hello."},
    "chat": {"Messages": TURNS},
    "orca": {"system_prompt": "", "question": "Hi?", "response": "Hello."},
}


@pytest.mark.parametrize("row", CASED.values(), ids=CASED)
def test_the_case_of_keys_does_not_matter(write_rows, row):
    assert one(write_rows, row).conversation == (ASK, SAY)


def test_a_column_keeps_its_own_name_where_the_key_is_taken(write_rows):
    path = write_rows([{"question": "Hi?", "Question": "Ho?", "answer": "Hello.", "Thema": "x"}])
    dataset = load_rows(str(path))
    assert (dataset.rows[0].conversation, dataset.rows[0].labels) == ((ASK, SAY), {"Question": "Ho?", "Thema": "x"})
    assert dataset.ledger.remarks == ["Columns not read: 'Question' in 1 row, 'Thema' in 1 row."]
    dataset = load_rows(str(path), columns={"question": "Question"})
    assert dataset.rows[0].conversation[0].content == "Ho?"
    assert '"question (the file\'s own)" in 1 row' in dataset.ledger.remarks[0]


EXCHANGES = {
    "user": ("user", "assistant"), "human": ("human", "assistant"), "bot": ("Human", "Bot"), "q": ("Q", "A"),
    "src": ("src", "tgt"), "context": ("context", "response"), "task": ("task", "output"),
    "prompt": ("prompt", "answer"), "instruction": ("instruction", "answer"), "typo": ("promt", "completion"),
    "spaced": ("user message", "assistant response"),
}  # fmt: skip


@pytest.mark.parametrize(("asks", "answers"), EXCHANGES.values(), ids=EXCHANGES)
def test_the_setting_that_is_advised_reads_the_file(write_rows, asks, answers):
    path = str(write_rows([{asks: f"Hi {i}?", answers: "Hello."} for i in range(3)]))
    with pytest.raises(DataError, match="no known format has the keys") as error:
        load_rows(path)
    advice = str(error.value).partition("; or as")[0]
    columns = dict(pair.split("=") for pair in shlex.split(advice.rstrip(".")) if "=" in pair and "{" not in pair)
    dataset = load_rows(path, columns=columns)
    assert [row.conversation for row in dataset.rows] == [(Message("user", f"Hi {i}?"), SAY) for i in range(3)]
    assert dataset.ledger.remarks == []


TALKS = {"conversation": TURNS, "dialog": json.dumps(TURNS), "chat": SHAREGPT,
         "dialogue": [{"speaker": "user", "text": "Hi?"}, {"speaker": "assistant", "text": "Hello."}]}  # fmt: skip


@pytest.mark.parametrize("name", TALKS)
def test_turns_under_a_name_of_their_own_are_known_by_their_looks(write_rows, name):
    path = str(write_rows([{"id": 1, name: TALKS[name]}]))
    with pytest.raises(DataError, match=f"{name!r} looks like turns of a chat: .*--column messages={name} reads it"):
        load_rows(path)
    assert load_rows(path, columns={"messages": name}).rows[0].conversation == (ASK, SAY)


SENTENCES = {
    "strings": ({"dialog": ["Hi?", "Hello."]}, "'dialog' is a list of texts, and nothing says who speaks"),
    "pairs": ({"turns": [{"human": "Hi?", "bot": "Hello."}]}, "a list of objects with the keys 'human', 'bot'"),
    "utterances": ({"turns": [{"speaker": "user", "utterance": "Hi?"}]}, "say something under 'utterance'"),
    "nested": ({"data": {"question": "Hi?", "answer": "Hello."}}, "inside of 'data', which looks like question-answer"),
    "german": ({"Frage": "Hi?", "Antwort": "Hello."}, "If 'Frage' asks and 'Antwort' answers"),
    "one_text": ({"Absatz": "Hi."}, "If 'Absatz' is plain text"),
    "title": ({"title": "Hi", "body": "Hello."}, "as text with data.columns={text: body}"),
    "numbers": ({"a": 1, "b": 2.5}, "Name your keys with data.columns"),
    "no_header": ({"Good room": "Bad room", "praise": "complaint"}, "'Good room', 'praise' are no names of columns"),
    "two_answers": (
        {"prompt": "Hi?", "response_a": "x", "response_b": "y", "winner": "a"},
        "'response_a' and 'response_b' look like two answers to one question",
    ),
    "prompts": ({"prompt": "Hi?", "solution_text": "4"}, "are to be drawn and scored, say data.format=prompts"),
}


@pytest.mark.parametrize(("row", "found"), SENTENCES.values(), ids=SENTENCES)
def test_what_no_setting_reads_is_answered_with_a_sentence(write_rows, row, found):
    with pytest.raises(DataError, match=re.escape(found)):
        load_rows(str(write_rows([row])))


@pytest.mark.parametrize(("label", "good"), [("yes", True), ("No", False), ("good", True), ("bad", False), (1.0, True)])
def test_verdicts_in_words_are_verdicts(write_rows, label, good):
    dataset = load_rows(str(write_rows([{"prompt": "Hi?", "completion": "Hello.", "label": label}])))
    assert (dataset.format, dataset.rows[0].content.good) == ("kto", good)


def test_prompts_alone_are_asked_where_they_are_meant(write_rows):
    path = str(write_rows([{"prompt": "2 + 2?", "answer": "4", "system": "Count."}]))
    [row] = load_rows(path, format="prompts").rows
    assert [(turn.role, turn.content) for turn in row.content.prompt] == [("system", "Count."), ("user", "2 + 2?")]
    assert row.content.item == {"answer": "4"}


SIDES = [[*TURNS[:1], {"role": "assistant", "content": text}] for text in ("A.", "B.")]


@pytest.mark.parametrize(("prompt", "asked", "told"), [
    (f"{TURNS[0]['content']} ", 1, []),
    ([{"role": "system", "content": "Be kind."}, TURNS[0]], 2, []),
    ("Something else?", 2, ["asked_twice"]),
])  # fmt: skip
def test_a_prompt_beside_the_turns_of_a_preference(write_rows, prompt, asked, told):
    dataset = load_rows(str(write_rows([{"prompt": prompt, "chosen": SIDES[0], "rejected": SIDES[1]}])))
    assert len(dataset.rows[0].content.prompt) == asked
    assert list(dataset.ledger.by_code("warning")) == told


def test_columns_that_nothing_reads_are_named_once_with_their_count(write_rows):
    rows = [{"text": f"Text {i}.", "lable": "0", "id": i, "mood": "x" if i else ""} for i in range(4)]
    dataset = load_rows(str(write_rows(rows)))
    assert dataset.format == "text"
    assert dataset.ledger.remarks == [
        "Columns not read: 'lable' in 4 rows (if it is the label: data.columns={label: lable}, in check --column "
        "label=lable), 'mood' in 3 rows, id."
    ]
    assert load_rows(str(write_rows(rows)), columns={"label": "lable"}).format == "text-label"


UNREAD = {
    "category": ({"text": "Hi.", "category": "a"}, "if it is the label: data.columns={label: category}"),
    "intents": ({"text": "Hi.", "intents": ["a"]}, "if it is the labels: data.columns={labels: intents}"),
    "second_answer": ({"instruction": "Hi?", "output": "Hello.", "response": "B."}, "'response' in 1 row"),
    "near_history": ({"query": "Hi?", "response": "Hello.", "histroy": [["a", "b"]]}, "{history: histroy}"),
    "system_message": ({"messages": TURNS, "system message": "Be kind."}, "{system: system message}"),
    "tools_of_a_verdict": ({"prompt": "Hi?", "completion": "A.", "label": True, "tools": [TOOL]}, "'tools' in 1 row"),
    "history_of_turns": ({"prompt": TURNS[:1], "completion": TURNS[1:], "history": [["a", "b"]]},
                         "'history' in 1 row"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "found"), UNREAD.values(), ids=UNREAD)
def test_nothing_is_left_out_without_a_word(write_rows, row, found):
    remarks = " ".join(load_rows(str(write_rows([row]))).ledger.remarks)
    assert "Columns not read: " in remarks
    assert found in remarks


def test_a_key_that_the_format_does_not_read_is_no_use_in_columns(write_rows):
    path = str(write_rows([{"question": "Hi?", "answer": "Hello.", "Thema": "x"}]))
    with pytest.raises(DataError, match=r"reads 'Thema' as 'lable', which question-answer rows do not have"):
        load_rows(path, columns={"lable": "Thema"})


HISTORIES = [[["A?", "B."]], json.dumps([["A?", "B."]]), chat_row("A?", "B.")["messages"]]


@pytest.mark.parametrize("history", HISTORIES, ids=["pairs", "text", "turns"])
def test_earlier_exchanges_are_read_in_every_format_of_one_question(write_rows, history):
    want = (Message("user", "A?"), Message("assistant", "B."), ASK, SAY)
    for row in ({"query": "Hi?", "response": "Hello."}, {"prompt": "Hi?", "completion": "Hello."},
                {"instruction": "Hi?", "output": "Hello."}):  # fmt: skip
        assert one(write_rows, {**row, "history": history}).conversation == want
        for nothing in ([], "[]", None, ""):
            assert one(write_rows, {**row, "history": nothing}).conversation == (ASK, SAY)


def test_chats_with_a_label_say_how_they_are_read_as_chats(write_rows, ember):
    path = str(write_rows([{**chat_row(f"Hi {i}?", "Hello."), "label": i % 2} for i in range(4)]))
    dataset = load_rows(path)
    assert dataset.format == "kto"
    assert "If they are chat rows, say so with data.format=chat" in dataset.ledger.remarks[0]
    with pytest.raises(DataError, match=r"holds verdict rows.*data\.format=chat"):
        load_splits(DataConfig(train=path), ember, 512, READS)
    assert len(load_splits(DataConfig(train=path, format="chat", validation=0, test=0), ember, 512, READS).train) == 4


WRITTEN = {
    "chatml": "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>",
    "llama2": "<s>[INST] Hi? [/INST] Hello. </s>",
    "llama3": "<|start_header_id|>user<|end_header_id|>\n\nHi?<|eot_id|>",
    "gemma": "<start_of_turn>user\nHi?<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>",
    "zephyr": "<|user|>\nHi?</s>\n<|assistant|>\nHello.</s>",
    "alpaca": "Below is a task.\n\n### Instruction:\nHi?\n\n### Response:\nHello.",
    "guanaco": "### Human: Hi?### Assistant: Hello.",
    "script": "User: Hi?\nAssistant: Hello.",
    "anthropic": "\n\nHuman: Hi?\n\nAssistant: Hello.",
    "questions": "Q: Hi?\nA: Hello.",
}


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_a_chat_written_out_as_text_is_told_with_the_format_that_fits(write_rows, text):
    dataset = load_rows(str(write_rows([{"text": text}])))
    assert [(entry.code, entry.outcome) for entry in dataset.ledger.entries] == [("written_out", "warning")]
    assert '{"messages": [{"role": "user"' in dataset.ledger.entries[0].advice


@pytest.mark.parametrize("text", ["A note: buy milk.", "Answer: yes.", "# Title\n\nA user: Anna.", "if a < b: [1]"])
def test_other_texts_are_no_chats(write_rows, text):
    one(write_rows, {"text": text})
