"""What our engine uses of a vLLM server's API, with a true small model behind it. It is no vLLM: only its manners."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from tunesmith.core.errors import ModelError
from tunesmith.infer.generator import Options
from tunesmith.infer.local import LocalEngine
from tunesmith.model.export import find_model


class FakeVllm:
    """A server in a thread.

    Attributes:
        adapters: that are registered.
        asked: bodies of requests for tokens.
        under_way: answers that are being streamed.
        slow: seconds before each piece.
        ids: whether it tells token ids, as older ones do not.
        fault: what it says instead of its second piece.
    """

    def __init__(self, base, name="served"):
        exported = find_model(str(base))
        self.base, self.name = base, name
        self.engine = LocalEngine(exported.load(), exported.contract())
        self.adapters, self.asked, self.under_way = {}, [], 0
        self.slow, self.ids, self.fault = 0.0, True, ""
        self.server = uvicorn.Server(uvicorn.Config(self.app(), port=0, log_level="error"))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}/v1"

    def stop(self):
        self.server.should_exit = True
        self.thread.join(30)

    def app(self):
        app = FastAPI()

        def wrong(status, kind, message):
            return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status)

        @app.get("/v1/models")
        def models():
            card = {"id": self.name, "root": str(self.base), "max_model_len": 512}
            return {"object": "list", "data": [card, *({"id": name, "parent": self.name} for name in self.adapters)]}

        @app.post("/v1/load_lora_adapter")
        def load(body: dict):
            name, path = body["lora_name"], Path(body["lora_path"])
            if name in self.adapters:
                return wrong(400, "InvalidUserInput", f"The lora adapter '{name}' has already been loaded.")
            if not (path / "adapter_config.json").exists():
                return wrong(404, "NotFoundError", f"No adapter found for {path}.")
            try:
                self.engine.add_adapter(name, path)
            except ModelError as error:
                return wrong(400, "BadRequestError", str(error))
            self.adapters[name] = path
            return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

        @app.post("/v1/unload_lora_adapter")
        def unload(body: dict):
            if self.adapters.pop(body["lora_name"], None) is None:
                return wrong(404, "NotFoundError", f"The lora adapter '{body['lora_name']}' cannot be found.")
            return PlainTextResponse(f"Success: LoRA adapter '{body['lora_name']}' removed successfully.")

        @app.post("/v1/completions")
        async def complete(request: Request):
            body = await request.json()
            self.asked.append(body)
            if body["model"] not in (self.name, *self.adapters):
                return wrong(404, "NotFoundError", f"The model `{body['model']}` does not exist.")
            return StreamingResponse(self.pieces(body), media_type="text/event-stream")

        return app

    async def pieces(self, body):
        schema = (body.get("structured_outputs") or {}).get("json")
        adapter = "" if body["model"] == self.name else body["model"]
        bias = tuple((int(token), value) for token, value in (body.get("logit_bias") or {}).items())
        options = Options(
            body["max_tokens"], body["temperature"], body["top_p"], body["seed"], stop=tuple(body.get("stop") or ()),
            logprobs="logprobs" in body, top_logprobs=body.get("logprobs") or 0, adapter=adapter, logit_bias=bias,
            frequency_penalty=body["frequency_penalty"], presence_penalty=body["presence_penalty"],
            schema=schema and json.dumps(schema),
        )  # fmt: skip
        choice = (await asyncio.to_thread(self.engine.submit(body["prompt"], options).result)).choices[0]
        ends = [*range(2, len(choice.ids), 2), len(choice.ids)]
        self.under_way += 1
        with contextlib.ExitStack() as stack:
            stack.callback(self.left)
            for begin, end in zip([0, *ends[:-1]], ends, strict=True):
                await asyncio.sleep(self.slow)
                if begin and self.fault:
                    yield f"data: {json.dumps({'error': {'message': self.fault}})}\n\n"
                    return
                ids, last = choice.ids[begin:end], end == len(choice.ids)
                piece = {"index": 0, "text": "…", "finish_reason": choice.finish_reason if last else None}
                piece |= {"token_ids": ids} if self.ids else {}
                if options.logprobs:
                    tops = [{f"token_id:{token}": value for token, value in one} for one in choice.tops[begin:end]]
                    piece["logprobs"] = {"token_logprobs": choice.logprobs[begin:end], "top_logprobs": tops}
                yield f"data: {json.dumps({'choices': [piece]})}\n\n"
            yield "data: [DONE]\n\n"

    def left(self):
        self.under_way -= 1
