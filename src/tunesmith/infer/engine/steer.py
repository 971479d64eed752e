"""What a request changes in the logits before its next token is chosen: penalties, biases, and a grammar.

Penalties are OpenAI's: a token's logit loses `presence` once it has come, and `frequency` for each time. A grammar lets
through the tokens alone with which the answer can still become what it must be (llguidance; Moskal et al., 2025).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tunesmith.core.errors import ConfigError, ModelError, TunesmithError
from tunesmith.infer.generator import Options
from tunesmith.prompt.contract import Contract

OBJECT = '{"type": "object"}'  # what JSON mode wants
AS_DUMPED: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # or it may go on
LARGEST_SCHEMA = 100_000  # characters


class Grammars:
    """Grammars over one model's tokens; what they need of its tokenizer is made once."""

    def __init__(self, contract: Contract | None, words: int) -> None:
        """`words`: logits that the model gives."""
        self._contract, self._words = contract, words
        self._lock, self._tokenizer = threading.Lock(), None

    def matcher(self, schema: str) -> Any:
        """What follows one answer that must match a JSON schema.

        Raises:
            TunesmithError: the library is not installed, or the model's tokens have no text.
            ConfigError: the schema makes no sense, or asks for what cannot be kept to.
        """
        try:
            from llguidance import LLMatcher
        except ImportError:
            raise TunesmithError("JSON schemas need an extra: pip install 'tunesmith[serve]'.") from None
        if len(schema) > LARGEST_SCHEMA:
            raise ConfigError(f"schema: {len(schema):,} characters, and {LARGEST_SCHEMA:,} are the most.")
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=AS_DUMPED)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"schema: {str(error).splitlines()[0][:300]}") from None
        matcher = LLMatcher(self._tokens(), grammar, log_level=0)
        if matcher.is_error():
            raise ConfigError(f"schema: {matcher.get_error().splitlines()[0][:300]}")
        return matcher

    def _tokens(self) -> Any:
        from llguidance.hf import from_tokenizer

        with self._lock:
            if self._tokenizer is None:
                if self._contract is None:
                    raise ModelError("a model without a prompt contract writes no text, so no JSON either.")
                stops = list(self._contract.stop_ids)
                try:
                    self._tokenizer = from_tokenizer(self._contract.tokenizer, n_vocab=self._words, eos_token=stops)
                except ValueError as error:
                    raise ModelError(f"this model's tokenizer cannot be kept to a schema ({error}).") from None
            return self._tokenizer


class Steer:
    """Changes the logits of one answer."""

    def __init__(self, options: Options, matcher: Any = None) -> None:
        """Nothing has come yet; `matcher` is the answer's own."""
        self._frequency, self._presence = options.frequency_penalty, options.presence_penalty
        self._bias = options.logit_bias
        self._matcher, self._came = matcher, Counter[int]()

    def change(self, logits_V: torch.Tensor) -> None:
        """Change logits in place.

        Raises:
            ModelError: the grammar cannot be followed any further.
        """
        if self._came and (self._frequency or self._presence):
            ids = torch.tensor(list(self._came), device=logits_V.device)
            times = torch.tensor(list(self._came.values()), dtype=logits_V.dtype, device=logits_V.device)
            logits_V[ids] -= self._frequency * times + self._presence
        for token, bias in self._bias:
            logits_V[token] += bias
        if self._matcher is not None:
            logits_V.masked_fill_(~self._allowed(len(logits_V)).to(logits_V.device), -torch.inf)

    def _allowed(self, words: int) -> torch.Tensor:
        """Whether each token may come next (V)."""
        bits = np.zeros((words + 31) // 32, dtype=np.uint32)
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        if self._matcher.is_error():
            raise ModelError(
                f"the schema cannot be followed further: {self._matcher.get_error().splitlines()[0][:200]}"
            )
        return torch.from_numpy(np.unpackbits(bits.view(np.uint8), bitorder="little")[:words].astype(bool))

    def took(self, token: int) -> None:
        """A token has come."""
        self._came[token] += 1
        if self._matcher is not None and not self._matcher.is_stopped():
            self._matcher.consume_token(token)


def steer_of(options: Options, grammars: Grammars) -> Steer | None:
    """What an answer's options change; None if nothing.

    Raises:
        ConfigError: as `Grammars.matcher`.
    """
    if not (options.frequency_penalty or options.presence_penalty or options.logit_bias or options.schema):
        return None
    return Steer(options, grammars.matcher(options.schema) if options.schema else None)


def refuse_bias(bias: Sequence[tuple[int, float]], words: int) -> None:
    """Raise ConfigError where a token is none of the model's."""
    for token, _ in bias:
        if not 0 <= token < words:
            raise ConfigError(f"logit_bias: token {token} is none of the model's {words:,}.")
