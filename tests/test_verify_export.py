"""A exported model is what was trained, to the last bit; damage of any kind is found, and rounding is none."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import READS, many_rows
from tunesmith.core.errors import TrainingError
from tunesmith.data.load import load_rows
from tunesmith.data.prepare import prepare
from tunesmith.jobs.verify_export import verify_export, what_was_trained
from tunesmith.model.export import export
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.methods.full import FullConfig
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.model.methods.method import trainable
from tunesmith.model.methods.table import METHODS
from tunesmith.prompt.base import Base
from tunesmith.prompt.load import load_contract

LORA = "adapter_model.safetensors"
Q = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"


@pytest.fixture
def rows(write_rows, tiny):
    dataset = load_rows(str(write_rows(many_rows(8))))
    return list(prepare(dataset.rows, dataset.reading.ledgers, load_contract(tiny), 512, READS))


def publish_changed(tiny, folder, method, rows, by=1e-5):
    """Publish the tiny model after an update so small that bf16 rounds nearly all of it away."""
    torch.manual_seed(0)
    config = LoraConfig() if method == "lora" else FullConfig()
    model = METHODS[method].apply(load(tiny, LoadSpec()).model, config)
    with torch.no_grad():
        for weight in trainable(model).values():
            weight.add_(by * torch.randn_like(weight))
    contract = load_contract(tiny)
    export(model, Base(str(tiny), tiny), contract, folder, {})
    return contract, what_was_trained(model, rows)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("by", [1e-7, 1e-5, 1e-1])
def test_what_was_trained_is_found_again_however_small_the_update(tiny, tmp_path, rows, method, by):
    contract, trained = publish_changed(tiny, tmp_path / "model", method, rows, by)
    verify_export(tmp_path / "model", contract, rows, trained)


def change_tensors(folder, file, change):
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file, metadata={"format": "pt"})


def swap(tensors, one, other):
    tensors[one], tensors[other] = tensors[other], tensors[one]


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: swap(tensors, Q.format(0, "A"), Q.format(1, "A")),
        lambda tensors: swap(tensors, Q.format(0, "B"), Q.format(1, "B")),
        lambda tensors: tensors.pop(Q.format(1, "B")),
        lambda tensors: tensors[Q.format(1, "A")].mul_(1.001),
        lambda tensors: tensors[Q.format(1, "B")].neg_(),
        lambda tensors: tensors.update({name: t.bfloat16() for name, t in tensors.items()}),
    ],
    ids=["swapped A", "swapped B", "missing", "scaled", "negated", "rounded"],
)
@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_a_damaged_adapter_is_found(tiny, tmp_path, rows, damage):
    contract, trained = publish_changed(tiny, tmp_path / "model", "lora", rows)
    change_tensors(tmp_path / "model", LORA, damage)
    with pytest.raises(TrainingError, match=r"\d+ of 42 tensors and factors are not what was trained"):
        verify_export(tmp_path / "model", contract, rows, trained)


def test_another_scale_of_the_adapter_is_found(tiny, tmp_path, rows):
    contract, trained = publish_changed(tiny, tmp_path / "model", "lora", rows)
    path = tmp_path / "model" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 33}))
    with pytest.raises(TrainingError, match="first: scaling of"):
        verify_export(tmp_path / "model", contract, rows, trained)


def test_a_damaged_full_model_is_found(tiny, tmp_path, rows):
    contract, trained = publish_changed(tiny, tmp_path / "model", "full", rows)
    up = "model.layers.{}.mlp.up_proj.weight"
    change_tensors(tmp_path / "model", "model.safetensors", lambda some: swap(some, up.format(0), up.format(1)))
    with pytest.raises(
        TrainingError, match=r"2 of \d+ tensors and factors are not what was trained .first: model\.layers\.0\.mlp"
    ):
        verify_export(tmp_path / "model", contract, rows, trained)


def test_the_right_tensors_under_another_configuration_are_found_by_what_they_compute(tiny, tmp_path, rows):
    contract, trained = publish_changed(tiny, tmp_path / "model", "full", rows)
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 0.01}))
    with pytest.raises(TrainingError, match="has a loss of"):
        verify_export(tmp_path / "model", contract, rows, trained)
