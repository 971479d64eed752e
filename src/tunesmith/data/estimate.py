"""What a file would cost at OpenAI: its rule for epochs and its price list. An estimate, in our tokens.

Source: OpenAI's cookbook ("Data preparation and analysis for chat model fine-tuning") and price page,
as of November 2026. OpenAI counts with its own tokenizer; the figures here use the model's at hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TARGET_EPOCHS, FEWEST_EXAMPLES, MOST_EXAMPLES, MOST_EPOCHS = 3, 100, 25_000, 25
PRICES = {  # US dollars for a million training tokens
    "gpt-4.1": 25.0,
    "gpt-4.1-mini": 5.0,
    "gpt-4.1-nano": 1.5,
    "gpt-4o": 25.0,
    "gpt-4o-mini": 3.0,
    "gpt-3.5-turbo": 8.0,
    "davinci-002": 6.0,
    "babbage-002": 0.4,
}
FEWEST_ROWS = 10  # that OpenAI accepts
LONGEST = 65_536  # tokens of a row that are billed, of today's models


@dataclass(frozen=True)
class Estimate:
    """Epochs by OpenAI's rule, tokens billed over all of them, and their price in US dollars."""

    model: str
    epochs: int
    tokens: int
    dollars: float


def default_epochs(rows: int) -> int:
    """How often OpenAI passes over a file of so many rows (0 for an empty one)."""
    if rows == 0:
        return 0
    if rows * TARGET_EPOCHS < FEWEST_EXAMPLES:
        return min(MOST_EPOCHS, FEWEST_EXAMPLES // rows)
    if rows * TARGET_EPOCHS > MOST_EXAMPLES:
        return max(1, MOST_EXAMPLES // rows)
    return TARGET_EPOCHS


def estimate(model: str, lengths: Iterable[int], epochs: int | None = None) -> Estimate:
    """The cost of training `model` (one of `PRICES`) on rows of these lengths in tokens."""
    lengths = [min(int(length), LONGEST) for length in lengths]
    epochs = default_epochs(len(lengths)) if epochs is None else epochs
    tokens = epochs * sum(lengths)
    return Estimate(model, epochs, tokens, tokens * PRICES[model] / 1e6)
