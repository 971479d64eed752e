"""Small encoders that fill in words, with their heads or without, and texts whose words follow from one another."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from classifiers import PADDED, WORDS, save_base
from tunesmith.core.config import to_yaml
from tunesmith.core.files import write_text
from tunesmith.train.recipe import read_recipe

ENCODERS = ("bert", "roberta", "distilbert")  # whose rows are packed
ALL = (*ENCODERS, *PADDED)


def save_encoder(folder: Path, kind: str) -> Path:
    """A base with the head that fills in words: random weights, and a tokenizer of whole words."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    save_base(folder, kind)
    torch.manual_seed(1)
    AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def lines(count: int, seed: int = 0) -> list[str]:
    """Sentences of four words: the last follows from the second."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        name = chance.choice(list(WORDS))
        found.append(f"the {WORDS[name][0]} is {WORDS[name][1]} {chance.choice(['today', 'please', 'we'])}")
    return found


def text_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of a few such sentences."""
    said = lines(4 * count, seed)
    return [{"text": " ".join(said[place : place + 3])} for place in range(0, 4 * count, 4)]


def begin_text(folder: Path, base: Path | str, rows: list[dict[str, Any]], **settings: Any) -> Path:
    """A run's folder, ready to be trained; settings are set over a small recipe."""
    folder.mkdir(parents=True)
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = {
        "model": {"base": str(base)},
        "method": {"type": "full"},
        "objective": {"type": "pretrain", "masked": 0.3} if Path(base).name in ALL else {"type": "pretrain"},
        "data": {"train": str(data), "test": 0.2, "validation": 0.2, "near_duplicates": "off", "duplicates": "keep"},
        "optim": {"learning_rate": 3e-3, "epochs": 8, "batch_size": 8, "warmup": 0},
        "output": {"folder": str(folder.parent), "name": folder.name},
        "evaluate": {"general_ability": "off"},
        "precision": "fp32",
        "compile": "off",
        **settings,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    write_text(folder / "config.yaml", to_yaml(read_recipe(folder / "recipe.yaml")))
    return folder
