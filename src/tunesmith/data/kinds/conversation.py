"""What kinds of conversations have in common: turns as texts and as JSON, and what templates do not show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tunesmith.data.quality.ledger import RowFault
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.messages import Conversation, Tools, plain


def said(messages: Conversation) -> list[str]:
    """The contents of the turns, arguments of tool calls among them."""
    texts = [message.content for message in messages]
    for message in messages:
        if message.reasoning:
            texts.append(message.reasoning)
        texts += [json.dumps(dict(call.arguments), ensure_ascii=False) for call in message.tool_calls]
    return texts


def openai_turns(messages: Conversation) -> list[dict[str, Any]]:
    """Turns as OpenAI's files have them: arguments as JSON text, weights where they are 0."""
    turns = plain(messages)
    for turn, message in zip(turns, messages, strict=True):
        for call in turn.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(dict(call["function"]["arguments"]), ensure_ascii=False)
        if message.role == "assistant" and not message.weight:
            turn["weight"] = 0
    return turns


def tools_key(tools: Tools) -> dict[str, Any]:
    """Tools under their key, where there are any."""
    return {"tools": [dict(tool) for tool in tools]} if tools else {}


def without_weight(messages: Conversation) -> Conversation:
    """The turns as context only: no assistant turn among them is trained on."""
    return tuple(replace(m, weight=0) if m.role == "assistant" else m for m in messages)


def unshown_parts(turns: Conversation, tools: Tools, contract: Contract) -> Iterator[RowFault]:
    """What the contract's template shows to nobody: tools that are declared, thoughts."""
    advice = "It is lost. Use a model whose template shows it, or model.template=chatml."
    if tools and not contract.shows["tools"]:
        yield RowFault("unshown_tools", "the chat template does not show the row's tools.", advice)
    if not contract.shows["reasoning"] and (one := next((m for m in turns if m.reasoning), None)):
        yield RowFault("unshown_reasoning", "the chat template does not show the reasoning.", advice, one.origin)
