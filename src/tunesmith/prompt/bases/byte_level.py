"""The byte-level tokenizer of a GGUF file, as the tokenizers library has it, whatever the version of transformers.

A file has vocabulary and merges, and of the way to cut text into words a name alone. Here is what the names stand
for; transformers does not know all of them, and takes GPT-2's way for the others.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tunesmith.core.errors import ModelError
from tunesmith.prompt.bases.header import Header, read_header

TOKENS, MERGES = "tokenizer.ggml.tokens", "tokenizer.ggml.merges"
CONTROL, OF_USERS = 3, 4  # kinds of tokens: of the format; whole words that somebody has added

_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_REST_OF_CASED = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}"
QWEN_2 = rf"{_ENDINGS}|{_LETTERS}|\p{{N}}|{_REST}"
TEKKEN = rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_REST_OF_CASED}"
GPT_4O = rf"{_CASED[0]}{_ENDINGS}?|{_CASED[1]}{_ENDINGS}?|\p{{N}}{{1,3}}|{_REST_OF_CASED}"
PATTERNS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx", "falcon3"), LLAMA_3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), QWEN_2),
    "tekken": TEKKEN,
    **dict.fromkeys(("gpt-4o", "llama4"), GPT_4O),
}
LIKE_GPT_2 = ("default", "gpt-2", "phi-2", "olmo", "mpt")
AT_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone")  # and like GPT-2 beside
WHOLE_WORDS = (LLAMA_3, TEKKEN)  # what is in the vocabulary is one token, whatever the merges say
COMPOSED = (QWEN_2,)  # accents are put together first


def byte_level(header: Header) -> tuple[Any, list[str]]:
    """The tokenizer, and what a user should know of it.

    Raises:
        ModelError: vocabulary and merges do not go together.
    """
    values = read_header(header.path, (TOKENS, MERGES)).values
    kind, tokens = values.get("tokenizer.ggml.pre", "default"), values[TOKENS]
    pattern = PATTERNS.get(kind)
    try:
        merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in values[MERGES])]
        vocabulary = {token: place for place, token in enumerate(tokens)}
        tokenizer: Any = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pattern in WHOLE_WORDS))
    except Exception as error:  # noqa: BLE001  tokenizers raises nothing more special
        raise ModelError(f"{header.path}: its vocabulary and merges do not go together ({error}): damaged.") from None
    if pattern in COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _cut(kind, pattern)
    tokenizer.decoder = decoders.ByteLevel()
    kinds = values.get("tokenizer.ggml.token_type", [])
    for marked, special in ((CONTROL, True), (OF_USERS, False)):
        found = [token for token, one in zip(tokens, kinds, strict=False) if one == marked]
        added = [AddedToken(token, normalized=False, special=special) for token in found]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    bos = values.get("tokenizer.ggml.bos_token_id")
    if bos is not None and values.get("tokenizer.ggml.add_bos_token", pattern == LLAMA_3):
        tokenizer.post_processor = processors.TemplateProcessing(
            f"{tokens[bos]} $A", f"{tokens[bos]} $A {tokens[bos]} $B", [(tokens[bos], bos)]
        )
    known = pattern is not None or kind in (*LIKE_GPT_2, *AT_DIGITS)
    return tokenizer, [] if known else [
        f"the file's way to cut text, {kind!r}, is not known, so GPT-2's is taken: some texts may become other tokens "
        "than the model was trained with."
    ]


def _cut(kind: str, pattern: str | None) -> Any:
    if pattern is not None:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    like_gpt_2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind in AT_DIGITS:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), like_gpt_2])
    return like_gpt_2
