"""Answers in passages: windows, logits and losses are the library's, scores SQuAD's; a run is measured and exported."""

from __future__ import annotations

import json
import random
import re
import string
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

import tunesmith
from classifiers import PADDED, save_base
from conftest import made_once
from spans import begin_passages, passage_rows
from tunesmith.core.errors import DataError, ModelError, Stopped
from tunesmith.core.events import silent
from tunesmith.core.files import read_json
from tunesmith.data.config import DataConfig
from tunesmith.data.split import load_splits
from tunesmith.deploy.card import Facts, write_card
from tunesmith.infer.predict.table import load_predictor
from tunesmith.jobs.evaluate import evaluate_model
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.merge import merge
from tunesmith.jobs.tasks.answers import nearest_sentence
from tunesmith.model.attention import PACKED
from tunesmith.model.export import find_model
from tunesmith.model.heads import token_logits
from tunesmith.model.load import LoadSpec, load
from tunesmith.prompt.load import load_contract
from tunesmith.prompt.passages import draft_passage, in_windows, layout_of, windows
from tunesmith.score.answers import answer_counts, exact, overlap
from tunesmith.train.objective import Draw, Models
from tunesmith.train.objectives.extract import make_extract
from tunesmith.train.planning.plan import Plan

ENCODERS = ("bert", "roberta", "distilbert")
PLAN = Plan("cpu", "fp32", True, 2048, None, 1, "none", 1, {}, {}, "", chunked=False)
ASKED = {"against": None, "template": None, "format": None, "columns": {}, "bad_rows": "fail", "rows": None,
         "max_new_tokens": 8, "samples": 0, "general": [], "html": None, "harness": [], "device": "auto"}  # fmt: skip


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    def make(folder):
        for kind in (*ENCODERS, *PADDED, "gpt2"):
            save_base(folder / kind, kind)

    return made_once(tmp_path_factory, "reader-bases", make)


def run(folder, **options):
    return finetune({"folder": str(folder), **options}, silent, lambda: False)


def splits_of(rows, bases, write_rows, kind="bert", longest=64, **fields):
    fields = {"validation": 0, "test": 0, "near_duplicates": "off", "duplicates": "keep", **fields}
    config = DataConfig(train=str(write_rows(rows)), **fields)
    return load_splits(config, load_contract(bases / kind, chat=False), longest, frozenset({"passage"}))


# Passages as tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ENCODERS)
def test_question_and_passage_are_read_as_the_library_reads_two_texts(bases, kind):
    contract = load_contract(bases / kind, chat=False)
    question, context = "where is my dog", "the dog is [SEP] today please"
    [rendered] = contract.render_many([draft_passage(question, context, (17, 22))])
    plain = contract.tokenizer(question, "the dog is today please", return_token_type_ids=True)
    layout = layout_of(rendered.spans)
    kept = [id for place, id in enumerate(rendered.ids) if not layout.passage[0] + 3 <= place < layout.answer[0]]
    assert kept == plain["input_ids"]  # a control token that is spelled is three unknown words
    assert contract.tokenizer.convert_ids_to_tokens(list(rendered.ids))[slice(*layout.answer)] == ["today"]
    assert plain.sequence_ids().index(1) == layout.passage[0]
    assert (layout.border is not None) == (1 in plain["token_type_ids"])
    if layout.border is not None:
        assert layout.border == plain["token_type_ids"].index(1)


@pytest.mark.parametrize("stride", [0, 3, 50])
def test_windows_cover_a_passage_and_share_a_stride(stride):
    for tokens, room in ((1, 8), (8, 8), (9, 8), (40, 8), (41, 11)):
        found = list(windows(tokens, room, stride))
        assert {place for begin, end in found for place in range(begin, end)} == set(range(tokens))
        assert all(end - begin <= room for begin, end in found)
        shared = min(stride, room // 2)
        assert all(one[1] - two[0] == shared for one, two in pairwise(found))


def test_an_answer_is_in_each_window_that_holds_it_whole(bases):
    contract = load_contract(bases / "bert", chat=False)
    words = ["the", "pool", "is", "my", "room", "today", "we", "need", "a", "towel", "please", "where"]
    context = " ".join(words)
    start = context.find("need a towel")
    [rendered] = contract.render_many([draft_passage("where", context, (start, start + len("need a towel")))])
    found = list(in_windows(rendered.ids, rendered.spans, 4 + 8, 3))
    assert [one.first for one in found] == [0, 5]
    assert layout_of(found[0].spans).answer is None
    begin, end = layout_of(found[1].spans).answer
    assert contract.tokenizer.decode(found[1].ids[begin:end]) == "need a towel"
    assert list(in_windows(rendered.ids, rendered.spans, 9, 3)) == []


def test_a_long_passage_stays_one_row(bases, write_rows):
    rows = passage_rows(6)
    rows[1]["context"] += " please the room is where we need a towel" * 6
    splits = splits_of(rows, bases, write_rows, longest=32, stride=8)
    assert len(splits.train) == 6
    assert len(splits.train[1].sequences) > 2
    assert splits.ledgers[0].counts() == {"read": 6, "kept": 6}
    assert splits.ledgers[0].notes["rows too long for one window, read in several"] == 1
    objective = make_extract()
    batch = objective.collate(list(splits.train), PLAN, Draw(), {})
    assert batch.windows == [len(row.sequences) for row in splits.train]
    assert batch.units["windows"] == sum(batch.windows)
    rows[2]["question"] = "where is my dog " * 9
    with pytest.raises(DataError, match="are longer than 32 tokens"):
        splits_of(rows, bases, write_rows, longest=32)


# The model and the loss ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "packing"), [*((kind, True) for kind in ENCODERS), *((kind, False) for kind in (*ENCODERS, *PADDED))]
)
def test_logits_and_losses_are_those_of_transformers(bases, write_rows, kind, packing):
    splits = splits_of(passage_rows(7), bases, write_rows, kind)
    model = load(bases / kind, LoadSpec(task="extract")).model
    tokenizer = load_contract(bases / kind, chat=False).tokenizer
    alone, logits = [], []
    with torch.no_grad():
        for row in splits.train:
            content = row.row.content
            inputs = tokenizer(content.question, content.context, return_tensors="pt")
            start = end = 0
            for text, begin in content.answers[:1]:
                start = inputs.char_to_token(0, begin, 1)
                end = inputs.char_to_token(0, begin + len(text) - 1, 1)
            found = model(**inputs, start_positions=torch.tensor([start]), end_positions=torch.tensor([end]))
            alone.append(found.loss)
            logits.append(torch.stack([found.start_logits[0], found.end_logits[0]], -1))
        if packing:
            model.set_attn_implementation(PACKED)
        plan, objective = replace(PLAN, packing=packing), make_extract()
        batch = objective.collate(list(splits.train), plan, Draw(), {})
        value = objective.loss(Models(model, plan), batch, None)
        ours = token_logits(model, batch.inputs, batch.lengths)
    for one, other in zip(ours, logits, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert value.terms[0].unit == "windows"
    torch.testing.assert_close(value.terms[0].total / 7, torch.stack(alone).mean(), rtol=1e-5, atol=1e-5)


def test_decoders_are_refused(bases):
    with pytest.raises(ModelError, match=r"finder of answers: GPT2.* is a decoder, which reads no token"):
        load(bases / "gpt2", LoadSpec(task="extract"))


# Scores --------------------------------------------------------------------------------------------------------------


def naive_words(text):
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def naive_f1(one, two):
    one, two = naive_words(one), naive_words(two)
    if not one or not two:
        return float(one == two)
    left = list(two)
    shared = sum(1 for word in one if word in left and (left.remove(word) or True))
    return 0.0 if not shared else 2 / (len(one) / shared + len(two) / shared)


def test_answers_are_compared_as_squad_does_it():
    chance = random.Random(0)
    words = ["the", "a", "an", "Room", "room.", "12", "1-2", "of", "Ünter", "the,", "'s", "", "  ", "pool\tbar"]
    texts = [" ".join(chance.choice(words) for _ in range(chance.randint(0, 5))) for _ in range(300)]
    for one, two in zip(texts, reversed(texts), strict=True):
        assert exact([one], two) == float(naive_words(one) == naive_words(two))
        assert overlap([one], two) == pytest.approx(naive_f1(one, two))
    several = ["pool", "the old bar"]
    assert exact(several, "Old bar!") == 1
    assert overlap(several, "bar") == max(naive_f1(one, "bar") for one in several)
    assert exact([], "") == overlap([], "") == 1
    assert exact([], "bar") == overlap([], "bar") == 0


def test_whether_there_is_an_answer_counts_where_there_may_be_none():
    right, said = [["a bar"], [], []], ["pool", "", "pool"]
    assert answer_counts(right, said)["answerable"].sum(0).tolist() == [2, 3]
    assert "answerable" not in answer_counts(right[:1], said[:1])


def test_the_nearest_sentence_has_the_rare_words_of_the_question():
    text = "The pool is open. The dog sleeps in the old bar. The bar is open."
    assert nearest_sentence("Where does the dog sleep?", text) == "The dog sleeps in the old bar."
    assert nearest_sentence("Why?", text) == "The pool is open."


# A run ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def trained(bases, tmp_path_factory):
    def make(folder):
        optim = {"learning_rate": 3e-3, "epochs": 20, "batch_size": 16, "warmup": 0.1}
        run(begin_passages(folder / "full", bases / "bert", passage_rows(160), optim=optim))
        method = {"type": "lora", "rank": 8, "alpha": 16}
        run(begin_passages(folder / "lora", bases / "bert", passage_rows(60), method=method,
                           optim={"learning_rate": 1e-2, "epochs": 3}))  # fmt: skip

    return made_once(tmp_path_factory, "trained-readers", make)


def test_a_run_learns_and_is_measured_beside_a_sentence(trained):
    report = read_json(trained / "full" / "report" / "report.json")
    scores = {one["metric"]: one for one in report["scores"]}
    assert report["against"] == "the nearest sentence"
    assert scores["answerable"]["score"]["value"] > 80
    assert scores["answer F1"]["difference"]["low"] > 0
    assert 0 <= scores["answer exact match"]["score"]["value"] <= scores["answer F1"]["score"]["value"]
    assert read_json(trained / "full" / "model" / "tunesmith.json")["facts"] == {"answered": 106, "unanswered": 54}


def test_what_is_found_is_the_best_of_the_librarys_logits(trained):
    folder = trained / "full" / "model"
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    finder = tunesmith.load(str(trained / "full"))
    said = []
    for row in passage_rows(12, 7):
        inputs = tokenizer(row["question"], row["context"], return_tensors="pt", return_offsets_mapping=True)
        offsets = inputs.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            found = model(**inputs)
        begin, end = found.start_logits[0].tolist(), found.end_logits[0].tolist()
        own = [place for place, text in enumerate(inputs.sequence_ids(0)) if text == 1]
        best = max((begin[i] + end[j], i, j) for i in own for j in own if i <= j < i + 30)
        start, stop = offsets[best[1]][0], offsets[best[2]][1]
        none = begin[0] + end[0] > best[0]
        want = ("", None, None) if none else (row["context"][start:stop], start, stop)
        [answer] = finder.predict([row])
        assert (answer.answer, answer.start, answer.end) == want
        assert answer.no_answer == (answer.answer == "")
        assert 0 < answer.score <= 1
        said.append(answer.no_answer)
    assert {True, False} == set(said)


def test_a_passage_in_windows_is_answered_from_all_of_them(trained):
    finder = load_predictor(find_model(str(trained / "full")))
    row = passage_rows(2, 7)[1]
    filler = "please we need the room today " * 12
    long = {"question": row["question"], "context": filler + row["context"]}
    finder.longest, finder.stride = 32, 8
    read = finder.read(long)
    assert len(read.windows) > 3
    logits = finder.reader.logits(read.windows)
    sums = [
        (one[i, 0] + one[j, 1], first + i - layout.passage[0], first + j - layout.passage[0])
        for one, first, layout in zip(logits, read.firsts, read.layouts, strict=True)
        for i in range(*layout.passage)
        for j in range(i, min(i + 30, layout.passage[1]))
    ]
    _, begin, end = max(sums)
    words = long["context"].split()
    finder.may_be_none = False
    [found] = finder.answers([read])
    assert found.answer == " ".join(words[begin : end + 1])
    assert long["context"][found.start : found.end] == found.answer


def test_it_is_evaluated_compared_merged_and_read_by_peft(trained, write_rows, tmp_path):
    from peft import AutoPeftModelForQuestionAnswering

    data = str(write_rows(passage_rows(20, 9)))
    asked = {**ASKED, "data": data, "model": str(trained / "full")}
    found = evaluate_model({**asked, "against": str(trained / "lora")}, silent)
    assert found["report"]["rows"] == 20
    found = evaluate_model({**asked, "baseline": "no_answer"}, silent)
    assert found["report"]["beside"].keys() == {"no answer, always"}
    merge({"run": str(trained / "lora"), "output": str(tmp_path / "merged"), "data": None, "replace": False,
           "prompts": 8, "limit": 1e-3, "max_new_tokens": 4}, silent)  # fmt: skip
    whole = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "merged")
    adapter = AutoPeftModelForQuestionAnswering.from_pretrained(trained / "lora" / "model").eval()
    inputs = load_contract(tmp_path / "merged", chat=False).tokenizer("where", "my dog is wet", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(
            whole(**inputs).start_logits, adapter.get_base_model()(**inputs).start_logits, rtol=1e-4, atol=1e-4
        )  # peft's own forward pass of such models leaves out the types of tokens


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(bases, tmp_path):
    folders = []
    for name in ("whole", "parts"):
        data = {"train": str(tmp_path / name / "rows.jsonl"), "test": 0, "validation": 0.2, "max_length": 20,
                "stride": 4, "near_duplicates": "off"}  # fmt: skip
        optim = {"learning_rate": 3e-3, "epochs": 2, "batch_size": 16}
        folders.append(begin_passages(tmp_path / name, bases / "bert", passage_rows(60), optim=optim, data=data))
    run(folders[0])
    steps = iter([False, False, True])
    with pytest.raises(Stopped):
        finetune({"folder": str(folders[1])}, silent, lambda: next(steps, True))
    run(folders[1], resume=True)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in folders)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_rows_of_which_nothing_can_be_learned_or_said_are_refused(bases, write_rows, trained):
    nothing = [{**row, "answers": []} for row in passage_rows(8)]
    splits = splits_of(nothing, bases, write_rows)
    with pytest.raises(DataError, match="none of 8 training rows has an answer"):
        splits.kind.refuse(splits.train, splits.train.dataset.facts, None)
    splits = splits_of(passage_rows(8, unanswered=0), bases, write_rows)
    with pytest.raises(DataError, match=r"rows\.jsonl:1: 8 rows of the test part have no answer, and every training"):
        splits.kind.refuse_held_out(splits_of(nothing, bases, write_rows).train, splits.train.dataset.facts, "test")


def test_predict_writes_a_line_for_each_row(trained, tmp_path):
    from tunesmith.jobs.predict import predict_file

    path = tmp_path / "asked.jsonl"
    rows = [*passage_rows(2, 3), {"question": "where"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines: list[str] = []
    predict_file(load_predictor(find_model(str(trained / "full"))), str(path), {}, lines.append)
    first, second, third = map(json.loads, "".join(lines).splitlines())
    for row, line in zip(rows, (first, second), strict=False):
        assert {"answer", "start", "end", "score", "no_answer"} <= line.keys()
        assert line["no_answer"] or row["context"][line["start"] : line["end"]] == line["answer"]
    assert "context" in third["error"]
    assert np.isfinite([first["score"], second["score"]]).all()


@pytest.mark.parametrize("adapter", [False, True])
def test_the_card_shows_code_that_runs(trained, adapter):
    folder = trained / ("lora" if adapter else "full")
    record = read_json(folder / "model" / "tunesmith.json")
    facts = Facts("me/reader", None, record, None, None, adapter, True, read_json(folder / "report" / "report.json"))
    text = write_card(facts)
    assert "pipeline_tag: question-answering" in text
    assert "the nearest sentence" in text
    assert "where" in text
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0].replace('"me/reader"', repr(str(folder / "model")))
    exec(compile(code, "card", "exec"), {})
