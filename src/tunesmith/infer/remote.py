"""A model behind a URL that speaks OpenAI's chat completions, as a `Generator`: OpenAI's own, vLLM, Ollama and others.

It answers conversations with text, all of it at once. It scores nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

import httpx

from tunesmith.core.errors import ConfigError, MissingError, ModelError, TunesmithError
from tunesmith.infer.endpoint import Body, Endpoint, Retry
from tunesmith.infer.generator import (
    Choice,
    Completion,
    Delta,
    NoSchemas,
    Options,
    Prompt,
    Usage,
    deltas_of,
    is_conversation,
)
from tunesmith.infer.portal import Portal
from tunesmith.prompt.messages import Conversation, plain

Value = TypeVar("Value")

OF_SCHEMAS = re.compile(r"response_?format|json_?schema|schema|grammar|structured|guided", re.I)
MODELS_LISTED = 20  # most that an error names
MOST_WAITING = 256  # requests that wait to be sent


def parse_remote(name: str) -> tuple[str, str] | None:
    """URL and model of `https://host:port/v1#model`; the model is empty if not named. None if it is no such URL."""
    if not name.lower().startswith(("http://", "https://")):
        return None
    url, _, model = name.partition("#")
    return url, model.strip()


class RemoteAnswering:
    """An `Answering` by a server. Its deltas come when all is there."""

    def __init__(self, future: Future[Completion], options: Options, portal: Portal[httpx.AsyncClient]) -> None:
        self._future, self._options, self._portal = future, options, portal

    def __iter__(self) -> Iterator[Delta]:
        yield from deltas_of(self.result())

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for all answers; see `Answering`."""
        try:
            return self._future.result(timeout)
        except CancelledError:
            return Completion([Choice("", "cancelled")] * self._options.n, None, 0.0)

    def cancel(self) -> None:
        """Close the connection, or never open it."""
        self._portal.cancel(self._future)


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
        most_waiting: int = MOST_WAITING,
    ) -> None:
        """Check the address. Nothing is sent yet, unless the model is not named.

        Args:
            url: what comes before `/chat/completions`.
            model: its name there; if empty, the server is asked for its only one.
            key: OPENAI_API_KEY for OpenAI's own server and TUNESMITH_REMOTE_KEY for others if None, none if empty.
            concurrency: most requests at once.
            timeout: most seconds for one request.
            retry: when to give up on one.
            most_waiting: requests that may wait to be sent.

        Raises:
            ConfigError: the URL or key cannot be used, or the server has several models and none is named.
            TunesmithError: the server was asked for its models and does not tell.
        """
        assert concurrency > 0
        self.endpoint = endpoint = Endpoint(url, key, timeout, retry)
        self._portal = Portal(lambda: endpoint.client(concurrency), concurrency, most_waiting)
        self._limit = "max_tokens"
        self.model = model or self._only_model()

    def submit(self, prompt: Prompt, options: Options = Options()) -> RemoteAnswering:  # noqa: B008  frozen
        """Send a conversation as soon as there is room; see `Generator`.

        Args:
            prompt: ends with what is to be answered.
            options: sent along; a server may pay no heed to the seed. An adapter is a model of that name there.

        Raises:
            Full: too many requests wait already.
            ModelError: the prompt is no conversation.
        """
        if not is_conversation(prompt):
            raise ModelError(f"{self.endpoint.url} answers conversations, not token ids.")
        question = self._question(prompt, options)
        return RemoteAnswering(self._portal.start(lambda client: self._ask(client, question)), options, self._portal)

    @property
    def name(self) -> str:
        """Which model of which server."""
        return f"{self.endpoint.url}#{self.model}"

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

    def _question(self, conversation: Conversation, options: Options) -> Body:
        return {
            "model": options.adapter or self.model,
            "messages": wire_turns(conversation),
            **({"tools": [dict(tool) for tool in options.tools]} if options.tools else {}),
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "seed": options.seed,
            **({"n": options.n} if options.n > 1 else {}),
            **({"stop": list(options.stop)} if options.stop else {}),
            **({"logprobs": True} if options.logprobs else {}),
            **{name: value for name, value in _steering(options).items() if value},
        }

    def _run(self, work: Callable[[httpx.AsyncClient], Awaitable[Value]]) -> Value:
        future = self._portal.start(work)
        try:
            return future.result()
        finally:
            self._portal.cancel(future)

    async def _ask(self, client: httpx.AsyncClient, question: Body) -> Completion:
        limit = self._limit
        body = {limit if key == "max_tokens" else key: value for key, value in question.items()}
        response = await self.endpoint.fetch(client, "/chat/completions", body)
        if response.is_success:
            return self._read(response, body)
        if limit == "max_tokens" and response.status_code == 400 and "max_completion_tokens" in response.text:
            self._limit = "max_completion_tokens"  # as OpenAI's reasoning models call it, and only so
            return await self._ask(client, question)
        if response.status_code in (404, 405):
            await self._explain_missing(client, response.status_code, question["model"])
        if "response_format" in body and response.status_code in (400, 422, 501):
            said = self.endpoint.quote(response, body)
            if not said or OF_SCHEMAS.search(response.text):
                answer = f"{response.status_code}{said and f': {said}'}"
                raise NoSchemas(
                    f"{self.endpoint.url} does not take the JSON schema ({answer}), which is sent as response_format. "
                    "Ask this model without one, or give a simpler one."
                )
        raise self.endpoint.refusal(response, body)

    async def _explain_missing(self, client: httpx.AsyncClient, status: int, model: str) -> None:
        """Raise if the model, or the whole API, is not there."""
        url = self.endpoint.url
        try:
            names = await self._list(client)
        except TunesmithError:
            raise MissingError(f"{url} has no /chat/completions ({status}). {_advice(url)}") from None
        if model not in names:
            raise MissingError(f"{url} has no model {model!r}. It has {_listed(names) or 'none'}.")

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

    def _read(self, response: httpx.Response, body: Body) -> Completion:
        value, wanted = self._json(response), body.get("n", 1)
        entries = value.get("choices")
        choices = [read_choice(one) for one in entries] if isinstance(entries, list) else []
        found = [one for one in choices if one is not None]
        if len(found) < wanted:
            said = self.endpoint.quote(response, body) if "error" in value else ""
            what = "a message" if wanted == 1 else f"{wanted} messages"
            raise ModelError(f"{self.endpoint.url} answers without {what} in 'choices'{said and f': {said}'}.")
        return Completion(found[:wanted], read_usage(value.get("usage")), response.elapsed.total_seconds())


def read_choice(value: Any) -> Choice | None:
    """One answer as the server writes it; None if it holds no message."""
    match value:
        case {"message": {"content": str() | None as content}}:
            pass
        case {"message": {"tool_calls": [_, *_]}}:
            content = None  # some leave it out beside calls
        case _:
            return None
    text = (content or "").encode("utf-8", "replace").decode()  # half a surrogate pair could not be written down
    reason = value.get("finish_reason")
    return Choice(text, reason if isinstance(reason, str) else "", [], read_logprobs(value.get("logprobs")))


def _steering(options: Options) -> Body:
    """What changes logits; a server takes it or not."""
    schema = options.schema and {"name": "answer", "schema": json.loads(options.schema), "strict": True}
    return {
        "top_logprobs": options.top_logprobs, "frequency_penalty": options.frequency_penalty,
        "presence_penalty": options.presence_penalty,
        "logit_bias": {str(token): bias for token, bias in options.logit_bias},
        "response_format": schema and {"type": "json_schema", "json_schema": schema},
    }  # fmt: skip


def read_logprobs(value: Any) -> list[float] | None:
    """The log probability of each token; None where the server does not tell."""
    tokens = value.get("content") if isinstance(value, Mapping) else None
    if not isinstance(tokens, list):
        return None
    found: list[Any] = [one.get("logprob") if isinstance(one, Mapping) else None for one in tokens]
    return [float(one) for one in found] if all(isinstance(one, int | float) for one in found) else None


def read_usage(value: Any) -> Usage | None:
    """Tokens as the server counts them, reasoning among them; None if it does not say."""
    counts = [
        value.get(name) if isinstance(value, Mapping) else None for name in ("prompt_tokens", "completion_tokens")
    ]
    if type(counts[1]) is not int:
        return None
    return Usage(counts[0] if type(counts[0]) is int else 0, counts[1])


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
    more = f" and {len(names) - MODELS_LISTED} more" if len(names) > MODELS_LISTED else ""
    return ", ".join(sorted(names)[:MODELS_LISTED]) + more


def _advice(url: str) -> str:
    if url.endswith("/v1"):
        return "Is it the address of an OpenAI-compatible server?"
    return f"Does the address lack /v1, as in {url}/v1?"
