"""Pairs and verdicts to test on, prepared, and models to ask."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from classifiers import text_about
from conftest import ANSWERS, QUESTIONS
from tunesmith.data.load import load_rows
from tunesmith.data.prepare import prepare
from tunesmith.model.load import LoadSpec, load
from tunesmith.prompt.load import load_contract
from tunesmith.train.planning.plan import Plan

PLAN = Plan(
    device="cpu", precision="fp32", packing=False, micro_tokens=600, accumulation=None, processes=1, sharding="none",
    threads=1, reasons={}, versions={}, machine="test", chunked=False,
)  # fmt: skip
RUDE = ["Read the sign.", "Why do you ask?", "No.", "Find it yourself, I have other things to do."]


class Rows(list):
    @property
    def lengths(self):
        return np.array([row.length for row in self])

    every_length = lengths


def asked(number: int) -> str:
    return f"{QUESTIONS[number % 4]} I am guest {number}."


def pair_rows(count: int) -> list[dict[str, Any]]:
    """Polite answers over rude ones, of different lengths; every third rejected one is the longer."""
    return [
        {
            "prompt": asked(i),
            "chosen": f"{ANSWERS[i % 4]} " + "Enjoy your stay. " * (i % 3),
            "rejected": RUDE[i % 4] + " Next." * (5 if i % 3 == 0 else i % 2),
        }
        for i in range(count)
    ]


def verdict_rows(count: int) -> list[dict[str, Any]]:
    """The same answers, one a row; a third of them bad."""
    return [
        {"prompt": asked(i), "completion": (RUDE if i % 3 == 0 else ANSWERS)[i % 4] + " Well." * (i % 4),
         "label": i % 3 != 0}
        for i in range(count)
    ]  # fmt: skip


def word_pairs(count: int) -> list[dict[str, Any]]:
    """Pairs of the few words that small tokenizers know: dogs are preferred to pools."""
    chance = random.Random(0)
    return [
        {"prompt": text_about("wifi", chance), "chosen": text_about("dog", chance),
         "rejected": text_about("pool", chance)}
        for _ in range(count)
    ]  # fmt: skip


def word_verdicts(count: int) -> list[dict[str, Any]]:
    """Single answers of the same words."""
    pairs = word_pairs(count)
    return [
        {"prompt": pair["prompt"], "completion": pair["rejected" if i % 3 == 0 else "chosen"], "label": i % 3 != 0}
        for i, pair in enumerate(pairs)
    ]


def prepared_rows(write_rows: Any, folder: Any, rows: list[dict[str, Any]], reads: str, **labels: Any) -> Rows:
    """Rows of a file, as a model's contract has them."""
    read = load_rows(str(write_rows(rows)), frozenset({reads}))
    return Rows(prepare(read.rows, read.reading.ledgers, load_contract(folder), 512, frozenset({reads})))


def policy_and_reference(folder: Any, task: str = "causal") -> tuple[Any, Any]:
    """A model, and another not far from it."""
    policy, reference = (load(folder, LoadSpec(task=task)).model for _ in range(2))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in reference.parameters():
            weight.mul_(1 + 0.02 * torch.randn_like(weight))
    return policy, reference


def with_plan(**changes: Any) -> Plan:
    return replace(PLAN, **changes)
