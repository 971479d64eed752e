"""A base that is too large for the device answers as it was trained beside; what has no room on a GPU is told."""

from __future__ import annotations

import pytest
import torch
import yaml

from conftest import many_rows, save_tiny
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import ModelError
from tunesmith.core.events import silent
from tunesmith.core.files import read_json, read_lines, write_text
from tunesmith.infer.generator import Options, answer_all
from tunesmith.infer.local import LocalEngine
from tunesmith.jobs.finetune import finetune
from tunesmith.model import device, memory
from tunesmith.model.export import find_model
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.quantize import is_quantized, quantized
from tunesmith.train.recipe import read_recipe


@pytest.fixture
def small(monkeypatch, tiny):
    """A device whose memory is only just too small for the base of the tests in fp32."""
    whole = memory.weight_bytes(tiny, torch.float32)
    monkeypatch.setattr(memory, "total_bytes", lambda device: int(whole / memory.SHARE) - 8)
    return whole


def run(tmp_path, tiny, write_rows, **settings):
    values = {
        "model": {"base": str(tiny), "quantize": "nf4"}, "method": {"type": "lora", "rank": 4},
        "data": {"train": str(write_rows(many_rows(40))), "test": 0.2, "validation": 0.1, "replay": "off"},
        "optim": {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8},
        "output": {"folder": str(tmp_path / "runs"), "name": "beside", **settings},
        "evaluate": {"general_ability": "off", "max_new_tokens": 8, "rows": 4}, "compile": "off", "precision": "fp32",
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    folder = tmp_path / "runs" / "beside"
    folder.mkdir(parents=True)
    write_text(folder / "config.yaml", to_yaml(read_recipe(tmp_path / "recipe.yaml")))
    finetune({"folder": str(folder)}, silent)
    return folder


@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
def test_a_run_beside_a_quantised_base_ends_where_the_base_has_no_room(tmp_path, tiny, write_rows, small, merge):
    folder = run(tmp_path, tiny, write_rows, merge=merge)
    said = " ".join(line.get("sentence", "") for line in read_lines(folder / "events.jsonl"))
    assert "too small for the base as it was" in said
    assert read_json(folder / "report" / "report.json")["scores"]
    exported = find_model(str(folder))
    assert (exported.base is None) == merge
    model = exported.load()
    assert is_quantized(model)
    [answer] = answer_all(LocalEngine(model, exported.contract()), [([5, 6, 7], Options(max_new_tokens=4))])
    assert len(answer.choice.ids) > 0
    assert not is_quantized(exported.load_as(exported.spec(LoadSpec())))  # who merges or compares takes it whole


def test_where_there_is_room_it_answers_with_the_base_as_it_was(tmp_path, tiny, write_rows, monkeypatch):
    whole = memory.weight_bytes(tiny, torch.float32)
    assert whole == sum(weight.nbytes for weight in load(tiny, LoadSpec()).model.parameters())
    monkeypatch.setattr(memory, "total_bytes", lambda device: int(whole / memory.SHARE) + 8)
    folder = run(tmp_path, tiny, write_rows)
    said = " ".join(line.get("sentence", "") for line in read_lines(folder / "events.jsonl"))
    assert "exported with the base as it was" in said
    assert not is_quantized(find_model(str(folder)).load())


def test_what_has_no_room_in_fp32_is_compared_on_the_cpu(tiny, small):
    assert memory.to_compare(tiny, LoadSpec(device="cuda")).device == "cpu"
    assert memory.to_compare(tiny, LoadSpec(device="cuda", precision="bf16")).device == "cuda"


def test_weights_that_a_gpu_has_no_room_for_are_told_with_their_size(tiny, monkeypatch):
    monkeypatch.setattr(device, "free_bytes", lambda device: 1000)
    model = load(tiny, LoadSpec()).model
    with pytest.raises(ModelError, match=r"take \d+\.\d GB, and the GPU has 0\.0 GB free.*device=cpu.*quantize=nf4"):
        device.on_device(tiny, model, "cuda")
    assert device.on_device(tiny, model, "cpu") is model


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_each_layer_goes_to_its_device_by_itself(tmp_path, kind, monkeypatch):
    """Nothing but the layer that is being quantised is whole there."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model, sent = load(save_tiny(tmp_path), LoadSpec(precision="bf16")).model, []
    weights = getattr(bitsandbytes.nn, {"nf4": "Params4bit", "int8": "Int8Params"}[kind])
    before = weights.to

    def to(weight, *places, **options):
        sent.append((weight.numel(), places))
        return before(weight, "cpu")

    monkeypatch.setattr(weights, "to", to)
    monkeypatch.setattr(type(model), "to", lambda *_: pytest.fail("the whole model was sent"))
    layers = [layer for layer in model.model.layers.modules() if type(layer) is torch.nn.Linear]
    assert is_quantized(quantized(model, kind, "there"))
    assert sent == [(layer.weight.numel(), ("there",)) for layer in layers]
