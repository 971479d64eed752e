"""A contract's id is of its content: no writing of it by a library changes it, and every change of content does."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tunesmith.prompt.base import resolve
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.identity import content_of
from tunesmith.prompt.load import load_contract

EMBER = "50e7f9d83ee918029b9b7ca2317733aca2e433efff32e9e05ed25ff1de05fc9d"
BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}


@pytest.fixture(scope="module")
def contract():
    return load_contract(resolve("ember").folder)


@pytest.fixture
def written(contract):
    """The tokenizer of ember as JSON, with a normalizer that has settings."""
    value = json.loads(contract.tokenizer.backend_tokenizer.to_str())
    value["normalizer"] = {**BERT, "strip_accents": None}
    return value


def id_of(written, contract, template=None, stop_ids=None, train_on="assistant", **tokens):
    """The id of a contract whose tokenizer the installed library reads from this JSON."""
    tokens = {"eos_token": "<|im_end|>", **tokens}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(written)), **tokens)
    return Contract(tokenizer, template or contract.template, stop_ids or contract.stop_ids, train_on).id


def shuffled(value):
    """The same JSON with its keys in another order, and options that are off beside them; vocabularies are left."""
    if isinstance(value, list):
        return [shuffled(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    keys = [*value, "learned_since", "and_this", "nothing", "nested"]
    random.Random(len(keys)).shuffle(keys)
    new = {"learned_since": False, "and_this": None, "nothing": "", "nested": {"inner": None}}
    return {key: value[key] if key == "vocab" else shuffled(value[key]) if key in value else new[key] for key in keys}


def test_the_id_of_ember_is_the_same_under_every_version_of_the_libraries(contract):
    assert contract.id == EMBER


def test_saved_loaded_and_used_a_contract_is_the_same(contract, tmp_path):
    saved = contract
    for name in ("one", "two"):
        saved.save(tmp_path / name)
        saved = replace(load_contract(tmp_path / name), stop_ids=contract.stop_ids)  # they lie in another file
        assert saved.id == EMBER
        saved.tokenizer(["short", "and a longer text"], padding=True, truncation=True, max_length=3)
        assert replace(saved).id == EMBER


def test_how_a_library_writes_a_tokenizer_down_is_no_part_of_it(written):
    other = shuffled(written)
    assert json.dumps(other) != json.dumps(written)
    assert content_of(other) == content_of(written)
    other["version"], other["truncation"] = "2.0", {"max_length": 7}
    other["model"]["merges"] = [" ".join(pair) for pair in other["model"]["merges"]]  # as older versions do
    other["added_tokens"].reverse()
    del other["pre_tokenizer"]["pretokenizers"][1]["use_regex"]  # which they did not know
    assert content_of(other) == content_of(written)


def put(value, path, new):
    value = copy.deepcopy(value)
    inner = value
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = new
    return value


TOKEN = {"id": 2, "content": "<|im_end|>", "single_word": False, "lstrip": False, "rstrip": False, "special": True,
         "normalized": False}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (("normalizer", "lowercase"), False),
        (("normalizer", "strip_accents"), False),  # absent, it is as lowercase
        (("normalizer",), None),
        (("pre_tokenizer", "pretokenizers", 0, "individual_digits"), False),
        (("pre_tokenizer", "pretokenizers", 1, "use_regex"), False),
        (("pre_tokenizer", "pretokenizers", 1, "add_prefix_space"), True),
        (("post_processor",), None),
        (("decoder", "add_prefix_space"), False),
        (("model", "byte_fallback"), True),
        (("model", "unk_token"), "<|endoftext|>"),
        (("model", "merges", 3), ["q", "z"]),
        (("added_tokens", 2), {**TOKEN, "lstrip": True}),
        (("added_tokens", 2), {**TOKEN, "special": False}),
    ],
)  # fmt: skip
def test_every_change_of_content_is_another_content(written, path, new):
    assert content_of(put(written, path, new)) != content_of(written)


def test_order_of_merges_more_tokens_template_stop_ids_and_mask_rule_are_content(contract, written):
    merges = written["model"]["merges"]
    same = id_of(written, contract)
    assert id_of(copy.deepcopy(written), contract) == same
    swapped = put(written, ("model", "merges"), [merges[1], merges[0], *merges[2:]])
    plain = put(written, ("normalizer", "lowercase"), False)
    more = put(written, ("added_tokens",), [*written["added_tokens"], {**TOKEN, "id": 4096, "content": "<|more|>"}])
    others = [
        id_of(swapped, contract),
        id_of(more, contract),
        id_of(plain, contract),
        id_of(written, contract, template=contract.template + " "),
        id_of(written, contract, stop_ids=(2,)),
        id_of(written, contract, train_on="last"),
    ]
    assert len({same, *others}) == 7


def test_a_token_that_the_template_names_is_content_and_one_that_it_does_not_name_is_none(contract, written):
    naming = "{{ bos_token }}" + contract.template
    tokens = ("<|im_start|>", "<|endoftext|>")
    assert len({id_of(written, contract, naming, bos_token=token) for token in tokens}) == 2
    assert len({id_of(written, contract, pad_token=token) for token in tokens}) == 1


@pytest.mark.parametrize("unknown", [None, 0, 1])
def test_a_unigram_s_unknown_piece_of_id_zero_is_not_none(unknown):
    vocabulary = [["<unk>", 0.0], ["a", -1.5], ["b", -2.0]]
    tokenizers = [{"model": {"type": "Unigram", "unk_id": one, "vocab": vocabulary}} for one in (None, 0, 1)]
    same = [content_of(one) == content_of({"model": {"type": "Unigram", "unk_id": unknown, "vocab": vocabulary}})
            for one in tokenizers]  # fmt: skip
    assert same.count(True) == 1
