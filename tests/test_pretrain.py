"""Plain text learned: hidden words of encoders with the library's own losses, long documents, and what comes after."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModel
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, pipeline

import classifiers
from classifiers import PADDED, class_rows, save_base
from conftest import made_once
from masked_texts import ALL, begin_text, save_encoder, text_rows
from tunesmith.core.config import validate
from tunesmith.core.errors import ConfigError, DataError, ModelError, Stopped
from tunesmith.core.events import silent
from tunesmith.core.files import read_json, read_lines
from tunesmith.data.config import DataConfig
from tunesmith.data.load import load_rows
from tunesmith.data.split import load_splits
from tunesmith.deploy.card import Facts, write_card
from tunesmith.infer.predict.table import load_predictor
from tunesmith.jobs.evaluate import evaluate_model
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.merge import merge
from tunesmith.model.attention import PACKED
from tunesmith.model.export import find_model
from tunesmith.model.heads import fresh_weights, head_modules
from tunesmith.model.load import LoadSpec, load, read_config
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract, load_tokenizer
from tunesmith.prompt.whole_words import words_of
from tunesmith.train.config import PretrainConfig
from tunesmith.train.objective import Draw, Models
from tunesmith.train.objectives.masked import make_masked
from tunesmith.train.objectives.masking import hide
from tunesmith.train.objectives.table import objective_for
from tunesmith.train.planning.plan import Plan
from tunesmith.train.recipe import Recipe, read_recipe
from tunesmith.train.sources.rows import RowSource

PLAN = Plan("cpu", "fp32", True, 2048, None, 1, "none", 1, {}, {}, "", chunked=False)
CONFIG = PretrainConfig(masked=0.3)
READS = frozenset({"text"})


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    def make(folder):
        for kind in ALL:
            save_encoder(folder / kind, kind)
        for kind in ("bert", "roberta"):
            save_base(folder / "headless" / kind, kind)
        for kind in ("llama", "gpt2"):
            save_base(folder / kind, kind)

    return made_once(tmp_path_factory, "text-bases", make)


def run(folder, **options):
    return finetune({"folder": str(folder), **options}, silent, lambda: False)


def splits_of(rows, contract, write_rows, longest=64, **fields):
    fields = {"validation": 0, "test": 0, "near_duplicates": "off", "duplicates": "keep", **fields}
    return load_splits(DataConfig(train=str(write_rows(rows)), **fields), contract, longest, READS)


def trained(folder, base, rows=60, **settings):
    begin_text(folder, base, text_rows(rows), **settings)
    run(folder)
    return folder


def scores_of(folder):
    return {one["metric"]: one for one in read_json(folder / "report" / "report.json")["scores"]}


# What is hidden ------------------------------------------------------------------------------------------------------


def some_words(folder: Path):
    """A WordPiece tokenizer, trained on this project's own words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=classifiers.SPECIAL, show_progress=False)
    backend.train_from_iterator(Path("docs/train.md").read_text().splitlines(), trainer)
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    return load_tokenizer(folder)


def test_words_of_wordpiece_are_those_of_the_tokenizer(tmp_path):
    tokenizer = some_words(tmp_path)
    words = words_of(tokenizer)
    for line in Path("docs/train.md").read_text().splitlines()[:80]:
        encoding = tokenizer(line)
        want: dict[int, list[int]] = {}
        for place, word in enumerate(encoding.word_ids(0)):
            if word is not None and encoding["input_ids"][place] != tokenizer.unk_token_id:
                want.setdefault(word, []).append(place)
        found = words.words_in(np.array(encoding["input_ids"]))
        assert [one.tolist() for one in found if len(one) <= 16] == [one for one in want.values() if len(one) <= 16]


def test_words_of_bytes_begin_with_a_space_or_another_kind_of_character():
    tokenizer = load_tokenizer(resolve("ember").folder)
    ids = np.array(tokenizer("Don't say Häuserzeile, world (123).")["input_ids"])
    found = ["".join(tokenizer.decode(ids[one])) for one in words_of(tokenizer).words_in(ids)]
    assert [word.strip() for word in found] == ["Don", "'t", "say", "Häuserzeile", ",", "world", "(", "123", ")", "."]


def test_masks_are_as_many_as_wanted_whole_words_and_a_fourfold_choice(tmp_path):
    tokenizer = some_words(tmp_path)
    words, text = words_of(tokenizer), Path("docs/train.md").read_text()[:3000]
    ids = np.array(tokenizer(text)["input_ids"])
    own = {place: number for number, word in enumerate(words.words_in(ids)) for place in word.tolist()}
    read = hidden = kept = replaced = 0
    for seed in range(60):
        one = hide(ids, words, 0.15, True, random.Random(seed))
        assert one.targets.tolist() == ids[one.places].tolist()
        assert abs(len(one.places) - 0.15 * len(own)) <= 16
        assert {own[place] for place in one.places.tolist()}.isdisjoint(
            own[place] for place in set(own) - set(one.places.tolist())
        )
        assert np.flatnonzero(one.ids != ids).tolist() == sorted(set(one.places[one.ids[one.places] != one.targets]))
        at = one.ids[one.places]
        hidden += len(at)
        read += int((at == tokenizer.mask_token_id).sum())
        kept += int((at == one.targets).sum())
        others = at[(at != tokenizer.mask_token_id) & (at != one.targets)]
        replaced += len(others)
        assert not set(others.tolist()) & set(tokenizer.all_special_ids)
    assert abs(read / hidden - 0.8) < 0.02
    assert abs(kept / hidden - 0.1) < 0.02
    assert abs(replaced / hidden - 0.1) < 0.02
    short = np.array(tokenizer("a")["input_ids"])
    assert len(hide(short, words, 0.15, True, random.Random(0)).places) == 1
    assert not len(hide(np.array([2, 1, 3]), words, 0.15, True, random.Random(0)).places)
    alone = hide(ids, words, 0.15, False, random.Random(0)).places
    assert len(alone) == round(0.15 * len(own))


def test_masks_depend_on_row_and_epoch_and_on_no_cut(bases, write_rows):
    contract = load_contract(bases / "bert", chat=False)
    rows = list(splits_of(text_rows(12), contract, write_rows).train)
    objective = make_masked(CONFIG).informed({}, contract)

    def masks(plan, accumulation, epoch=0):
        source = RowSource(rows, objective, plan, 12)
        batches = source.cut(rows, Draw(3, epoch), accumulation)
        return {row.source: ids.tolist() for batch in batches
                for row, ids in zip(batch.rows, batch.target_N.split(batch.counts), strict=True)}  # fmt: skip

    whole = masks(PLAN, 1)
    assert whole == masks(replace(PLAN, packing=False), 1) == masks(PLAN, 4) == masks(replace(PLAN, micro_tokens=32), 3)
    assert whole != masks(PLAN, 1, epoch=1)


# The loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_losses_are_those_of_transformers(bases, write_rows, kind):
    contract = load_contract(bases / kind, chat=False)
    rows = list(splits_of([*text_rows(5), {"text": "my pool"}], contract, write_rows).train)
    for row in rows:
        assert row.ids.tolist() == contract.tokenizer(row.row.content.text)["input_ids"]
    library = AutoModelForMaskedLM.from_pretrained(bases / kind).eval()
    model = load(bases / kind, LoadSpec(task="masked")).model
    assert not fresh_weights(model)
    assert head_modules(model) == []
    objective, words = make_masked(CONFIG).informed({}, contract), words_of(contract.tokenizer)
    total = count = 0
    for row in rows:
        one = hide(row.ids, words, 0.3, True, Draw().of(row))
        labels = np.full(len(row.ids), -100)
        labels[one.places] = one.targets
        inputs, wanted = (torch.tensor(ids.astype(int))[None] for ids in (one.ids, labels))
        total += library(input_ids=inputs, labels=wanted).loss.item() * len(one.places)
        count += len(one.places)
    for packing in (False,) if kind in PADDED else (False, True):
        if packing:
            model.set_attn_implementation(PACKED)
        batch = objective.collate(rows, replace(PLAN, packing=packing), Draw(), {})
        found = objective.loss(Models(model, PLAN), batch, None)
        assert found.terms[0].unit == "tokens"
        assert batch.units == {"tokens": count, "rows": 6}
        assert found.terms[0].total.item() / count == pytest.approx(total / count, abs=1e-5)


def test_a_base_without_the_head_gets_the_same_fresh_one_each_time(bases):
    first, again = (load(bases / "headless" / "bert", LoadSpec(task="masked")).model for _ in range(2))
    assert torch.equal(first.cls.predictions.transform.dense.weight, again.cls.predictions.transform.dense.weight)
    assert head_modules(first) == ["cls.predictions.transform"]
    roberta = load(bases / "headless" / "roberta", LoadSpec(task="masked")).model
    assert head_modules(roberta) == ["lm_head.dense", "lm_head.layer_norm"]
    with pytest.raises(ModelError, match="comes without the head"):
        load_predictor(find_model(str(bases / "headless" / "bert")))


def test_what_is_learned_follows_from_the_base(bases):
    for kind, task in (("bert", "masked"), ("modernbert", "masked"), ("llama", "causal"), ("gpt2", "causal")):
        assert objective_for(PretrainConfig(), read_config(bases / kind)).task == task
    with pytest.raises(ConfigError, match=r"objective\.masked: the base is a causal language model"):
        objective_for(PretrainConfig(masked=0.4), read_config(bases / "llama"))
    with pytest.raises(ModelError, match=r"is none\. Take an encoder"):
        load(bases / "llama", LoadSpec(task="masked"))
    with pytest.raises(ModelError, match="an encoder, which fills in words"):
        load(bases / "bert", LoadSpec())


# Documents -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama", "gpt2"])
def test_every_token_of_a_long_document_is_in_one_row(bases, write_rows, kind):
    contract = load_contract(bases / kind, chat=False)
    text = " ".join(random.Random(0).choices(classifiers.PLAIN, k=200))
    rows = list(splits_of([{"text": text}], contract, write_rows, 32, over_long="split").train)
    whole = contract.tokenizer(text, add_special_tokens=False)["input_ids"]
    framed = kind in ("bert", "roberta")
    assert all(len(row.ids) <= 32 for row in rows)
    assert all(row.ids[0] == 2 for row in rows) == (kind != "gpt2")
    assert [row.ids[-1] == 3 for row in rows] == [framed] * (len(rows) - 1) + [True]
    inner = [token for row in rows for token in row.ids.tolist() if token not in (2, 3)]
    assert inner == whole


def test_text_files_are_read_as_paragraphs_sections_or_whole(tmp_path):
    book = tmp_path / "book.txt"
    paragraphs = [f"Paragraph {number} " + "and so on " * 60 for number in range(20)]
    book.write_text("\n\n\n".join(paragraphs))
    found = {name: load_rows(str(book), documents=name).rows for name in ("paragraphs", "sections", "files")}
    assert [len(rows) for rows in found.values()] == [20, 10, 1]
    assert [row.source.line for row in found["sections"]] == list(range(1, 60, 6))
    assert all(1000 <= len(row.content.text) < 2000 for row in found["sections"])
    (tmp_path / "long.txt").write_text("\n\n".join(paragraphs * 40))
    assert all(4000 <= len(row.content.text) < 5000 for row in load_rows(
        str(tmp_path / "long.txt"), documents="sections", duplicates="keep").rows[:-1])  # fmt: skip
    for rows in found.values():
        assert "\n\n".join(row.content.text for row in rows) == "\n\n".join(paragraphs)
    recipe = validate(Recipe, {"objective": "pretrain", "data": {"train": "x"}}, "it")
    assert (recipe.data.documents, recipe.data.over_long) == ("sections", "split")
    recipe = validate(Recipe, {"objective": {"type": "pretrain"}, "data": {"train": "x", "over_long": "drop"}}, "it")
    assert (recipe.data.documents, recipe.data.over_long) == ("sections", "drop")
    recipe = validate(Recipe, {"data": {"train": "x"}}, "it")
    assert (recipe.data.documents, recipe.data.over_long) == ("paragraphs", "fail")
    assert read_recipe(Path("recipes/pretrain.yaml")).objective.type == "pretrain"


def test_what_cannot_be_learned_is_refused(bases, tmp_path):
    def refused(name, content, error, match, base="bert"):
        folder = begin_text(tmp_path / name, bases / base, text_rows(20))
        (folder / "rows.jsonl").write_bytes(content)
        with pytest.raises(error, match=match):
            run(folder)

    refused("empty", b"", DataError, "the file is empty")
    refused("binary", b"\x89PNG\x00\x01\x02" * 99, DataError, "not a text file")
    refused("blank", b'{"text": "  "}\n{"text": ""}\n', DataError, "rows cannot be used")
    refused(
        "unknown",
        b"".join(b'{"text": "%s"}\n' % (b"zebra " * n) for n in range(1, 20)),
        DataError,
        "none of .* training rows holds a token that could be hid",
    )
    refused("chats", b'{"prompt": "a", "response": "b"}\n' * 20, DataError, "It takes plain text")
    nameless = save_base(tmp_path / "nameless" / "bert", "bert")
    settings = json.loads((nameless / "tokenizer_config.json").read_text())
    settings.pop("mask_token")
    (nameless / "tokenizer_config.json").write_text(json.dumps(settings))
    folder = begin_text(tmp_path / "no-mask", nameless, text_rows(20))
    with pytest.raises(ModelError, match="tokenizer has no mask token"):
        run(folder)
    folder = begin_text(tmp_path / "soft", bases / "bert", text_rows(20), method={"type": "prompt_tuning"})
    with pytest.raises(ConfigError, match=r"is an encoder, with which objective\.type = pretrain and method\.type"):
        run(folder)


# Runs ----------------------------------------------------------------------------------------------------------------


def test_an_encoder_learns_and_fills_in_words(bases, tmp_path):
    evaluate = {"general_ability": [str(write_general(tmp_path))], "metric": "token_accuracy"}
    optim = {"learning_rate": 5e-3, "epochs": 30, "batch_size": 8}
    folder = trained(tmp_path / "it", bases / "bert", optim=optim, evaluate=evaluate)
    assert read_json(folder / "plan.json")["packing"]
    scores = scores_of(folder)
    assert set(scores) == {"perplexity of masked tokens", "accuracy of masked tokens"}
    assert scores["perplexity of masked tokens"]["verdict"] == "better"
    assert scores["perplexity of masked tokens"]["score"]["value"] < 10
    general = read_json(folder / "report" / "report.json")["general_ability"]["general.jsonl"]
    assert general["scores"][0]["other"] is not None
    found = find_model(str(folder))
    assert found.card["task"] == "masked"
    predictor = load_predictor(found, "cpu")
    texts = ["the pool is [MASK] today", "the [MASK] is pet [MASK]"]
    one, two = predictor.predict(texts)
    assert one.text == f"the pool is {one.masks[0][0][0]} today"
    assert [len(best) for best in two.masks] == [5, 5]
    fill = pipeline("fill-mask", model=str(folder / "model"), device="cpu")
    said = fill(texts[0])
    assert {entry["token_str"]: round(entry["score"], 4) for entry in said} == {
        token: round(share, 4) for token, share in one.masks[0]
    }
    with pytest.raises(DataError, match=r"no \[MASK\] stands in it"):
        predictor.predict(["nothing"])
    spelled = predictor.read("a [SEP] and [MASK]")
    assert spelled.ids.tolist().count(3) == 1
    asked = {"model": str(folder), "against": str(bases / "bert"), "data": str(folder / "rows.jsonl"), "format": None,
             "columns": None, "bad_rows": "fail", "rows": 10, "template": None, "report": None,
             "max_new_tokens": 8, "samples": 0}  # fmt: skip
    beside = evaluate_model(asked, silent)["report"]
    assert beside["scores"][0]["verdict"] == "better"


def write_general(folder: Path) -> Path:
    path = folder / "general.jsonl"
    path.write_text("".join(json.dumps({"text": " ".join(classifiers.PLAIN[:n])}) + "\n" for n in range(3, 10)))
    return path


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_exports_are_what_the_library_loads(bases, tmp_path, kind, method):
    base = bases / "headless" / kind if kind in ("bert", "roberta") else bases / kind
    settings = {"method": {"type": method, **({"rank": 4} if method == "lora" else {})}}
    settings |= {"optim": {"learning_rate": 3e-3, "epochs": 2, "batch_size": 8}}
    folder = begin_text(tmp_path / "it", base, text_rows(40), **settings)
    run(folder, until="exported")
    losses = [line["loss"] for line in read_lines(folder / "metrics.jsonl")]
    assert losses[-1] < losses[0]
    found = find_model(str(folder))
    ours = found.load("cpu")
    theirs = (AutoPeftModel if method == "lora" else AutoModelForMaskedLM).from_pretrained(folder / "model").eval()
    ids = torch.tensor(found.contract().tokenizer("the pool is [MASK] today")["input_ids"])[None]
    with torch.no_grad():
        want = ours(input_ids=ids).logits
        torch.testing.assert_close(theirs(input_ids=ids).logits, want)
        if method == "lora":
            asked = {"run": str(folder), "output": None, "data": None, "replace": False, "prompts": 4, "limit": 1e-3,
                     "max_new_tokens": 8}  # fmt: skip
            place = merge(asked, silent)["folder"]
            whole = AutoModelForMaskedLM.from_pretrained(place).eval()
            torch.testing.assert_close(whole(input_ids=ids).logits, want, rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_to_the_same_bits(bases, tmp_path):
    settings = {"model": {"base": str(bases / "bert"), "dropout": 0.1}, "output": {"checkpoint_every": 2}}
    whole, broken = (begin_text(tmp_path / name, bases / "bert", text_rows(40), **settings) for name in ("a", "b"))
    run(whole, until="trained")
    left = iter(range(2))
    with pytest.raises(Stopped):
        finetune({"folder": str(broken)}, silent, lambda: next(left, None) is None)
    run(broken, resume=True, until="trained")
    last = sorted((whole / "checkpoints").iterdir())[-1].name
    one, other = (load_file(folder / "checkpoints" / last / "trainable.safetensors") for folder in (whole, broken))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_adapters_go_on_and_other_methods_train(bases, tmp_path):
    short = {"optim": {"learning_rate": 3e-3, "epochs": 1, "batch_size": 8}}
    first = begin_text(tmp_path / "first", bases / "bert", text_rows(30), method={"type": "lora", "rank": 4}, **short)
    run(first, until="exported")
    further = begin_text(
        tmp_path / "further", bases / "bert", text_rows(30), **short,
        method={"type": "lora", "rank": 4, "continue_from": str(first)},
    )  # fmt: skip
    run(further, until="exported")
    losses = [next(iter(read_lines(folder / "metrics.jsonl")))["loss"] for folder in (first, further)]
    assert losses[1] < losses[0]
    for method in ({"type": "bitfit"}, {"type": "freeze", "last": 1}, {"type": "loha", "rank": 4}):
        folder = begin_text(tmp_path / method["type"], bases / "bert", text_rows(30), method=method, **short)
        run(folder, until="exported")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_domain_is_learned_and_then_its_classes(bases, tmp_path, method):
    settings = {"method": {"type": "full"}} if method == "full" else {
        "method": {"type": "lora", "rank": 4}, "output": {"merge": True}}  # fmt: skip
    domain = trained(tmp_path / "domain", bases / "bert", 30, optim={"epochs": 1, "batch_size": 8}, **settings)
    base = domain / "model"
    folder = classifiers.begin(tmp_path / "classes", base, class_rows(150))
    run(folder)
    classes = scores_of(folder)
    assert classes["accuracy"]["score"]["value"] > 60
    card = find_model(str(folder)).card
    assert card["task"] == "classify"
    assert card["parent"]["card"]["task"] == "masked"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_causal_models_learn_every_token(bases, tmp_path, kind):
    folder = trained(tmp_path / "it", bases / kind, model={"base": str(bases / kind), "template": "plain"})
    scores = scores_of(folder)
    assert scores["perplexity"]["verdict"] == "better"
    assert find_model(str(folder)).card["task"] == "causal"


@pytest.mark.parametrize("method", [{"type": "full"}, {"type": "lora", "rank": 4}])
def test_the_card_shows_code_that_fills_in_words(bases, tmp_path, method):
    folder = begin_text(tmp_path / "it", bases / "bert", text_rows(20), method=method, optim={"steps": 1})
    run(folder, until="exported")
    adapter = method["type"] == "lora"
    card = write_card(
        Facts("me/filler", None, read_json(folder / "model" / "tunesmith.json"), None, None, adapter, False)
    )
    assert "pipeline_tag: fill-mask" in card
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0].replace('"me/filler"', repr(str(folder / "model")))
    exec(compile(code, "card", "exec"), {})
