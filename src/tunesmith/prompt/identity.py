"""What a prompt contract is, as a hash: of its content, whatever words a version of a library writes it down in.

A tokenizer's own serialisation is no such thing: a new version orders keys otherwise, or writes down an option that
it has learned, and every model that was exported before would seem to be another.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

# Not of the tokenizer, but of the file and of the last call.
PASSING = ("version", "truncation", "padding")
# Options whose absence means something else than off.
DEFAULTS: dict[str, Any] = {"use_regex": True, "strip_accents": None}


def contract_id(
    tokenizer: Any, template: str | None, stop_ids: tuple[int, ...], train_on: str, prefix: str = ""
) -> str:
    """SHA-256 over a tokenizer's content, the template, the tokens that it names, stop ids, mask rule and prefix."""
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    names = set(re.findall(r"\b[a-z]+_token\b", template or ""))
    parts = {
        "tokenizer": content_of(written),
        "tokens": {name: token for name, token in tokenizer.special_tokens_map.items() if name in names},
        "template": template,
        "stop_ids": stop_ids,
        "train_on": train_on,
        **({"prefix": prefix} if prefix else {}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def content_of(written: dict[str, Any]) -> dict[str, Any]:
    """What a tokenizer does, of all that is written down in its JSON.

    That is: vocabulary, merges, added tokens, normalizer, pre-tokenizer, post-processor and decoder, with every option
    that is not at its default.
    """
    content = {key: value for key, value in written.items() if key not in PASSING}
    content["added_tokens"] = sorted(content.get("added_tokens") or [], key=lambda token: token["id"])
    model = dict(content["model"])
    vocabulary, merges = model.pop("vocab"), model.pop("merges", None) or []
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges]
    return {**without_defaults(content), "model": without_defaults(model), "vocab": vocabulary, "merges": pairs}


def without_defaults(value: Any) -> Any:
    """A JSON value without the options in it that are off, or as they are if nobody names them."""
    if isinstance(value, list):
        return [without_defaults(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    within = {key: without_defaults(inner) for key, inner in value.items()}
    return {key: inner for key, inner in within.items() if not _is_default(key, inner)}


def _is_default(key: str, value: Any) -> bool:
    if key in DEFAULTS:
        return value is DEFAULTS[key]
    return value is None or value is False or value in ("", [], {})
