"""A vLLM server as the engine of ours: it computes, and the prompt contract, the text and the names stay here.

Prompts go as token ids and answers come as token ids, streamed, so that a model says the same words whatever computes
it. Adapters are registered there when they are first asked for. vLLM's own names of its routes and fields: the pages
on LoRA adapters and on its OpenAI-compatible server in its documentation; token ids come from version 0.10.2 on.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx

from tunesmith.core.errors import MissingError, ModelError
from tunesmith.infer.endpoint import Body, Endpoint, Retry
from tunesmith.infer.engine.adapters import Adapter
from tunesmith.infer.engine.answering import LocalAnswering
from tunesmith.infer.engine.request import Request
from tunesmith.infer.generator import GivenUp, Options, Prompt, Tops, is_conversation
from tunesmith.infer.portal import Portal
from tunesmith.infer.text import TextStream
from tunesmith.prompt.contract import Contract

AT_ONCE = 256  # answers; the server batches them as it likes
MOST_WAITING = 1024
SECONDS = 600.0  # for an answer, or an adapter
BEAT = 0.1  # seconds between two looks of who waits
TOKEN = "token_id:"  # how the server writes a token where it gives log probabilities


class VllmServer:
    """A vLLM server by its address; makes an engine of each model that it has."""

    def __init__(self, url: str, key: str | None = None, retry: Retry = Retry()) -> None:  # noqa: B008  frozen
        """Check the address; nothing is sent.

        Args:
            url: what comes before `/completions`, as in `http://gpu:8000/v1`.
            key: TUNESMITH_REMOTE_KEY if None.
            retry: when to give up on a request that is no answer.

        Raises:
            ConfigError: the address cannot be used.
        """
        self.endpoint = endpoint = Endpoint(url, key, SECONDS, retry)
        self.portal = Portal(lambda: endpoint.client(AT_ONCE), AT_ONCE, MOST_WAITING)

    def engine(self, names: Sequence[str], contract: Contract) -> VllmEngine:
        """The engine of a base that the server has.

        Args:
            names: of the base, and its folder: the server's model is called so, or was loaded from there.
            contract: how it is prompted.

        Raises:
            MissingError: the server has no such model.
            TunesmithError: it does not tell.
        """
        cards: list[dict[str, Any]] = self.call("/models")["data"]
        for card in cards:
            if {str(card.get("id")), str(card.get("root"))} & {*names}:
                return VllmEngine(self, str(card["id"]), card.get("max_model_len"), contract)
        known = ", ".join(str(card.get("id")) for card in cards) or "none"
        raise MissingError(
            f"{self.endpoint.url} has no model {names[0]!r}. It has {known}. Start it there: "
            f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve {names[0]} --enable-lora."
        )

    def call(self, path: str, body: Body | None = None) -> Any:
        """What the server answers to a request that is not for tokens.

        Raises:
            ModelError: it refuses, or is not there.
        """

        async def work(client: httpx.AsyncClient) -> Any:
            response = await self.endpoint.fetch(client, path, body)
            if not response.is_success:
                raise self.endpoint.refusal(response, body)
            return response.json() if "json" in response.headers.get("content-type", "") else response.text

        return self.portal.start(work).result()


class VllmAnswering(LocalAnswering):
    """Answers that a server computes."""

    futures: list[Future[None]]
    portal: Portal[httpx.AsyncClient]

    def cancel(self) -> None:
        """Close the connections: the server then computes no more of it."""
        super().cancel()
        for future in self.futures:
            self.portal.cancel(future)


class VllmEngine:
    """Answers with one base of a server, and with adapters of it."""

    def __init__(self, server: VllmServer, model: str, positions: int | None, contract: Contract) -> None:
        """Nothing is sent yet.

        Args:
            server: that computes.
            model: the base's name there.
            positions: tokens of a prompt and its answer together, as the server says.
            contract: how conversations become tokens, and tokens text.
        """
        self.contract, self.positions = contract, positions
        self._server, self._model = server, model
        self._folders: dict[str, Path] = {}
        self._changed = threading.Condition()
        self._heard: Callable[[], None] = lambda: None

    def submit(self, prompt: Prompt, options: Options = Options()) -> VllmAnswering:  # noqa: B008  frozen
        """Begin to answer; see `Generator`.

        Raises:
            Full: too many wait already.
            ModelError: the prompt fills all positions that the model has.
        """
        contract = self.contract
        ids: list[int] = contract.prompt(prompt, options.tools) if is_conversation(prompt) else [*prompt]  # pyright: ignore
        room = options.max_new_tokens if self.positions is None else self.positions - len(ids)
        if room <= 0:
            raise ModelError(
                f"the conversation has {len(ids)} tokens and the model takes at most {self.positions}. Shorten it."
            )
        limit = min(room, options.max_new_tokens)
        requests = [
            Request(ids, options, limit, watch=TextStream(contract, options.stop) if options.stop else None)
            for _ in range(options.n)
        ]
        answering = VllmAnswering(requests, contract, self._wait)
        answering.portal = self._server.portal
        answering.futures = [self._start(request, index) for index, request in enumerate(requests)]
        return answering

    def has_room(self, adapter: Adapter) -> bool:
        """Whether the server has memory for one more: it was told so when it was started (`--max-cpu-loras`)."""
        return True

    def add_adapter(self, name: str, folder: Path, instead: str | None = None) -> None:
        """Let answers use the LoRA adapter in `folder`, which the server must be able to read; see `LocalEngine`.

        Raises:
            ModelError: the server does not take it.
        """
        if instead is not None and self._folders.pop(instead, None) is not None:
            self._server.call("/unload_lora_adapter", {"lora_name": instead})
        if name in self._folders:
            self._server.call("/unload_lora_adapter", {"lora_name": name})
        self._load(name, folder)
        self._folders[name] = folder

    def _load(self, name: str, folder: Path) -> None:
        try:
            self._server.call("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        except ModelError as error:
            if "already been loaded" not in str(error):  # by a server of ours that was here before
                raise

    def listen(self, heard: Callable[[], None]) -> None:
        """Have `heard` called whenever something has come, by the thread that reads."""
        self._heard = heard

    def drive(self, stop: threading.Event) -> None:
        """Wait until `stop` is set: the server computes by itself."""
        stop.wait()

    def _start(self, request: Request, index: int) -> Future[None]:
        future = self._server.portal.start(lambda client: self._answer(client, request, index))
        future.add_done_callback(lambda done: self._over(request, done))
        return future

    def _over(self, request: Request, done: Future[None]) -> None:
        """However the reading of an answer ended, whoever waits hears of it."""
        error = None if done.cancelled() else done.exception()
        cancelled = done.cancelled() or isinstance(error, asyncio.CancelledError) or request.cancelled
        request.end("cancelled" if cancelled else "", None if cancelled else error)
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self._heard()

    def _wait(self, ready: Callable[[], bool]) -> None:
        with self._changed:
            while not ready():
                self._changed.wait(BEAT)

    async def _answer(self, client: httpx.AsyncClient, request: Request, index: int) -> None:
        name = request.options.adapter
        body = self._question(request, index)
        for attempt in range(2):
            async for status, piece in self._pieces(client, body, request):
                if status == 404 and name in self._folders and not attempt:  # it was started anew, and has forgotten
                    await asyncio.to_thread(self._load, name, self._folders[name])
                    break
                self._take(request, piece)
                self._tell()
                if request.ended or request.cancelled:
                    return
            else:
                raise ModelError(f"{self._server.endpoint.url} ended an answer without a reason.")

    async def _pieces(
        self, client: httpx.AsyncClient, body: Body, request: Request
    ) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """Status and data of each event of an answer; of one that is no success, the status alone, if it is 404.

        Raises:
            ModelError: the server refuses.
            GivenUp: it is not there, or went away.
        """
        endpoint = self._server.endpoint
        try:
            async with client.stream("POST", f"{endpoint.url}/completions", json=body, timeout=SECONDS) as response:
                if response.status_code == 404 and request.options.adapter:
                    yield 404, {}
                if not response.is_success:
                    await response.aread()
                    raise endpoint.refusal(response, body)
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        yield 200, json.loads(line[6:])
        except httpx.HTTPError as error:
            said = str(error) or type(error).__name__
            raise GivenUp(f"{endpoint.url} does not answer ({said}). Is vLLM running there?") from None

    def _question(self, request: Request, index: int) -> Body:
        options = request.options
        body: Body = {
            "model": options.adapter or self._model, "prompt": request.prompt, "max_tokens": request.limit,
            "stream": True,
            "temperature": options.temperature, "top_p": options.top_p, "seed": (options.seed + index) % 2**63,
            "frequency_penalty": options.frequency_penalty, "presence_penalty": options.presence_penalty,
            "stop_token_ids": sorted(self.contract.stop_ids), "add_special_tokens": False, "return_token_ids": True,
        }  # fmt: skip
        more = {
            "stop": list(options.stop),
            "logit_bias": {str(token): bias for token, bias in options.logit_bias},
            "structured_outputs": options.schema and {"json": json.loads(options.schema)},
        }
        if options.logprobs:
            body |= {"logprobs": options.top_logprobs, "return_tokens_as_token_ids": True}
        return {**body, **{name: value for name, value in more.items() if value}}

    def _take(self, request: Request, piece: Mapping[str, Any]) -> None:
        """Note the tokens of an event.

        Raises:
            ModelError: it tells of none, or of a fault.
        """
        url = self._server.endpoint.url
        if "error" in piece:
            raise ModelError(f"{url} failed: {(piece['error'] or {}).get('message', 'it does not say why')}")
        for choice in piece.get("choices", ()):
            ids = choice.get("token_ids")
            if ids is None:
                raise ModelError(f"{url} gives no token ids. It must be vLLM 0.10.2 or newer.")
            told = _logprobs(choice.get("logprobs"), len(ids)) if request.options.logprobs else [None] * len(ids)
            for token, beside in zip(ids, told, strict=True):
                if request.ended:
                    break
                logprob, tops = beside or (None, [])
                request.add(token, logprob, token in self.contract.stop_ids, tops[: request.options.top_logprobs])
            if choice.get("finish_reason") and not request.ended:
                request.end(str(choice["finish_reason"]))


def _logprobs(value: Any, count: int) -> list[tuple[float, Tops]]:
    """Log probability and likeliest tokens of each token.

    Raises:
        ModelError: they are not as many as there are tokens.
    """
    value = value or {}
    found = value.get("token_logprobs") or []
    tops = value.get("top_logprobs") or [{}] * len(found)
    if len(found) != count or len(tops) != count:
        raise ModelError(f"the server tells {len(found)} log probabilities of {count} tokens.")
    return [(float(one), _tops(beside or {})) for one, beside in zip(found, tops, strict=True)]


def _tops(beside: Mapping[str, float]) -> Tops:
    ids = [(int(name.removeprefix(TOKEN)), value) for name, value in beside.items() if name.startswith(TOKEN)]
    return sorted(ids, key=lambda one: -one[1])
