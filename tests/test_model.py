"""Packed attention, methods, loading and publishing."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2Model,
    MixtralConfig,
    MixtralForCausalLM,
)

from conftest import save_tiny
from tunesmith.core.errors import ModelError
from tunesmith.model.attention import packed_attention
from tunesmith.model.config import FullConfig, LoraConfig
from tunesmith.model.load import load_model
from tunesmith.model.methods import METHODS, method_for, trainable
from tunesmith.model.outline import load_outline, stored_dtype
from tunesmith.prompt.base import context_length


@pytest.mark.parametrize("groups", [1, 2])
def test_packed_attention_is_attention_within_each_row(groups):
    torch.manual_seed(0)
    lengths = [3, 1, 5]
    q = torch.randn(1, 4, 9, 8, requires_grad=True)
    k, v = torch.randn(1, 4 // groups, 9, 8), torch.randn(1, 4 // groups, 9, 8)
    offsets = torch.tensor([0, 3, 4, 9], dtype=torch.int32)
    out, _ = packed_attention(torch.nn.Identity(), q, k, v, None, scaling=0.3, cu_seq_lens_q=offsets)
    # The reference: softmax by hand under a mask that allows only earlier tokens of the same row.
    row = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    allowed = (row[:, None] == row[None, :]) & torch.ones(9, 9).tril().bool()
    scores = (q @ k.repeat_interleave(groups, 1).transpose(-1, -2)) * 0.3
    want = scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v.repeat_interleave(groups, 1)
    torch.testing.assert_close(out, want.transpose(1, 2))
    out[0, 4:].sum().backward()
    assert q.grad[0, :, :4].abs().sum() == 0


@pytest.mark.parametrize("extra", [{"sliding_window": 4}, {"softcap": 30.0}, {"s_aux": torch.ones(2)}])
def test_packed_attention_raises_on_what_it_does_not_do(extra):
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(NotImplementedError, match=next(iter(extra))):
        packed_attention(torch.nn.Identity(), q, q, q, None, cu_seq_lens_q=torch.tensor([0, 4]), **extra)
    for wrong in ({"cu_seq_lens_q": None}, {"is_causal": False}):
        arguments = {"cu_seq_lens_q": torch.tensor([0, 4]), **wrong}
        with pytest.raises(NotImplementedError, match="masks, batches, unpacked rows or a look ahead"):
            packed_attention(torch.nn.Identity(), q, q, q, None, **arguments)


def test_methods_train_what_they_say(tiny):
    full = METHODS["full"].apply(load_model(tiny, torch.float32), FullConfig())
    assert len(trainable(full)) == len(list(full.parameters()))
    lora = method_for(LoraConfig(rank=4)).apply(load_model(tiny, torch.float32), LoraConfig(rank=4))
    names = trainable(lora)
    assert len(names) == 2 * 7 * 2  # A and B of seven linear layers in each of two layers
    assert all("lora_" in name for name in names)
    some = LoraConfig(targets=["q_proj"])
    assert len(trainable(METHODS["lora"].apply(load_model(tiny, torch.float32), some))) == 4
    with pytest.raises(
        ModelError, match=r"no linear layer of the model is called .c_attn.*Its linear layers: down_proj, gate_proj"
    ):
        METHODS["lora"].apply(load_model(tiny, torch.float32), LoraConfig(targets=["c_attn"]))


def test_a_fresh_adapter_changes_nothing(tiny):
    ids = torch.arange(10)[None]
    model = load_model(tiny, torch.float32)
    before = model(ids).logits
    after = METHODS["lora"].apply(model, LoraConfig())(ids).logits
    torch.testing.assert_close(after, before)


def test_loading_says_what_is_wrong(tmp_path, tiny):
    assert context_length(tiny) == 512
    model = load_model(tiny, torch.bfloat16, dropout=0.25)
    assert (model.config.attention_dropout, model.dtype) == (0.25, torch.bfloat16)
    assert not model.training
    folder = save_tiny(tmp_path / "odd")
    (folder / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(ModelError, match=r"cannot be loaded as a causal language model"):
        load_model(folder, torch.float32)
    assert context_length(folder) is None
    (folder / "config.json").write_text((tiny / "config.json").read_text())
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(folder, torch.float32)
    weights = load_file(tiny / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"weights are missing .*layers\.1\.mlp\.up_proj"):
        load_model(folder, torch.float32)


def test_remote_code_is_refused(tmp_path, tiny):
    folder = save_tiny(tmp_path / "evil")
    (folder / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}')
    (folder / "evil.py").write_text("raise SystemExit('code ran')")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(folder, torch.float32)
    assert context_length(folder) is None


def other_architectures(folder):
    """Shared weights, a buffer that is made in the model's precision, keys without their prefix, fused experts."""
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    small |= {"vocab_size": 99, "intermediate_size": 48, "max_position_embeddings": 64}
    gemma = Gemma3ForCausalLM(Gemma3TextConfig(**small, head_dim=16, sliding_window=16))
    gpt = GPT2Model(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=99, n_positions=64))
    mixtral = MixtralForCausalLM(MixtralConfig(**small, num_local_experts=4))
    for name, model in (("gemma", gemma), ("gpt", gpt), ("mixtral", mixtral)):
        model.to(torch.bfloat16).save_pretrained(folder / name)
    return [folder / "gemma", folder / "gpt", folder / "mixtral"]


def test_an_outline_is_the_model_without_its_weights(tmp_path, tiny):
    """Files in bf16 for a model in fp32, and files in fp32."""
    for folder in [tiny, *other_architectures(tmp_path)]:
        assert stored_dtype(folder) == (torch.float32 if folder == tiny else torch.bfloat16)
        whole = load_model(folder, torch.float32, dropout=0.5)
        outline, sources = load_outline(folder, torch.float32, dropout=0.5)
        assert (
            outline.config.attention_dropout == 0.5 if folder != tmp_path / "gpt" else outline.config.attn_pdrop == 0.5
        )
        weights = dict(outline.named_parameters())
        assert weights.keys() == dict(whole.named_parameters()).keys()  # what is shared in one is shared in the other
        for name, weight in whole.named_parameters():
            assert (weights[name].shape, weights[name].dtype) == (weight.shape, torch.float32)
            assert torch.equal(sources[weights[name]].float(), weight), f"{folder.name}: {name}"
            assert weights[name].untyped_storage().nbytes() == 4
        buffers = dict(outline.named_buffers())
        assert buffers.keys() == dict(whole.named_buffers()).keys()
        assert all(torch.equal(buffer, buffers[name]) for name, buffer in whole.named_buffers())


def test_a_method_adds_the_same_to_an_outline(tmp_path):
    folder = other_architectures(tmp_path)[0]
    added = []
    for dtype in (torch.float32, torch.bfloat16):
        for model in (load_model(folder, dtype), load_outline(folder, dtype)[0]):
            torch.manual_seed(0)
            added.append(trainable(METHODS["lora"].apply(model, LoraConfig())))
    for one, other in (added[:2], added[2:]):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_outline_says_what_is_wrong_with_a_folder(tmp_path, tiny):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_outline(tmp_path, torch.float32)
