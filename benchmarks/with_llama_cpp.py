"""llama.cpp for the benchmarks beside it: compiled for this processor, and models as it reads them."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

VERSION = "0.3.36"  # of llama-cpp-python, whose sources have llama.cpp's in them
PIP = [sys.executable, "-m", "pip"]
SERVER = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
          "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF",
          "-DBUILD_SHARED_LIBS=OFF"]  # fmt: skip


def build_bindings(folder: Path) -> None:
    """Compile the bindings, which decode in this process, into a folder, with what writes models for it."""
    settings = {**os.environ, "CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"}
    wanted = [f"llama-cpp-python=={VERSION}", "gguf", "diskcache"]
    subprocess.run(
        [*PIP, "install", "--quiet", "--no-deps", "--target", str(folder), *wanted], env=settings, check=True
    )


def build_server(folder: Path) -> Path:
    """Compile `llama-server` (about eight minutes on two cores), or take the one that is in the folder.

    Returns:
        The program; beside it is what writes models for it.
    """
    program = folder / "build" / "bin" / "llama-server"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [*PIP, "install", "--quiet", "--no-deps", "--target", str(folder / "python"), "gguf"], check=True
        )
        command = [*PIP, "download", "--quiet", "--no-deps", "--no-binary", ":all:", f"llama-cpp-python=={VERSION}"]
        subprocess.run(command, cwd=folder, check=True)
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        sources = folder / f"llama_cpp_python-{VERSION}" / "vendor" / "llama.cpp"
        subprocess.run(["cmake", "-S", str(sources), "-B", str(folder / "build"), *SERVER], check=True)
        command = ["cmake", "--build", str(folder / "build"), "--target", "llama-server", "-j", str(os.cpu_count())]
        subprocess.run(command, check=True)
    return program


def write_gguf(model: Any, path: Path, tokenizer: Any = None) -> Path:
    """A Llama as llama.cpp reads it; queries and keys stay in transformers' order, since only speed is measured.

    Args:
        model: in fp32 or bf16, and so is the file.
        path: that is written.
        tokenizer: that texts are read with (byte-level BPE); token ids alone are taken if None.
    """
    import gguf
    import torch

    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    if tokenizer is None:
        writer.add_tokenizer_model("no_vocab")
    else:
        add_vocabulary(writer, tokenizer, config.vocab_size)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
             "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk"}  # fmt: skip
    for name, weight in model.named_parameters():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if weight.ndim == 1 or weight.dtype == torch.float32:
            writer.add_tensor(name, weight.detach().float().numpy())
        else:
            bits = weight.detach().view(torch.uint16).numpy().view("uint8")
            writer.add_tensor(name, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_vocabulary(writer: Any, tokenizer: Any, size: int) -> None:
    """Tokens and merges of a byte-level BPE, and the chat template; ids without a token get a made-up one."""
    import json

    import gguf

    kinds, parts = gguf.TokenType, json.loads(tokenizer.backend_tokenizer.to_str())
    special = {one["id"]: one["content"] for one in parts["added_tokens"]}
    named = {id: token for token, id in parts["model"]["vocab"].items()} | special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([named.get(id, f"[unused{id}]") for id in range(size)])
    writer.add_token_types([kinds.CONTROL if id in special else kinds.NORMAL if id in named else kinds.USER_DEFINED
                            for id in range(size)])  # fmt: skip
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in parts["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
