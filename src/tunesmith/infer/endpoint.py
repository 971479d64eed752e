"""Requests to an OpenAI-compatible server: the key, patience with an overloaded server, faults as sentences.

The key goes to the host that it belongs to and nowhere else: redirects are not followed. An error that
quotes the server leaves out what was asked.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from tunesmith.core.errors import ConfigError, ModelError
from tunesmith.infer.generator import GivenUp, Refused

Body = dict[str, Any]

OPENAI_HOST = "api.openai.com"
CONNECT_SECONDS = 10.0
OF_ONE = (400, 413, 422)  # what a server may say of one request, while it takes others
QUOTED_CHARACTERS = 200  # most characters of a server's message that an error repeats
REPEATED_CHARACTERS = 20  # letters and digits in a row that stand in the question too are taken out of it
ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)")


@dataclass(frozen=True)
class Retry:
    """How long to insist on one request when the server is overloaded, restarts or does not answer.

    Attributes:
        tries: how often it is sent at most.
        seconds: after the first time; no other begins later.
        first: seconds of the first pause; each further one is twice as long, and up to half of it is left to chance.
        pause: sleeps.
    """

    tries: int = 8
    seconds: float = 300.0
    first: float = 0.5
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep

    def wait(self, attempt: int, asked: float | None) -> float:
        """Seconds to wait after `attempt` failures: never less than the server asked for."""
        grown = self.first * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)
        return max(grown, (asked or 0.0) * random.uniform(1.0, 1.1))


class _Passing(Exception):  # noqa: N818
    """A fault that may be gone at the next try; `asked` is the pause that the server wants, in seconds."""

    def __init__(self, what: str, asked: float | None = None) -> None:
        super().__init__(what)
        self.asked = asked


class Endpoint:
    """A server by its URL, with the key for it."""

    def __init__(self, url: str, key: str | None, timeout: float, retry: Retry) -> None:
        """Check address and key; nothing is sent.

        Args:
            url: what comes before `/chat/completions`.
            key: the environment's (`key_variable`) if None; none is sent if empty.
            timeout: most seconds for one request, from its first byte to the last of the answer.
            retry: when to give up.

        Raises:
            ConfigError: one of them cannot be used.
        """
        address = check_address(url)
        self.url, self.variable = str(address), key_variable(address)
        self.key = (os.environ.get(self.variable, "") if key is None else key).strip()
        self.timeout, self.retry = timeout, retry
        self.reached = False
        if not (self.key.isascii() and self.key.isprintable()):
            raise ConfigError(f"the key for {self.url} has characters that no key has. Look at {self.variable}.")

    def client(self, connections: int) -> httpx.AsyncClient:
        """A client for `fetch` that carries the key, to be closed after use.

        Raises:
            ConfigError: the environment's proxies or certificates cannot be used.
        """
        try:
            return httpx.AsyncClient(
                headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
                timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
                limits=httpx.Limits(max_connections=connections),
                follow_redirects=False,
            )
        except (OSError, ValueError, ImportError, httpx.InvalidURL) as fault:
            raise ConfigError(
                f"the environment's proxies or certificates cannot be used ({_short(str(fault))}). Look at "
                "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE."
            ) from None

    async def fetch(self, client: httpx.AsyncClient, path: str, body: Body | None = None) -> httpx.Response:
        """The answer to GET, or to POST where there is a body; sent again while what stands in the way may pass.

        Returns:
            A response whose status is success, or one that does not change by itself.

        Raises:
            GivenUp: `retry` allows no further try.
            ModelError: there is no server, or it redirects.
        """
        begun = time.monotonic()
        for attempt in itertools.count(1):
            try:
                return self._settled(await self._send(client, path, body), body)
            except _Passing as fault:
                wait, spent = self.retry.wait(attempt, fault.asked), time.monotonic() - begun
                if attempt >= self.retry.tries or spent + wait > self.retry.seconds:
                    asked = f" and asks for a pause of {fault.asked:.0f} s" if fault.asked else ""
                    times = "1 try" if attempt == 1 else f"{attempt} tries"
                    raise GivenUp(f"{self.url} {fault}{asked}; given up after {times}.") from None
            await self.retry.pause(wait)
        raise AssertionError

    async def _send(self, client: httpx.AsyncClient, path: str, body: Body | None) -> httpx.Response:
        method, content = ("GET", None) if body is None else ("POST", json.dumps(body).encode())
        headers = {"Content-Type": "application/json"} if content else {}
        try:
            async with asyncio.timeout(self.timeout):
                return await client.request(method, self.url + path, content=content, headers=headers)
        except httpx.ConnectTimeout:
            raise self._unreachable(f"no answer in {CONNECT_SECONDS:.0f} s") from None
        except (httpx.ConnectError, httpx.ProxyError) as fault:
            raise self._untrusted(tls) if (tls := _tls_fault(fault)) else self._unreachable(_why(fault)) from None
        except (TimeoutError, httpx.TimeoutException):
            raise _Passing(f"gave no whole answer within {self.timeout:g} s") from None
        except httpx.RequestError as fault:
            raise _Passing(f"broke off its answer ({_short(str(fault)) or type(fault).__name__})") from None

    def _settled(self, response: httpx.Response, body: Body | None) -> httpx.Response:
        """The response, unless it redirects or another may be better."""
        self.reached = True
        status = response.status_code
        if 300 <= status < 400:
            target = _short(response.headers.get("location", "")) or "nowhere"
            raise ModelError(
                f"{self.url} redirects to {target}, which is not followed: the key would travel along. Give the URL of "
                "that server itself if you trust it."
            )
        if (status in (408, 429) or status >= 500) and status != 501 and _code(response) != "insufficient_quota":
            said = self.quote(response, body)
            raise _Passing(f"answers {status}{said and f' ({said})'}", _retry_after(response.headers))
        return response

    def _unreachable(self, why: str) -> Exception:
        """A server that was there a moment ago may be back soon; one that never was is a wrong address."""
        if self.reached:
            return _Passing(f"is no longer there ({_short(why)})")
        advice = "Is the server running there, with this host and port?"
        return ModelError(f"cannot connect to {self.url} ({_short(why)}). {advice}")

    def _untrusted(self, why: str) -> ModelError:
        advice = "For a certificate of your own authority, set SSL_CERT_FILE to the authority's file."
        return ModelError(f"cannot connect to {self.url} securely ({_short(why)}). Is it http:// there? {advice}")

    def refusal(self, response: httpx.Response, body: Body | None = None) -> ModelError:
        """What to tell a user of a response that is no success."""
        status, said = response.status_code, self.quote(response, body)
        if status == 401:
            found = "refuses the key" if self.key else "wants a key"
            return ModelError(f"{self.url} {found} (401). Set {self.variable} to one that is valid there.")
        if status == 403:
            return ModelError(
                f"{self.url} refuses access (403{said and f': {said}'}). The key in {self.variable} must be allowed "
                "to use this model."
            )
        refused = Refused if status in OF_ONE else ModelError
        return refused(f"{self.url} refuses the request ({status}): {said or 'it does not say why'}.")

    def quote(self, response: httpx.Response, body: Body | None) -> str:
        """The server's message in short, without the key and without what was asked; empty for a page of HTML."""
        said = _message(response)
        if self.key:
            said = said.replace(self.key, "[key]")
        question = json.dumps((body or {}).get("messages"), ensure_ascii=False)
        return _short(_without(said, question)).rstrip(".")


def check_address(url: str) -> httpx.URL:
    """The URL, checked, without a final slash.

    Raises:
        ConfigError: it is none that a model could be at, or holds a password.
    """
    example = "Write it as https://host:port/v1"
    try:
        address = httpx.URL(url.strip().rstrip("/"))
    except httpx.InvalidURL as fault:
        raise ConfigError(f"{_short(url.rpartition('@')[2])!r} is no URL ({_short(str(fault))}). {example}.") from None
    if address.userinfo:
        raise ConfigError(f"the URL at {address.host} holds a password. Put it into {key_variable(address)} instead.")
    if address.scheme not in ("http", "https") or not address.host or address.query or address.fragment:
        raise ConfigError(f"{_short(url)!r} is no URL of a model server. {example}, with nothing after the path.")
    if address.host == OPENAI_HOST and address.scheme != "https":
        raise ConfigError(f"{url} would send the key unencrypted. Write https://.")
    return address


def key_variable(address: httpx.URL) -> str:
    """The environment variable whose key may be sent there."""
    return "OPENAI_API_KEY" if address.host == OPENAI_HOST else "TUNESMITH_REMOTE_KEY"


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that a server wants to be left alone, from a number or a date (RFC 9110, 10.2.3)."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if seconds == seconds else None


def _why(fault: BaseException) -> str:
    """The system's own words for a connection that failed, which stand innermost."""
    inner = fault
    while deeper := inner.__cause__ or inner.__context__:
        inner = deeper
    number = inner.errno if isinstance(inner, OSError) else None
    return os.strerror(number) if number and number > 0 else str(fault)


def _tls_fault(fault: BaseException | None) -> str | None:
    """What TLS had against a connection, if it was TLS."""
    while fault is not None:
        if isinstance(fault, ssl.SSLCertVerificationError):
            return fault.verify_message
        if isinstance(fault, ssl.SSLError):
            return str(fault)
        fault = fault.__cause__ or fault.__context__
    return None


def _error(response: httpx.Response) -> Any:
    """What stands where OpenAI, FastAPI and others put an error; None where there is no JSON object."""
    try:
        value = response.json()
    except (ValueError, RecursionError):
        return None
    return (value.get("error") or value.get("detail") or value.get("message")) if isinstance(value, dict) else None


def _code(response: httpx.Response) -> Any:
    error = _error(response)
    return error.get("code") if isinstance(error, dict) else None


def _message(response: httpx.Response) -> str:
    error = _error(response)
    if isinstance(error, list):  # FastAPI's, whose `input` is what was asked
        error = error[0] if error else ""
    if isinstance(error, dict):
        error = error.get("message") or error.get("msg")
    if error is None and not response.text.lstrip().startswith("<"):
        error = response.text
    return str(error or "")[: 10 * QUOTED_CHARACTERS]


def _without(text: str, question: str) -> str:
    """The text with `[...]` for what stands in the question too, whatever the quotes and escapes of either."""
    text = ESCAPE.sub(" ", text)
    asked = "".join(filter(str.isalnum, ESCAPE.sub(" ", question)))
    places = [place for place, char in enumerate(text) if char.isalnum()]
    letters = "".join(text[place] for place in places)
    hidden: set[int] = set()
    for start in range(len(letters) - REPEATED_CHARACTERS + 1):
        if letters[start : start + REPEATED_CHARACTERS] in asked:
            hidden.update(range(places[start], places[start + REPEATED_CHARACTERS - 1] + 1))
    runs = itertools.groupby(range(len(text)), key=hidden.__contains__)
    return "".join("[...]" if taken else "".join(text[place] for place in run) for taken, run in runs)


def _short(text: str) -> str:
    """One printable line of at most `QUOTED_CHARACTERS` characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= QUOTED_CHARACTERS else line[: QUOTED_CHARACTERS - 1] + "…"
