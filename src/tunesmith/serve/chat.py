"""`/v1/chat/completions`: a model answers, at once or piece by piece, in text, in JSON, or with calls of functions."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import anyio
from fastapi import APIRouter, Request

from tunesmith.infer.generator import Choice, Completion, Options, Prompt
from tunesmith.prompt.calls import CallFormat, CallStream, call_format, calls_in, forced
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.messages import ToolCall
from tunesmith.serve.answers import Answers, answered, unless_gone
from tunesmith.serve.asked import ChatRequest, conversation_of
from tunesmith.serve.engines import Serving
from tunesmith.serve.errors import refused
from tunesmith.serve.server import Caller, Here, Server
from tunesmith.serve.spelled import chat_logprobs
from tunesmith.serve.stored import keep
from tunesmith.serve.stream import FINISHED, frame_of, stream, usage_of

router = APIRouter(prefix="/v1")


class Chat:
    """A conversation to be answered: what was asked, and how calls look in the model's words."""

    def __init__(self, here: Server, project: str, body: ChatRequest) -> None:
        """Read what is asked.

        Raises:
            ApiError: it makes no sense.
        """
        if body.metadata is not None and len(body.metadata) > 16:
            raise refused("metadata may have at most 16 keys.", "metadata")
        self._here, self._project = here, project
        self.body, self.functions, self.schema = body, body.functions(), body.answer_schema()
        self.must_call = body.must_call()
        self.conversation = conversation_of(body.messages)
        self.names = [function["name"] for function in self.functions]
        self.form: CallFormat | None = None

    def prepare(self, serving: Serving) -> tuple[Prompt, Options]:
        """Prompt and options for what answers.

        Raises:
            ApiError: the model cannot chat, or writes no calls.
        """
        contract: Contract = serving.engine.contract
        if contract.template is None:
            raise refused(f"The model `{self.body.model}` has no chat template: ask /v1/completions.", "model")
        tools: tuple[Any, ...] = ()
        if self.functions:
            self.form = call_format(contract)
            if self.form is None or not contract.shows["tools"]:
                raise refused(f"The chat template of `{self.body.model}` has no tools, or no calls as JSON.", "tools")
            if self.must_call:
                self.form, self.schema = forced(self.form, self.must_call)
            tools = tuple({"type": "function", "function": function} for function in self.functions)
        body = self.body
        options = body.options(
            body.most, logprobs=bool(body.logprobs), top_logprobs=body.top_logprobs or 0 if body.logprobs else 0,
            tools=tools, schema=self.schema, adapter=serving.adapter,
        )  # fmt: skip
        return self.conversation, options

    def kept(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer, in the records if it shall be kept."""
        if self.body.store:
            keep(self._here, self._project, self.body, answer)
        return answer

    def calls(self, text: str) -> tuple[str, list[ToolCall]]:
        """Text without calls, and these."""
        return (text, []) if self.form is None else calls_in(self.form, self.names, text)

    def stream(self) -> CallStream | None:
        """What finds calls while text comes."""
        return None if self.form is None else CallStream(self.form, self.names)


@router.post("/chat/completions")
async def chat(request: Request, here: Here, key: Caller, body: ChatRequest) -> Any:
    """Answer a conversation."""
    asked = Chat(here, key.project, body)
    begin = Answers.begin(here, key, body.model, body.n or 1, asked.prepare)
    frame = frame_of("chatcmpl", body.model)
    if body.stream:
        answers = await unless_gone(request, begin)
        usage = bool((body.stream_options or {}).get("include_usage"))
        return stream(answers, _pieces(frame, answers, asked, usage))
    return await answered(request, begin, lambda answers, done: asked.kept(_whole(frame, answers, asked, done)))


def _whole(frame: dict[str, Any], answers: Answers, asked: Chat, done: Completion) -> dict[str, Any]:
    choices = [_choice(answers, asked, index, choice) for index, choice in enumerate(done.choices)]
    return {**frame, "object": "chat.completion", "choices": choices, "usage": usage_of(done)}


def _choice(answers: Answers, asked: Chat, index: int, choice: Choice) -> dict[str, Any]:
    text, calls = asked.calls(choice.text)
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
    reason = FINISHED.get(choice.finish_reason, choice.finish_reason)
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
        reason = "tool_calls"
    logprobs = chat_logprobs(answers.serving.engine.contract, choice.ids, choice.logprobs, choice.tops)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


async def _pieces(
    frame: dict[str, Any], answers: Answers, asked: Chat, with_usage: bool
) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a streamed chat completion."""
    begun: set[int] = set()
    found: dict[int, CallStream | None] = {}
    called: dict[int, int] = {}
    usage: dict[str, Any] = {"usage": None} if with_usage else {}
    frame = {**frame, "object": "chat.completion.chunk"}
    contract = answers.serving.engine.contract
    async for delta in answers.deltas():
        index, text, calls = delta.index, delta.text, list[ToolCall]()
        if index not in found:
            found[index] = asked.stream()
        if (finder := found[index]) is not None:
            text, calls = finder.add(text)
            if delta.finish_reason is not None:
                rest, more = finder.end()
                text, calls = text + rest, calls + more
        what: dict[str, Any] = {"content": text} if text else {}
        if index not in begun:
            begun.add(index)
            what = {"role": "assistant", "content": text}
        if calls:
            first = called.get(index, 0)
            what["tool_calls"] = [{"index": first + n, **_call(call)} for n, call in enumerate(calls)]
            called[index] = first + len(calls)
        reason = delta.finish_reason and FINISHED.get(delta.finish_reason, delta.finish_reason)
        if reason and called.get(index):
            reason = "tool_calls"
        logprobs = chat_logprobs(contract, delta.ids, delta.logprobs, delta.tops)
        choice = {"index": index, "delta": what, "logprobs": logprobs, "finish_reason": reason}
        yield {**frame, "choices": [choice], **usage}
    if asked.body.store:
        await anyio.to_thread.run_sync(lambda: asked.kept(_whole(frame, answers, asked, answers.result())))
    if with_usage:
        yield {**frame, "choices": [], "usage": usage_of(answers.result())}
