"""Small true things to test on: a two-layer Llama with ember's tokenizer, and files of rows."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"
signal.signal(signal.SIGINT, signal.default_int_handler)  # or children of tests in the background would not hear it

QUESTIONS = ["What time is breakfast?", "Where is the pool?", "Is there wifi?", "Can I bring my dog?"]
ANSWERS = ["From seven to ten.", "On the lower level.", "Yes, it is free.", "Dogs are welcome on the first floor."]


def chat_row(question: str, answer: str, system: str | None = None) -> dict[str, Any]:
    head = [{"role": "system", "content": system}] if system else []
    return {"messages": [*head, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def many_rows(count: int) -> list[dict[str, Any]]:
    """`count` different rows of different lengths."""
    return [
        chat_row(f"{QUESTIONS[i % 4]} I am guest {i}.", f"{ANSWERS[i % 4]} " + "Enjoy your stay. " * (i % 5))
        for i in range(count)
    ]


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the tests' own."""
    folder = tmp_path_factory.mktemp("home")
    os.environ["TUNESMITH_HOME"] = str(folder)
    return folder


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as JSON lines and returns the path."""

    def write(rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def save_tiny(folder: Path, **changes: Any) -> Path:
    """A two-layer Llama (grouped-query attention, random weights) with ember's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tunesmith.prompt.base import resolve
    from tunesmith.prompt.load import load_contract

    torch.manual_seed(0)
    settings = {
        "vocab_size": 4096,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 512,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "bos_token_id": None,
        "initializer_range": 0.2,
    }
    LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).save_pretrained(folder)
    load_contract(resolve("ember").folder).save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))
