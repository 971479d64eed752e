r"""Faulty data files, one table for each way to write rows: what is wrong, where it stands, and what to do about it.

In the tables ◆ marks the place that the finding must name and is taken out before the file is written; without it
the finding names the whole row, column 1. In chats <U> is a user's turn, <A> an assistant's, <C> an assistant's call
of the tool `look` with the id c1, <T> its answer and <TOOLS> the declaration of `look`. Every faulty row stands
between two good ones, which must be kept.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest

from tunesmith.core.errors import ConfigError, DataError, MissingError
from tunesmith.data.config import DataConfig
from tunesmith.data.load import Reading, load_rows
from tunesmith.data.source import find_files

MARK = "◆"
SENTENCE = re.compile(r"\S.*[.?!]", re.S)
TOKENS = {
    "<U>": '{"role": "user", "content": "Hi?"}',
    "<A>": '{"role": "assistant", "content": "Hello."}',
    "<C>": '{"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": "{}"}}]}',
    "<T>": '{"role": "tool", "tool_call_id": "c1", "content": "Rain."}',
    "<TOOLS>": '[{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]',
}
PAIR = '{"prompt": "Which floor?", "completion": "The first."}'
LATER = '{"prompt": "Which room?", "completion": "The last."}'
CHAT = '{"messages": [{"role": "user", "content": "Floor?"}, {"role": "assistant", "content": "The first."}]}'


def spelled(text):
    for token, meaning in TOKENS.items():
        text = text.replace(token, meaning)
    return text


def marked(text):
    """The text without its mark, and the mark's line and column (the beginning where there is none)."""
    place = max(text.find(MARK), 0)
    return text.replace(MARK, ""), text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def entry_of(path, place, code, found, advice, kept, read, outcome="dropped", personal=False, **options):
    """The one entry of a file's ledger is at this place and says this; the ledger balances; the rest is kept."""
    config = DataConfig(train=str(path), **options)
    reading = Reading(find_files(str(path)), config, personal=personal)
    rows = list(reading)
    ledger = reading.ledgers[str(path)]
    entries = [entry for entry in ledger.entries if entry.outcome == outcome]
    assert [entry.code for entry in entries] == [code], [str(entry) for entry in ledger.entries]
    [entry] = entries
    assert (entry.source.line, entry.column) == place, str(entry)
    assert found in entry.found, str(entry)
    assert advice in entry.advice, str(entry)
    assert SENTENCE.fullmatch(entry.found), str(entry)
    assert SENTENCE.fullmatch(entry.advice), str(entry)
    assert ledger.balanced()
    assert (len(rows), ledger.read) == (kept, read), str(entry)
    return entry


def check_between(path, good, bad, later, code, found, advice, **options):
    """The faulty row on line 2 is found, and the good ones on lines 1 and 3 are kept."""
    text, line, column = marked(f"{good}\n{bad}\n{later}\n")
    kept = 3 if options.get("outcome") == "warning" else 2
    entry_of(written(path, text), (max(line, 2), column), code, found, advice, kept, 3, **options)


# JSON ---------------------------------------------------------------------------------------------------------------

BROKEN_JSON = {
    "single_quotes": ("{◆'prompt': 'Hi?', 'completion': 'Hello.'}", "bad_json", "not JSON at column 2", "json.dumps"),
    "trailing_garbage": ('{"prompt": "Hi?", "completion": "Hello."} ◆oops', "bad_json", "extra data", "one object"),
    "two_objects": ('{"prompt": "Hi?", "completion": "A."} ◆{"prompt": "Ho?", "completion": "B."}', "bad_json",
                    "extra data", "one object a line"),
    "unterminated_string": ('{"prompt": "Hi?", "completion": ◆"Hello.}', "bad_json", "unterminated string", "\\n"),
    "line_break_in_string": ('{"prompt": "Hi?", "completion": "Hel◆\x0blo."}', "bad_json", "control character", "\\n"),
    "tab_in_string": ('{"prompt": "Hi?", "completion": "Hel◆\tlo."}', "bad_json", "control character", "\\t"),
    "missing_comma": ('{"prompt": "Hi?" ◆"completion": "Hello."}', "bad_json", "expecting ',' delimiter", "Mend"),
    "missing_colon": ('{"prompt" ◆"Hi?", "completion": "Hello."}', "bad_json", "expecting ':' delimiter", "Mend"),
    "missing_value": ('{"prompt": ◆, "completion": "Hello."}', "bad_json", "expecting value", "Mend"),
    "python_none": ('{"prompt": "Hi?", "completion": ◆None}', "bad_json", "expecting value", "Mend"),
    "bare_key": ('{◆prompt: "Hi?", "completion": "Hello."}', "bad_json", "expecting property name", "Mend"),
    "comment": ("◆// the second question", "bad_json", "expecting value", "Mend"),
    "bad_escape": ('{"prompt": "C:◆\\dir", "completion": "Hello."}', "bad_json", "escape", "Mend"),
    "indented_line": ('   {"prompt": "Hi?" ◆"completion": "Hello."}', "bad_json", "at column 21", "Mend"),
    "nan": ('{"prompt": "Hi?", "completion": ◆NaN}', "bad_number", "'completion' is NaN", "Write a number"),
    "infinity": ('{"prompt": "Hi?", "completion": "A.", "context": ◆-Infinity}', "bad_number",
                 "'context' is -Infinity", "leave the key out"),
    "huge_integer": ('{"prompt": "Hi?", "completion": ◆' + "9" * 5000 + "}", "bad_number",
                     "'completion' is 99999999999999999999..., which no JSON number is", "Write a number"),
    "nan_alone": ("NaN", "bad_json", "NaN is not JSON", "{...}"),
    "twin_keys": ('{"prompt": "Hi?", "prompt": "Ho?", "completion": "Hello."}', "twin_key", "'prompt' is there twice",
                  "Keep one"),
    "twin_keys_inside": ('{"prompt": "Hi?", "completion": "A.", "more": {"a": 1, "a": 2}}', "twin_key", "'a' is there",
                         "Keep one"),
    "too_deep": ('{"prompt": ' + "[" * 100_000, "too_deep", "nested too deeply", "Flatten"),
    "list": ('["Hi?", "Hello."]', "not_an_object", "a row is a list", "{...}"),
    "string": ('"Hi?"', "not_an_object", "a row is text", "{...}"),
    "number": ("17", "not_an_object", "a row is a single value", "{...}"),
    "true": ("true", "not_an_object", "a row is a single value", "{...}"),
    "null": ("null", "not_an_object", "a row is null", "{...}"),
    "lone_surrogate": ('{"prompt": "Hi \\ud83d?", "completion": "Hello."}', "lone_surrogate", "half a character",
                       "whole character"),
}  # fmt: skip


@pytest.mark.parametrize(("bad", "code", "found", "advice"), BROKEN_JSON.values(), ids=BROKEN_JSON)
def test_a_line_that_is_no_json_object(tmp_path, bad, code, found, advice):
    check_between(tmp_path / "rows.jsonl", PAIR, bad, LATER, code, found, advice)


# Chats --------------------------------------------------------------------------------------------------------------

NAMELESS = '{"id": "c1", "type": "function", "function": {"arguments": "{}"}}'
CALL = '{"id": "c1", "function": {"name": "look", "arguments": '
BAD_CHATS = {
    "messages_are_an_object": ("◆<U>", "not_a_list", "'messages' is an object", "list of turns"),
    "messages_are_empty": ("◆[]", "not_a_list", "'messages' is empty", "at least one"),
    "messages_are_text": ('◆"Hi? Hello."', "bad_json", "'messages' is text and not JSON", "as a list"),
    "turn_is_text": ('[<U>, ◆"Hello."]', "not_an_object", "messages[1] is text", '"role": ...'),
    "missing_role": ('[<U>, ◆{"content": "Hello."}]', "missing_role", "messages[1] has no role", '"role": ...'),
    "unknown_role": ('[<U>, {"role": ◆"asistant", "content": "A."}]', "unknown_role", "role 'asistant'",
                     "Did you mean 'assistant'?"),
    "strange_role": ('[<U>, {"role": ◆"narrator", "content": "A."}]', "unknown_role", "role 'narrator'", "Use one of"),
    "role_is_a_number": ('[<U>, {"role": ◆1, "content": "A."}]', "unknown_role", "has role 1", "Use one of"),
    "null_content": ('[<U>, {"role": "assistant", "content": ◆null}]', "not_text", "has null as content", "string"),
    "no_content": ('[<U>, ◆{"role": "assistant"}]', "not_text", "messages[1] (assistant) has no content", "string"),
    "number_content": ('[<U>, {"role": "assistant", "content": ◆17}]', "not_text", "a number as content", "string"),
    "object_content": ('[<U>, {"role": "assistant", "content": ◆{"a": 1}}]', "not_text", "an object as content",
                       "string"),
    "image_part": ('[{"role": "user", "content": [{"type": "text", "text": "What?"}, ◆{"type": "image_url", '
                   '"image_url": {"url": "https://example.com/a.png"}}]}, <A>]', "picture",
                   "messages[0].content[1] is a part of type 'image_url'", "drop the row"),
    "part_is_null": ('[{"role": "user", "content": [◆null]}, <A>]', "not_text", "content[0] is null", "take it out"),
    "part_without_text": ('[{"role": "user", "content": [◆{"type": "text"}]}, <A>]', "not_text", "null as text",
                          "as a string"),
    "empty_user": ('[{"role": "user", "content": ◆"  "}, <A>]', "empty_turn", "turn 1 (user) is empty", "Fill it in"),
    "empty_assistant": ('[<U>, {"role": "assistant", "content": ◆""}]', "empty_turn", "turn 2 (assistant) is empty",
                        "Fill it in"),
    "misspelt_key": ('[<U>, {"role": "assistant", "content": "A.", "wieght": ◆0}]', "unknown_key", "key 'wieght'",
                     "Did you mean 'weight'?"),
    "weight_of_two": ('[<U>, {"role": "assistant", "content": "A.", "weight": ◆2}]', "bad_weight", "weight 2",
                      "0 or 1"),
    "weight_of_half": ('[<U>, {"role": "assistant", "content": "A.", "weight": ◆0.5}]', "bad_weight", "weight 0.5",
                       "0 or 1"),
    "weight_true": ('[<U>, {"role": "assistant", "content": "A.", "weight": ◆true}]', "bad_weight", "weight True",
                    "0 or 1"),
    "name_is_a_number": ('[{"role": "user", "name": ◆5, "content": "Hi?"}, <A>]', "not_text", "name of a number",
                         "Give name as a string"),
    "lone_surrogate_in_name": ('[{"role": "user", "name": "A\\ud83d", "content": "Hi?"}, <A>]', "lone_surrogate",
                               "half a character", "whole character"),
    "no_user": ('◆[{"role": "system", "content": "Be kind."}, <A>]', "no_user", "no user turn", "Add the question"),
    "no_assistant": ('◆[<U>]', "no_assistant", "no assistant turn to learn from", "Add the answer"),
    "all_weights_zero": ('◆[<U>, {"role": "assistant", "content": "A.", "weight": 0}]', "no_assistant",
                         "no assistant turn that is trained on", "weight 1"),
    "user_calls": ('[{"role": "user", "content": "Hi?", "tool_calls": ◆[' + CALL + '"{}"}}]}, <A>]', "tool_call_role",
                   "messages[0] (user) calls a tool", "Only the assistant"),
    "calls_are_no_list": ('[<U>, {"role": "assistant", "tool_calls": ◆{"name": "look"}}]', "bad_tool_call",
                          "an object as tool_calls", "list of calls"),
    "call_without_name": ('[<U>, {"role": "assistant", "tool_calls": [◆' + NAMELESS + "]}]", "bad_tool_call",
                          "messages[1].tool_calls[0] names no function", '"name": ...'),
    "call_of_a_bad_name": ('[<U>, {"role": "assistant", "tool_calls": [◆{"function": {"name": "look up"}}]}]',
                           "bad_tool_name", "calls 'look up'", "letters, digits"),
    "call_of_another_type": ('[<U>, {"role": "assistant", "tool_calls": [{"type": ◆"custom", "function": '
                             '{"name": "look"}}]}]', "bad_tool_call", "is of type 'custom'", "Only functions"),
    "call_with_a_number_as_id": ('[<U>, {"role": "assistant", "tool_calls": [{"id": ◆7, "function": '
                                 '{"name": "look"}}]}]', "bad_tool_call", "a number as id", "id as a string"),
    "arguments_not_json": ('[<U>, {"role": "assistant", "tool_calls": [◆' + CALL + '"{town: Ulm}"}}]}]',
                           "bad_arguments", "arguments that are not JSON", "JSON text of an object"),
    "arguments_a_list": ('[<U>, {"role": "assistant", "tool_calls": [◆' + CALL + '["Ulm"]}}]}]', "bad_arguments",
                         "a list as arguments", "JSON text of an object"),
    "arguments_text_of_a_list": ('[<U>, {"role": "assistant", "tool_calls": [◆' + CALL + '"[1]"}}]}]',
                                 "bad_arguments", "a list as arguments", "JSON text of an object"),
    "twin_ids": ('[<U>, {"role": "assistant", "tool_calls": ◆[' + CALL + '"{}"}}, ' + CALL + '"{}"}}]}], '
                 '"tools": <TOOLS>', "bad_tool_call", "the id 'c1' to two calls", "its own"),
    "tool_without_call": ('[<U>, ◆<T>, <A>]', "tool_order", "turn 2 is a tool's", "after the assistant's call"),
    "tool_answers_twice": ('[<U>, <C>, <T>, ◆<T>, <A>], "tools": <TOOLS>', "tool_order",
                           "turn 4 (tool) answers no call", "one answer"),
    "tool_answers_another": ('[<U>, <C>, {"role": "tool", "content": "Rain.", "tool_call_id": ◆"c9"}, <A>], '
                             '"tools": <TOOLS>', "tool_order", "answers the call 'c9'", "Use one of 'c1'"),
    "call_unanswered": ('[<U>, <C>, ◆<U>, <A>], "tools": <TOOLS>', "tool_unanswered",
                        "turn 3 (user) comes before 1 of the calls", "Add the tools' turns"),
    "undeclared_tool": ('[<U>, {"role": "assistant", "tool_calls": ◆[{"function": {"name": "lok"}}]}], '
                        '"tools": <TOOLS>', "unknown_tool", "turn 2 calls 'lok'", "call one of look"),
    "tools_are_an_object": ('[<U>, <A>], "tools": ◆{"look": {}, "n": 1}', "bad_tool", "'tools' is an object that names",
                            "list of functions"),
    "tool_is_text": ('[<U>, <A>], "tools": [◆"look"]', "bad_tool", "tools[0] is text", '"name": ...'),
    "tool_without_name": ('[<U>, <A>], "tools": [◆{"type": "function", "function": {}}]', "bad_tool",
                          "tools[0] has no usable name", '"name": ...'),
    "parameters_are_a_list": ('[<U>, <A>], "tools": [◆{"function": {"name": "look", "parameters": ["town"]}}]',
                              "bad_tool", "no JSON schema of an object", '"type": "object"'),
    "parameters_are_a_string": ('[<U>, <A>], "tools": [◆{"function": {"name": "look", "parameters": '
                                '{"type": "string"}}}]', "bad_tool", "no JSON schema of an object", "properties"),
    "parallel_is_text": ('[<U>, <A>], "parallel_tool_calls": ◆"no"', "bad_tool", "'parallel_tool_calls' is text",
                         "true or false"),
}  # fmt: skip


@pytest.mark.parametrize(("bad", "code", "found", "advice"), BAD_CHATS.values(), ids=BAD_CHATS)
def test_a_chat_that_teaches_nothing(tmp_path, bad, code, found, advice):
    later = CHAT.replace("Floor", "Room")
    row = spelled(f'{{"messages": {bad}}}')
    check_between(tmp_path / "rows.jsonl", CHAT, row, later, code, found, advice)


def test_a_place_is_the_same_when_the_recipe_adds_a_system_message(tmp_path):
    row = spelled('{"messages": [<U>, {"role": "assistant", "content": ◆" "}]}')
    found = "turn 2 (assistant) is empty"
    check_between(tmp_path / "rows.jsonl", CHAT, row, CHAT.replace("Floor", "Room"), "empty_turn", found, "Fill",
                  system="Be kind.")  # fmt: skip


def test_a_place_is_found_under_a_column_with_another_name(tmp_path):
    good, later = (text.replace('"messages"', '"talk"') for text in (CHAT, CHAT.replace("Floor", "Room")))
    row = spelled('{"talk": [<U>, {"role": "assistant", "content": ◆" "}]}')
    check_between(tmp_path / "rows.jsonl", good, row, later, "empty_turn", "turn 2 (assistant)", "Fill",
                  columns={"messages": "talk"})  # fmt: skip
    good, row, later = (text.replace('"talk"', '"Messages "') for text in (good, row, later))
    check_between(tmp_path / "rows.jsonl", good, row, later, "empty_turn", "turn 2 (assistant)", "Fill")


# The other formats --------------------------------------------------------------------------------------------------

ALPACA = '{"instruction": "%s?", "output": "Hello."}'
SHAREGPT = '{"conversations": [{"from": "human", "value": "%s?"}, {"from": "gpt", "value": "Hello."}]}'
COMPLETION = '{"prompt": "%s?", "completion": "Hello."}'
ANSWER = '{"question": "%s?", "answer": "Hello."}'
TURNS = '{"prompt": [{"role": "user", "content": "%s?"}], "completion": [{"role": "assistant", "content": "A."}]}'
INTERACTIONS = '{"interactions": [{"role": "user", "content": "%s?"}, {"role": "assistant", "content": "A."}]}'
TEXT = '{"text": "%s."}'
OPENAI = (
    '{"input": {"messages": [{"role": "user", "content": "%s?"}]}, "preferred_output": [{"role": "assistant", '
    '"content": "A."}], "non_preferred_output": [{"role": "assistant", "content": "B."}]}'
)
PREFERENCE = '{"prompt": "%s?", "chosen": "A.", "rejected": "B."}'
SIDES = (
    '{"chosen": [{"role": "user", "content": "%s?"}, {"role": "assistant", "content": "A."}], '
    '"rejected": [{"role": "user", "content": "%s?"}, {"role": "assistant", "content": "B."}]}'
)
KTO = '{"prompt": "%s?", "completion": "A.", "label": true}'
KTO_CHAT = '{"messages": [{"role": "user", "content": "%s?"}, {"role": "assistant", "content": "A."}], "kto_tag": true}'
TASK = '{"messages": [{"role": "user", "content": "%s?"}], "reference": "4"}'
LABEL = '{"text": "%s.", "label": "good"}'
LABELS = '{"text": "%s.", "labels": ["good", "long"]}'
NUMBER = '{"text": "%s.", "score": 0.5}'
TAGS = '{"tokens": ["%s", "now"], "tags": ["V", "A"]}'
TRANSLATION = '{"source": "%s.", "target": "Hallo."}'
PASSAGE = '{"question": "%s?", "context": "The red cat.", "answers": {"text": ["red"], "answer_start": [4]}}'
ASKED = '{"input": {"messages": [<U>]}, "preferred_output": '
BAD_ROWS = {
    "alpaca_no_output": (ALPACA, '{"instruction": "Hi?", "input": "Now."}', "missing_key", "no 'output', which alpaca",
                         "Add it"),
    "alpaca_null_output": (ALPACA, '{"instruction": "Hi?", "output": ◆null}', "missing_key", "'output' is null",
                           "Give it"),
    "alpaca_empty_instruction": (ALPACA, '{"instruction": ◆"", "output": "A."}', "empty_text",
                                 "'instruction' is empty", "Fill it in"),
    "alpaca_input_is_a_list": (ALPACA, '{"instruction": "Hi?", "input": ◆["a"], "output": "A."}', "not_text",
                               "'input' is a list", "as a string"),
    "alpaca_history_of_texts": (ALPACA, '{"instruction": "Hi?", "output": "A.", "history": [["a", "b"], ◆"c"]}',
                                "bad_history", "history[1] is not two texts", "[question, answer]"),
    "alpaca_history_of_triples": (ALPACA, '{"instruction": "Hi?", "output": "A.", "history": [◆["a", "b", "c"]]}',
                                  "bad_history", "history[0] is not two texts", "[question, answer]"),
    "alpaca_history_is_an_object": (ALPACA, '{"instruction": "Hi?", "output": "A.", "history": ◆{"a": "b"}}',
                                    "not_a_list", "'history' is an object", "list of exchanges"),
    "sharegpt_unknown_speaker": (SHAREGPT, '{"conversations": [{"from": "human", "value": "Hi?"}, '
                                 '{"from": ◆"robot", "value": "A."}]}', "unknown_role",
                                 "conversations[1] is from 'robot'", "Did you mean 'bot'"),
    "sharegpt_no_speaker": (SHAREGPT, '{"conversations": [◆{"value": "Hi?"}, {"from": "gpt", "value": "A."}]}',
                            "missing_role", "conversations[0] has no from", '"from": ...'),
    "sharegpt_turn_is_text": (SHAREGPT, '{"conversations": [◆"Hi?", {"from": "gpt", "value": "A."}]}',
                              "not_an_object", "conversations[0] is text", '"from": ...'),
    "sharegpt_no_value": (SHAREGPT, '{"conversations": [{"from": "human", "value": "Hi?"}, ◆{"from": "gpt"}]}',
                          "not_text", "conversations[1] (assistant) has no value", "as a string"),
    "sharegpt_empty_value": (SHAREGPT, '{"conversations": [◆{"from": "human", "value": ""}, '
                             '{"from": "gpt", "value": "A."}]}', "empty_turn", "turn 1 (user) is empty",
                             "Fill it in"),
    "sharegpt_bad_call": (SHAREGPT, '{"conversations": [{"from": "human", "value": "Hi?"}, '
                          '◆{"from": "function_call", "value": "look()"}]}', "bad_tool_call",
                          "a function_call that is not JSON", '"name": ...'),
    "sharegpt_weight_of_seven": (
        SHAREGPT, '{"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "A.", '
        '"weight": ◆7}]}', "bad_weight", "conversations[1] has weight 7", "0 or 1"),
    "sharegpt_all_weights_zero": (
        SHAREGPT, '{"conversations": ◆[{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "A.", '
        '"weight": "0"}]}', "no_assistant", "no assistant turn that is trained on", "weight 1"),
    "sharegpt_no_answer": (SHAREGPT, '{"conversations": ◆[{"from": "human", "value": "Hi?"}]}', "no_assistant",
                           "no assistant turn to learn from", "Add the answer"),
    "completion_is_a_number": (COMPLETION, '{"prompt": "Hi?", "completion": ◆3}', "not_text",
                               "'completion' is a number", 'as a string: "3"'),
    "completion_is_true": (COMPLETION, '{"prompt": "Hi?", "completion": ◆true}', "not_text", "true or false, not text",
                           "as a string"),
    "completion_is_empty": (COMPLETION, '{"prompt": "Hi?", "completion": ◆" "}', "empty_text",
                            "'completion' is empty", "Fill it in"),
    "prompt_is_a_number": (COMPLETION, '{"prompt": ◆7, "completion": "A."}', "not_text", "'prompt' is a number",
                           'as a string: "7"'),
    "prompt_turn_without_role": (TURNS, '{"prompt": [◆{"content": "Hi?"}], "completion": [<A>]}', "missing_role",
                                 "prompt[0] has no role", '"role": ...'),
    "question_without_answer": (ANSWER, '{"question": "Hi?"}', "missing_key", "no 'answer'", "Add it"),
    "answer_is_a_list": (ANSWER, '{"question": "Hi?", "answer": ◆["A."]}', "not_text", "'answer' is a list",
                         "as a string"),
    "text_is_empty": (TEXT, '{"text": ◆""}', "empty_text", "'text' is empty", "Fill it in"),
    "text_is_null": (TEXT, '{"text": ◆null}', "missing_key", "'text' is null", "Give it"),
    "openai_input_is_text": (OPENAI, '{"input": ◆"Hi?", "preferred_output": [<A>], "non_preferred_output": [<A>]}',
                             "not_an_object", "'input' is text", '{"messages": [...]}'),
    "openai_no_messages": (OPENAI, '{"input": ◆{"prompt": "Hi?"}, "preferred_output": [<A>], '
                           '"non_preferred_output": [<A>]}', "not_a_list", "'messages' is missing", "list of turns"),
    "openai_empty_output": (OPENAI, ASKED + '◆[], "non_preferred_output": [<A>]}', "not_a_list",
                            "'preferred_output' is empty", "at least one"),
    "openai_output_of_a_user": (OPENAI, ASKED + '◆[<U>], "non_preferred_output": [<A>]}', "no_assistant",
                                "preferred_output is not an assistant's answer", "one assistant turn"),
    "openai_equal_sides": (OPENAI, ASKED + '[<A>], "non_preferred_output": ◆[<A>]}', "equal_sides", "are equal",
                           "Delete the row"),
    "openai_prompt_ends_with_assistant": (
        OPENAI, '{"input": {"messages": [<U>, ◆<A>]}, "preferred_output": [{"role": "assistant", "content": "B."}], '
        '"non_preferred_output": [{"role": "assistant", "content": "C."}]}', "prompt_ends",
        "ends with an assistant's turn", "user's turn"),
    "preference_equal_texts": (PREFERENCE, '{"prompt": "Hi?", "chosen": "A.", "rejected": ◆"A."}', "equal_sides",
                               "chosen and rejected are equal", "Delete the row"),
    "preference_equal_turns": (SIDES, '{"chosen": [<U>, <A>], "rejected": ◆[<U>, <A>]}', "equal_sides",
                               "chosen and rejected are equal", "Delete the row"),
    "preference_no_prompt": (PREFERENCE, '{"chosen": ◆"A.", "rejected": "B."}', "no_prompt", "share no prompt",
                             "Give the prompt"),
    "preference_chosen_ends_with_user": (SIDES, '{"chosen": ◆[<U>, <A>, <U>], "rejected": [<U>, {"role": "assistant", '
                                         '"content": "B."}]}', "no_assistant", "chosen is not an assistant's answer",
                                         "one assistant turn"),
    "preference_rejected_is_empty": (PREFERENCE, '{"prompt": "Hi?", "chosen": "A.", "rejected": ◆""}', "empty_text",
                                     "'rejected' is empty", "Fill it in"),
    "preference_no_rejected": (PREFERENCE, '{"prompt": "Hi?", "chosen": "A."}', "missing_key", "no 'rejected'",
                               "Add it"),
    "kto_bad_label": (KTO, '{"prompt": "Hi?", "completion": "A.", "label": ◆"maybe"}', "bad_label",
                      "'label' is 'maybe'", "true or false"),
    "kto_label_of_two": (KTO, '{"prompt": "Hi?", "completion": "A.", "label": ◆2}', "bad_label", "'label' is 2",
                         "true or false"),
    "kto_no_label": (KTO, '{"prompt": "Hi?", "completion": "A."}', "missing_key", "no 'label', which kto",
                     "It looks like prompt-completion"),
    "kto_ends_with_user": (KTO_CHAT, '{"messages": ◆[<U>, <A>, <U>], "kto_tag": true}', "no_assistant",
                           "the last turn is not the assistant's", "answer that is judged"),
    "task_ends_with_assistant": (TASK, '{"messages": [<U>, ◆<A>], "reference": "4"}', "prompt_ends",
                                 "ends with an assistant's turn", "user's turn"),
    "label_is_empty": (LABEL, '{"text": "Hi.", "label": ◆""}', "bad_label", "'label' is ''", "class"),
    "label_is_a_list": (LABEL, '{"text": "Hi.", "label": ◆["good"]}', "bad_label", "'label' is ['good']", "class"),
    "label_is_null": (LABEL, '{"text": "Hi.", "label": ◆null}', "missing_key", "'label' is null", "Give it"),
    "label_with_lone_surrogate": (LABEL, '{"text": "Hi.", "label": "\\ud83d"}', "lone_surrogate", "half a character",
                                  "whole character"),
    "label_of_marks": (LABEL, '{"text": "Hi.", "label": ◆[[0, 2, "NAME"]]}', "bad_label",
                       "'label' is [[0, 2, 'NAME']]", "If it marks characters, say data.columns={spans: label}"),
    "labels_are_switches": (LABELS, '{"text": "Hi.", "labels": ◆[0, 1, 0]}', "bad_label",
                            "whether each class holds, it seems, and not which", "the names of those that hold"),
    "labels_are_true_or_false": (LABELS, '{"text": "Hi.", "labels": ◆[true, false]}', "bad_label",
                                 "whether each class holds", "the names of those that hold"),
    "labels_with_null": (LABELS, '{"text": "Hi.", "labels": ["a", ◆null]}', "bad_label", "'labels' holds null",
                         "as text or number"),
    "labels_are_a_number": (LABELS, '{"text": "Hi.", "labels": ◆5}', "bad_label", "'labels' is a number",
                            "list of classes"),
    "number_is_a_word": (NUMBER, '{"text": "Hi.", "score": ◆"high"}', "bad_label", "'score' is 'high'",
                         "Give a number"),
    "number_is_infinite": (NUMBER, '{"text": "Hi.", "score": ◆1e999}', "bad_number", "'score' is 1e999",
                           "Write a number"),
    "number_is_too_long": (NUMBER, '{"text": "Hi.", "score": ◆1' + "0" * 400 + "}", "bad_label", "'score' is 1",
                           "Give a number"),
    "tags_of_unequal_length": (TAGS, '{"tokens": ["Go", "now"], "tags": ◆["V"]}', "unequal_lengths",
                               "2 words and 1 tags", "one tag"),
    "tokens_of_numbers": (TAGS, '{"tokens": ["Go", ◆1], "tags": ["V", "N"]}', "not_text", "'tokens' holds",
                          "words as strings"),
    "tags_of_null": (TAGS, '{"tokens": ["Go", "now"], "tags": ["V", ◆null]}', "bad_label", "'tags' holds",
                     "texts or numbers"),
    "tags_are_text": (TAGS, '{"tokens": ["Go", "now"], "tags": ◆"V A"}', "bad_json", "'tags' is text", "as a list"),
    "target_is_empty": (TRANSLATION, '{"source": "Hi.", "target": ◆""}', "empty_text", "'target' is empty",
                        "Fill it in"),
    "span_elsewhere": (PASSAGE, '{"question": "Hi?", "context": "The red cat.", "answers": ◆{"text": ["red"], '
                       '"answer_start": [5]}}', "wrong_span", "at character 5 of the context stands 'ed '",
                       "It begins at 4."),
    "span_nowhere": (PASSAGE, '{"question": "Hi?", "context": "The red cat.", "answers": ◆{"text": ["blue"], '
                     '"answer_start": [4]}}', "wrong_span", "the answer is 'blue'", "does not hold it"),
    "span_before_the_beginning": (PASSAGE, '{"question": "Hi?", "context": "The red cat.", "answers": ◆{"text": '
                                  '["cat."], "answer_start": [-4]}}', "wrong_span", "at character -4",
                                  "It begins at 8."),
    "span_without_start": (PASSAGE, '{"question": "Hi?", "context": "The red cat.", "answers": ◆{"text": ["red"]}}',
                           "bad_answers", "lacks its text or its answer_start", "Give both"),
    "answers_are_a_number": (PASSAGE, '{"question": "Hi?", "context": "The red cat.", "answers": ◆3}', "bad_answers",
                             "'answers' is a number", '"answer_start": [...]'),
    "another_format": (CHAT.replace("Floor", "%s"), '{"question": "Hi?", "answer": "A."}', "missing_key",
                       "no 'messages', which chat rows have", "It looks like question-answer"),
    "another_kind": (COMPLETION, '{"source": "Hi.", "target": "Hallo."}', "missing_key", "'prompt'",
                     "It looks like source-target"),
    "missing_keys": (CHAT.replace("Floor", "%s"), '{"intent": "greet"}', "missing_key", "no 'messages'", "Add it"),
    "empty_object": (COMPLETION, "{}", "missing_key", "no 'completion', 'prompt', which prompt-completion",
                     "delete the row"),
}  # fmt: skip


@pytest.mark.parametrize(("good", "bad", "code", "found", "advice"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_row_that_breaks_its_format(tmp_path, good, bad, code, found, advice):
    one, two = good.replace("%s", "One"), good.replace("%s", "Two")
    check_between(tmp_path / "rows.jsonl", one, spelled(bad), two, code, found, advice)


# Whole files with a bad row in them ---------------------------------------------------------------------------------


def cp1252(text):
    """Text in which ¤ becomes a byte that is not UTF-8, an é of Windows-1252."""
    return text.encode("utf-8").replace("¤".encode(), b"\xe9")


BYTES = cp1252(f'{PAIR}\n{{"prompt": "Grüße?", "completion": "Caf¤."}}\n{LATER}\n')
MARKED_BYTES = cp1252(f'\ufeff{PAIR}\n{{"prompt": "Hi?", "completion": "Caf¤."}}\n{LATER}\n')
ARRAY_BYTES = cp1252(f'[{PAIR},\n {{"prompt": "Grüße?", "completion": "Caf¤."}},\n {LATER}]')
SPREAD_BYTES = cp1252(f'[\n{PAIR},\n{{\n  "prompt": "Hi?",\n  "completion": "Caf¤."\n}},\n{LATER}\n]')
TABLE_BYTES = cp1252("prompt,completion\nFloor?,First.\nHi?,Caf¤.\nRoom?,Last.\n")
CELL_BYTES = cp1252('prompt,completion\nFloor?,First.\n"Hi\nyou?",Caf¤.\nRoom?,Last.\n')
TEXT_BYTES = cp1252("Floor.\n\nTwo lines,\nand a caf¤.\n\nRoom.\n")
BROKEN = '{"prompt": "Hi?" ◆"completion": "A."}'
NO_ANSWER = spelled('{"messages": [<U>, {"role": "assistant", "content": ◆""}]}')
ROOM = CHAT.replace("Floor", "Room")
SPREAD_CHAT = """{
    "messages": [
      {"role": "user", "content": "Hi?"},
      {"role": "assistant",
       "content": ◆null}
    ]
  }"""
CSV = "prompt,completion\nFloor?,First.\n"
END = "Room?,Last.\n"


def cell(text):
    return '"' + text.replace('"', '""') + '"'


def offset(data):
    return f"byte 0xe9 at offset {data.index(0xE9)} is not UTF-8 (in Windows-1252 it is 'é')"


BAD_FILES = {
    # name, content, line and column where ◆ does not show them, code, found, advice, rows that are kept, rows read
    "bytes_in_lines": ("rows.jsonl", BYTES, (2, 40), "undecodable", offset(BYTES), "as UTF-8", 2, 3),
    "bytes_after_byte_order_mark": ("rows.jsonl", MARKED_BYTES, (2, 37), "undecodable", offset(MARKED_BYTES),
                                    "as UTF-8", 2, 3),
    "bytes_in_array": ("rows.json", ARRAY_BYTES, (2, 41), "undecodable", offset(ARRAY_BYTES), "as UTF-8", 2, 3),
    "bytes_in_spread_array": ("rows.json", SPREAD_BYTES, (5, 21), "undecodable", offset(SPREAD_BYTES), "as UTF-8",
                              2, 3),
    "bytes_in_csv": ("rows.csv", TABLE_BYTES, (3, 8), "undecodable", offset(TABLE_BYTES), "as UTF-8", 2, 3),
    "bytes_in_csv_after_a_broken_cell": ("rows.csv", CELL_BYTES, (4, 10), "undecodable", offset(CELL_BYTES),
                                         "as UTF-8", 2, 3),
    "bytes_in_text": ("rows.txt", TEXT_BYTES, (4, 10), "undecodable", offset(TEXT_BYTES), "as UTF-8", 2, 3),
    "cut_last_line": ("rows.jsonl", f'{PAIR}\n{LATER}\n{{"prompt": "Hi?", "completion": ◆"Hel', None, "bad_json",
                      "unterminated string", "cut off", 2, 3),
    "cut_last_line_between_keys": ("rows.jsonl", f'{PAIR}\n{LATER}\n{{"prompt": "Hi?", "completion":◆', None,
                                   "bad_json", "not JSON at column 32", "cut off", 2, 3),
    "windows_line_ends": ("rows.jsonl", f"{PAIR}\r\n{BROKEN}\r\n{LATER}\r\n", None, "bad_json", "',' delimiter",
                          "Mend", 2, 3),
    "empty_lines_count": ("rows.jsonl", f"{PAIR}\n\n\n{BROKEN}\n{LATER}\n", None, "bad_json", "',' delimiter", "Mend",
                          2, 3),
    "first_line": ("rows.jsonl", f"{BROKEN}\n{PAIR}\n{LATER}\n", None, "bad_json", "',' delimiter", "Mend", 2, 3),
    "byte_order_mark_and_fault": ("rows.jsonl", f"\ufeff{BROKEN.replace(MARK, '')}\n{PAIR}\n{LATER}\n", (1, 18),
                                  "bad_json", "at column 18", "Mend", 2, 3),
    "duplicate_key_in_array": ("rows.json", f'[\n{PAIR},\n◆{{"prompt": "a", "prompt": "b"}},\n{LATER}\n]', None,
                               "twin_key", "'prompt' is there twice", "Keep one", 2, 3),
    "array_with_bad_object": ("rows.json", f"[\n{PAIR},\n{BROKEN},\n{LATER}\n]", None, "bad_json", "',' delimiter",
                              "Mend", 2, 3),
    "array_with_single_quotes": ("rows.json", f"[\n{PAIR},\n{{◆'prompt': 'Hi?'}},\n{LATER}\n]", None, "bad_json",
                                 "property name", "json.dumps", 2, 3),
    "array_with_unclosed_string": ("rows.json", f'[\n{PAIR},\n{{"prompt": "Hi?, "◆completion": "A."}},\n{LATER}\n]',
                                   None, "bad_json", "',' delimiter", "Mend", 2, 3),
    "array_with_a_bare_word": ("rows.json", f"[\n{PAIR},\n◆None,\n{LATER}\n]", None, "bad_json", "expecting value",
                               "Mend", 2, 3),
    "array_with_nan": ("rows.json", f"[\n{PAIR},\n◆NaN,\n{LATER}\n]", None, "bad_json", "NaN", "{...}", 2, 3),
    "array_with_text": ("rows.json", f'[\n{PAIR},\n◆"Hi?",\n{LATER}\n]', None, "not_an_object", "a row is text",
                        "{...}", 2, 3),
    "array_with_a_list": ("rows.json", f"[\n{PAIR},\n◆[1, [2]],\n{LATER}\n]", None, "not_an_object", "a row is a list",
                          "{...}", 2, 3),
    "array_with_null": ("rows.json", f"[\n{PAIR},\n◆null,\n{LATER}\n]", None, "not_an_object", "a row is null",
                        "{...}", 2, 3),
    "array_on_one_line": ("rows.json", f"[{CHAT}, {NO_ANSWER}, {ROOM}]", None, "empty_turn", "turn 2 (assistant)",
                          "Fill it in", 2, 3),
    "array_on_one_line_missing_key": ("rows.json", f'[{PAIR}, ◆{{"prompt": "Hi?"}}, {LATER}]', None, "missing_key",
                                      "no 'completion'", "Add it", 2, 3),
    "array_on_one_line_bad_json": ("rows.json", f"[{PAIR}, {BROKEN}, {LATER}]", None, "bad_json", "',' delimiter",
                                   "Mend", 2, 3),
    "array_with_indented_rows": ("rows.json", f"[\n  {CHAT},\n  {NO_ANSWER},\n  {ROOM}\n]", None, "empty_turn",
                                 "turn 2 (assistant)", "Fill it in", 2, 3),
    "array_spread_out": ("rows.json", f"[\n  {CHAT},\n  {SPREAD_CHAT},\n  {ROOM}\n]", None, "not_text",
                         "messages[1] (assistant) has null as content", "as a string", 2, 3),
    "array_spread_out_bad_json": ("rows.json",
                                  f'[\n{PAIR},\n{{\n"prompt": "Hi?"\n  ◆"completion": "A."\n}},\n{LATER}\n]',
                                  None, "bad_json", "at line 5, column 3 (expecting ','", "Mend", 2, 3),
    "array_in_an_object": ("rows.json", f'{{"data": [\n{PAIR},\n{BROKEN},\n{LATER}\n]}}', None, "bad_json",
                           "',' delimiter", "Mend", 2, 3),
    "indented_lines": ("rows.jsonl", f"  {CHAT}\n  {NO_ANSWER}\n  {ROOM}\n", None, "empty_turn", "turn 2 (assistant)",
                       "Fill it in", 2, 3),
    "csv_too_many_cells": ("rows.csv", f"{CSV}Hi?,Well, hello.\n{END}", (3, 1), "wrong_cells",
                           "3 cells where the header has 2", "Quote cells", 2, 3),
    "csv_too_few_cells": ("rows.csv", f"{CSV}Hi?\n{END}", (3, 1), "wrong_cells", "1 cell where the header has 2",
                          "Add the missing", 2, 3),
    "csv_stray_quote": ("rows.csv", f'{CSV}"Hi" you?,Hello.\n{END}', (3, 1), "bad_quotes", "not CSV", 'as ""', 2, 3),
    "csv_empty_cell": ("rows.csv", f"{CSV}Hi?,\n{END}", (3, 1), "empty_text", "'completion' is empty", "Fill it in",
                       2, 3),
    "csv_place_after_a_cell_of_two_lines": ("rows.csv", f'{CSV}"Which\nroom?",Last.\nHi?,\n', (5, 1), "empty_text",
                                            "'completion' is empty", "Fill it in", 2, 3),
    "csv_quote_that_swallows_rows": ("rows.csv", f'{CSV}Which?,"This.\nWho?,"Nobody."\n{END}', (3, 1), "bad_quotes",
                                     "line 4", 'as ""', 2, 3),
    "csv_bad_json_cell": ("rows.csv", f'messages\n{cell(CHAT[13:-1])}\n"[{{""role"": user}}]"\n{cell(ROOM[13:-1])}\n',
                          (3, 1), "bad_json", "'messages' is text and not JSON", "", 2, 3),
    "csv_cell_written_by_python": ("rows.csv", f"messages\n{cell(CHAT[13:-1])}\n\"[{{'role': 'user'}}]\"\n"
                                   f"{cell(ROOM[13:-1])}\n", (3, 1), "bad_json", "'messages' is text and not JSON",
                                   "json.dumps", 2, 3),
    "csv_without_header_bad_json": ("rows.csv", f"{cell(CHAT)}\n{cell(CHAT[:-2])}\n{cell(ROOM)}\n", (2, 1), "bad_json",
                                    "not JSON", "cut off", 2, 3),
    "csv_without_header_no_answer": ("rows.csv", f"{cell(CHAT)}\n{cell(NO_ANSWER.replace(MARK, ''))}\n{cell(ROOM)}\n",
                                     (2, 1), "empty_turn", "turn 2 (assistant)", "Fill it in", 2, 3),
    "tsv_too_few_cells": ("rows.tsv", "prompt\tcompletion\nFloor?\tFirst.\nHi?\nRoom?\tLast.\n", (3, 1), "wrong_cells",
                          "1 cell where the header has 2", "Add the missing", 2, 3),
    "gzip_of_lines": ("rows.jsonl.gz", gzip.compress(f"{PAIR}\n{BROKEN.replace(MARK, '')}\n{LATER}\n".encode()),
                      (2, 18), "bad_json", "',' delimiter", "Mend", 2, 3),
    "utf_16": ("rows.jsonl", f"{PAIR}\n{BROKEN.replace(MARK, '')}\n{LATER}\n".encode("utf-16"), (2, 18), "bad_json",
               "',' delimiter", "Mend", 2, 3),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "place", "code", "found", "advice", "kept", "read"), BAD_FILES.values(), ids=BAD_FILES
)
def test_a_file_with_one_bad_row(tmp_path, name, content, place, code, found, advice, kept, read):
    if place is None:
        content, *at = marked(content)
        place = tuple(at)
    entry_of(written(tmp_path / name, content), place, code, found, advice, kept, read)


def test_garbage_on_the_first_line_costs_no_other_row(tmp_path):
    last = LATER.replace("room", "door")
    path = written(tmp_path / "rows.jsonl", f"{PAIR} oops\n{LATER}\n{last}\n")
    dataset = load_rows(str(path))
    assert [entry.source.line for entry in dataset.ledger.dropped()] == [1]
    assert [row.source.line for row in dataset.rows if row.source.line > 1] == [2, 3]
    assert dataset.ledger.balanced()


def test_a_bad_row_of_parquet(tmp_path):
    rows = [json.loads(PAIR), {"prompt": "Hi?", "completion": None}, json.loads(LATER)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    entry_of(tmp_path / "rows.parquet", (2, 1), "missing_key", "no 'completion'", "Add it", 2, 3)


SHEETS = {
    "empty_cell": (("Hi?", None), "empty_text", "'completion' is empty", "Fill it in"),
    "error": (("Hi?", "#N/A"), "bad_cell", "'completion' is #N/A, an error of the workbook", "Mend the cell"),
    "formula_without_its_result": (
        ("Hi?", "=A1&A2"),
        "bad_cell",
        "'completion' is =A1&A2, a formula whose result was never saved",
        "save it",
    ),
    "too_many_cells": (("Hi?", "Well,", "hello."), "wrong_cells", "3 cells where the header has 2", ""),
}


@pytest.mark.parametrize(("cells", "code", "found", "advice"), SHEETS.values(), ids=SHEETS)
def test_a_bad_row_of_a_workbook(tmp_path, cells, code, found, advice):
    book = openpyxl.Workbook()
    for values in (("prompt", "completion"), ("Floor?", "First."), cells, ("Room?", "Last.")):
        book.active.append(values)
    book.save(tmp_path / "rows.xlsx")
    entry_of(tmp_path / "rows.xlsx", (3, 1), code, found, advice, 2, 3)


OVER_LONG = {
    "lines": ("rows.jsonl", '{"prompt": "Floor?", "completion": "A."}\n', '{"prompt": "Hi?", "completion": "%s"}\n',
              '{"prompt": "Room?", "completion": "B."}\n', 2),
    "array": ("rows.json", '[{"prompt": "Floor?", "completion": "A."},\n', '{"prompt": "Hi?", "completion": "%s"},\n',
              '{"prompt": "Room?", "completion": "B."}]\n', 2),
    "csv": ("rows.csv", "prompt,completion\nFloor?,A.\n", "Hi?,%s\n", "Room?,B.\n", 3),
    "text": ("rows.txt", "Floor.\n\n", "%s\n\n", "Room.\n", 3),
}  # fmt: skip


@pytest.mark.parametrize(("name", "head", "long", "tail", "line"), OVER_LONG.values(), ids=OVER_LONG)
def test_a_row_that_is_too_long(tmp_path, monkeypatch, name, head, long, tail, line):
    for module in ("stream", "files", "json", "text"):
        monkeypatch.setattr(f"tunesmith.data.read.{module}.LONGEST_ROW", 1 << 20)
    monkeypatch.setattr("tunesmith.data.read.stream.CHUNK", 1 << 16)
    content = head + long % ("x" * (3 << 20)) + tail
    entry_of(written(tmp_path / name, content), (line, 1), "too_big", "longer than 1 MiB", "", 2, 3)


def test_a_place_far_into_an_array_on_one_line(tmp_path):
    many = ", ".join(f'{{"prompt": "Question {i}?", "completion": "{"x" * 1000}"}}' for i in range(1500))
    text, line, column = marked(f"[{many}, {BROKEN}, {LATER}]")
    entry_of(written(tmp_path / "rows.json", text), (line, column), "bad_json", "',' delimiter", "Mend", 1501, 1502)


def test_an_equal_row_is_counted_as_a_duplicate(tmp_path):
    path = written(tmp_path / "rows.jsonl", f"{PAIR}\n{LATER}\n{PAIR}\n")
    entry_of(path, (3, 1), "duplicate", "equal to line 1", "left out", 2, 3, outcome="duplicate")


# Files that cannot be read at all -----------------------------------------------------------------------------------


def parquet(rows):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def workbook(*rows):
    book, buffer = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.save(buffer)
    return buffer.getvalue()


def zipped(name, text):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, text)
    return buffer.getvalue()


PACKED = gzip.compress(f"{PAIR}\n{LATER}\n".encode())
TABLE = parquet([json.loads(PAIR), json.loads(LATER)])
SHEET = workbook(("prompt", "completion"), ("Hi?", "A."))
HOPELESS = {
    # name, content, options, the error's first words after the file's name, what it advises
    "empty": ("rows.jsonl", "", {}, "the file is empty", "at least one row"),
    "empty_csv": ("rows.csv", "", {}, "the file is empty", "at least one row"),
    "white_space": ("rows.jsonl", " \n\n\t\n", {}, "the file is empty", "at least one row"),
    "byte_order_mark_alone": ("rows.jsonl", "\ufeff", {}, "the file is empty", "at least one row"),
    "empty_array": ("rows.json", "[]", {}, "no rows, only an empty array or header", "at least one row"),
    "empty_array_in_object": ("rows.json", '{"data": []}', {}, "no rows, only an empty array", "at least one row"),
    "header_only": ("rows.csv", "prompt,completion\n", {}, "no rows, only an empty array or header", "at least one"),
    "header_twice": ("rows.csv", "prompt,prompt\nHi?,A.\n", {}, "the header names 'prompt' twice", "its own name"),
    "csv_unclosed_quote": ("rows.csv", f'{CSV}Hi?,"Hello.\n{END}', {}, "rows.csv:3: the row that begins here is not",
                           "Close its quotes"),
    "array_not_closed": ("rows.json", f"[\n{PAIR},\n{LATER}\n", {}, "the JSON array is not closed", "add ]"),
    "array_cut_inside_a_row": ("rows.json", f'[\n{PAIR},\n{{"prompt": "Hi?", "compl', {}, "rows.json:3",
                               "Close it"),
    "text_after_array": ("rows.json", f"[{PAIR}]\n[{LATER}]", {}, "rows.json:2: more text after the JSON array",
                         "Join the arrays"),
    "no_row_can_be_read": ("rows.jsonl", '{"prompt": Hi}\n{"prompt": Ho}\n', {}, "no row can be read",
                           "rows.jsonl:1: not JSON at column 12"),
    "python_throughout": ("rows.jsonl", "{'prompt': 'Hi?'}\n{'prompt': 'Ho?'}\n", {}, "no row can be read",
                          "json.dumps"),
    "windows_1252_throughout": ("rows.csv", cp1252("prompt,completion\nCaf¤?,Th¤.\n"), {}, "no row can be read",
                                "Save the file as UTF-8"),
    "header_in_windows_1252": ("rows.csv", cp1252("prompt,completion,¤tage\nHi?,A.,2\n"), {},
                               "offset 18 is not UTF-8", "Save the file as UTF-8"),
    "not_data": ("rows.xml", "<rows><row/></rows>", {}, "not a data file that is known", "Give .jsonl"),
    "binary": ("rows.bin", b"\x00\x01\x02\x03" * 9, {}, "not a text file", "rows as text"),
    "utf_16_without_mark": ("rows.jsonl", PAIR.encode("utf-16-le"), {}, "not a text file", "UTF-8"),
    "utf_16_cut": ("rows.jsonl", b"\xff\xfe" + (PAIR + "\n").encode("utf-16-le") + b"\x00\xd8\x0a\x00", {},
                   "begins as UTF-16", "Save it as UTF-8"),
    "parquet_cut": ("rows.parquet", TABLE[: len(TABLE) // 2], {}, "not a Parquet file that can be read", "again"),
    "parquet_in_name_only": ("rows.parquet", "no table", {}, "not a data file that is known", ".parquet"),
    "workbook_damaged": ("rows.xlsx", SHEET[: len(SHEET) // 2], {}, "not an Excel workbook", "Save it as CSV"),
    "workbook_header_only": ("rows.xlsx", workbook(("prompt", "completion")), {}, "no rows, only", "at least one"),
    "zip_of_rows": ("rows.zip", zipped("rows.jsonl", PAIR), {}, "not an Excel workbook", "Unpack"),
    "gzip_cut": ("rows.jsonl.gz", PACKED[:-12], {}, "cannot be read", "copy it again"),
    "gzip_damaged": ("rows.jsonl.gz", PACKED[:20] + b"\x00\x00\x00" + PACKED[23:], {}, "cannot be read",
                     "copy it again"),
    "unknown_keys": ("rows.jsonl", '{"Frage": "Hi?", "Antwort": "A."}', {},
                     "no known format has the keys 'Frage', 'Antwort'", "--column"),
    "ambiguous_keys": ("rows.jsonl", '{"prompt": "a", "completion": "b", "question": "c", "answer": "d"}', {},
                       "can be read as prompt-completion and as question-answer", "--format"),
    "unknown_format": ("rows.jsonl", PAIR, {"format": "alpacca"}, "format 'alpacca'", "did you mean 'alpaca'?"),
    "strange_format": ("rows.jsonl", PAIR, {"format": "xyz"}, "format 'xyz'", "known: alpaca"),
    "unknown_column": ("rows.csv", f"{CSV}{END}", {"columns": {"question": "Frage"}}, "names 'Frage', which no row has",
                       "The first row has: completion, prompt"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "options", "found", "advice"), HOPELESS.values(), ids=HOPELESS)
def test_a_file_that_cannot_be_read(tmp_path, name, content, options, found, advice):
    path = written(tmp_path / name, content)
    with pytest.raises(DataError) as error:
        load_rows(str(path), **options)
    message = str(error.value)
    assert str(path) in message or "format" in options
    assert found in message
    assert advice in message
    assert SENTENCE.fullmatch(message), message


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tunesmith.data.read.stream.BOMB_BYTES", 1 << 16)
    monkeypatch.setattr("tunesmith.data.read.stream.CHUNK", 1 << 14)
    path = written(tmp_path / "rows.jsonl.gz", gzip.compress(f"{PAIR}\n".encode() + b" " * (1 << 20)))
    with pytest.raises(DataError, match=r"bytes unpack to more than [\d,]+, as no data does\. Unpack it by hand"):
        load_rows(str(path))


ABSENT = {
    "file": ("none.jsonl", "none.jsonl: no such file."),
    "file_in_no_folder": ("none/rows.jsonl", "none/rows.jsonl: no such file."),
    "pattern": ("*.jsonl", "*.jsonl: no file matches this pattern."),
    "empty_folder": ("empty", "empty: no data file in this folder."),
    "folder_of_other_files": ("other", "other: no data file in this folder. Known: .jsonl"),
}


@pytest.mark.parametrize(("name", "message"), ABSENT.values(), ids=ABSENT)
def test_what_is_not_there(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    written(tmp_path / "other" / "notes.pdf", "notes")
    written(tmp_path / "other" / ".hidden.jsonl", PAIR)
    with pytest.raises(MissingError) as error:
        load_rows(str(tmp_path / name))
    assert message in str(error.value)


def test_files_of_different_kinds_and_a_file_named_twice(tmp_path):
    one, two = str(written(tmp_path / "one.jsonl", PAIR)), str(written(tmp_path / "two.jsonl", LABEL % "Hi"))
    with pytest.raises(DataError, match=r"different kinds \(.*one\.jsonl: prompt-completion; .*two\.jsonl: text-label"):
        load_rows([one, two])
    with pytest.raises(ConfigError, match=r"one\.jsonl' is named twice\. Name it once"):
        load_rows([one, one])


# What is kept and deserves a look -----------------------------------------------------------------------------------

WARNINGS = {
    "ends_unanswered": ('{"messages": [<U>, <A>, ◆{"role": "user", "content": "And?"}]}', "ends_unanswered",
                        "the last turn is the user's", "Add the answer"),
    "unused_key": ('{"messages": [<U>, {"role": "assistant", "content": "A.", "mood": ◆"good"}]}', "unused_key",
                   "messages[1] has the key 'mood', which is not used", "passed over"),
    "unused_key_like_one_that_is_there": (
        '{"messages": [{"role": "user", "content": "Hi?", "context": ◆"Hotel."}, <A>]}', "unused_key",
        "messages[0] has the key 'context', which is not used", "passed over"),
    "useless_weight": ('{"messages": [{"role": "user", "content": "Hi?", "weight": ◆1}, <A>]}', "useless_weight",
                       "messages[0] has a weight, and is no assistant turn", "passed over"),
    "late_system": ('{"messages": [<U>, <A>, ◆{"role": "system", "content": "Be kind."}, <U>, <A>]}', "unusual_order",
                    "turn 3 is a system message", "whose own refuses it"),
    "two_users": ('{"messages": [<U>, ◆<U>, <A>]}', "unusual_order", "turns 1 and 2 are both user", "clean=[turns]"),
    "two_assistants": ('{"messages": [<U>, <A>, ◆<A>]}', "unusual_order", "turns 2 and 3 are both assistant",
                       "clean=[turns]"),
    "two_systems": ('{"messages": [{"role": "system", "content": "Be kind."}, ◆{"role": "system", "content": "Hm."}, '
                    '<U>, <A>]}', "unusual_order", "turns 1 and 2 are both system", "clean=[turns]"),
    "assistant_first": ('{"messages": [◆<A>, <U>, <A>]}', "unusual_order", "the assistant speaks first",
                        "whose own refuses it"),
    "assistant_after_system": ('{"messages": [{"role": "system", "content": "Be kind."}, ◆<A>, <U>, <A>]}',
                               "unusual_order", "the assistant speaks first", "whose own refuses it"),
    "system_beside_another": ('{"system": "Be brief.", "messages": [◆{"role": "system", "content": "Be kind."}, <U>, '
                              '<A>]}', "two_systems", "beside the turns and another one", "Both are kept"),
    "image_tag": ('{"messages": [{"role": "user", "content": "<image>\\nWhat?"}, <A>]}', "picture",
                  "a text has '<image>'", "Drop the row if"),
    "video_tag": ('{"messages": [{"role": "user", "content": "What? <|video_pad|>"}, <A>]}', "picture",
                  "a text has '<|video_pad|>'", "read as text"),
    "picture_in_a_text": ('{"messages": [{"role": "user", "content": "data:image/png;base64,AAAA"}, <A>]}', "picture",
                          "as base64", "take it out"),
    "framed_prompt": ('{"messages": [◆{"role": "user", "content": "### Instruction:\\nHi?\\n\\n### Response:"}, <A>]}',
                      "written_out", "where an answer would begin", "question alone"),
    "no_tools": ('{"messages": [<U>, ◆<C>]}', "no_tools", "calls tools and declares none", "Add its tools"),
    "control_character": ('{"messages": [<U>, {"role": "assistant", "content": "A\\u0007."}]}', "control_character",
                          "U+0007", "as it stands"),
    "hidden_unicode": ('{"messages": [<U>, {"role": "assistant", "content": "He\\u200bllo."}]}', "hidden_unicode",
                       "U+200B", "as it stands"),
    "right_to_left": ('{"messages": [<U>, {"role": "assistant", "content": "Gr\u00fc\u202e\u00dfe."}]}',
                      "hidden_unicode", "U+202E", "as it stands"),
    "mojibake": ('{"messages": [<U>, {"role": "assistant", "content": "Viele GrÃ¼ÃŸe aus KÃ¶ln."}]}', "mojibake",
                 "looks garbled", "as UTF-8"),
    "lost_bytes": ('{"messages": [<U>, {"role": "assistant", "content": "Gr\ufffd\ufffde."}]}', "mojibake",
                   "a replacement character near", "as UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "code", "found", "advice"), WARNINGS.values(), ids=WARNINGS)
def test_a_row_that_deserves_a_look(tmp_path, row, code, found, advice):
    check_between(tmp_path / "rows.jsonl", CHAT, spelled(row), ROOM, code, found, advice, outcome="warning")


AWS = "AKIA" + "IOSFODNN7EXAMPLE"
GITHUB = "ghp" + "_" + "a1B2" * 9
PRIVATE = {
    "aws_key": (AWS, "secret", "an AWS access key (AKIAIO...)", "Revoke it"),
    "github_token": (GITHUB, "secret", "a GitHub token (ghp_a1...)", "Revoke it"),
    "private_key": ("-----BEGIN RSA PRIVATE " + "KEY-----", "secret", "a private key (", "Revoke it"),
    "password": ("postgres://admin:hunter22@localhost", "secret", "a password in an address", "Revoke it"),
    "e_mail": ("anna.berg@example.com", "personal_data", "an e-mail address", "may repeat it"),
    "card": ("4111 1111 1111 1111", "personal_data", "a payment card's number", "may repeat it"),
    "iban": ("DE89 3704 0044 0532 0130 00", "personal_data", "a bank account (IBAN)", "may repeat it"),
    "iban_in_one_piece": ("GB82WEST12345698765432", "personal_data", "a bank account (IBAN)", "may repeat it"),
    "social_security": ("123-45-6789", "personal_data", "a US social security number", "may repeat it"),
    "telephone": ("+49 731 1234 5678", "personal_data", "a telephone number", "may repeat it"),
    "ip_address": ("84.17.33.9", "personal_data", "an IP address", "may repeat it"),
    "long_ip_address": ("184.117.133.109", "personal_data", "an IP address", "may repeat it"),
}  # fmt: skip


@pytest.mark.parametrize(("matter", "code", "found", "advice"), PRIVATE.values(), ids=PRIVATE)
def test_personal_data_is_named_and_not_repeated(tmp_path, matter, code, found, advice):
    row = spelled(f'{{"messages": [<U>, {{"role": "assistant", "content": "Take {matter} then."}}]}}')
    text = f"{CHAT}\n{row}\n{ROOM}\n"
    path = written(tmp_path / "rows.jsonl", text)
    entry = entry_of(path, (2, 1), code, found, advice, 3, 3, outcome="warning", personal=True)
    assert matter not in str(entry)
    assert load_rows(str(path)).ledger.entries == []  # unless it is asked for


HARMLESS = {
    "card_with_a_wrong_digit": "4111 1111 1111 1112",
    "card_of_zeros": "0000 0000 0000 0000",
    "iban_with_a_wrong_digit": "GB82WEST12345698765433",
    "local_address": "192.168.0.1",
    "docker_address": "172.17.0.2",
    "time": "2024-01-15 10:30",
    "sum": "1 000 000 000",
    "handle": "@anna",
    "version": "1.2.3",
}


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_what_only_looks_personal_is_let_be(tmp_path, text):
    row = spelled(f'{{"messages": [<U>, {{"role": "assistant", "content": "Take {text} then."}}]}}')
    path = written(tmp_path / "rows.jsonl", row)
    reading = Reading(find_files(str(path)), DataConfig(train=str(path)), personal=True)
    assert len(list(reading)) == 1
    assert reading.ledgers[str(path)].entries == []


KEPT = {
    "trailing_comma": ("rows.jsonl", f"{PAIR},\n{LATER},\n", 2),
    "array_with_trailing_comma": ("rows.json", f"[{PAIR},\n{LATER},\n]", 2),
    "no_line_end": ("rows.jsonl", f"{PAIR}\n{LATER}", 2),
    "answers_that_are_json": ("rows.jsonl", '{"prompt": "Hi?", "chosen": "{\\"a\\": 1}", "rejected": "B."}', 1),
    "verdict_on_json": ("rows.jsonl", '{"prompt": "Hi?", "completion": "[{\\"a\\": 1}]", "label": true}', 1),
    "sides_that_share_turns_after_the_prompt": ("rows.jsonl", spelled(
        '{"prompt": "Well?", "chosen": [<A>, <U>, {"role": "assistant", "content": "A."}], '
        '"rejected": [<A>, <U>, {"role": "assistant", "content": "B."}]}'), 1),
    "csv_semicolons_in_quotes": ("rows.csv", 'prompt,completion\n"a;b;c;d","e;f"\n', 1),
    "csv_empty_lines": ("rows.csv", f"{CSV}\n\n{END}", 2),
    "csv_crlf": ("rows.csv", (CSV + END).replace("\n", "\r\n"), 2),
    "no_answer_in_the_passage": ("rows.jsonl", '{"question": "a?", "context": "b", "answers": {"text": [], '
                                 '"answer_start": []}}', 1),
    "joiners_in_emoji": ("rows.jsonl", '{"prompt": "Family?", "completion": "👨\u200d👩\u200d👧 नमस्\u200dते"}', 1),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "count"), KEPT.values(), ids=KEPT)
def test_what_is_only_odd_is_kept_without_a_word(tmp_path, name, content, count):
    dataset = load_rows(str(written(tmp_path / name, content)))
    assert (len(dataset.rows), dataset.ledger.read, dataset.ledger.entries) == (count, count, [])
    assert dataset.ledger.balanced()


def test_an_empty_cell_of_labels_is_no_label(tmp_path):
    path = written(tmp_path / "rows.csv", 'text,labels\nHi.,\nHo.,"good, long"\n')
    assert [row.content.label for row in load_rows(str(path)).rows] == [(), ("good", "long")]
