"""A base model whose files are not all there is refused before anything else, with the file and what to do."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from tunesmith.core.errors import ModelError
from tunesmith.prompt.base import context_length, resolve

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 269060552\n"


@pytest.fixture
def model(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "model")


@pytest.fixture
def shards(model):
    """The same model in two files and an index."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names, files = sorted(tensors), ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    index = {name: files[i % 2] for i, name in enumerate(names)}
    for file in files:
        part = {name: tensors[name] for name in names if index[name] == file}
        save_file(part, model / file, metadata={"format": "pt"})
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return model


def refused(folder, words):
    with pytest.raises(ModelError, match=words):
        resolve(str(folder))


def test_whole_models_pass(model, tiny):
    assert resolve(str(model)).folder == model
    assert resolve("ember").folder.is_dir()


def test_shards_pass_and_each_must_be_there(shards):
    assert resolve(str(shards)).folder == shards
    (shards / "model-00002-of-00002.safetensors").unlink()
    refused(shards, r"1 of 2 weight files .* are missing .first: model-00002-of-00002\.safetensors")


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_is_named(model, file):
    (model / file).write_text(POINTER)
    refused(model, rf"{file}: a Git LFS pointer .*git lfs pull")


def test_a_shard_that_is_a_pointer_is_named(shards):
    (shards / "model-00001-of-00002.safetensors").write_text(POINTER)
    refused(shards, "model-00001-of-00002.safetensors: a Git LFS pointer")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-1], r"has 2,\d\d\d,\d\d\d bytes where its header speaks of 2,\d\d\d,\d\d\d"),
        (lambda data: data[: len(data) // 2], "where its header speaks of"),
        (lambda data: data + b"more", "where its header speaks of"),
        (lambda data: data[:100], "cut short"),
        (lambda data: b"", "0 bytes"),
        (lambda data: b"<!DOCTYPE html><html>Not found</html>", "no safetensors file"),
        (lambda data: data[:8] + b"#" * (len(data) - 8), "header cannot be read"),
        (lambda data: data[:8] + b"[" + data[9:], "header cannot be read"),
    ],
)
def test_weights_that_are_cut_short_or_damaged_are_refused(model, damage, words):
    path = model / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    refused(model, rf"model\.safetensors: .*{words}")


def test_weights_that_nothing_names_are_refused(shards):
    (shards / "model.safetensors.index.json").unlink()
    refused(shards, "neither model.safetensors nor model.safetensors.index.json is there")


@pytest.mark.parametrize("index", ["{", "[]", '{"metadata": {}}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_cannot_be_read_is_refused(shards, index):
    (shards / "model.safetensors.index.json").write_text(index)
    refused(shards, r"model\.safetensors\.index\.json")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00\x01", b'{"a": 1,}'])
def test_json_that_is_none_is_refused(model, file, data):
    (model / file).write_bytes(data)
    refused(model, rf"{file}.*Fetch it again")


@pytest.mark.parametrize("values", [{"max_seq_len": 32}, {"n_positions": 32}, {"text_config": {"n_ctx": 32}}])
def test_the_longest_sequence_is_found_under_each_name_that_models_use(tmp_path, values):
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert context_length(tmp_path) == 32
