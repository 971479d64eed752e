"""What may be asked of servers: a budget of requests and of dollars, that nothing goes beyond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.core.errors import ConfigError
from tunesmith.infer.generator import Usage
from tunesmith.prompt.messages import Conversation, Tools, plain

MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """Dollars for a million tokens.

    Attributes:
        read: of prompts.
        written: of answers.
    """

    read: float
    written: float

    def of(self, prompt_tokens: float, answer_tokens: float) -> float:
        """Dollars."""
        return (self.read * prompt_tokens + self.written * answer_tokens) / MILLION


class Budget:
    """Counts what this call asks of servers.

    Attributes:
        requests: that were sent.
        dollars: that they cost, as far as prices are known; where a server counts no tokens, the most they could be.
        ended: whether something was not asked because the budget did not allow it.
        too_dear: the most that the first request could have cost that was not sent for its dollars; 0 if none.
    """

    def __init__(self, most_requests: int | None, most_dollars: float | None) -> None:
        """Nothing is spent yet; no limit where it is None."""
        self._most_requests, self._most_dollars = most_requests, most_dollars
        self.requests, self.dollars, self.ended = 0, 0.0, False
        self.too_dear = 0.0
        self._reserved = 0.0

    def take(self, bound: float) -> bool:
        """Take one request that costs `bound` dollars at most, if the budget has room for that."""
        too_many = self._most_requests is not None and self.requests >= self._most_requests
        dear = self._most_dollars is not None and self.dollars + self._reserved + bound > self._most_dollars
        if too_many or dear:
            self.ended = True
            self.too_dear = self.too_dear or (bound if dear else 0.0)
            return False
        self.requests += 1
        self._reserved += bound
        return True

    def give_back(self, bound: float) -> None:
        """A request that was taken was not sent."""
        self.requests -= 1
        self._reserved -= bound

    def settle(self, bound: float, cost: float | None) -> None:
        """Say what a request that was taken has cost; None where nobody knows."""
        self._reserved -= bound
        self.dollars += bound if cost is None else cost

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"requests": self.requests, "dollars": self.dollars, "ended_early": self.ended}


def bound_of(
    price: Price | None, asked: Conversation, tools: Tools, max_new_tokens: int, schema: str | None = None
) -> float:  # fmt: skip
    """The most that an answer can cost: no token is shorter than a byte, and a turn, a tool or a schema adds a few."""
    if price is None:
        return 0.0
    read = [*plain(asked), *tools, *([schema] if schema else [])]
    return price.of(sum(len(str(one).encode("utf-8", "replace")) + 8 for one in read), max_new_tokens)


def cost_of(price: Price | None, usage: Usage | None) -> float | None:
    """What an answer has cost; None where price or tokens are not known."""
    if price is None or usage is None or not usage.prompt_tokens:
        return None
    return price.of(usage.prompt_tokens, usage.completion_tokens)


def parse_prices(given: Sequence[str]) -> dict[str, Price]:
    """Prices by model, as `--price` gives them: `0.4,1.6` for all (under ""), or `gpt-4.1-mini=0.4,1.6`.

    Raises:
        ConfigError: it is no price.
    """
    found: dict[str, Price] = {}
    for one in given:
        name, _, numbers = one.rpartition("=")
        try:
            read, written = map(float, numbers.split(","))
            if not (0 <= read < float("inf") and 0 <= written < float("inf")):
                raise ValueError
        except ValueError:
            raise ConfigError(
                f"--price {one}: must be two prices in dollars for a million tokens, of prompts and of answers, such "
                "as 0.4,1.6; or MODEL=0.4,1.6."
            ) from None
        found[name] = Price(read, written)
    return found


def price_of(prices: dict[str, Price], url: str, model: str) -> Price | None:
    """The price of a server's model."""
    return prices.get(model) or prices.get(f"{url}#{model}") or prices.get("")
