"""A base that is too large for the device answers as it was trained beside; what has no room on a GPU is told."""

from __future__ import annotations

import weakref

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
from tunesmith.jobs import evaluate
from tunesmith.jobs import finetune as walk
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.replay import speaker_of
from tunesmith.model import device, memory
from tunesmith.model import load as loading
from tunesmith.model.export import find_model
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.quantize import is_quantized, quantized
from tunesmith.prompt.base import resolve
from tunesmith.serve.engines import Engines
from tunesmith.train.recipe import read_recipe


@pytest.fixture
def small(monkeypatch, tiny):
    """A device whose memory is only just too small for the base of the tests in fp32."""
    whole = memory.weight_bytes(tiny, torch.float32)
    monkeypatch.setattr(memory, "total_bytes", lambda device: int(whole / memory.SHARE) - 8)
    return whole


def run(tmp_path, tiny, write_rows, kind="nf4", compile="off", **settings):
    values = {
        "model": {"base": str(tiny), "quantize": kind}, "method": {"type": "lora", "rank": 4},
        "data": {"train": str(write_rows(many_rows(40))), "test": 0.2, "validation": 0.1, "replay": "off"},
        "optim": {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8},
        "output": {"folder": str(tmp_path / "runs"), "name": "beside", **settings},
        "evaluate": {"general_ability": "off", "max_new_tokens": 8, "rows": 4}, "compile": compile, "precision": "fp32",
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    folder = tmp_path / "runs" / "beside"
    folder.mkdir(parents=True)
    write_text(folder / "config.yaml", to_yaml(read_recipe(tmp_path / "recipe.yaml")))
    finetune({"folder": str(folder)}, silent)
    return folder


@pytest.mark.parametrize(("kind", "merge"), [("nf4", False), ("nf4", True), ("int8", False)])
def test_a_run_beside_a_quantised_base_ends_where_the_base_has_no_room(tmp_path, tiny, write_rows, small, kind, merge):
    folder = run(tmp_path, tiny, write_rows, kind, merge=merge)
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
    base = find_model(str(tiny))
    assert not is_quantized(base.load())
    assert is_quantized(base.load(beside=exported.trained_beside))


def test_whoever_asks_the_base_or_the_model_asks_it_quantised(tmp_path, tiny, write_rows, small, monkeypatch):
    """Served, compared by hand, and asked to answer general prompts before training."""
    folder = run(tmp_path, tiny, write_rows)
    made = Engines()
    with made.borrow("model", lambda: find_model(str(folder))) as borrowed:
        assert is_quantized(borrowed.engine.model)
    made.close()
    rows, asked = write_rows(many_rows(4), "asked.jsonl"), []
    kept = evaluate.LocalEngine
    monkeypatch.setattr(evaluate, "LocalEngine", lambda model, *rest: asked.append(model) or kept(model, *rest))
    evaluate.evaluate_model(
        {"model": str(folder), "against": str(tiny), "data": str(rows), "template": None, "max_new_tokens": 4,
         "samples": 1, "format": None, "columns": None, "rows": 0, "bad_rows": "fail"}, silent,
    )  # fmt: skip
    assert [is_quantized(model) for model in asked] == [True, True]
    speaker = speaker_of(read_recipe(folder / "config.yaml"), find_model(str(tiny)).base or resolve(str(tiny)), None)
    assert is_quantized(speaker.load())
    assert speaker.computed[-1] == "nf4"


def test_what_will_be_quantised_is_read_as_it_is_stored(tmp_path, monkeypatch):
    """Or it would be whole in another precision first, where there is no room for it."""
    folder, read = save_tiny(tmp_path), []
    model = load(folder, LoadSpec(precision="bf16")).model
    model.save_pretrained(folder)
    kept = loading._read
    monkeypatch.setattr(loading, "_read", lambda *given: read.append(given[2]) or kept(*given))
    model = load(folder, LoadSpec(precision="fp32", quantize="nf4")).model
    assert read == [torch.bfloat16]
    assert {weight.dtype for weight in model.parameters()} == {torch.float32, torch.uint8}
    assert model.dtype == model.config.dtype == model(torch.arange(9)[None]).logits.dtype == torch.float32


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_model_answers_and_is_left_as_it_was(tiny, kind, precision):
    model, other = (load(tiny, LoadSpec(quantize=kind, precision=precision)).model for _ in range(2))
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = other(ids).logits
        engine = LocalEngine(model, None)  # which has never computed anything else
        [answer] = answer_all(engine, [(ids[0].tolist(), Options(max_new_tokens=6))])
        assert torch.equal(model(ids).logits, before)
        for token in answer.choice.ids:  # the likeliest that the model itself gives, or as good as that
            logits = model(ids).logits[0, -1].float()
            assert logits[token] >= logits.max() - {"fp32": 1e-4, "bf16": 0.2}[precision]
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    assert "inf" not in engine.reason


@pytest.mark.parametrize("compiled", ["off", "on"])
def test_the_trained_model_is_gone_before_another_is_loaded(tmp_path, tiny, write_rows, monkeypatch, compiled):
    """Or a GPU would have to hold both."""
    trained, seen = [], []

    class Noted(walk.Placed):
        def __init__(self, model, *rest):
            super().__init__(model, *rest)
            trained.append(weakref.ref(self.model))

    def load_again(*given):
        seen.append([one() for one in trained])
        return again(*given)

    again = walk.trained_model
    monkeypatch.setattr(walk, "Placed", Noted)
    monkeypatch.setattr(walk, "trained_model", load_again)
    run(tmp_path, tiny, write_rows, "none", compiled)
    assert seen == [[None]]


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
    assert is_quantized(quantized(model, kind, torch.bfloat16, "there"))
    assert sent == [(layer.weight.numel(), ("there",)) for layer in layers]
