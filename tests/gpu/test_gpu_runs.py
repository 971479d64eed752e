"""Small runs on a GPU, as the job does them: to the report, on from a checkpoint, and without room."""

from __future__ import annotations

import gc
import math

import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import chat_row, many_rows
from gpu.small import off
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import OutOfMemory, Stopped
from tunesmith.core.events import silent
from tunesmith.core.files import read_json, read_lines, write_text
from tunesmith.jobs.finetune import finetune
from tunesmith.model.export import find_model
from tunesmith.train.checkpoint import all_checkpoints
from tunesmith.train.recipe import read_recipe

GIGABYTE = 10**9


@pytest.fixture
def begin(tmp_path, write_rows, tiny, device):
    """Makes the folder of a run that is ready to be trained; settings are set over a small recipe."""
    rows = write_rows(many_rows(40))

    def make(name, test=0, **settings):
        values = {
            "model": {"base": str(tiny)},
            "data": {"train": str(rows), "test": test, "validation": 0.1, "replay": "off"},
            "method": {"type": "lora", "dropout": 0.1},
            "optim": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 8, "accumulation": 2},
            "output": {"folder": str(tmp_path / "runs"), "name": name, "checkpoint_every": 2},
            "evaluate": {"general_ability": "off", "max_new_tokens": 8, "rows": 4},
            "precision": "bf16", "compile": "off", "device": device, **settings,
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        write_text(folder / "config.yaml", to_yaml(read_recipe(tmp_path / f"{name}.yaml")))
        return folder

    return make


def run(folder, stop=lambda: False, until="trained", **options):
    finetune({"folder": str(folder), "until": until, **options}, silent, stop)
    return folder


def losses(folder):
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl")]


def weights(folder):
    [*_, last] = all_checkpoints(folder / "checkpoints")
    return load_file(last / "trainable.safetensors")


def test_a_run_is_trained_exported_proven_and_compared_with_its_base(begin, device):
    folder = run(begin("whole", test=0.2, precision="auto"), until="evaluated")
    plan = read_json(folder / "plan.json")
    assert (plan["device"], plan["packing"], plan["chunked"]) == (device, True, True), plan["reasons"]
    assert losses(folder)[-1] < losses(folder)[0]
    assert all(math.isfinite(loss) for loss in losses(folder))
    assert "scores" in read_json(folder / "report" / "report.json")
    found, ids = find_model(str(folder)), torch.arange(5, 45)[None]
    with torch.no_grad():
        there, here = (found.load(where)(ids.to(where)).logits for where in (device, "cpu"))
    assert off(there, here) < 0.05


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_base_in_few_bits_learns(begin, tiny, kind):
    pytest.importorskip("bitsandbytes")
    folder = run(begin(kind, model={"base": str(tiny), "quantize": kind}))
    assert losses(folder)[-1] < losses(folder)[0]


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(begin):
    """Where the GPU's kernels add in an order of their own each time, to the same losses as far as two runs have."""
    whole, again, stopped = (begin(name) for name in ("whole", "again", "stopped"))
    run(whole)
    run(again)
    assert len(losses(whole)) > 6
    left = iter(range(2))
    with pytest.raises(Stopped):
        run(stopped, stop=lambda: next(left, None) is None)
    assert len(losses(stopped)) == 3
    run(stopped, resume=True)
    if losses(again) == losses(whole):
        assert losses(stopped) == losses(whole)
        assert all(torch.equal(one, weights(stopped)[name]) for name, one in weights(whole).items())
    else:
        print("two runs from the same seed differ here, so a resumed one cannot be exact")  # noqa: T201
        assert losses(stopped) == pytest.approx(losses(whole), rel=1e-2)


def test_a_step_without_room_is_done_in_smaller_pieces_with_the_same_losses(begin, card, write_rows):
    """As whoever started the job answers it: until it fits, and to the same losses."""
    rows = write_rows(
        [chat_row(f"Question {i}?", f"Answer {i}. " + "Enjoy your stay. " * 60) for i in range(800)], "long.jsonl"
    )
    settings = {
        "data": {"train": str(rows), "test": 0, "validation": 0, "replay": "off", "near_duplicates": "off"},
        "optim": {"learning_rate": 1e-3, "steps": 1, "batch_size": 800}, "method": {"type": "lora"},
        "precision": "fp32", "checkpointing": "off",
    }  # fmt: skip
    free, folder = run(begin("free", micro_tokens=8192, **settings)), begin("narrow", micro_tokens=2**18, **settings)
    clear()
    whole = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + GIGABYTE) / whole)
    try:
        refused = [attempt(folder, number) for number in range(12)]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert refused[0]
    assert not refused[-1]
    plan = read_json(folder / "plan.json")
    assert plan["micro_tokens"] < 2**18
    assert "there was no room for" in plan["reasons"]["micro_tokens"]
    assert losses(folder) == pytest.approx(losses(free), rel=1e-4)


def attempt(folder, number):
    """Whether a run had no room; nothing is done where it has ended already."""
    if (folder / "metrics.jsonl").exists() and losses(folder):
        return False
    try:
        run(folder, **({"resume": True, "smaller": True} if number else {}))
    except OutOfMemory:
        refused = True
    else:
        refused = False
    clear()
    return refused


def clear():
    gc.collect()
    torch.cuda.empty_cache()
