"""A GGUF file's weights, settings and tokenizer, written as transformers reads them from a folder.

transformers reads the file. What it leaves out of the settings is set here (`settings_of`), and what would be lost
without a word is an error. Quantised numbers are written in fp32, in which they are exact.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from tunesmith.core.errors import ModelError, TunesmithError
from tunesmith.core.files import read_object, write_json
from tunesmith.prompt.bases.byte_level import byte_level
from tunesmith.prompt.bases.header import Header, Tensor

FILE = "model.gguf"
ROPE_FACTORS = "rope_freqs.weight"  # Llama 3's, by which positions are slowed
LARGEST_SHARD = "5GB"
HALVES = {"F16": torch.float16, "BF16": torch.bfloat16}
# Of config.json: what tells of the library or the file, and not of the model.
PASSING = ("transformers_version", "quantization_config", "_model_name_or_path", "_name_or_path")
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def write_weights(header: Header, folder: Path) -> None:
    """Write config.json and the weights of the model in a GGUF file.

    Raises:
        ModelError: transformers cannot read it, or would read another model than it is.
    """
    dtype = narrowest(header)
    with _reading(header.path) as place:
        config = _attributed(header, lambda: AutoConfig.from_pretrained(place, gguf_file=FILE))
        for name, value in settings_of(header, config).items():
            setattr(config, name, value)
        model, info = _attributed(
            header,
            lambda: AutoModelForCausalLM.from_pretrained(
                place,
                gguf_file=FILE,
                config=config,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            ),
        )
    refuse_left_out(header, model, info)
    refuse_not_finite(header, model)
    config = model.config
    del config.quantization_config
    with torch.device("meta"):  # the same model, of which nothing says any more that its weights are quantised
        plain = AutoModelForCausalLM.from_config(config, dtype=dtype)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder, max_shard_size=LARGEST_SHARD)
    (folder / "generation_config.json").unlink(missing_ok=True)
    written = read_object(folder / "config.json")
    write_json(folder / "config.json", {name: written[name] for name in sorted(written) if name not in PASSING})


@contextmanager
def _reading(path: Path) -> Iterator[str]:
    """A folder in which the file is alone: of what lies beside it, transformers would read some."""
    transformers_logging.set_verbosity_error()
    with TemporaryDirectory() as place:
        (Path(place) / FILE).symlink_to(path.absolute())
        yield place


def _attributed(header: Header, read: Any) -> Any:
    try:
        return read()
    except (MemoryError, torch.OutOfMemoryError, TunesmithError):
        raise
    except Exception as error:  # any broken file of the user's ends here
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{header.path}: transformers cannot read it ({type(error).__name__}: {lines[0][:200]}). Fetch the file "
            "again, or take the model's folder or hub id in safetensors."
        ) from error


def narrowest(header: Header) -> torch.dtype:
    """The type in which every number of the file is exact: that of its tables where all are 16 bits wide, else fp32."""
    wide = {tensor.kind for tensor in header.tensors if len(tensor.shape) > 1}
    if len(wide) != 1 or not wide <= HALVES.keys():
        return torch.float32
    kind = wide.pop()
    exact = all(
        tensor.kind == kind or (tensor.kind == "F32" and fits(header.path, tensor, HALVES[kind]))
        for tensor in header.tensors
    )
    return HALVES[kind] if exact else torch.float32


def fits(path: Path, tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor of fp32 keeps every number in another type."""
    numbers = torch.from_numpy(values_of(path, tensor))
    return bool((numbers.to(dtype).float() == numbers).all())


def values_of(path: Path, tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor of fp32."""
    return np.fromfile(path, "<f4", prod(tensor.shape), offset=tensor.begin)


def settings_of(header: Header, config: Any) -> dict[str, Any]:
    """What the file says of the model, and transformers does not take from it.

    Raises:
        ModelError: positions are slowed in a way that is not known.
    """
    name, values = header.values["general.architecture"], header.values
    found: dict[str, Any] = {}
    if name in ("llama", "phi3") and hasattr(config, "sliding_window"):
        found["sliding_window"] = values.get(f"{name}.attention.sliding_window")
    if name == "qwen3" and f"{name}.attention.key_length" in values:
        found["head_dim"] = values[f"{name}.attention.key_length"]
    factors = next((tensor for tensor in header.tensors if tensor.name == ROPE_FACTORS), None)
    if factors is not None:
        found["rope_parameters"] = slowed(header, factors)
    return found


def slowed(header: Header, tensor: Tensor) -> dict[str, Any]:
    """Llama 3's positions: the file has what they are divided by, and a configuration the numbers that this comes from.

    Raises:
        ModelError: it comes from others than Llama 3's.
    """
    base = float(header.values.get("llama.rope.freq_base", 10_000.0))
    given = values_of(header.path, tensor) if tensor.kind == "F32" else np.zeros(1, np.float32)
    factor, low, high, original = float(given.max()), 1.0, 4.0, 8192
    waves = 2 * math.pi * base ** (np.arange(len(given)) / len(given))
    smooth = np.clip((original / waves - low) / (high - low), 0, 1)
    if factor < 1 or not np.allclose(given, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
        raise ModelError(
            f"{header.path}: its positions are slowed ({ROPE_FACTORS}) in another way than Llama 3's, and GGUF does "
            "not say how. Take the model's folder or hub id in safetensors."
        )
    return {"rope_type": "llama3", "rope_theta": base, "factor": factor, "low_freq_factor": low,
            "high_freq_factor": high, "original_max_position_embeddings": original}  # fmt: skip


def refuse_left_out(header: Header, model: Any, info: dict[str, Any]) -> None:
    """Refuse a model some of whose weights are not in the file, or that has no place for some of the file's.

    Raises:
        ModelError: it is another model than its file says.
    """
    absent = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    if absent:
        raise ModelError(
            f"{header.path}: weights are missing or of another shape ({absent[0]}, {len(absent)} in all). "
            "Fetch it again."
        )
    read = sum(prod(tensor.shape) for tensor in header.tensors if tensor.name != ROPE_FACTORS)
    if (has := sum(weight.numel() for weight in model.parameters())) != read:
        raise ModelError(
            f"{header.path}: holds {read:,} numbers, and transformers' {type(model).__name__} has {has:,}: it would be "
            "another model. Take the model's folder or hub id in safetensors."
        )


def refuse_not_finite(header: Header, model: Any) -> None:
    """Refuse weights that are no numbers.

    Raises:
        ModelError: with the first such tensor.
    """
    for name, weight in model.named_parameters():
        if not weight.detach().sum(dtype=torch.float64).isfinite():
            raise ModelError(f"{header.path}: {name} holds NaN or infinity: damaged. Fetch it again.")


def write_tokenizer(header: Header, folder: Path) -> list[str]:
    """Write the file's tokenizer and chat template; what a user should know of them.

    Raises:
        ModelError: transformers cannot build it.
    """
    notes: list[str] = []
    if header.values["tokenizer.ggml.model"] == "gpt2":
        backend, notes = byte_level(header)
    else:
        with _reading(header.path) as place:
            found = _attributed(header, lambda: AutoTokenizer.from_pretrained(place, gguf_file=FILE))
        backend = found.backend_tokenizer
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: header.values.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    special = {name: backend.id_to_token(id) for name, id in ids.items() if id is not None}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **{name: special.get(name) for name in SPECIAL}
    )
    tokenizer.chat_template = header.values.get("tokenizer.chat_template") or None
    tokenizer.save_pretrained(folder)
    longest = header.values[f"{header.values['general.architecture']}.context_length"]
    settings = {"clean_up_tokenization_spaces": False, "model_max_length": longest, **special}
    write_json(folder / "tokenizer_config.json", {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
    written = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    write_json(folder / "tokenizer.json", written)
    return notes
