"""TRL's SFTTrainer as an oracle: the same model, rows, order and settings give the same losses."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import READS, many_rows, save_tiny
from tunesmith.core.config import to_yaml
from tunesmith.core.files import read_json, read_lines, write_text
from tunesmith.data.pack import epoch_batches
from tunesmith.data.split import load_splits
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.trained import changed_model
from tunesmith.model.load import LoadSpec, load
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.train.recipe import longest_row, read_recipe

BATCH = 8  # rows of a step
ROWS = 6 * BATCH  # an epoch is six whole steps
SHORT = 12
RATES = {"full": 1e-3, "lora": 1e-2}  # high, so that losses fall and a small difference would grow
WAYS = {
    "padded": {"per_device_train_batch_size": BATCH, "max_length": 512},
    "accumulated": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_length": 512},
    "packed": {"per_device_train_batch_size": BATCH, "padding_free": True, "max_length": None},
}
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL takes settings by old names


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("untied"), tied=False)


def save_base(folder, tied):
    """A small Llama whose weights are numbers that bf16 has too, so that loading in bf16 changes none of them."""
    save_tiny(folder, tie_word_embeddings=tied, initializer_range=0.05)
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight.bfloat16().float() for name, weight in weights.items()}, folder / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    return folder


@pytest.fixture
def begin(tmp_path, write_rows, monkeypatch):
    """Makes the recipe of a run, and the folder in which it is ready to be trained."""
    rows = write_rows(many_rows(ROWS))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # TRL sets it; so it is as before in the end

    def make(base, method, steps, **settings):
        values = {
            "model": {"base": str(base)},
            "data": {"train": str(rows), "test": 0, "validation": 0, "near_duplicates": "off"},
            "method": {"type": method},
            "optim": {"learning_rate": RATES[method], "steps": steps, "batch_size": BATCH, "weight_decay": 0.1,
                      "scheduler": "cosine", "warmup": 0, "clip": 1.0},
            "evaluate": {"general_ability": "off"},
            "output": {"checkpoint_every": steps},
            "precision": "fp32",
        }  # fmt: skip
        for name, section in settings.items():
            values[name] = {**values[name], **section} if isinstance(section, dict) else section
        folder = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        folder.mkdir()
        (folder / "recipe.yaml").write_text(json.dumps(values))
        recipe = read_recipe(folder / "recipe.yaml")
        write_text(folder / "config.yaml", to_yaml(recipe))
        return folder, recipe

    return make


def tunesmith_losses(folder):
    finetune({"folder": str(folder)}, lambda event: None)
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl")]


def rows_in_order(recipe):
    """Ids and masks of every step's rows, in the order in which tunesmith takes them."""
    base = resolve(recipe.model.base)
    rows = load_splits(recipe.data, load_contract(base.folder), longest_row(recipe, base), READS).train
    assert len(rows) == ROWS
    epochs = -(-recipe.optim.steps * BATCH // ROWS)
    order = [i for epoch in range(epochs) for batch in epoch_batches(ROWS, BATCH, recipe.seed, epoch) for i in batch]
    return [{"input_ids": rows[i].ids.tolist(), "completion_mask": rows[i].mask.astype(int).tolist()} for i in order]


def trl_losses(folder, recipe, way, bf16=False):
    """What TRL says at each step of the same run."""
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, dataset=None):
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    optim = recipe.optim
    config = SFTConfig(
        output_dir=str(folder / "trl"), max_steps=optim.steps, learning_rate=optim.learning_rate,
        lr_scheduler_type=optim.scheduler.type, warmup_steps=0, weight_decay=optim.weight_decay,
        max_grad_norm=optim.clip, adam_beta1=optim.optimizer.betas[0], adam_beta2=optim.optimizer.betas[1],
        completion_only_loss=True, gradient_checkpointing=False,
        bf16=bf16, use_cpu=True, report_to=[], logging_steps=1, save_strategy="no", disable_tqdm=True, **WAYS[way],
    )  # fmt: skip
    base = resolve(recipe.model.base).folder
    trainer = InOrder(
        model=changed_model(load(base, LoadSpec()).model, recipe),
        args=config,
        train_dataset=Dataset.from_list(rows_in_order(recipe)),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def largest_difference(ours, theirs):
    assert len(ours) == len(theirs) >= SHORT
    assert all(map(math.isfinite, ours + theirs))
    return max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", RATES)
@pytest.mark.parametrize("steps", [SHORT, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("base", ["tied", pytest.param("untied", marks=pytest.mark.slow)])
def test_losses_in_fp32_are_those_of_trl(request, begin, base, method, way, steps):
    folder, recipe = begin(request.getfixturevalue(base), method, steps, micro_tokens=256)
    ours = tunesmith_losses(folder)
    assert read_json(folder / "plan.json")["packing"]
    assert ours[-1] < 0.8 * ours[0]
    assert largest_difference(ours, trl_losses(folder, recipe, way)) < 1e-4


def test_another_start_of_the_adapter_would_be_seen(tied, begin):
    folder, recipe = begin(tied, "lora", SHORT)
    theirs = trl_losses(folder, recipe.model_copy(update={"seed": 1}), "padded")
    assert largest_difference(tunesmith_losses(folder), theirs) > 1e-3


@pytest.mark.parametrize("method", RATES)
@pytest.mark.parametrize("steps", [SHORT, pytest.param(50, marks=pytest.mark.slow)])
def test_losses_in_bf16_stay_near_those_of_trl(tied, begin, method, steps):
    folder, recipe = begin(tied, method, steps, precision="bf16")
    ours = tunesmith_losses(folder)
    exact, rounded = (trl_losses(folder, recipe, "padded", bf16) for bf16 in (False, True))
    assert largest_difference(ours, exact) < 1e-2
    assert largest_difference(ours, rounded) < 1e-2
    assert largest_difference(ours, exact) > 1e-6  # bf16 it was


def test_small_updates_are_not_lost_in_bf16(tied, begin):
    """Added to weights in bf16, steps of 1e-5 would round to nothing for nine in ten of them.

    Embeddings are tied, so those of tokens that no row holds have gradients too.
    """
    optim = {"learning_rate": 1e-5, "weight_decay": 0.0, "scheduler": "constant"}
    folder, _ = begin(tied, "full", 100, precision="bf16", optim=optim)
    tunesmith_losses(folder)
    before = load_file(tied / "model.safetensors")
    after = load_file(folder / "checkpoints" / "step-000100" / "trainable.safetensors")
    assert after.keys() == before.keys()
    for name, weight in after.items():
        assert weight.dtype == torch.float32
        assert (weight != before[name]).float().mean() > 0.99, name
