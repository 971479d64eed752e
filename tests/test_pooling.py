"""A classifier with a layer that begins as the mean of all tokens: it does, and what comes out is the library's own."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline

from classifiers import begin, class_rows, save_base
from conftest import made_once
from tunesmith.core.errors import ConfigError, ModelError
from tunesmith.core.events import silent
from tunesmith.jobs.finetune import finetune
from tunesmith.model.attention import PACKED
from tunesmith.model.heads import class_logits, inputs_of
from tunesmith.model.load import LoadSpec, load

FACTS = {"labels": {"wifi": 3, "pool": 2, "dog": 1}}
KINDS = ("bert", "roberta")


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    return made_once(
        tmp_path_factory, "bases-to-pool", lambda folder: [save_base(folder / kind, kind) for kind in (*KINDS, "gpt2")]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_token_begins_as_the_mean_of_all(bases, kind):
    own, pooled = (
        load(bases / kind, LoadSpec(task="classify", facts=FACTS, pool=pool)).model for pool in ("own", "mean")
    )
    assert pooled.config.num_hidden_layers == own.config.num_hidden_layers + 1 == len(pooled.base_model.encoder.layer)
    ids = torch.tensor([[2, 7, 9, 15, 8, 3], [2, 12, 3, 0, 0, 0]])
    seen = (ids != 0).long()
    with torch.no_grad():
        before = own.base_model(input_ids=ids, attention_mask=seen).last_hidden_state
        after = pooled.base_model(input_ids=ids, attention_mask=seen).last_hidden_state[:, 0]
    mean = (before * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)
    centred = mean - mean.mean(-1, keepdim=True)
    assert torch.cosine_similarity(centred, after).min() > 0.95
    again = load(bases / kind, LoadSpec(task="classify", facts=FACTS, pool="mean")).model
    for one, other in zip(pooled.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_same_packed_and_padded(bases, kind):
    model = load(bases / kind, LoadSpec(task="classify", facts=FACTS, pool="mean")).model
    rows = [torch.tensor(row).numpy() for row in ([2, 7, 9, 15, 3], [2, 12, 3], [2, 6, 3])]
    borders = [len(row) for row in rows]
    with torch.no_grad():
        padded = class_logits(model, inputs_of(rows, borders, False, "cpu"), 3)
        model.set_attn_implementation(PACKED)
        packed = class_logits(model, inputs_of(rows, borders, True, "cpu"), 3)
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)


def test_a_run_leaves_a_model_of_the_library_with_one_layer_more(bases, tmp_path):
    settings = {"objective": {"type": "classify", "pool": "mean"}, "method": {"type": "full"}}
    folder = begin(tmp_path / "run", bases / "bert", class_rows(40), **settings)
    finetune({"folder": str(folder)}, silent, lambda: False)
    model, info = AutoModelForSequenceClassification.from_pretrained(folder / "model", output_loading_info=True)
    assert model.config.num_hidden_layers == 3
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert (
        pipeline("text-classification", model=str(folder / "model"))("where is my dog")[0]["label"] in FACTS["labels"]
    )
    assert json.loads((folder / "model" / "config.json").read_text())["architectures"] == [type(model).__name__]


def test_what_cannot_begin_as_a_mean_is_refused(bases, tmp_path):
    with pytest.raises(ModelError, match=r"gpt2 has no layer that can begin as a mean\. Take objective\.pool=own"):
        load(bases / "gpt2", LoadSpec(task="classify", facts=FACTS, pool="mean"))
    folder = begin(tmp_path / "run", bases / "bert", class_rows(40), objective={"type": "classify", "pool": "mean"},
                   method={"type": "lora"})  # fmt: skip
    with pytest.raises(ConfigError, match=r"method\.type = lora leaves is put on a base without it"):
        finetune({"folder": str(folder)}, silent, lambda: False)
