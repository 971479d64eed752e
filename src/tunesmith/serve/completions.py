"""`/v1/completions`: a model goes on with a text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request

from tunesmith.infer.generator import Completion, Options, Prompt
from tunesmith.serve.answers import Answers, answered, unless_gone
from tunesmith.serve.asked import TextRequest
from tunesmith.serve.engines import Serving
from tunesmith.serve.errors import refused
from tunesmith.serve.server import Caller, Here
from tunesmith.serve.spelled import text_logprobs
from tunesmith.serve.stream import FINISHED, frame_of, stream, usage_of

router = APIRouter(prefix="/v1")
USUAL = 16  # tokens, as OpenAI has it


@router.post("/completions")
async def complete(request: Request, here: Here, key: Caller, body: TextRequest) -> Any:
    """Go on with a text."""
    prompts = body.prompt if isinstance(body.prompt, list) else [body.prompt]
    if not prompts or (len(prompts) != 1 and not all(isinstance(one, int) for one in prompts)):
        raise refused("prompt: one text, or the ids of one, is answered at a time.", "prompt")
    head = ""

    def prepare(serving: Serving) -> tuple[Prompt, Options]:
        nonlocal head
        contract = serving.engine.contract
        ids = [one for one in prompts if isinstance(one, int)]
        text = "" if ids else str(prompts[0])
        head = (contract.decode(ids) if ids else text) if body.echo else ""
        most = USUAL if body.max_tokens is None else body.max_tokens
        told, beside = body.logprobs is not None, body.logprobs or 0
        return ids or contract.tokenizer.encode(text), body.options(
            most, logprobs=told, top_logprobs=beside, adapter=serving.adapter
        )

    begin = Answers.begin(here, key, body.model, body.n or 1, prepare, "text_completion")
    frame = {**frame_of("cmpl", body.model), "object": "text_completion"}

    async def pieces(answers: Answers) -> AsyncIterator[dict[str, Any]]:
        shown: dict[int, int] = {}
        async for delta in answers.deltas():
            text = (head if delta.index not in shown else "") + delta.text
            start = shown.get(delta.index, len(head))
            shown[delta.index] = start + len(delta.text)
            contract = answers.serving.engine.contract
            choice = {
                "index": delta.index, "text": text,
                "logprobs": text_logprobs(contract, delta.ids, delta.logprobs, delta.tops, start),
                "finish_reason": delta.finish_reason and FINISHED.get(delta.finish_reason, delta.finish_reason),
            }  # fmt: skip
            yield {**frame, "choices": [choice]}
        if (body.stream_options or {}).get("include_usage"):
            yield {**frame, "choices": [], "usage": usage_of(answers.result())}

    def whole(answers: Answers, done: Completion) -> dict[str, Any]:
        contract = answers.serving.engine.contract
        choices = [
            {
                "index": index, "text": head + choice.text,
                "logprobs": text_logprobs(contract, choice.ids, choice.logprobs, choice.tops, len(head)),
                "finish_reason": FINISHED.get(choice.finish_reason, choice.finish_reason),
            }
            for index, choice in enumerate(done.choices)
        ]  # fmt: skip
        return {**frame, "choices": choices, "usage": usage_of(done)}

    if body.stream:
        answers = await unless_gone(request, begin)
        return stream(answers, pieces(answers))
    return await answered(request, begin, whole)
