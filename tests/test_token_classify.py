"""Tags of words: ids, logits and losses are the library's, scores seqeval's; a run is measured, exported, verified."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

import tunesmith
from classifiers import KINDS, PADDED, save_base
from conftest import made_once
from spans import TAG_FACTS, begin_tags, tagged_rows
from tunesmith.core.errors import ConfigError, DataError, ModelError, Stopped
from tunesmith.core.events import silent
from tunesmith.core.files import read_json, read_lines
from tunesmith.data.config import DataConfig
from tunesmith.data.kinds.schemes import SCHEMES, broken_at, scheme_of, stretches, tag_names, tags_of
from tunesmith.data.split import load_splits
from tunesmith.deploy.card import Facts, write_card
from tunesmith.jobs.evaluate import evaluate_model
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.merge import merge
from tunesmith.model.attention import PACKED
from tunesmith.model.export import find_model
from tunesmith.model.heads import inputs_of, token_logits
from tunesmith.model.layers import inside
from tunesmith.model.load import LoadSpec, load
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.prompt.words import draft_words
from tunesmith.score import metrics
from tunesmith.score.tags import tag_counts
from tunesmith.train.config import TokenClassifyConfig
from tunesmith.train.objective import Draw, Models
from tunesmith.train.objectives.token_classify import make_token_classify
from tunesmith.train.planning.plan import Plan

PLAN = Plan("cpu", "fp32", True, 2048, None, 1, "none", 1, {}, {}, "", chunked=False)
READS = frozenset({"tagged"})
ASKED = {"against": None, "template": None, "format": None, "columns": {}, "bad_rows": "fail", "rows": None,
         "max_new_tokens": 8, "samples": 0, "general": [], "html": None, "harness": [], "device": "auto"}  # fmt: skip
SENTENCES = [["where", "is", "my", "dog"], ["the", "pool", "please"], ["wifi"], ["a", "pet", "today", "leash", "cat"]]


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    def make(folder):
        for kind in (*KINDS, *PADDED):
            save_base(folder / kind, kind)

    return made_once(tmp_path_factory, "tagger-bases", make)


def run(folder, **options):
    return finetune({"folder": str(folder), **options}, silent, lambda: False)


def splits_of(rows, bases, write_rows, kind="bert", longest=64, **fields):
    fields = {"validation": 0, "test": 0, "near_duplicates": "off", "duplicates": "keep", **fields}
    config = DataConfig(train=str(write_rows(rows)), **fields)
    return load_splits(config, load_contract(bases / kind, chat=False), longest, READS)


# Words as tokens -----------------------------------------------------------------------------------------------------


def save_wordpiece(folder):
    """A tokenizer of pieces of words, as BERT's: `password` is `pass` and `##word`."""
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "wi", "##fi", "pass", "##word", ".", "'", "s", "room"]
    vocabulary = {word: i for i, word in enumerate(words)}
    BertTokenizerFast(vocab=vocabulary, do_lower_case=True).save_pretrained(folder)
    return folder


def test_words_become_the_tokens_that_the_library_makes_of_them(tmp_path):
    contract = load_contract(save_wordpiece(tmp_path), chat=False)
    words = ["The", "wifi", "password", ".", "room", "password's", "wiwi"]
    [rendered] = contract.render_many([draft_words(words)])
    whole = contract.tokenizer(words, is_split_into_words=True)
    assert list(rendered.ids) == whole["input_ids"]
    firsts = [whole.word_ids().index(word) for word in range(len(words))]
    assert rendered.spans == tuple((place, place + 1) for place in firsts)


def test_of_byte_level_tokenizers_words_are_what_they_are_in_a_text():
    contract = load_contract(resolve("ember").folder, chat=False)
    words = ["Where", "is", "the", "unforgettable", "pool", "?"]
    assert contract.spaced
    [apart] = contract.render_many([draft_words(words)])
    [together] = contract.render_many([draft_words(words, [True, False, False, False, False, True])])
    assert list(apart.ids) == contract.tokenizer(" ".join(words))["input_ids"]
    assert list(together.ids) == contract.tokenizer("Where is the unforgettable pool?")["input_ids"]
    assert len(apart.spans) == len(words)


def test_a_word_that_spells_a_control_token_or_nothing(bases, tmp_path):
    contract = load_contract(bases / "bert", chat=False)
    [rendered] = contract.render_many([draft_words(["my", "[SEP]", "\u200b", "dog"])])
    assert contract.tokenizer.convert_ids_to_tokens(list(rendered.ids)) == [
        "[CLS]", "my", "[UNK]", "[UNK]", "[UNK]", "[UNK]", "dog", "[SEP]"
    ]  # fmt: skip
    assert rendered.spans == ((1, 2), (2, 3), (5, 6), (6, 7))
    pieces = load_contract(save_wordpiece(tmp_path), chat=False)
    [rendered] = pieces.render_many([draft_words(["the", "\x00", "room"])])
    assert pieces.tokenizer.convert_ids_to_tokens(list(rendered.ids)) == ["[CLS]", "the", "room", "[SEP]"]
    assert rendered.spans == ((1, 2), (2, 2), (2, 3))  # an empty one
    [error] = pieces.render_many([draft_words(["\x00"])])
    assert "makes no token of" in str(error)


# The model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, *PADDED])
def test_logits_of_tokens_are_the_librarys_alone(bases, kind):
    model = load(bases / kind, LoadSpec(task="token_classify", facts=TAG_FACTS)).model
    contract = load_contract(bases / kind, chat=False)
    ids = [np.frombuffer(one.ids, np.int32) for one in contract.render_many([draft_words(s) for s in SENTENCES])]
    lengths = list(map(len, ids))
    with torch.no_grad():
        alone = torch.cat([model(input_ids=torch.tensor(one.astype(int))[None]).logits[0] for one in ids])
        padded = torch.cat(token_logits(model, inputs_of(ids, lengths, False, "cpu"), lengths))
        torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-5)
        if kind in KINDS:
            model.set_attn_implementation(PACKED)
            packed = torch.cat(token_logits(model, inputs_of(ids, lengths, True, "cpu"), lengths))
            torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
    assert padded.shape == (sum(lengths), 7)
    assert model.config.id2label == dict(enumerate(
        ["O", "B-dog", "I-dog", "B-pool", "I-pool", "B-wifi", "I-wifi"]))  # fmt: skip


def test_what_is_no_tagger_is_refused(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    small = {"vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 1}
    T5ForConditionalGeneration(T5Config(**small)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"cannot be loaded as a tagger of words: T5.* is an encoder with a decoder"):
        load(tmp_path, LoadSpec(task="token_classify", facts=TAG_FACTS))


# The loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_loss_is_that_of_transformers(bases, write_rows, packing, kind):
    splits = splits_of(tagged_rows(7), bases, write_rows, kind)
    facts = splits.train.dataset.facts
    model = load(bases / kind, LoadSpec(task="token_classify", facts=facts)).model
    objective = make_token_classify(TokenClassifyConfig()).informed(facts, None)
    places = {name: place for place, name in model.config.id2label.items()}
    ids, labels = [], []
    for row in splits.train:
        label = [-100] * len(row.ids)
        for (begin, _), tag in zip(row.spans, row.row.content.tags, strict=True):
            label[begin] = places[tag]
        ids.append(torch.tensor(row.ids.astype(int)))
        labels.append(torch.tensor(label))
    pad = torch.nn.utils.rnn.pad_sequence
    batch = {"input_ids": pad(ids, True), "attention_mask": pad([torch.ones(len(one)) for one in ids], True)}
    want = model(**batch, labels=pad(labels, True, -100)).loss
    plan = replace(PLAN, packing=packing)
    if packing:
        model.set_attn_implementation(PACKED)
    found = objective.collate(list(splits.train), plan, Draw(), {})
    value = objective.loss(Models(model, plan), found, None)
    assert value.terms[0].unit == "words"
    torch.testing.assert_close(value.terms[0].total / found.units["words"], want, rtol=1e-5, atol=1e-6)


def test_a_long_row_in_pieces_loses_no_word(bases, write_rows):
    rows = tagged_rows(3)
    rows[1] = {key: rows[1][key] * 12 for key in ("tokens", "tags")}
    with pytest.raises(DataError, match="longer than 16 tokens"):
        splits_of(rows, bases, write_rows, longest=16)
    whole, parts = (splits_of(rows, bases, write_rows, longest=n, over_long="split").train for n in (512, 16))
    assert len(parts) == 3
    pieces = parts[1].sequences
    assert len(pieces) > 2
    assert all(len(one.ids) <= 16 and (one.ids[0], one.ids[-1]) == (2, 3) for one in pieces)
    read = [int(one.ids[begin]) for one in pieces for begin, _ in one.spans]
    assert read == [int(whole[1].ids[begin]) for begin, _ in whole[1].spans]
    facts = parts.dataset.facts
    objective = make_token_classify(TokenClassifyConfig()).informed(facts, None)
    batch = objective.collate(list(parts), PLAN, Draw(), {})
    together = objective.collate(list(whole), PLAN, Draw(), {})
    assert torch.equal(batch.target_W, together.target_W)
    flat = batch.inputs["input_ids"].flatten()[batch.place_W]
    assert torch.equal(flat, together.inputs["input_ids"].flatten()[together.place_W])
    cut = splits_of(rows, bases, write_rows, longest=16, over_long="truncate").train
    assert len(objective.collate(list(cut), PLAN, Draw(), {}).target_W) < len(batch.target_W)


# Schemes and scores --------------------------------------------------------------------------------------------------


def drawn_tags(chance, letters, least=1):
    names = ["O", *(f"{prefix}-{label}" for prefix in letters for label in ("X", "Y-Z"))]
    return [chance.choice(names) for _ in range(chance.randint(least, 9))]


def test_stretches_are_those_of_seqeval():
    chance = random.Random(0)
    for _ in range(2000):
        letters = chance.choice(["BI", "BIES"])
        tags = drawn_tags(chance, letters)
        scheme = "bio" if letters == "BI" else "bioes"
        found = stretches(tags, scheme)
        assert [(one.label, one.begin, one.end - 1) for one in found] == get_entities(tags)
        for name in SCHEMES:
            written = tags_of(len(tags), found, name)
            assert stretches(written, name) == found
            assert broken_at(written, name) is None


@pytest.mark.parametrize("letters", ["BI", "BIES"])
def test_scores_are_those_of_seqeval(letters):
    chance = random.Random(1)
    true = [drawn_tags(chance, letters, 4) for _ in range(60)]
    said = [[tag if chance.random() < 0.7 else chance.choice(drawn_tags(chance, letters)) for tag in row]
            for row in true]  # fmt: skip
    scheme = "bio" if letters == "BI" else "bioes"
    found = {name: one.sum(0) for name, one in tag_counts(true, said, scheme, ["X", "Y-Z"]).items()}
    wanted = {
        metrics.ENTITY_F1: f1_score(true, said), metrics.ENTITY_PRECISION: precision_score(true, said),
        metrics.ENTITY_RECALL: recall_score(true, said), metrics.MACRO_ENTITY_F1: f1_score(true, said, average="macro"),
        metrics.WORD_ACCURACY: accuracy_score(true, said),
    }  # fmt: skip
    for metric, value in wanted.items():
        assert metric.of_sums(found[metric.name]) == pytest.approx(100 * value), metric.name


def test_bilou_is_scored_as_seqeval_does_it_strictly():
    chance = random.Random(2)
    true, said = ([tags_of(6, stretches(drawn_tags(chance, "BI", 6)[:6], "bio"), "bilou") for _ in range(50)]
                  for _ in range(2))  # fmt: skip
    counts = tag_counts(true, said, "bilou", ["X", "Y-Z"])[metrics.ENTITY_F1.name].sum(0)
    assert metrics.ENTITY_F1.of_sums(counts) == pytest.approx(100 * f1_score(true, said, mode="strict", scheme=BILOU))


@pytest.mark.parametrize(
    ("names", "scheme", "ids"),
    [
        (["I-b", "O", "B-a"], "bio", ["O", "B-a", "I-a", "B-b", "I-b"]),
        (["U-a", "O"], "bilou", ["O", "B-a", "I-a", "L-a", "U-a"]),
        (["S-a", "O", "B-a"], "bioes", ["O", "B-a", "I-a", "E-a", "S-a"]),
        (["NAME", "O"], "io", ["O", "NAME"]),
        (["NOUN", "ADJ"], "none", ["ADJ", "NOUN"]),
        (["10", "9"], "none", ["9", "10"]),
    ],
)
def test_names_of_tags(names, scheme, ids):
    assert scheme_of(names).name == scheme
    assert not scheme_of(names).mixed
    assert tag_names(names) == ids


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["B-a", "I-a"], ["NAME", "O"]], "'NAME' has no prefix"),
        ([["B-a", "L-a"], ["B-a", "E-a"]], r"the prefixes B-, E-, L- are of no single scheme"),
        ([["B-a", "L-a"], ["B-a", "O"]], r"rows\.jsonl:2: its tags \('B-a'\) are BIO, and other rows have BILOU"),
        ([["O", "O"], ["O", "O"]], "all 2 training rows are labelled 'O'"),
    ],
)
def test_tags_that_could_not_teach_are_refused(bases, write_rows, rows, words):
    rows = [{"tokens": ["dog", f"pool{i}"], "tags": tags} for i, tags in enumerate(rows)]
    splits = splits_of(rows, bases, write_rows)
    with pytest.raises(DataError, match=words):
        splits.kind.refuse(splits.train, splits.train.dataset.facts, None)


def test_held_out_tags_of_another_scheme_are_refused(bases, write_rows):
    rows = [{"tokens": ["dog", "pool"], "tags": ["B-a", "O"]}, {"tokens": ["pool", "dog"], "tags": ["O", "B-a"]}]
    splits = splits_of(rows, bases, write_rows)
    facts = splits.train.dataset.facts
    splits.kind.refuse_held_out(splits.train, facts, "test")
    for tag, words in (
        ("U-a", "'U-a' is of another scheme .* \\(BIO\\)"),
        ("B-b", "1 word of the test part have a label"),
    ):
        other = splits_of([{"tokens": ["dog", "a"], "tags": ["O", tag]}], bases, write_rows)
        with pytest.raises(DataError, match=words):
            splits.kind.refuse_held_out(other.train, facts, "test")
    inside = splits_of([{"tokens": ["dog", "pool"], "tags": ["B-a", "I-a"]}], bases, write_rows)
    splits.kind.refuse_held_out(
        inside.train, facts, "test"
    )  # no training row has I-a, and the model has a place for it


# A run ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def trained(bases, tmp_path_factory):
    def make(folder):
        run(begin_tags(folder / "full", bases / "bert", tagged_rows(160)))
        run(begin_tags(folder / "lora", bases / "bert", tagged_rows(160), optim={"learning_rate": 1e-2, "epochs": 8},
                       method={"type": "lora", "rank": 8, "alpha": 16}))  # fmt: skip

    return made_once(tmp_path_factory, "trained-taggers", make)


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_run_learns_is_measured_and_says_what_the_library_says(trained, name):
    folder = trained / name
    report = read_json(folder / "report" / "report.json")
    scores = {one["metric"]: one for one in report["scores"]}
    assert report["against"] == "each word's most frequent tag"
    assert scores["entity F1"]["score"]["value"] > 90
    assert {"entity precision", "entity recall", "macro entity F1", "word accuracy"} < scores.keys()
    assert "Each label" in (folder / "report" / "report.html").read_text()
    validation = [event for event in read_lines(folder / "events.jsonl") if event["kind"] == "validation"]
    assert validation[-1]["f1"] > 0.8
    card = read_json(folder / "model" / "tunesmith.json")
    assert card["task"] == "token_classify"
    tagger = tunesmith.load(str(folder))
    words = ["where", "is", "my", "swim", "water", "dog"]
    [by_words], [by_text] = tagger.predict([words]), tagger.predict([" ".join(words)])
    assert [one["label"] for one in by_text.to_json()["entities"]] == ["pool", "dog"]
    assert by_text.to_json()["entities"][0]["text"] == "swim water"
    assert (by_text.entities[0].start, by_text.entities[0].end) == (12, 22)
    assert "tags" not in by_text.to_json()
    assert by_words.to_json()["tags"] == ["O", "O", "O", "B-pool", "I-pool", "B-dog"]
    assert (by_words.entities[0].start, by_words.entities[0].end) == (3, 5)


def test_the_exported_folder_is_the_librarys(trained):
    folder = trained / "full" / "model"
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ours = find_model(str(folder)).load()
    inputs = tokenizer("where is my dog", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, ours(**inputs).logits)
    pipe = pipeline("token-classification", model=str(folder), aggregation_strategy="simple")
    [entity] = pipe("where is my dog")
    [mine] = tunesmith.load(str(folder)).predict(["where is my dog"])[0].entities
    assert (entity["entity_group"], entity["start"], entity["end"]) == (mine.label, mine.start, mine.end)
    assert float(entity["score"]) == pytest.approx(mine.score, abs=1e-5)


def test_it_is_evaluated_compared_and_merged(trained, write_rows, tmp_path):
    data = str(write_rows(tagged_rows(30, 9)))
    found = evaluate_model(
        {**ASKED, "data": data, "model": str(trained / "full"), "against": str(trained / "lora")}, silent
    )
    assert found["report"]["rows"] == 30
    merge({"run": str(trained / "lora"), "output": str(tmp_path / "merged"), "data": None, "replace": False,
           "prompts": 8, "limit": 1e-3, "max_new_tokens": 4}, silent)  # fmt: skip
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "merged")
    assert model.config.id2label[0] == "O"
    strange = [{**row, "tags": [tag.replace("pool", "spa") for tag in row["tags"]]} for row in tagged_rows(9, 9)]
    with pytest.raises(DataError, match=r"have a label that no training row has \('spa'\)"):
        evaluate_model({**ASKED, "data": str(write_rows(strange, "strange.jsonl")), "model": str(trained / "full")},
                       silent)  # fmt: skip


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(bases, tmp_path):
    from safetensors.torch import load_file

    settings = {"optim": {"learning_rate": 3e-3, "epochs": 2, "batch_size": 16}, "data": {
        "train": "", "test": 0, "validation": 0.2, "near_duplicates": "off"}}  # fmt: skip
    folders = []
    for name in ("whole", "parts"):
        data = {**settings["data"], "train": str(tmp_path / name / "rows.jsonl")}
        folders.append(begin_tags(tmp_path / name, bases / "bert", tagged_rows(60), **{**settings, "data": data}))
    run(folders[0])
    steps = iter([False, False, True])
    with pytest.raises(Stopped):
        finetune({"folder": str(folders[1])}, silent, lambda: next(steps, True))
    run(folders[1], resume=True)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in folders)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_metrics_of_other_objectives_are_refused(bases, tmp_path):
    folder = begin_tags(tmp_path / "run", bases / "bert", tagged_rows(20), evaluate={"metric": "accuracy"})
    with pytest.raises(
        ConfigError, match=r"with objective.type = token_classify it is one of loss, token_accuracy, f1"
    ):
        run(folder)


def test_predict_writes_a_line_for_each_row(trained, tmp_path):
    from tunesmith.infer.predict.table import load_predictor
    from tunesmith.jobs.predict import predict_file

    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "my dog is wet"}\n{"tokens": ["the", "swim", "water"]}\n{"text": ""}\n')
    lines: list[str] = []
    predict_file(load_predictor(find_model(str(trained / "full"))), str(path), {}, lines.append)
    first, second, third = map(json.loads, "".join(lines).splitlines())
    assert first["entities"][0]["text"] == "dog"
    assert second["tags"] == ["O", "B-pool", "I-pool"]
    assert "is empty" in third["error"]


@pytest.mark.parametrize("adapter", [False, True])
def test_the_card_shows_code_that_runs_and_its_labels(trained, tmp_path, adapter):
    folder = trained / ("lora" if adapter else "full")
    facts = Facts("me/tagger", None, read_json(folder / "model" / "tunesmith.json"), None, None, adapter, False,
                  read_json(folder / "report" / "report.json"))  # fmt: skip
    text = write_card(facts)
    assert "pipeline_tag: token-classification" in text
    assert "3 labels: `dog`, `pool`, `wifi`." in text
    assert "each word's most frequent tag" in text
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0].replace('"me/tagger"', repr(str(folder / "model")))
    assert ("num_labels=7" in code) == adapter
    exec(compile(code, "card", "exec"), {})


@pytest.mark.parametrize("method", ["bitfit", "ia3", "freeze"])
def test_other_methods_train_the_head_too(bases, tmp_path, method):
    settings = {"type": method, **({"last": 1} if method == "freeze" else {})}
    optim = {"learning_rate": 1e-2, "epochs": 1, "batch_size": 16}
    folder = begin_tags(tmp_path / "run", bases / "bert", tagged_rows(30), method=settings, optim=optim)
    run(folder)
    fresh = load(bases / "bert", LoadSpec(task="token_classify", facts=TAG_FACTS)).model.classifier.weight
    model = inside(find_model(str(folder)).load())
    weight = dict(model.named_parameters())
    [own] = [
        value for name, value in weight.items() if re.search(r"classifier\.(modules_to_save\.default\.)?weight", name)
    ]
    assert own.shape == fresh.shape
    assert not torch.equal(own, fresh)
