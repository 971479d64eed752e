"""Packed attention, methods, loading and publishing."""

from __future__ import annotations

import json
import shutil

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

import tunesmith
from conftest import many_rows, save_tiny
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import ConfigError, ModelError, TunesmithError
from tunesmith.core.files import read_json
from tunesmith.jobs.finetune import finetune
from tunesmith.model import load as loading
from tunesmith.model.attention import packed_attention
from tunesmith.model.load import (
    LoadSpec,
    answering,
    dropout_rates,
    load,
    refuse_not_finite,
    refuse_untrainable,
)
from tunesmith.model.methods.full import FullConfig
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.model.methods.method import trainable
from tunesmith.model.methods.table import METHODS, method_for
from tunesmith.model.outline import stored_dtype
from tunesmith.prompt.base import context_length
from tunesmith.prompt.config import DropoutConfig
from tunesmith.train.recipe import Recipe


def test_dropout_can_be_set_by_kind(tiny, tmp_path):
    rates = dropout_rates(tiny, DropoutConfig(attention=0.2))
    assert rates == {"attention_dropout": 0.2}
    with pytest.raises(ModelError, match=r"model\.dropout\.hidden: LlamaConfig has no such dropout"):
        dropout_rates(tiny, DropoutConfig(hidden=0.1))
    GPT2Config(n_embd=8, n_layer=1, n_head=2).save_pretrained(tmp_path)
    rates = dropout_rates(tmp_path, DropoutConfig(attention=0.2, hidden=0.1))
    assert rates == {"attn_pdrop": 0.2, "resid_pdrop": 0.1, "embd_pdrop": 0.1}
    assert set(dropout_rates(tmp_path, 0.3).values()) == {0.3}


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
    with pytest.raises(NotImplementedError, match="masks, batches or unpacked rows"):
        packed_attention(torch.nn.Identity(), q, q, q, None, cu_seq_lens_q=None)


def test_a_model_answers_where_it_is_told_to(monkeypatch):
    for there, wanted, found in [
        (False, "auto", (torch.float32, "cpu")), (False, "cpu", (torch.float32, "cpu")),
        (True, "auto", (torch.bfloat16, "cuda")), (True, "cuda", (torch.bfloat16, "cuda")),
        (True, "cpu", (torch.float32, "cpu")),
    ]:  # fmt: skip
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert (answering(wanted).dtype, answering(wanted).device) == found
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device is there"):
        tunesmith.load("ember", device="cuda")


def test_a_run_whose_recipe_says_cpu_computes_there_to_its_end(tiny, write_rows, tmp_path, monkeypatch):
    """A GPU seems to be there; whoever takes it, in spite of the recipe, fails."""
    recipe = Recipe.model_validate(
        {
            "model": {"base": str(tiny)},
            "data": {"train": str(write_rows(many_rows(24))), "validation": 0, "test": 4 / 24},
            "optim": {"learning_rate": 1e-3, "steps": 1, "batch_size": 4},
            "evaluate": {"max_new_tokens": 2},
            "output": {"folder": str(tmp_path / "runs"), "name": "run", "merge": True},
            "precision": "fp32",
            "device": "cpu",
        }
    )
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(recipe))
    monkeypatch.setattr(loading, "choose_device", lambda wanted: (wanted if wanted != "auto" else "cuda", "a test"))
    finetune({"folder": str(folder)}, lambda event: None)
    assert read_json(folder / "report" / "report.json")["scores"]
    assert read_json(folder / "model" / "tunesmith.json")["merge"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("file", "change"),
    [("config.json", {"hidden_size": "64"}), ("config.json", {"num_attention_heads": 0}), ("config.json", None),
     ("config.json", {"vocab_size": 0}), ("config.json", {"text_config": "x"}), ("config.json", {"auto_map": 7}),
     ("config.json", {"rope_parameters": [1]}), ("config.json", {"quantization_config": 3}),
     ("generation_config.json", None), ("generation_config.json", {"pad_token_id": ["2"]})],
)  # fmt: skip
def test_a_config_that_is_broken_is_a_sentence(tiny, tmp_path, file, change):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    settings = read_json(folder / file)
    (folder / file).write_text(json.dumps(None if change is None else {**settings, **change}))
    with pytest.raises(ModelError, match=r"cannot be (loaded as a causal language model|used)|must hold a JSON object"):
        load(folder, LoadSpec())


@pytest.mark.parametrize(
    ("file", "content"),
    [("adapter_config.json", []), ("adapter_config.json", {}), ("adapter_config.json", {"base_model_name_or_path": 3}),
     ("tunesmith.json", []), ("tunesmith.json", {"contract": 5}), ("tunesmith.json", {"contract": {"id": "x"}}),
     ("tunesmith.json", {"base": "x"})],
)  # fmt: skip
def test_a_published_folder_whose_files_were_edited_is_a_sentence(tiny, tmp_path, file, content):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(TunesmithError, match=file.replace(".", r"\.")):
        tunesmith.load(folder)


def test_methods_train_what_they_say(tiny):
    full = METHODS["full"].apply(load(tiny, LoadSpec()).model, FullConfig())
    assert len(trainable(full)) == len(list(full.parameters()))
    lora = method_for(LoraConfig(rank=4)).apply(load(tiny, LoadSpec()).model, LoraConfig(rank=4))
    names = trainable(lora)
    assert len(names) == 2 * 7 * 2  # A and B of seven linear layers in each of two layers
    assert all("lora_" in name for name in names)
    some = LoraConfig(targets=["q_proj"])
    assert len(trainable(METHODS["lora"].apply(load(tiny, LoadSpec()).model, some))) == 4
    with pytest.raises(
        ModelError, match=r"no linear layer of the model is called .c_attn.*Its linear layers: down_proj, gate_proj"
    ):
        METHODS["lora"].apply(load(tiny, LoadSpec()).model, LoraConfig(targets=["c_attn"]))


def test_a_fresh_adapter_changes_nothing(tiny):
    ids = torch.arange(10)[None]
    model = load(tiny, LoadSpec()).model
    before = model(ids).logits
    after = METHODS["lora"].apply(model, LoraConfig())(ids).logits
    torch.testing.assert_close(after, before)


def test_loading_says_what_is_wrong(tmp_path, tiny):
    assert context_length(tiny) == 512
    model = load(tiny, LoadSpec(precision="bf16", dropout=0.25)).model
    assert (model.config.attention_dropout, model.dtype) == (0.25, torch.bfloat16)
    assert not model.training
    folder = save_tiny(tmp_path / "odd")
    (folder / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(ModelError, match=r"cannot be loaded: transformers .* does not know its architecture"):
        load(folder, LoadSpec())
    assert context_length(folder) is None
    (folder / "config.json").write_text((tiny / "config.json").read_text())
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder, LoadSpec())
    weights = load_file(tiny / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"weights are missing .*layers\.1\.mlp\.up_proj"):
        load(folder, LoadSpec())


def test_remote_code_is_refused(tmp_path, tiny):
    folder = save_tiny(tmp_path / "evil")
    (folder / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}')
    (folder / "evil.py").write_text("raise SystemExit('code ran')")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder, LoadSpec())
    assert context_length(folder) is None


def with_config(folder, **changes):
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in values.items() if value != "absent"}))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llama9"}, r"transformers \d.* does not know its architecture, 'llama9'"),
        ({"model_type": "chatglm", "auto_map": {"AutoConfig": "a.B"}}, "code that the model brings along"),
        ({"model_type": "absent"}, "names no model_type"),
        ({"model_type": 5}, "names no model_type"),
        ({"hidden_size": "big"}, "config.json cannot be used .*hidden_size.* expected int"),
        ({"num_attention_heads": 0}, "config.json cannot be used"),
        ({"num_attention_heads": 5}, "config.json cannot be used .*not a multiple of"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised .gptq, 4 bits"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantised .awq, 4 bits"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "quantised .bitsandbytes"),
    ],
)
def test_a_configuration_that_cannot_be_trained_is_refused_before_anything_is_loaded(tmp_path, changes, words):
    folder = with_config(save_tiny(tmp_path / "odd"), **changes)
    with pytest.raises(ModelError, match=words):
        refuse_untrainable(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "gulu"}, "'gulu', which the architecture does not have"),
        ({"intermediate_size": 96}, r"of another shape .model\.layers\.0\.mlp"),
        ({"num_hidden_layers": 3}, r"weights are missing .*layers\.2"),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path, changes, words):
    with pytest.raises(ModelError, match=words):
        load(with_config(save_tiny(tmp_path / "odd"), **changes), LoadSpec())


def test_encoders_and_translators_are_refused_by_what_they_are(tmp_path):
    import transformers as library

    size = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    models = {
        "BertForMaskedLM is an encoder": library.BertForMaskedLM(library.BertConfig(**size)),
        "RobertaForMaskedLM is an encoder": library.RobertaForMaskedLM(library.RobertaConfig(**size)),
        "ModernBertForMaskedLM is an encoder": library.ModernBertForMaskedLM(
            library.ModernBertConfig(**size, pad_token_id=0)
        ),
        "T5ForConditionalGeneration is an encoder with a decoder": library.T5ForConditionalGeneration(
            library.T5Config(vocab_size=64, d_model=16, num_layers=1, num_heads=2, d_ff=32, d_kv=8)
        ),
        "BartForConditionalGeneration is an encoder with a decoder": library.BartForConditionalGeneration(
            library.BartConfig(vocab_size=64, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
                               decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2)
        ),
        "CLIPTextModel is of another kind": library.CLIPTextModel(library.CLIPTextConfig(**size)),
    }  # fmt: skip
    for words, model in models.items():
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        for refuse in (refuse_untrainable, lambda folder: load(folder, LoadSpec()).model):
            with pytest.raises(ModelError, match=words):
                refuse(folder)
    decoder = library.BertLMHeadModel(library.BertConfig(**size, is_decoder=True))
    decoder.save_pretrained(tmp_path / "decoder")
    refuse_untrainable(tmp_path / "decoder")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_base_whose_weights_are_no_numbers_is_blamed_itself(tiny, value, precision):
    model = load(tiny, LoadSpec(precision=precision)).model
    refuse_not_finite(tiny, model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = value
    with pytest.raises(ModelError, match=r"1 of the base model's tensors hold NaN .*layers\.1\.mlp\.up_proj"):
        refuse_not_finite(tiny, model)


def test_large_weights_are_finite(tiny):
    model = load(tiny, LoadSpec()).model
    with torch.no_grad():
        model.lm_head.weight.fill_(3e38)
    refuse_not_finite(tiny, model)


def test_mamba_is_adapted_where_it_can_be():
    from transformers import MambaConfig, MambaForCausalLM

    def make():
        return MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4))

    for targets in ("all-linear", ["in_proj", "out_proj"]):
        with pytest.raises(ModelError, match=r"of a mamba model .*method\.targets=\[in_proj\]"):
            METHODS["lora"].apply(make(), LoraConfig(targets=targets))
    model = METHODS["lora"].apply(make(), LoraConfig(targets=["in_proj"]))
    model(input_ids=torch.arange(8)[None]).logits.sum().backward()
    assert all(weight.grad is not None for weight in trainable(model).values())


def test_a_model_that_lora_has_nothing_to_add_to_is_refused(tmp_path):
    model = load(save_tiny(tmp_path / "flat", num_hidden_layers=0), LoadSpec()).model
    with pytest.raises(ModelError, match=r"LoRA cannot be added to this model .*linear layers: lm_head"):
        METHODS["lora"].apply(model, LoraConfig())


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
        whole = load(folder, LoadSpec(dropout=0.5)).model
        parted = load(folder, LoadSpec(dropout=0.5, shard=True))
        outline, sources = parted.model, parted.sources
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
    for precision in ("fp32", "bf16"):
        for shard in (False, True):
            model = load(folder, LoadSpec(precision=precision, shard=shard)).model
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
        load(tmp_path, LoadSpec(shard=True))
