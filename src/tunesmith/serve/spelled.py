"""Tokens and their log probabilities as OpenAI's clients read them: text and bytes of each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from tunesmith.infer.generator import Tops
from tunesmith.prompt.contract import Contract


@cache
def _letters() -> dict[str, int]:
    """What stands for each byte in the vocabulary of a byte-level BPE (Radford et al., 2019)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


def bytes_of(contract: Contract, id: int) -> bytes:
    """The bytes of a token, which may be a part of a character; none of a control token."""
    token = contract.tokenizer.convert_ids_to_tokens(id)
    if token is None or token in contract.control_tokens:
        return b""
    letters = _letters()
    if "ByteLevel" in str(contract.tokenizer.backend_tokenizer.decoder) and all(one in letters for one in token):
        return bytes(letters[one] for one in token)
    return contract.decode([id]).encode()


def spelled(contract: Contract, id: int, logprob: float) -> dict[str, Any]:
    """A token with its log probability."""
    written = bytes_of(contract, id)
    return {"token": written.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(written)}


def chat_logprobs(
    contract: Contract, ids: Sequence[int], logprobs: Sequence[float] | None, tops: Sequence[Tops] | None
) -> Any:
    """`logprobs` of a choice of a chat completion."""
    if logprobs is None or tops is None:
        return None
    content = [
        {**spelled(contract, id, value), "top_logprobs": [spelled(contract, *one) for one in beside]}
        for id, value, beside in zip(ids, logprobs, tops, strict=True)
    ]
    return {"content": content, "refusal": None}


def text_logprobs(
    contract: Contract, ids: Sequence[int], logprobs: Sequence[float] | None, tops: Sequence[Tops] | None, start: int
) -> Any:
    """`logprobs` of a choice of a plain completion, whose text begins at the letter `start`."""
    if logprobs is None or tops is None:
        return None
    tokens = [spelled(contract, id, 0.0)["token"] for id in ids]
    offsets = [start + sum(map(len, tokens[:n])) for n in range(len(tokens))]
    beside = [{spelled(contract, *one)["token"]: one[1] for one in top} for top in tops]
    return {"tokens": tokens, "token_logprobs": list(logprobs), "top_logprobs": beside, "text_offset": offsets}
