"""What answers of all kinds are told in: frames, usage, and server-sent events."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

from tunesmith.core.errors import TunesmithError
from tunesmith.infer.generator import Completion, Usage
from tunesmith.serve.answers import Answers
from tunesmith.store.records import now

FINISHED = {"cancelled": "stop"}  # how an answer ended, in words that clients know


def frame_of(kind: str, model: str) -> dict[str, Any]:
    """What all pieces of an answer share."""
    return {"id": f"{kind}-{secrets.token_hex(12)}", "created": int(now()), "model": model}


def usage_of(done: Completion) -> dict[str, Any]:
    """Tokens of prompt and answers."""
    used = done.usage or Usage(0, 0)
    return {
        "prompt_tokens": used.prompt_tokens, "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
    }  # fmt: skip


class Events(StreamingResponse):
    """A stream that lets go of its answers however it ends, also before its first piece."""

    def __init__(self, answers: Answers, lines: AsyncIterator[str]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(lines, media_type="text/event-stream", headers=headers)
        self._answers = answers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send all of it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.close()


def stream(answers: Answers, pieces: AsyncIterator[dict[str, Any]]) -> Events:
    """Server-sent events; what goes wrong on the way is said in the stream, as clients expect it."""

    async def lines() -> AsyncIterator[str]:
        try:
            async for piece in pieces:
                yield f"data: {json.dumps(piece)}\n\n"
        except TunesmithError as error:
            answers.close(error)
            body = {"message": str(error), "type": "server_error", "param": None, "code": None}
            yield f"data: {json.dumps({'error': body})}\n\n"
        yield "data: [DONE]\n\n"

    return Events(answers, lines())
