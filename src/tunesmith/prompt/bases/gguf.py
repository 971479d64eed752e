"""Whether the model in a GGUF file can be used: decided from the file's beginning, before anything is unpacked.

transformers reads more architectures from GGUF than stand here, and of some not all that their files say. Here are
those whose logits a test has held against the model that the file was made from.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.core.errors import ModelError
from tunesmith.prompt.bases.header import Header, read_header, refusal

ARCHITECTURES = {
    "llama": "Llama, Mistral, SmolLM2",
    "qwen2": "Qwen2 and 2.5",
    "qwen3": "Qwen3",
    "phi3": "Phi-3",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3",
}
# What the gguf library can make numbers of again.
KINDS = {
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S",
    "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4",
}  # fmt: skip
TOKENIZERS = {"gpt2": "byte-level BPE", "llama": "SentencePiece"}
VISION = re.compile(r"clip|mmproj|vl(moe)?$|vision|ocr|siglip|cogvlm|chameleon|mllama")
ENCODERS = re.compile(r"bert|t5|embed|rwkv-embed|encoder")
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
BLOCK = re.compile(r"blk\.(\d+)\.")
# Their attention is scaled by a number that stands in no file, and that transformers takes from a smaller sister.
OTHER_SCALE = {("gemma2", 46): "Gemma 2 27B", ("gemma3", 62): "Gemma 3 27B"}
LONGEST_CONTEXT = 1 << 27
ADVICE = "Take the model's folder or hub id in safetensors instead."


def checked(path: Path) -> Header:
    """The beginning of a file whose model can be trained.

    Raises:
        MissingError: there is no such file.
        ModelError: it cannot be; the sentence says why, and what to do.
    """
    header = read_header(path)
    for refuse in (_refuse_parts, _refuse_kind_of_model, _refuse_tensors, _refuse_shape, _refuse_rope, _refuse_words):
        refuse(header, _wrong(path))
    return header


Wrong = Callable[[str], ModelError]


def _wrong(path: Path) -> Wrong:
    return lambda sentence: refusal(path, sentence)


def _refuse_parts(header: Header, wrong: Wrong) -> None:
    named, count = PART.search(header.path.name), header.values.get("split.count", 1)
    if named or (type(count) is int and count > 1):
        which = f"part {int(named[1])} of {int(named[2])}" if named else f"one of {count} parts"
        raise wrong(
            f"{which} of a model. Join them first: `llama-gguf-split --merge FIRST-PART WHOLE.gguf` "
            "(llama.cpp), then name the whole."
        )


def _refuse_kind_of_model(header: Header, wrong: Wrong) -> None:
    values = header.values
    name, kind = values.get("general.architecture"), values.get("general.type", "model")
    if not isinstance(name, str) or not name:
        raise wrong("names no general.architecture, so nobody knows what model it is. Fetch it again, or another file.")
    if kind == "adapter":
        raise wrong(
            "a LoRA adapter in llama.cpp's form, and no model. Name the model; adapters are read in peft's form."
        )
    seeing = any(tensor.name.startswith(("v.", "mm.")) for tensor in header.tensors)
    if kind == "mmproj" or VISION.search(name) or seeing:
        raise wrong(
            f"{name!r}, the part of a model that sees pictures. tunesmith trains models of text: name the file of its "
            "language model, or another model."
        )
    experts = values.get(f"{name}.expert_count", 0)
    if experts or any("_exps." in tensor.name for tensor in header.tensors):
        raise wrong(
            f"a mixture of {experts or 'several'} experts ({name!r}), which cannot be trained from GGUF. Take a dense "
            f"model: {_known()}."
        )
    if ENCODERS.search(name) or values.get(f"{name}.attention.causal") is False:
        raise wrong(
            f"{name!r}, an encoder, which reads a text and does not write on. Take a model that writes: {_known()}."
        )
    if name not in ARCHITECTURES:
        raise wrong(f"its architecture, {name!r}, is not read from GGUF; these are: {_known()}. {ADVICE}")


def _known() -> str:
    return ", ".join(f"{name} ({what})" for name, what in ARCHITECTURES.items())


def _refuse_tensors(header: Header, wrong: Wrong) -> None:
    if not header.tensors:
        raise wrong("holds no tensors: a vocabulary alone. Name the file of the whole model.")
    for tensor in header.tensors:
        if tensor.kind not in KINDS:
            raise wrong(
                f"{tensor.name} is quantised as {tensor.kind}, which cannot be turned back into numbers. Fetch a file "
                "of the model in Q4_K_M, Q8_0 or F16."
            )


def _refuse_shape(header: Header, wrong: Wrong) -> None:
    """Hold what the settings say against the tensors, so that no setting alone can ask for memory or time."""
    values, name = header.values, header.values["general.architecture"]

    def number(key: str, most: int, default: int | None = None) -> int:
        value = values.get(f"{name}.{key}", default)
        if type(value) is not int or not 1 <= value <= most:
            raise wrong(f"{name}.{key} = {value!r}: must be a whole number from 1 to {most:,}. Fetch the file again.")
        return value

    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    table = shapes.get("token_embd.weight")
    blocks = {int(found[1]) for one in shapes if (found := BLOCK.match(one))}
    if table is None or len(table) != 2 or not blocks:
        raise wrong("has no embedding (token_embd.weight) or no layers (blk.0...): not all of a model. Fetch it again.")
    width, layers = number("embedding_length", 1 << 20), number("block_count", 10_000)
    number("context_length", LONGEST_CONTEXT)
    heads = number("attention.head_count", 1 << 14)
    few = number("attention.head_count_kv", 1 << 14, heads)
    head = number("attention.key_length", 1 << 14, max(1, width // heads))
    inner = number("feed_forward_length", 1 << 24)
    says = {
        "embedding_length": (width, table[1]),
        "block_count": (layers, len(blocks)),
        "feed_forward_length": (inner, shapes.get("blk.0.ffn_down.weight", (0, 0))[-1]),
        "vocab_size": (number("vocab_size", 1 << 24, table[0]), table[0]),
    }
    if "blk.0.attn_q.weight" in shapes:
        says["attention.head_count"] = (heads * head, shapes["blk.0.attn_q.weight"][0])
        says["attention.head_count_kv"] = (few * head, shapes.get("blk.0.attn_k.weight", (0,))[0])
    for key, (said, found) in says.items():
        if said != found:
            raise wrong(f"{name}.{key} speaks of {said:,}, and its tensors of {found:,}: damaged. Fetch it again.")
    if (name, layers) in OTHER_SCALE:
        raise wrong(f"{OTHER_SCALE[name, layers]}, whose attention transformers scales wrongly from GGUF. {ADVICE}")


def _refuse_rope(header: Header, wrong: Wrong) -> None:
    """Positions that are stretched in ways that transformers does not take from the file."""
    values, name = header.values, header.values["general.architecture"]
    kind, factor = values.get(f"{name}.rope.scaling.type", "none"), values.get(f"{name}.rope.scaling.factor", 1.0)
    factors = [tensor.name for tensor in header.tensors if tensor.name.startswith("rope_factors")]
    if factors or (kind != "none" and factor != 1.0):
        found = factors[0] if factors else f"{kind}, by {factor}"
        raise wrong(f"positions are stretched ({found}), which transformers does not take from GGUF. {ADVICE}")
    width = values.get(f"{name}.rope.dimension_count")
    head = values.get(f"{name}.attention.key_length") or (
        values[f"{name}.embedding_length"] // values[f"{name}.attention.head_count"]
    )
    if width not in (None, head):
        raise wrong(
            f"positions turn {width!r} of a head's {head} numbers, which transformers does not take from GGUF. {ADVICE}"
        )


def _refuse_words(header: Header, wrong: Wrong) -> None:
    values = header.values
    kind, words = values.get("tokenizer.ggml.model"), values.get("tokenizer.ggml.tokens", 0)
    rows = next(tensor.shape[0] for tensor in header.tensors if tensor.name == "token_embd.weight")
    if kind in (None, "none", "no_vocab") or type(words) is not int or not words:
        raise wrong("no tokenizer is in it (tokenizer.ggml.model, tokenizer.ggml.tokens). Fetch a whole file.")
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        raise wrong(
            f"its tokenizer, {kind!r}, is not read; these are: "
            f"{', '.join(f'{name} ({what})' for name, what in TOKENIZERS.items())}. {ADVICE}"
        )
    if words > rows:
        raise wrong(f"its tokenizer has {words:,} tokens, and its embedding {rows:,} rows: damaged. Fetch it again.")
    if kind == "gpt2" and not values.get("tokenizer.ggml.merges"):
        raise wrong("its tokenizer has no merges (tokenizer.ggml.merges). Fetch a whole file.")
    for name in ("bos", "eos", "unknown", "padding"):
        _refuse_beyond(f"tokenizer.ggml.{name}_token_id", values, words, wrong)
    kinds = values.get("tokenizer.ggml.token_type")
    if kinds is not None and (not isinstance(kinds, list) or len(kinds) != words):
        raise wrong("tokenizer.ggml.token_type does not have one value a token: damaged. Fetch it again.")
    if not isinstance(values.get("tokenizer.chat_template", ""), str):
        raise wrong("tokenizer.chat_template is no text: damaged. Fetch it again.")


def _refuse_beyond(name: str, values: dict[str, Any], words: int, wrong: Wrong) -> None:
    value = values.get(name)
    if value is not None and (type(value) is not int or not 0 <= value < words):
        raise wrong(f"{name} = {value!r}, and its tokens are numbered 0 to {words - 1:,}: damaged. Fetch it again.")
