"""GGUF files of small models, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

CONTROL, NORMAL = 3, 1  # kinds of tokens
NAMES = {"gemma2": "gemma2", "gemma3_text": "gemma3"}  # of architectures that llama.cpp calls otherwise
SETTINGS = {
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size",),
    "block_count": ("num_hidden_layers",),
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "vocab_size": ("vocab_size",),
}


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys as llama.cpp turns them: pairs beside each other, not half a head apart."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def write_gguf(
    model: Any, tokenizer: PreTrainedTokenizerFast, path: Path, kind: str = "F32",
    edit: Callable[[gguf.GGUFWriter], None] = lambda writer: None, **settings: Any,
) -> Path:  # fmt: skip
    """Write a model and its tokenizer.

    Args:
        model: of transformers.
        tokenizer: byte-level.
        path: of the file.
        kind: of the tensors with two axes.
        edit: adds what else shall stand in it.
        **settings: those that are otherwise, by their whole names with `__` for dots; None leaves one out.
    """
    config = model.config
    architecture = NAMES.get(config.model_type, config.model_type)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found: dict[str, Any] = {
        f"{architecture}.{name}": next(getattr(config, one) for one in names if getattr(config, one, None) is not None)
        for name, names in SETTINGS.items() if any(getattr(config, one, None) is not None for one in names)
    }  # fmt: skip
    theta = float((getattr(config, "rope_parameters", None) or {}).get("rope_theta", 1e4))
    found |= {
        f"{architecture}.rope.dimension_count": head,
        f"{architecture}.attention.key_length": head,
        f"{architecture}.attention.value_length": head,
        f"{architecture}.attention.layer_norm_rms_epsilon": float(getattr(config, "rms_norm_eps", 1e-6)),
        f"{architecture}.rope.freq_base": theta,
        "general.name": "tiny", "general.license": "apache-2.0",
        **tokenizer_settings(tokenizer),
    }  # fmt: skip
    found |= {name.replace("__", "."): value for name, value in settings.items()}
    writer = gguf.GGUFWriter(path, found.pop("general.architecture", architecture))
    for name, value in found.items():
        add(writer, name, value)
    edit(writer)
    for name, tensor in tensors_of(model, architecture).items():
        one = kind if tensor.ndim > 1 else "F32"
        quantised = gguf.quantize(tensor, gguf.GGMLQuantizationType[one])
        writer.add_tensor(name, quantised, raw_dtype=gguf.GGMLQuantizationType[one])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    """A setting of the kind that its value is of."""
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    if isinstance(value, list):
        writer.add_array(name, value)
    elif value is not None:
        kinds[type(value)](name, value)


def tokenizer_settings(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What stands in a file of a byte-level tokenizer that takes digits one by one."""
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL if token in special else NORMAL for token in tokens],
        "tokenizer.ggml.merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": tokenizer.chat_template,
    }


def tensors_of(model: Any, architecture: str) -> dict[str, np.ndarray]:
    """Weights by llama.cpp's names, turned as it turns them."""
    config = model.config
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    found: dict[str, np.ndarray] = {}
    for name, weight in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        stem, _, end = name.rpartition(".")
        values = weight.float().numpy().astype(np.float32)
        if architecture == "llama" and ".q_proj" in name:
            values = permuted(values, config.num_attention_heads)
        if architecture == "llama" and ".k_proj" in name:
            values = permuted(values, config.num_key_value_heads)
        if architecture in ("gemma2", "gemma3") and "norm" in name:
            values = values + 1
        found[f"{names.get_name(stem)}.{end}"] = np.ascontiguousarray(values)
    return found


def save_file(model: Any, folder: Path, path: Path, **options: Any) -> Path:
    """Write `model` with the tokenizer that lies in `folder`."""
    with torch.no_grad():
        return write_gguf(model, PreTrainedTokenizerFast.from_pretrained(folder), path, **options)
