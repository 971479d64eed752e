"""`/v1/chat/completions` and `/v1/completions`: a model answers, at once or piece by piece."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import Field

from tunesmith.core.errors import TunesmithError
from tunesmith.infer.generator import Answering, Completion, Delta
from tunesmith.serve.asked import Sampling, conversation_of
from tunesmith.serve.errors import refused
from tunesmith.serve.models import engine_of
from tunesmith.serve.server import Caller, Here
from tunesmith.store.records import now

router = APIRouter(prefix="/v1")
FINISHED = {"cancelled": "stop"}  # how an answer ended, in words that clients know


class ChatRequest(Sampling):
    """A chat completion."""

    messages: list[dict[str, Any]]
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None


class TextRequest(Sampling):
    """A plain completion."""

    prompt: str | list[str] | list[int] = "\n"
    echo: bool | None = None


@router.post("/chat/completions")
def chat(here: Here, key: Caller, body: ChatRequest) -> Any:
    """Answer a conversation."""
    if (body.response_format or {}).get("type", "text") != "text":
        raise refused("response_format: only text is answered here today.", "response_format")
    engine = engine_of(here, key.project, body.model)
    conversation = conversation_of(body.messages)
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    tools = tuple(tool["function"] for tool in body.tools or () if isinstance(tool.get("function"), dict))
    answering: Answering = engine.submit(conversation, body.options(most, bool(body.logprobs), tools))
    frame = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(now()), "model": body.model}
    if body.stream:
        usage = bool((body.stream_options or {}).get("include_usage"))
        return _stream(_chat_pieces(frame, answering, usage))
    done = _whole(answering)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": _logprobs(engine, choice.ids, choice.logprobs),
            "finish_reason": FINISHED.get(choice.finish_reason, choice.finish_reason),
        }
        for index, choice in enumerate(done.choices)
    ]
    return {**frame, "object": "chat.completion", "choices": choices, "usage": _usage(done)}


def _chat_pieces(frame: dict[str, Any], answering: Answering, with_usage: bool) -> Iterator[dict[str, Any]]:
    """The chunks of a streamed chat completion."""
    begun: set[int] = set()
    usage: dict[str, Any] = {"usage": None} if with_usage else {}
    frame = {**frame, "object": "chat.completion.chunk"}
    for delta in answering:
        content: dict[str, Any] = {"content": delta.text} if delta.text else {}
        if delta.index not in begun:
            begun.add(delta.index)
            content = {"role": "assistant", "content": delta.text}
        yield {**frame, "choices": [_piece(delta, {"delta": content})], **usage}
    if with_usage:
        yield {**frame, "choices": [], "usage": _usage(answering.result())}


def _piece(delta: Delta, what: dict[str, Any]) -> dict[str, Any]:
    reason = delta.finish_reason and FINISHED.get(delta.finish_reason, delta.finish_reason)
    return {"index": delta.index, **what, "logprobs": None, "finish_reason": reason}


@router.post("/completions")
def complete(here: Here, key: Caller, body: TextRequest) -> Any:
    """Go on with a text."""
    prompts = body.prompt if isinstance(body.prompt, list) else [body.prompt]
    if len(prompts) != 1 and not all(isinstance(one, int) for one in prompts):
        raise refused("prompt: one text, or the ids of one, is answered at a time.", "prompt")
    engine = engine_of(here, key.project, body.model)
    given: Any = prompts if prompts and isinstance(prompts[0], int) else engine.contract.tokenizer.encode(prompts[0])
    answering: Answering = engine.submit(given, body.options(16 if body.max_tokens is None else body.max_tokens))
    frame = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(now())}
    frame["model"] = body.model
    if body.stream:
        return _stream({**frame, "choices": [_piece(delta, {"text": delta.text})]} for delta in answering)
    done, head = _whole(answering), str(prompts[0]) if body.echo else ""
    choices = [
        {
            "index": index, "text": head + choice.text, "logprobs": None,
            "finish_reason": FINISHED.get(choice.finish_reason, choice.finish_reason),
        }
        for index, choice in enumerate(done.choices)
    ]  # fmt: skip
    return {**frame, "choices": choices, "usage": _usage(done)}


def _whole(answering: Answering) -> Completion:
    try:
        return answering.result()
    finally:
        answering.cancel()


def _usage(done: Completion) -> dict[str, int]:
    used = done.usage
    prompt, answer = (used.prompt_tokens, used.completion_tokens) if used else (0, 0)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _logprobs(engine: Any, ids: list[int], logprobs: list[float] | None) -> dict[str, Any] | None:
    if logprobs is None:
        return None
    tokens = [engine.contract.decode([id]) for id in ids]
    content = [
        {"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": []}
        for token, value in zip(tokens, logprobs, strict=True)
    ]
    return {"content": content, "refusal": None}


def _stream(pieces: Iterator[dict[str, Any]]) -> StreamingResponse:
    """Server-sent events; what goes wrong on the way is said in the stream, as clients expect it."""

    def lines() -> Iterator[str]:
        try:
            for piece in pieces:
                yield f"data: {json.dumps(piece)}\n\n"
        except TunesmithError as error:
            body = {"message": str(error), "type": "server_error", "param": None, "code": None}
            yield f"data: {json.dumps({'error': body})}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
