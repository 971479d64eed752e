"""Calls of functions, found in what a model has written as its template writes them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from test_prompt_oracles import CALLING, TOOLS, contract_of
from tunesmith.prompt.calls import CallFormat, CallStream, call_format, calls_in
from tunesmith.prompt.messages import Message, ToolCall

CHATML = CallFormat("<tool_call>", "</tool_call>", "name", "arguments")
LLAMA = CallFormat("", "", "name", "parameters")
MISTRAL = CallFormat("[TOOL_CALLS]", "]", "name", "arguments")
ONE = '{"name": "f", "arguments": {"a": [1, "}"]}}'
CALL = ToolCall("f", {"a": [1, "}"]})


@pytest.mark.parametrize(
    ("form", "text", "shown", "calls"),
    [
        (CHATML, f"<tool_call>\n{ONE}\n</tool_call>", "", [CALL]),
        (
            CHATML,
            f"Let me look.\n<tool_call>\n{ONE}\n</tool_call>\n<tool_call>\n{ONE}\n</tool_call>",
            "Let me look.\n",
            [CALL] * 2,
        ),
        (CHATML, "Nothing < to <tool call.", "Nothing < to <tool call.", []),
        (
            CHATML,
            '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
            '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
            [],
        ),
        (CHATML, '<tool_call>\n{"name": "f", "argum', '<tool_call>\n{"name": "f", "argum', []),
        (CHATML, "<tool_", "<tool_", []),
        (CHATML, ONE, "", [CALL]),
        (LLAMA, '{"name": "f", "parameters": {"a": 1}}', "", [ToolCall("f", {"a": 1})]),
        (LLAMA, '{"answer": 42}', '{"answer": 42}', []),
        (LLAMA, 'So: {"name": "f", "parameters": {}}', 'So: {"name": "f", "parameters": {}}', []),
        (LLAMA, "{ no", "{ no", []),
        (MISTRAL, f"[TOOL_CALLS] [{ONE}, {ONE}]", "", [CALL] * 2),
        (MISTRAL, f"[{ONE}]", "", [CALL]),
        (MISTRAL, "[1, 2]", "[1, 2]", []),
        (CHATML, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [ToolCall("f", {"a": 1})]),
        (CHATML, "", "", []),
        (CHATML, "  hello", "  hello", []),
    ],
)
def test_text_and_calls_are_told_apart_however_they_come(form, text, shown, calls):
    assert calls_in(form, ["f"], text) == (shown, calls)
    for size in (1, 2, 3, 7):
        stream, came, found = CallStream(form, ["f"]), "", []
        for start in range(0, len(text), size):
            piece, more = stream.add(text[start : start + size])
            came, found = came + piece, found + more
        piece, more = stream.end()
        assert (came + piece, found + more) == (shown, calls), size


def test_a_template_shows_how_it_writes_calls(tiny):
    from tunesmith.prompt.load import load_contract

    contract = load_contract(tiny, "chatml")
    form = call_format(contract)
    assert form == CHATML
    assert call_format(replace(contract, template="{% for m in messages %}{{ m.content }}{% endfor %}")) is None


@pytest.mark.parametrize("name", CALLING)
def test_calls_of_other_peoples_templates_are_found_again(name):
    contract = contract_of(name)
    form = call_format(contract)
    if form is None:  # it writes calls in a form of its own, and tools are refused with that
        assert "<function=" in contract.template or "call:" in contract.template or "invoke" in contract.template, name
        return
    asked, call = Message("user", "q"), ToolCall("weather", {"town": 'a } b "c"'}, "call00001")
    start = contract.text([asked], ask=True, tools=TOOLS)
    whole = contract.text([asked, Message("assistant", "", tool_calls=(call,))], tools=TOOLS)
    turn = whole.removeprefix(start)
    text = contract.decode(contract.tokenizer.encode(turn, add_special_tokens=False))
    shown, [found] = calls_in(form, ["weather"], text)
    assert not shown.replace("<think>", "").replace("</think>", "").strip()  # what it thought, which is nothing
    assert (found.name, found.arguments) == (call.name, call.arguments)
