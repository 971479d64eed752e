"""A task of its own: an encoder with a head, loaded by the one loader, and packed; no chat template is near."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from tunesmith.core.errors import ConfigError, ModelError
from tunesmith.model.attention import PACKED
from tunesmith.model.load import TASKS, LoadSpec, Task, load

SIZE = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
        "max_position_embeddings": 64}  # fmt: skip


def refuse(folder, config):
    if config.model_type != "bert":
        raise ModelError(f"{folder}: is no encoder.")


def settings(facts):
    return {"num_labels": len(facts["labels"]), "id2label": dict(enumerate(facts["labels"]))}


@pytest.fixture
def task(monkeypatch):
    monkeypatch.setitem(TASKS, "sort", Task("a sorter of texts", AutoModelForSequenceClassification, refuse, settings))
    return LoadSpec(task="sort", facts={"labels": ["pool", "wifi", "dog"]})


def test_an_encoder_with_a_head_is_loaded_and_its_rows_are_packed(task, tmp_path):
    torch.manual_seed(0)
    BertModel(BertConfig(**SIZE)).save_pretrained(tmp_path)
    model = load(tmp_path, task).model
    assert model.classifier.out_features == 3
    assert model.config.id2label == {0: "pool", 1: "wifi", 2: "dog"}
    rows = [torch.randint(1, 99, (length,)) for length in (5, 9, 3)]
    with torch.no_grad():
        alone = [model.bert(input_ids=row[None]).last_hidden_state[0] for row in rows]
        model.set_attn_implementation(PACKED)
        offsets = torch.tensor([0, 5, 14, 17], dtype=torch.int32)
        packed = model.bert(
            input_ids=torch.cat(rows)[None], position_ids=torch.cat([torch.arange(len(row)) for row in rows])[None],
            cu_seq_lens_q=offsets, cu_seq_lens_k=offsets, max_length_q=9, max_length_k=9,
        ).last_hidden_state[0]  # fmt: skip
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_the_task_refuses_what_it_cannot_take(task, tmp_path):
    LlamaForCausalLM(LlamaConfig(**SIZE)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is no encoder"):
        load(tmp_path, task)
    with pytest.raises(ConfigError, match="unknown task 'sorts': did you mean 'sort'"):
        load(tmp_path, LoadSpec(task="sorts"))
