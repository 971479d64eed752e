"""Small encoder-decoders with random weights, with tokenizers of their own, and rows whose targets follow from them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tunesmith.core.config import to_yaml
from tunesmith.core.files import write_text
from tunesmith.train.recipe import read_recipe

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
FAMILIES = ("t5", "t5-gated", "bart", "marian")
ENDS = {"t5": "$A </s>", "t5-gated": "$A </s>", "bart": "<s> $A </s>", "marian": "$A </s>"}
SENTINELS = ["<extra_id_0>", "<extra_id_1>", "<extra_id_2>"]
WORDS = ["<pad>", "</s>", "<s>", "<unk>", "say", ":", *SENTINELS[::-1], *DIGITS, *map(str, range(10))]


def save_base(folder: Path, family: str, seed: int = 0) -> Path:
    """A base of this family: random weights, and a tokenizer of whole words that ends texts as the family's does."""
    import torch
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        MarianConfig,
        MarianMTModel,
        T5Config,
        T5ForConditionalGeneration,
    )

    torch.manual_seed(seed)
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    t5 = {"vocab_size": 40, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2,
          "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "dropout_rate": 0.1,
          "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}  # fmt: skip
    other = {"vocab_size": 40, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "dropout": 0.1,
             "max_position_embeddings": 32, **ids}  # fmt: skip
    makers: dict[str, Any] = {
        "t5": lambda: T5ForConditionalGeneration(T5Config(**t5)),
        "t5-gated": lambda: T5ForConditionalGeneration(
            T5Config(**t5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
        ),
        "bart": lambda: BartForConditionalGeneration(
            BartConfig(**other, decoder_start_token_id=1, forced_eos_token_id=1, init_std=0.1)
        ),
        "marian": lambda: MarianMTModel(
            MarianConfig(**other, decoder_start_token_id=0, forced_eos_token_id=1, init_std=0.1)
        ),
    }
    model = makers[family]()
    if family == "marian":
        model.final_logits_bias.normal_()
        model.generation_config.bad_words_ids = [[0]]
    model.save_pretrained(folder)
    save_tokenizer(folder, ENDS[family])
    return folder


def save_tokenizer(folder: Path, ends: str, sentinels: Sequence[str] = SENTINELS) -> None:
    """A tokenizer of whole words that puts this around a text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    names = [word if word not in SENTINELS or word in sentinels else f"unused{i}" for i, word in enumerate(WORDS)]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    backend.add_special_tokens(list(sentinels))
    pair = f"{ends} {ends.replace('A', 'B')}"
    backend.post_processor = TemplateProcessing(single=ends, pair=pair, special_tokens=[("<s>", 2), ("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)


def digit_rows(count: int, seed: int = 0, most: int = 6) -> list[dict[str, Any]]:
    """Words of digits, and the digits."""
    chance = random.Random(seed)
    found = {}
    while len(found) < count:
        digits = tuple(chance.randrange(10) for _ in range(chance.randint(1, most)))
        found[digits] = {"source": " ".join(DIGITS[one] for one in digits), "target": " ".join(map(str, digits))}
    return list(found.values())


def begin(folder: Path, base: Path, rows: list[dict[str, Any]], **settings: Any) -> Path:
    """A run's folder, ready to be trained; settings are set over a small recipe."""
    folder.mkdir(parents=True)
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "model": {"base": str(base), "dropout": 0.0},
        "method": {"type": "full"},
        "objective": {"type": "seq2seq"},
        "data": {"train": str(data), "test": 0.1, "validation": 0.1, "near_duplicates": "off", "replay": "off"},
        "optim": {"learning_rate": 3e-3, "epochs": 2, "batch_size": 16, "warmup": 0},
        "evaluate": {"max_new_tokens": 12},
        "output": {"folder": str(folder.parent), "name": folder.name},
        "precision": "fp32",
        "compile": "off",
        **settings,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    write_text(folder / "config.yaml", to_yaml(read_recipe(folder / "recipe.yaml")))
    return folder
