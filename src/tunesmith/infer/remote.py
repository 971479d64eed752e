"""Answers from a model behind a URL that speaks OpenAI's chat completions: OpenAI's own, vLLM, Ollama and others.

It gives text, no token ids and no scores, so it is no `Engine`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from anyio.from_thread import start_blocking_portal

from tunesmith.core.errors import ConfigError, MissingError, ModelError, TunesmithError
from tunesmith.core.events import Report, silent
from tunesmith.infer.endpoint import Body, Endpoint, GivenUp, Retry
from tunesmith.infer.engine import Sampling
from tunesmith.prompt.messages import Conversation, Tools, plain

Value = TypeVar("Value")

BEAT_SECONDS = 1.0  # between two signs of life, at each of which whoever listens may end the work
LISTED = 20  # most models that an error names


@dataclass(frozen=True)
class Answer:
    """What the model said to one conversation.

    Attributes:
        text: the content; empty where the model only called tools, as in a row's reference answer.
        stopped: whether it ended by itself, not by reaching the longest length.
        tokens: of the completion as the server counts them, reasoning among them; None if it does not say.
        seconds: from the request to the last byte; tries that failed before do not count.
    """

    text: str
    stopped: bool
    tokens: int | None
    seconds: float


def parse_remote(name: str) -> tuple[str, str] | None:
    """URL and model of `https://host:port/v1#model`; the model is empty if not named. None if it is no such URL."""
    if not name.lower().startswith(("http://", "https://")):
        return None
    url, _, model = name.partition("#")
    return url, model.strip()


class RemoteModel:
    """One model of one server; `RemoteModel(*parse_remote(name))` is the one that a user named."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        concurrency: int = 4,
        timeout: float = 120.0,
        retry: Retry = Retry(),  # noqa: B008  frozen
    ) -> None:
        """Check the address. Nothing is sent yet, unless the model is not named.

        Args:
            url: what comes before `/chat/completions`.
            model: its name there; if empty, the server is asked for its only one.
            key: OPENAI_API_KEY for OpenAI's own server and TUNESMITH_REMOTE_KEY for others if None, none if empty.
            concurrency: most requests at once.
            timeout: most seconds for one request.
            retry: when to give up on one.

        Raises:
            ConfigError: the URL or key cannot be used, or the server has several models and none is named.
            TunesmithError: the server was asked for its models and does not tell.
        """
        assert concurrency > 0
        self.endpoint = Endpoint(url, key, timeout, retry)
        self.concurrency = concurrency
        self._limit = "max_tokens"
        self.model = model or self._only_model()

    def answer(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        tools: Sequence[Tools] | None = None,
        report: Report = silent,
    ) -> list[Answer]:
        """One answer for each conversation, in order: all of them, or an error.

        Args:
            conversations: each ends with what is to be answered.
            sampling: sent along; a server may pay no heed to the seed.
            tools: for each conversation, the functions that may be called.
            report: hears a `pulse` after each answer and each second, from another thread; what it raises ends the
                work.

        Raises:
            TunesmithError: one of them got no answer.
        """
        offered = tools if tools is not None else [()] * len(conversations)
        questions = [self._question(*pair, sampling) for pair in zip(conversations, offered, strict=True)]
        return self._run(lambda client: self._answer_all(client, questions, report))

    def models(self) -> list[str]:
        """The names of the models that the server has.

        Raises:
            TunesmithError: it does not tell.
        """
        return self._run(self._list)

    def _only_model(self) -> str:
        url, names = self.endpoint.url, self.models()
        if len(names) == 1:
            return names[0]
        if not names:
            raise MissingError(f"{url} has no model. Load one there, or name it: {url}#model.")
        raise ConfigError(f"{url} has {len(names)} models. Say which, as in {url}#{names[0]}. It has {_listed(names)}.")

    def _question(self, conversation: Conversation, tools: Tools, sampling: Sampling) -> Body:
        return {
            "model": self.model,
            "messages": wire_turns(conversation),
            **({"tools": [dict(tool) for tool in tools]} if tools else {}),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }

    def _run(self, work: Callable[[httpx.AsyncClient], Awaitable[Value]]) -> Value:
        async def with_client() -> Value:
            async with self.endpoint.client(self.concurrency) as client:
                return await work(client)

        # A loop in a thread of its own works under a notebook's loop too, and Ctrl-C cancels what is under way.
        with start_blocking_portal() as portal:
            return portal.call(with_client)

    async def _answer_all(self, client: httpx.AsyncClient, questions: list[Body], report: Report) -> list[Answer]:
        answers: dict[int, Answer] = {}
        waiting = iter(enumerate(questions))

        def pulse() -> None:
            report({"kind": "pulse", "doing": f"asking {self.model}", "done": len(answers), "of": len(questions)})

        async def work() -> None:
            for index, question in waiting:
                answers[index] = await self._ask(client, question)
                pulse()

        async def beat() -> None:
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                pulse()

        try:
            async with asyncio.TaskGroup() as group:
                heart = group.create_task(beat())
                workers = min(self.concurrency, max(len(questions), 1))
                await asyncio.wait([group.create_task(work()) for _ in range(workers)])
                heart.cancel()
        except ExceptionGroup as faults:
            fault = faults.exceptions[0]
            if isinstance(fault, GivenUp):
                share = f"{len(answers)} of {len(questions)} rows were answered"
                raise GivenUp(f"{fault} {share}; none is kept. Try again later.") from None
            raise fault from None
        return [answers[index] for index in range(len(questions))]

    async def _ask(self, client: httpx.AsyncClient, question: Body) -> Answer:
        limit = self._limit
        body = {limit if key == "max_tokens" else key: value for key, value in question.items()}
        response = await self.endpoint.fetch(client, "/chat/completions", body)
        if response.is_success:
            return self._read(response, body)
        if limit == "max_tokens" and response.status_code == 400 and "max_completion_tokens" in response.text:
            self._limit = "max_completion_tokens"  # as OpenAI's reasoning models call it, and only so
            return await self._ask(client, question)
        if response.status_code in (404, 405):
            await self._explain_missing(client, response.status_code)
        raise self.endpoint.refusal(response, body)

    async def _explain_missing(self, client: httpx.AsyncClient, status: int) -> None:
        """Raise if the model, or the whole API, is not there."""
        url = self.endpoint.url
        try:
            names = await self._list(client)
        except TunesmithError:
            raise MissingError(f"{url} has no /chat/completions ({status}). {_advice(url)}") from None
        if self.model not in names:
            raise MissingError(f"{url} has no model {self.model!r}. It has {_listed(names) or 'none'}.")

    async def _list(self, client: httpx.AsyncClient) -> list[str]:
        url, response = self.endpoint.url, await self.endpoint.fetch(client, "/models")
        if response.status_code in (404, 405):
            raise MissingError(f"{url} has no /models to choose from. Name one: {url}#model. {_advice(url)}")
        if not response.is_success:
            raise self.endpoint.refusal(response)
        value = self._json(response)
        entries = value.get("data")
        if not isinstance(entries, list):
            raise ModelError(f"{url}/models gives no list of models under 'data'. Name one: {url}#model.")
        names = [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]
        return [name for name in names if name.isprintable()]

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        try:
            value = response.json()
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        raise ModelError(
            f"{self.endpoint.url} answers with something that is no JSON object. {_advice(self.endpoint.url)}"
        )

    def _read(self, response: httpx.Response, body: Body) -> Answer:
        value, seconds = self._json(response), response.elapsed.total_seconds()
        match value:
            case {"choices": [{"message": {"content": str() | None as content}, **choice}, *_]}:
                pass
            case {"choices": [{"message": {"tool_calls": [_, *_]}, **choice}, *_]}:
                content = None  # some leave it out beside calls
            case _:
                said = self.endpoint.quote(response, body) if "error" in value else ""
                raise ModelError(f"{self.endpoint.url} answers without a message in 'choices'{said and f': {said}'}.")
        usage = value.get("usage")
        tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        text = (content or "").encode("utf-8", "replace").decode()  # half a surrogate pair could not be written down
        stopped = choice.get("finish_reason") in ("stop", "tool_calls")
        return Answer(text, stopped, tokens if type(tokens) is int else None, seconds)


def wire_turns(conversation: Conversation) -> list[dict[str, Any]]:
    """Turns as OpenAI's API takes them: arguments as JSON text, an id for each call, nothing that it does not know."""
    turns = plain(conversation)
    unanswered: list[str] = []
    for number, turn in enumerate(turns):
        for key in ("reasoning_content", "thinking"):  # servers keep it from their models, or refuse it
            turn.pop(key, None)
        calls = turn.get("tool_calls", ())
        for index, call in enumerate(calls):
            call.setdefault("id", f"call{number:03}{index:02}")  # nine letters and digits, as Mistral demands
            call["function"]["arguments"] = json.dumps(dict(call["function"]["arguments"]), ensure_ascii=False)
        if calls:
            unanswered = [call["id"] for call in calls]
        if turn["role"] == "tool" and unanswered:
            answered = turn.setdefault("tool_call_id", unanswered[0])
            unanswered = [id for id in unanswered if id != answered]
    return turns


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(sorted(names)[:LISTED]) + more


def _advice(url: str) -> str:
    if url.endswith("/v1"):
        return "Is it the address of an OpenAI-compatible server?"
    return f"Does the address lack /v1, as in {url}/v1?"
