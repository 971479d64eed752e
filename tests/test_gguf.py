"""GGUF files: the logits of the model they were made from, what they say wrongly of themselves, and every refusal."""

from __future__ import annotations

import json
import shutil
import struct
import threading
import time

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)  # fmt: skip

from conftest import many_rows, run_here
from gguf_files import save_file
from tunesmith.core.errors import JobError, MissingError, ModelError
from tunesmith.core.files import read_object, sha256_of
from tunesmith.exec.local import LocalExecutor
from tunesmith.jobs.start import finetune
from tunesmith.jobs.submit import gather
from tunesmith.model.export import find_model
from tunesmith.model.load import LoadSpec, load
from tunesmith.prompt.base import resolve
from tunesmith.prompt.bases import unpacked as unpacking
from tunesmith.prompt.bases.gguf import ARCHITECTURES, KINDS
from tunesmith.prompt.bases.record import RECORD, notes_of, read_source
from tunesmith.prompt.bases.unpacked import unpacked
from tunesmith.prompt.identity import content_of
from tunesmith.prompt.load import load_contract
from tunesmith.prompt.messages import Message
from tunesmith.train.recipe import read_recipe

SIZES = {
    "vocab_size": 4096, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "max_position_embeddings": 512, "initializer_range": 0.2, "bos_token_id": None,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SLOWED = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "llama 3.1": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=64, rope_parameters=SLOWED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=32)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SIZES, sliding_window=16)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=32)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=32)),
}
IDS = torch.arange(3, 43)[None] * 31 % 4000


def small(kind="llama"):
    """A model whose vectors are not all ones or zeros."""
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    for weight in model.parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, 0.0 if kind.startswith("gemma") else 1.0, 0.2)
    return model


def factors(kind):
    """What Llama 3.1's positions are divided by, as a file has it."""
    freed = MODELS[kind]().model.rotary_emb.inv_freq
    plain = 1 / 10000.0 ** (torch.arange(0, 64, 2) / 64)
    return (plain / freed).numpy().astype(np.float32)


@pytest.fixture
def write(tmp_path, tiny):
    """Writes a file of a small model."""

    def write(kind="llama", name="small.gguf", numbers="F32", edit=lambda writer: None, **settings):
        return save_file(small(kind), tiny, tmp_path / name, kind=numbers, edit=edit, **settings)

    return write


def logits(folder):
    with torch.no_grad():
        return load(folder, LoadSpec()).model(IDS).logits


@pytest.mark.parametrize("kind", MODELS)
def test_a_file_gives_the_logits_of_the_model_it_was_made_from(kind, write, tiny, in_process):
    extra = {"phi3__attention__sliding_window": 16} if kind == "phi3" else {}
    slow = (lambda writer: writer.add_tensor("rope_freqs.weight", factors(kind))) if kind == "llama 3.1" else None
    path = write(kind, edit=slow or (lambda writer: None), **extra)
    folder = resolve(str(path)).folder
    with torch.no_grad():
        want = small(kind)(IDS).logits
    torch.testing.assert_close(logits(folder), want, atol=1e-5, rtol=0)
    ours, its = load_contract(folder), load_contract(tiny)
    assert (ours.template, ours.stop_ids) == (its.template, its.stop_ids)
    written = [content_of(json.loads(one.tokenizer.backend_tokenizer.to_str())) for one in (ours, its)]
    for part in ("vocab", "merges", "added_tokens", "pre_tokenizer", "model"):
        assert written[0][part] == written[1][part]
    text = "Room 2024 is 3.5 m wide: <|im_end|> café\n\n  over there"
    assert ours.tokenizer(text)["input_ids"] == its.tokenizer(text)["input_ids"]
    config = read_object(folder / "config.json")
    assert not config.keys() & {"quantization_config", "transformers_version", "_name_or_path", "_model_name_or_path"}


@pytest.mark.parametrize("numbers", ["Q4_1", "F16"])
def test_other_numbers_are_exact_as_the_library_reads_them(numbers, write, tmp_path, in_process):
    path = write(numbers=numbers)
    folder = resolve(str(path)).folder
    want = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(logits(folder), want(IDS).logits, atol=1e-5, rtol=0)
    assert read_object(folder / "config.json")["dtype"] == "float32"  # vectors of 32 bits, which 16 do not hold
    source = read_source(folder / RECORD)
    assert (source.sha256, source.licence, source.kinds[numbers]) == (sha256_of(path), "apache-2.0", 16)


def test_numbers_of_16_bits_stay_so_where_that_is_exact(tiny, tmp_path, in_process):
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).float()  # its vectors are all ones
    folder = resolve(str(save_file(model, tiny, tmp_path / "half.gguf", kind="BF16"))).folder
    assert read_object(folder / "config.json")["dtype"] == "bfloat16"
    with torch.no_grad():
        assert torch.equal(logits(folder), model(IDS).logits)


def test_it_is_unpacked_once_under_its_hash_and_always_the_same(write, monkeypatch, in_process, tmp_path):
    path = write()
    base = resolve(str(path))
    assert base.folder.name == f"small-{sha256_of(path)[:12]}"
    monkeypatch.setattr("tunesmith.exec.alone.supervise", None)  # nothing is started any more
    assert resolve(str(path)).folder == base.folder
    shutil.copyfile(path, tmp_path / "sha256-abc")  # as Ollama calls them
    assert resolve(str(tmp_path / "sha256-abc")).folder == base.folder
    monkeypatch.setattr("tunesmith.exec.alone.supervise", run_here)
    before = base.fingerprint()
    shutil.rmtree(base.folder)
    assert resolve(str(path)).fingerprint() == before
    save_file(small("llama, tied"), resolve("ember").folder, path)
    assert resolve(str(path)).folder != base.folder


def test_two_who_need_it_at_once_wait_for_each_other(write, monkeypatch, in_process):
    path, begun = write(general__name="for two"), []
    inner = unpacking._run
    monkeypatch.setattr(unpacking, "_run", lambda *given: (begun.append(1), time.sleep(0.2), inner(*given)))
    threads = [threading.Thread(target=unpacked, args=(path,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(begun), unpacked(path).is_dir()) == (1, True)


def test_the_child_process_does_it_and_its_end_is_a_sentence(write, monkeypatch):
    heard = []
    folder = unpacked(write(general__name="in a child"), report=heard.append)
    assert (folder / "model.safetensors").exists()
    assert "unpacking small.gguf" in str(heard)
    monkeypatch.setattr(
        "tunesmith.exec.local.LocalExecutor",
        lambda: LocalExecutor(program=("/bin/sh", "-c", "kill -SEGV $$")),
    )
    with pytest.raises(JobError, match="SIGSEGV"):
        unpacked(write(name="other.gguf", general__name="other"))


def test_the_end_of_an_answer_is_what_the_template_writes(write, write_rows, in_process, tmp_path):
    path = write(tokenizer__ggml__eos_token_id=0)
    base = resolve(str(path))
    [note] = notes_of(base.folder)
    assert note == (
        "its file names <|endoftext|> as the end of text, and its chat template ends an answer with <|im_end|>: both "
        "end an answer here."
    )
    assert read_object(base.folder / "generation_config.json") == {"eos_token_id": [2, 0]}
    assert set(load_contract(base.folder).stop_ids) == {0, 2}
    heard = []
    train(path, write_rows, tmp_path, heard.append)
    assert note in [event.sentence for event in heard if event.kind == "warning"]


def test_a_file_without_an_end_of_text_and_one_that_wants_a_beginning(write, in_process):
    folder = resolve(str(write(tokenizer__ggml__eos_token_id=None))).folder
    assert "its file names no end of text" in notes_of(folder)[0]
    assert load_contract(folder).stop_ids == (2,)
    bos = {"tokenizer__ggml__bos_token_id": 0, "tokenizer__ggml__add_bos_token": True}
    folder = resolve(str(write(name="bos.gguf", **bos))).folder
    assert "wants <|endoftext|> before each text" in notes_of(folder)[0]
    template = "{{ bos_token }}" + load_contract(folder).template
    folder = resolve(str(write(name="once.gguf", tokenizer__chat_template=template, **bos))).folder
    assert (notes_of(folder), load_contract(folder).draft_text("Hi").whole) == ((), True)
    ids = load_contract(folder).prompt((Message("user", "Hi"),))
    assert ids.count(0) == 1  # though the file's setting adds one too


def test_a_file_without_a_template_names_those_there_are(write, in_process):
    folder = resolve(str(write(tokenizer__chat_template=None))).folder
    assert notes_of(folder) == ("the file has no chat template: name one with model.template.",)
    with pytest.raises(ModelError, match=r"has no chat template\. Choose one with model.template: alpaca, chatml"):
        load_contract(folder)
    assert load_contract(folder, "chatml").stop_ids == (2,)


def test_an_unknown_way_to_cut_text_is_said(write, in_process):
    folder = resolve(str(write(tokenizer__ggml__pre="some-new-one"))).folder
    assert "way to cut text, 'some-new-one', is not known" in notes_of(folder)[0]


# What comes after: training, new tokens, export, the queue.


def train(base, write_rows, folder, report=lambda event: None, **sections):
    recipe = folder / "small.yaml"
    recipe.write_text(
        json.dumps(
            {
                "model": {"base": str(base), **sections.pop("model", {})},
                "data": {"train": str(write_rows(many_rows(24)))},
                "optim": {"learning_rate": 1e-2, "steps": 2, "batch_size": 4},
                "evaluate": {"max_new_tokens": 4, "rows": 2},
                "output": {"folder": str(folder / "runs")},
                "precision": "fp32",
                "compile": "off",
                **sections,
            }
        )
    )
    return finetune(recipe, report, "exported")


@pytest.mark.parametrize("kind", ["llama", "llama, tied"])
def test_new_tokens_and_an_adapter_on_quantised_weights(kind, write, write_rows, tmp_path, in_process):
    path = write(kind, numbers="Q8_0")
    run = train(path, write_rows, tmp_path, model={"add_tokens": ["Zzyzx", "Qwxy"]})
    base, card = resolve(str(path)), read_object(run.model / "tunesmith.json")
    assert (card["base"]["name"], card["base"]["sha256"]) == (str(path), base.fingerprint())
    assert (card["base"]["gguf"]["sha256"], card["new_tokens"]) == (sha256_of(path), ["Zzyzx", "Qwxy"])
    assert read_object(run.model / "adapter_config.json")["base_model_name_or_path"] == str(base.folder)
    ids = load_contract(run.model).tokenizer("Zzyzx Qwxy", add_special_tokens=False)["input_ids"]
    assert {4096, 4097} <= set(ids)
    before = find_model(str(run.model)).load_as(LoadSpec())(IDS).logits
    shutil.rmtree(base.folder)  # as a cache is emptied: the recipe's name finds it again
    torch.testing.assert_close(find_model(str(run.model)).load_as(LoadSpec())(IDS).logits, before, atol=0, rtol=0)
    shutil.rmtree(base.folder)
    write("llama 3.1", numbers="Q8_0")
    with pytest.raises(ModelError, match=r"is gone, and .*small.gguf' is another model now"):
        find_model(str(run.model))


def test_a_queued_recipe_takes_along_what_was_unpacked(write, write_rows, tmp_path, in_process):
    recipe = tmp_path / "queued.yaml"
    recipe.write_text(json.dumps({"model": {"base": str(write())}, "data": {"train": str(write_rows(many_rows(4)))}}))
    gathered, paths = gather(read_recipe(recipe))
    assert gathered.model.base == "inputs/base"
    assert {"inputs/base/config.json", "inputs/base/model.safetensors", "inputs/base/source.json"} <= paths.keys()


# Refusals. Each is one sentence, before anything is unpacked.


def patched(place, *values):
    """Puts bytes in the place of those that are there."""

    def patch(data):
        new = b"".join(struct.pack("<Q", one) if isinstance(one, int) else one for one in values)
        return data[:place] + new + data[place + len(new) :]

    return patch


def inflated(data):
    """A list of texts that claims a thousand million of them."""
    place = data.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
    return data[:place] + struct.pack("<Q", 10**9) + data[place + 8 :]


def longer(name):
    """A text that claims more bytes than there are."""

    def patch(data):
        place = data.index(name) + len(name) + 4
        return data[:place] + struct.pack("<Q", 2**63) + data[place + 8 :]

    return patch


def without(name):
    """The name of a setting or tensor is another, everywhere."""
    return lambda data: data.replace(name, b"x" * len(name))


def moved(data):
    """The last tensor lies where the first one does."""
    place = data.rindex(b"output.weight") + len(b"output.weight") + 4 + 16 + 4
    return data[:place] + struct.pack("<Q", 0) + data[place + 8 :]


BYTES = {
    "empty": (lambda data: b"", "is empty, and a GGUF file begins with b'GGUF'"),
    "wrong magic": (lambda data: b"GGML" + data[4:], "begins with b'GGML', and a GGUF file begins with b'GGUF'"),
    "a page": (lambda data: b"<!DOCTYPE html>", "begins with b'<!DO'"),
    "magic alone": (lambda data: data[:10], "10 bytes, which is less than the header"),
    "cut in the settings": (lambda data: data[:300], "cut short in its header: it has 300 bytes. Fetch it again"),
    "cut in the vocabulary": (lambda data: data[:20_000], "cut short in its header"),
    "cut in the tensors": (lambda data: data[: len(data) // 2], "cut short: it has .* and its tensors need"),
    "cut by a byte": (lambda data: data[:-1], "cut short: it has"),
    "big-endian": (patched(4, b"\0\0\0\3"), "written for big-endian machines"),
    "version 1": (patched(4, b"\1\0\0\0"), "GGUF version 1, and read are versions 2 and 3"),
    "version 9": (patched(4, b"\t\0\0\0"), "GGUF version 9"),
    "Git LFS": (
        lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 98362432\n",
        "a Git LFS pointer of .*`git lfs pull`",
    ),
    "many tensors": (patched(8, 2**40), "speaks of 1,099,511,627,776 tensors, and 100,000 are allowed"),
    "many settings": (patched(16, 2**63), "settings, and 10,000 are allowed"),
    "a long list": (inflated, "1,000,000,000 values in tokenizer.ggml.tokens"),
    "a long text": (longer(b"tokenizer.chat_template"), "cut short in its header"),
    "one over another": (moved, "lie over another tensor"),
    "a twin": (
        lambda data: data.replace(b"llama.attention.key_length", b"llama.attention.head_count"),
        "names llama.attention.head_count twice: the file is damaged",
    ),
    "no embedding": (without(b"token_embd.weight"), r"has no embedding \(token_embd.weight\)"),
    "no UTF-8": (lambda data: data.replace(b"apache-2.0", b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe\xff\xfe"), "no UTF-8"),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return save_file(small(), tiny, folder / "small.gguf").read_bytes()


def refused(path, words, error=ModelError):
    start = time.monotonic()
    with pytest.raises(error, match=words) as found:
        resolve(str(path))
    assert time.monotonic() - start < 2
    said = str(found.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    assert said.count(". ") <= 2


@pytest.mark.parametrize("name", BYTES)
def test_a_broken_file_is_refused_with_a_sentence(name, whole, tmp_path):
    damage, words = BYTES[name]
    path = tmp_path / "broken.gguf"
    path.write_bytes(damage(whole))
    refused(path, words)


def plus(name, kind="F32"):
    """Adds a tensor."""
    kind = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    numbers = np.zeros((32, 256 // block * size), np.uint8)
    if kind.name == "F32":
        numbers = np.zeros((32, 256), np.float32)
    return lambda writer: writer.add_tensor(name, numbers, raw_dtype=kind)


ARCH = "general__architecture"
SETTINGS = {
    "vision": ({ARCH: "clip"}, None, "'clip', the part of a model that sees pictures"),
    "a projector": ({"general__type": "mmproj"}, None, "sees pictures"),
    "pictures inside": ({}, plus("v.patch_embd.weight"), "sees pictures"),
    "a mixture": ({"llama__expert_count": 8}, None, r"a mixture of 8 experts \('llama'\), which cannot be trained"),
    "a mixture unsaid": ({}, plus("blk.0.ffn_up_exps.weight"), "a mixture of several experts"),
    "unknown": ({ARCH: "wonder9"}, None, "its architecture, 'wonder9', is not read from GGUF; these are: llama"),
    "an encoder": ({ARCH: "bert"}, None, "'bert', an encoder"),
    "T5": ({ARCH: "t5"}, None, "'t5', an encoder"),
    "an adapter": ({"general__type": "adapter"}, None, "a LoRA adapter in llama.cpp's form"),
    "not dequantised": ({}, plus("blk.0.attn_rot.weight", "Q8_K"), "quantised as Q8_K, which cannot be turned back"),
    "no tokenizer": ({"tokenizer__ggml__model": None}, None, "no tokenizer is in it"),
    "no words": ({"tokenizer__ggml__tokens": None}, None, "no tokenizer is in it"),
    "no merges": ({"tokenizer__ggml__merges": None}, None, "no merges"),
    "another tokenizer": ({"tokenizer__ggml__model": "rwkv"}, None, "its tokenizer, 'rwkv', is not read"),
    "more words": ({"tokenizer__ggml__tokens": ["a"] * 5000}, None, "has 5,000 tokens, and its embedding 4,096 rows"),
    "an id beyond": ({"tokenizer__ggml__eos_token_id": 9999}, None, "eos_token_id = 9999"),
    "a part": ({"split__count": 3}, None, "one of 3 parts of a model. Join them first"),
    "many layers": ({"llama__block_count": 10**9}, None, "block_count = 1000000000: must be a whole number from 1 to"),
    "more layers": ({"llama__block_count": 9}, None, "block_count speaks of 9, and its tensors of 2"),
    "wide": ({"llama__embedding_length": 2**31}, None, "embedding_length = 2147483648"),
    "heads": ({"llama__attention__head_count": 8}, None, "head_count speaks of"),
    "no context": ({"llama__context_length": None}, None, "context_length = None"),
    "a text for a number": ({"llama__block_count": "two"}, None, "block_count = 'two'"),
    "stretched": ({"llama__rope__scaling__type": "yarn", "llama__rope__scaling__factor": 4.0}, None,
                  "positions are stretched .yarn, by 4.0., which transformers does not take"),
    "stretched by itself": ({}, plus("rope_factors_long.weight"), "positions are stretched .rope_factors_long"),
    "half a head": ({"llama__rope__dimension_count": 8}, None, "positions turn 8 of a head's 16 numbers"),
    "a list for a template": ({"tokenizer__chat_template": ["a", "b"]}, None, "tokenizer.chat_template is no text"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_model_that_cannot_be_trained_is_refused_before_it_is_unpacked(name, write):
    settings, edit, words = SETTINGS[name]
    refused(write(edit=edit or (lambda writer: None), **settings), words)


def test_a_part_is_known_by_its_name_and_a_file_that_is_not_there(write, tmp_path):
    refused(write(name="big-00001-of-00003.gguf"), "part 1 of 3 of a model. Join them first: `llama-gguf-split --merge")
    with pytest.raises(MissingError, match=r"'none\.gguf': no such folder or file. Give a folder, a GGUF file"):
        resolve("none.gguf")


INSIDE = {  # what only reading it all can show
    "a tensor too many": (plus("blk.0.attn_q.bias"), "it would be another model"),
    "slowed otherwise": (
        lambda writer: writer.add_tensor("rope_freqs.weight", np.full(8, 3, np.float32)),
        "in another way than Llama 3's",
    ),
    "no number": (lambda writer: None, "holds NaN or infinity"),
}


@pytest.mark.parametrize("name", INSIDE)
def test_what_reading_it_shows_is_a_sentence_too(name, tiny, tmp_path, in_process, home):
    edit, words = INSIDE[name]
    model = small()
    if name == "no number":
        model.model.layers[1].mlp.up_proj.weight.data[3, 3] = float("nan")
    path = save_file(model, tiny, tmp_path / f"{name.replace(' ', '_')}.gguf", edit=edit)
    with pytest.raises(ModelError, match=words) as found:
        resolve(str(path))
    assert str(found.value).startswith(f"{path}: ")
    assert not list((home / "models").glob(f"*{path.stem}*/config.json"))


def test_a_full_disk_is_seen_before(write, monkeypatch, in_process):
    path = write(general__name="large")
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000})())
    with pytest.raises(ModelError, match=r"unpacked it takes up to 0\.0 GB, and .* are free in .* TUNESMITH_HOME"):
        resolve(str(path))


def test_what_is_said_to_be_read_is():
    """The table of kinds is what the library can turn back, and transformers knows each architecture."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    assert set(GGUF_SUPPORTED_ARCHITECTURES) >= ARCHITECTURES.keys()
    for kind in KINDS - {"F32", "F16"}:
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        assert gguf.dequantize(np.zeros((1, size), np.uint8), gguf.GGMLQuantizationType[kind]).shape == (1, block)


def test_a_sentencepiece_tokenizer_is_read_too(write, in_process):
    pieces = ["\u2581", *"helo wrd", "he", "ll", "hell", "hello", "\u2581hello", "\u2581w", "or", "ld"]
    pieces = [piece for piece in pieces if piece != " "]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(pieces)]
    folder = resolve(
        str(
            write(
                name="pieces.gguf",
                tokenizer__ggml__model="llama", tokenizer__ggml__pre="default", tokenizer__ggml__merges=None,
                tokenizer__ggml__tokens=tokens, tokenizer__ggml__token_type=kinds,
                tokenizer__ggml__scores=[0.0] * 259 + [-float(place) for place in range(len(pieces))],
                tokenizer__ggml__bos_token_id=1, tokenizer__ggml__eos_token_id=2, tokenizer__ggml__add_bos_token=True,
                tokenizer__ggml__padding_token_id=None, tokenizer__ggml__unknown_token_id=0,
                tokenizer__chat_template="{{ bos_token }}{% for message in messages %}"
                "{{ '[INST] ' + message['content'] + ' [/INST]' if message['role'] == 'user' else "
                "message['content'] + eos_token }}"
                "{% endfor %}",
            )
        )
    ).folder  # fmt: skip
    contract = load_contract(folder)
    assert notes_of(folder) == ()
    assert contract.stop_ids == (2,)
    ids = contract.tokenizer("hello world")["input_ids"]
    assert ids[0] == 1
    assert contract.tokenizer.decode(ids[1:]) == "hello world"
    assert contract.prompt((Message("user", "hello"),)).count(1) == 1
