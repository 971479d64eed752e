"""Small bases for classifiers, with tokenizers of their own, and rows whose words tell their class."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from tunesmith.core.config import to_yaml
from tunesmith.core.files import write_text
from tunesmith.train.recipe import read_recipe

WORDS = {
    "wifi": ["wifi", "internet", "network", "password"],
    "pool": ["pool", "swim", "towel", "water"],
    "dog": ["dog", "pet", "cat", "leash"],
}
PLAIN = ["the", "a", "is", "where", "my", "room", "please", "today", "we", "need"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
        "max_position_embeddings": 64, "initializer_range": 0.05}  # fmt: skip
KINDS = ("bert", "roberta", "distilbert", "llama", "gpt2")
PADDED = ("modernbert", "deberta")


def save_base(folder: Path, kind: str) -> Path:
    """A base without a head: random weights, and a tokenizer of whole words as such models frame texts."""
    import torch
    from transformers import (
        BertConfig,
        BertModel,
        DebertaV2Config,
        DebertaV2Model,
        DistilBertConfig,
        DistilBertModel,
        GenerationConfig,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        ModernBertConfig,
        ModernBertModel,
        RobertaConfig,
        RobertaModel,
    )  # fmt: skip

    torch.manual_seed(0)
    names = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "vocab_size": 64, "max_position_embeddings": 64,
             "initializer_range": 0.05}  # fmt: skip
    makers: dict[str, Any] = {
        "bert": lambda: BertModel(BertConfig(**SIZE)),
        "roberta": lambda: RobertaModel(RobertaConfig(**{**SIZE, "type_vocab_size": 1}, pad_token_id=0)),
        "distilbert": lambda: DistilBertModel(DistilBertConfig(**names)),
        "llama": lambda: LlamaForCausalLM(
            LlamaConfig(**SIZE, num_key_value_heads=1, bos_token_id=2, eos_token_id=3, pad_token_id=None)
        ),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.05,
                       bos_token_id=3, eos_token_id=3)
        ),
    }  # fmt: skip
    special = {"pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0, "position_buckets": 8}
    makers |= {
        "modernbert": lambda: ModernBertModel(ModernBertConfig(**SIZE, **special, global_attn_every_n_layers=2)),
        "deberta": lambda: DebertaV2Model(DebertaV2Config(**SIZE, **relative)),
    }
    makers[kind]().save_pretrained(folder)
    save_tokenizer(folder, kind)
    if kind in ("llama", "gpt2"):
        GenerationConfig(eos_token_id=[3, 4]).save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path, kind: str) -> None:
    """A tokenizer of whole words, with this family's frame around one text and two."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *PLAIN, *(word for group in WORDS.values() for word in group)]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    kind = "bert" if kind in PADDED else kind
    frames = {
        "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
        "roberta": ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]"),
        "distilbert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
        "llama": ("[CLS] $A", "[CLS] $A $B:1"),
    }
    if kind in frames:
        single, pair = frames[kind]
        backend.post_processor = TemplateProcessing(
            single=single, pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    encoder = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    decoder = {"unk_token": "[UNK]", "eos_token": "[SEP]", "bos_token": "[CLS]"}
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if kind == "bert" else [])]
    special = decoder if kind in ("llama", "gpt2") else encoder
    PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **special).save_pretrained(folder)


def text_about(name: str, chance: random.Random) -> str:
    words = [*chance.sample(PLAIN, chance.randint(2, 6)), chance.choice(WORDS[name])]
    chance.shuffle(words)
    return " ".join(words)


def class_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    names = [list(WORDS)[i % 3] for i in range(count)]
    return [{"text": text_about(name, chance), "label": name} for name in names]


def several_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    chosen = [chance.sample(list(WORDS), i % 3) for i in range(count)]
    texts = [" ".join([*(text_about(name, chance) for name in names), *chance.sample(PLAIN, 3)]) for names in chosen]
    return [{"text": text, "labels": names} for text, names in zip(texts, chosen, strict=True)]


def number_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    swims = [chance.randint(0, 4) for _ in range(count)]
    texts = [" ".join(chance.sample(["swim"] * n + chance.sample(PLAIN, 6), n + 6)) for n in swims]
    return [{"text": text, "score": n / 2} for text, n in zip(texts, swims, strict=True)]


def pair_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Two texts; the label says whether they are about the same thing."""
    chance = random.Random(seed)
    found = []
    for i in range(count):
        one = chance.choice(list(WORDS))
        other = one if i % 2 else chance.choice([name for name in WORDS if name != one])
        found.append({"text": text_about(one, chance), "text_pair": text_about(other, chance),
                      "label": "same" if i % 2 else "other"})  # fmt: skip
    return found


def begin(folder: Path, base: Path, rows: list[dict[str, Any]], **settings: Any) -> Path:
    """A run's folder, ready to be trained; settings are set over a small recipe."""
    folder.mkdir(parents=True)
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "model": {"base": str(base), **({} if base.name == "llama" else {"dropout": 0.0})},
        "method": {"type": "full"},
        "objective": {"type": "classify"},
        "data": {"train": str(data), "test": 0.2, "validation": 0.2, "near_duplicates": "off"},
        "optim": {"learning_rate": 3e-3, "epochs": 12, "batch_size": 16, "warmup": 0},
        "evaluate": {"metric": "accuracy"},
        "output": {"folder": str(folder.parent), "name": folder.name},
        "precision": "fp32",
        "compile": "off",
        **settings,
    }
    if values["evaluate"] == {}:
        del values["evaluate"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    write_text(folder / "config.yaml", to_yaml(read_recipe(folder / "recipe.yaml")))
    return folder
