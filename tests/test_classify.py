"""Classes of texts: logits and losses are the library's, packed or not; a run is measured, exported and verified."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, pipeline

from classifiers import KINDS, PADDED, begin, class_rows, number_rows, pair_rows, save_base, several_rows
from conftest import made_once
from tunesmith.core.errors import ConfigError, DataError, ModelError, Stopped
from tunesmith.core.events import silent
from tunesmith.core.files import read_json, read_lines
from tunesmith.data.config import DataConfig
from tunesmith.data.load import load_rows
from tunesmith.data.split import load_splits
from tunesmith.evaluate.baselines import linear_on_states, linear_on_words, most_frequent
from tunesmith.infer.predict.classes import row_states
from tunesmith.jobs.evaluate import evaluate_model
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.merge import merge
from tunesmith.jobs.preflight import refuse_what_cannot_teach
from tunesmith.model.attention import PACKED
from tunesmith.model.export import find_model
from tunesmith.model.heads import class_logits, inputs_of
from tunesmith.model.load import LoadSpec, load
from tunesmith.prompt.load import load_contract
from tunesmith.score import metrics
from tunesmith.score.classes import calibration_counts, class_counts, number_counts
from tunesmith.train.config import ClassifyConfig
from tunesmith.train.objective import Draw, Models
from tunesmith.train.objectives.classify import make_classify
from tunesmith.train.planning.plan import Plan

FACTS = {"labels": {"wifi": 3, "pool": 2, "dog": 1}}
PLAN = Plan("cpu", "fp32", True, 2048, None, 1, "none", 1, {}, {}, "", chunked=False)
READS = frozenset({"labelled"})


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    def make(folder):
        for kind in (*KINDS, *PADDED):
            save_base(folder / kind, kind)

    return made_once(tmp_path_factory, "classifier-bases", make)


def run(folder, **options):
    return finetune({"folder": str(folder), **options}, silent, lambda: False)


# The model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_have_the_logits_of_the_library_alone(bases, kind):
    model = load(bases / kind, LoadSpec(task="classify", facts=FACTS)).model
    contract = load_contract(bases / kind, chat=False)
    tokenizer = contract.tokenizer
    texts = [("where is my dog",), ("the pool please",), ("wifi",), ("a pet today", "we need a leash [SEP]")]
    rows = contract.render_many([contract.draft_read(*text) for text in texts])
    ids = [np.frombuffer(row.ids, np.int32) for row in rows]
    borders = [row.spans[1][0] if len(row.spans) > 1 else len(row.ids) for row in rows]
    for text, one in zip(texts[:3], ids, strict=False):
        assert one.tolist() == tokenizer(*text)["input_ids"]
    if kind in ("bert", "roberta", "distilbert"):
        whole = tokenizer("a pet today", "we need a leash")
        assert ids[3].tolist()[: len(whole["input_ids"]) - 1] == whole["input_ids"][:-1]
    sep = tokenizer.convert_tokens_to_ids("[SEP]")
    assert (ids[3] == sep).sum() == {"bert": 2, "distilbert": 2, "roberta": 3}.get(kind, 0)
    with torch.no_grad():
        alone = []
        for one, border in zip(ids, borders, strict=True):
            types = {"token_type_ids": (torch.arange(len(one)) >= border).long()[None]} if kind == "bert" else {}
            alone.append(model(input_ids=torch.tensor(one.astype(int))[None], **types).logits[0])
        padded = class_logits(model, inputs_of(ids, borders, False, "cpu"), len(ids))
        model.set_attn_implementation(PACKED)
        packed = class_logits(model, inputs_of(ids, borders, True, "cpu"), len(ids))
    torch.testing.assert_close(packed, torch.stack(alone), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(padded, torch.stack(alone), rtol=1e-5, atol=1e-5)
    if kind == "bert":
        assert borders[3] == ids[3].tolist().index(sep) + 1


def test_a_base_gets_the_same_fresh_head_each_time(bases):
    first, again = (load(bases / "bert", LoadSpec(task="classify", facts=FACTS)).model for _ in range(2))
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert first.config.id2label == {0: "dog", 1: "pool", 2: "wifi"}
    assert first.config.problem_type == "single_label_classification"
    of_numbers = load(bases / "llama", LoadSpec(task="classify", facts={"labels": {"10": 1, "9": 1}})).model.config
    assert of_numbers.id2label == {0: "9", 1: "10"}
    assert of_numbers.pad_token_id == 3


def test_what_is_no_classifier_is_refused(tmp_path):
    from transformers import MarianConfig, MarianMTModel

    small = {"vocab_size": 9, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8,
             "decoder_ffn_dim": 8, "encoder_attention_heads": 1, "decoder_attention_heads": 1, "pad_token_id": 0,
             "decoder_start_token_id": 0, "eos_token_id": 1}  # fmt: skip
    MarianMTModel(MarianConfig(**small)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"cannot be loaded as a classifier: Marian.* is an encoder with a decoder"):
        load(tmp_path, LoadSpec(task="classify", facts=FACTS))


# The loss ------------------------------------------------------------------------------------------------------------


def splits_of(rows, bases, write_rows, kind="bert", **fields):
    fields = {"validation": 0, "test": 0, "near_duplicates": "off", "duplicates": "keep", **fields}
    config = DataConfig(train=str(write_rows(rows)), **fields)
    return load_splits(config, load_contract(bases / kind, chat=False), 64, READS)


@pytest.mark.parametrize("make", [class_rows, several_rows, number_rows, pair_rows])
@pytest.mark.parametrize("packing", [True, False])
def test_losses_are_those_of_transformers(bases, write_rows, make, packing):
    splits = splits_of(make(7), bases, write_rows)
    facts = splits.train.dataset.facts
    model = load(bases / "bert", LoadSpec(task="classify", facts=facts)).model
    objective = make_classify(ClassifyConfig()).informed(facts, None)
    plan = replace(PLAN, packing=packing)
    tokenizer = load_contract(bases / "bert", chat=False).tokenizer
    alone = []
    for row in splits.train:
        content, target = row.row.content, objective.collate([row], plan, Draw(), {}).target
        alone.append(model(**tokenizer(content.text, content.second, return_tensors="pt"), labels=target).loss)
    if packing:
        model.set_attn_implementation(PACKED)
    batch = objective.collate(list(splits.train), plan, Draw(), {})
    found = objective.loss(Models(model, plan), batch, None)
    assert found.terms[0].unit == "rows"
    torch.testing.assert_close(found.terms[0].total / batch.units["rows"], torch.stack(alone).mean())


def test_rare_classes_count_more_and_smoothing_is_for_training(bases, write_rows):
    splits = splits_of([*class_rows(6), *class_rows(2, 5)[:1]], bases, write_rows)
    facts = splits.train.dataset.facts
    model = load(bases / "bert", LoadSpec(task="classify", facts=facts, dropout=0.0)).model
    balanced = make_classify(ClassifyConfig(class_weights="balanced", label_smoothing=0.1)).informed(facts, None)
    model.set_attn_implementation(PACKED)
    batch = balanced.collate(list(splits.train), PLAN, Draw(), {})
    logits = class_logits(model, batch.inputs, 7)
    weights = torch.tensor([7 / 3 / count for count in (2, 2, 3)])
    for smoothing in (0.0, 0.1):
        want = torch.nn.functional.cross_entropy(
            logits, batch.target, weights, reduction="sum", label_smoothing=smoothing
        )
        torch.testing.assert_close(balanced.loss(Models(model, PLAN), batch, None).terms[0].total, want)
        model.train()


# Broken labels -------------------------------------------------------------------------------------------------------

GOOD = class_rows(6)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "a", "label": ""}, *GOOD], r"rows\.jsonl:1:.*'label' is ''\. Give a class"),
        ([*GOOD, {"text": "a", "label": "  "}], r"rows\.jsonl:7:.*'label' is '  '"),
        ([*GOOD, {"text": "a", "label": None}], r"rows\.jsonl:7:.*'label' is null"),
        ([*GOOD, {"text": "a", "label": ["x"]}], r"rows\.jsonl:7:.*'label' is \['x'\]"),
        ([*GOOD, {"text": "a", "label": True}], r"rows\.jsonl:7:.*'label' is True"),
        ([*GOOD, {"text": "", "label": "dog"}], r"rows\.jsonl:7:.*'text' is empty"),
        ([*GOOD, {"text": 7, "label": "dog"}], r"rows\.jsonl:7:.*'text' is a number"),
        ([*GOOD, {"text": "a", "label": 0.5}], r"rows\.jsonl:7: the label is a number with a fraction"),
        ([{"text": f"a {i}", "label": "dog"} for i in range(3)], "all 3 training rows are labelled 'dog'"),
        ([{"text": f"a {i}", "labels": ["dog"]} for i in range(3)], "all 3 training rows have the same classes"),
        ([{"text": f"a {i}", "labels": []} for i in range(3)], "none of 3 training rows has a class"),
        ([{"text": f"a {i}", "labels": {"x": 1}} for i in range(3)], "'labels' is an object"),
        ([{"text": f"a {i}", "score": 2} for i in range(3)], "all 3 training rows have the same number"),
        ([{"text": f"a {i}", "score": "high"} for i in range(3)], r"rows\.jsonl:1:.*'score' is 'high'"),
        ([{"text": f"a {i}", "label": i} for i in range(40)], "40 labels in 40 rows, and all of them are numbers"),
        ([{"question": "Hi?", "answer": "Hello."}], "holds chat rows, which this objective cannot train on"),
        ([{"text": "Hi?", "topic": "a"}], "If a column holds labels, name it: data.columns={label: NAME}"),
    ],
)  # fmt: skip
def test_broken_labels_are_told(bases, write_rows, rows, said):
    with pytest.raises(DataError, match=said):
        refuse(splits_of(rows, bases, write_rows))


def refuse(splits, **held_out):
    from types import SimpleNamespace

    data = DataConfig(train="x", validation=0)
    recipe = SimpleNamespace(data=data, evaluate=SimpleNamespace(patience=0, export="", metric="loss"))
    refuse_what_cannot_teach(recipe, splits, None)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (
            {"text": "a cat", "label": "cat"},
            r"test\.jsonl:2: 1 test row have a label that no training row has \('cat'\)",
        ),
        (
            {"text": "a cat", "labels": ["dog"]},
            "test row with a list of classes, and training rows have one class each",
        ),
    ],
)
def test_labels_of_the_test_part_alone_are_refused(bases, write_rows, extra, said):
    test = write_rows([extra] if "labels" in extra else [GOOD[0], extra], "test.jsonl")
    with pytest.raises(DataError, match=said):
        refuse(splits_of(GOOD, bases, write_rows, test=str(test)))


def test_doubts_about_labels(bases, write_rows):
    rows = [*GOOD, {"text": "my cat", "label": "Dog"}, {"text": GOOD[0]["text"], "label": "pool"}]
    splits = splits_of(rows, bases, write_rows)
    single, alike, torn = splits.kind.doubts(splits.train, splits.train.dataset.facts)
    assert single == "1 label with a single training row each ('Dog')."
    assert alike.startswith("labels that are nearly the same: 'dog' and 'Dog'.") or "'Dog'" in alike
    assert "with more than one label, such as 'wifi' in" in torn


def test_what_does_not_go_together_is_refused(bases, tmp_path):
    for number, (settings, said) in enumerate([
        ({"method": "prompt_tuning"}, "method.type = prompt_tuning do not go together. Take one of full,"),
        ({"evaluate": {"metric": "token_accuracy"}}, "with objective.type = classify it is one of loss, accuracy"),
        ({"model": {"base": "ember", "add_tokens": ["<a>"]}, "method": "lora"}, "model.add_tokens do not go together"),
        ({"objective": "sft", "evaluate": {"baseline": "tfidf"}}, "evaluate.baseline is not for objective.type = sft"),
    ]):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            run(begin(tmp_path / str(number), bases / "bert", GOOD, **settings))


# Whole runs ----------------------------------------------------------------------------------------------------------


def trained(tmp_path, base, rows, **settings):
    folder = begin(tmp_path / "runs" / "it", base, rows, **settings)
    run(folder)
    return folder


def logits_through_auto(folder, texts):
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        return model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_run_is_measured_and_its_model_loads_elsewhere(bases, tmp_path, kind):
    folder = trained(tmp_path, bases / kind, class_rows(120), evaluate={"baseline": "all", "metric": "accuracy"})
    plan, report = read_json(folder / "plan.json"), read_json(folder / "report" / "report.json")
    assert plan["packing"], plan["reasons"]
    scores = {one["metric"]: one for one in report["scores"]}
    assert report["against"] == "the most frequent class"
    assert scores["accuracy"]["score"]["value"] > 90
    assert scores["accuracy"]["verdict"] == "better"
    assert {"macro F1", "macro precision", "macro recall", "calibration error"} <= scores.keys()
    assert report["beside"]["TF-IDF"]["scores"][0]["other"]["value"] > 50
    page = (folder / "report" / "report.html").read_text()
    assert "What is taken for what" in page
    assert "Beside TF-IDF" in page
    assert "Beside the frozen base" in page
    card = read_json(folder / "model" / "tunesmith.json")
    assert (card["task"], card["facts"]["labels"].keys()) == ("classify", {"wifi", "pool", "dog"})
    assert not (folder / "model" / "generation_config.json").exists()
    texts = ["where is the dog", "we swim today please", "wifi"]
    rows = read_lines(folder / "rows.jsonl")
    said = pipeline("text-classification", model=str(folder / "model"), device="cpu")(texts)
    ours = find_classifier(folder).predict(texts)
    assert [one["label"] for one in said] == [one.label for one in ours] == ["dog", "pool", "wifi"]
    for one, other in zip(said, ours, strict=True):
        assert math.isclose(one["score"], other.probabilities[other.label], rel_tol=1e-4)
    assert len(rows) == 120
    found = evaluate_model(
        {**ASKED, "model": str(folder), "data": str(folder / "rows.jsonl"), "baseline": "frozen"}, silent
    )
    assert found["report"]["beside"].keys() == {"the frozen base"}


ASKED = {"against": None, "template": None, "format": None, "columns": {}, "bad_rows": "fail", "rows": None,
         "max_new_tokens": 8, "samples": 0, "general": [], "html": None, "harness": [], "device": "auto"}  # fmt: skip


def find_classifier(folder):
    from tunesmith.jobs.start import load as load_model

    return load_model(folder)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_lora_is_exported_loaded_and_merged(bases, tmp_path, kind):
    from peft import AutoPeftModelForSequenceClassification

    lora = {"type": "lora", "rank": 8, "alpha": 16}
    folder = trained(tmp_path, bases / kind, class_rows(60), method=lora, optim={"learning_rate": 1e-2, "epochs": 6})
    texts = ["where is the dog", "we swim today"]
    model = AutoPeftModelForSequenceClassification.from_pretrained(folder / "model", num_labels=3).eval()
    tokenizer = find_model(str(folder)).contract().tokenizer
    model.config.pad_token_id = model.base_model.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        theirs = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    classifier = find_classifier(folder)
    ours = torch.from_numpy(classifier.logits([classifier.read(text) for text in texts]))
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    merge({"run": str(folder), "output": None, "data": None, "replace": False, "prompts": 8, "limit": 1e-3,
           "max_new_tokens": 4}, silent)  # fmt: skip
    torch.testing.assert_close(logits_through_auto(folder / "merged", texts), ours, rtol=1e-4, atol=1e-4)


def test_a_quantised_base_keeps_its_head(tmp_path):
    from transformers import BertConfig, BertModel

    size = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**size, intermediate_size=64)).save_pretrained(tmp_path)
    for kind, layer in (("nf4", "Linear4bit"), ("int8", "Int8Linear")):
        model = load(tmp_path, LoadSpec(task="classify", facts=FACTS, quantize=kind)).model
        layers = {name: type(part).__name__ for name, part in model.named_modules() if "Linear" in type(part).__name__}
        assert [layers.pop(name) for name in ("classifier", "bert.pooler.dense")] == ["Linear"] * 2
        assert set(layers.values()) == {layer}


def test_a_classifier_is_trained_beside_a_quantised_base(bases, tmp_path):
    model = {"base": str(bases / "bert"), "quantize": "int8", "dropout": 0.0}
    lora, optim = {"type": "lora", "rank": 8}, {"learning_rate": 1e-2, "epochs": 8}
    folder = trained(tmp_path, bases / "bert", class_rows(120), method=lora, model=model, optim=optim)
    steps = read_lines(folder / "metrics.jsonl")
    assert steps[-1]["loss"] < 0.6 * steps[0]["loss"]
    said = [event["sentence"] for event in read_lines(folder / "events.jsonl") if event["kind"] == "warning"]
    assert any("beside its base in int8" in one and "its outputs differ by up to" in one for one in said)


@pytest.mark.parametrize("kind", PADDED)
def test_rows_are_padded_where_packing_would_change_them(bases, tmp_path, kind):
    folder = begin(tmp_path / "it", bases / kind, class_rows(60))
    run(folder, until="exported")
    assert not read_json(folder / "plan.json")["packing"]
    texts = ["where is the dog", "we swim today please"]
    classifier = find_classifier(folder)
    ours = torch.from_numpy(classifier.logits([classifier.read(text) for text in texts]))
    torch.testing.assert_close(logits_through_auto(folder / "model", texts), ours, rtol=1e-4, atol=1e-4)


def test_several_classes_have_a_threshold_from_validation_rows(bases, tmp_path):
    folder = trained(tmp_path, bases / "roberta", several_rows(120), evaluate={"metric": "loss"})
    card = read_json(folder / "model" / "tunesmith.json")
    assert 0 < card["chosen"]["threshold"] < 1
    scores = {one["metric"]: one["score"]["value"] for one in read_json(folder / "report" / "report.json")["scores"]}
    assert {"micro F1", "macro F1", "accuracy"} <= scores.keys()
    [one] = find_classifier(folder).predict(["where is the dog and the pool"])
    assert isinstance(one.label, tuple)
    said = pipeline("text-classification", model=str(folder / "model"), device="cpu", top_k=None)(["where is the dog"])
    [other] = find_classifier(folder).predict(["where is the dog"])
    assert {entry["label"]: round(entry["score"], 4) for entry in said[0]} == {
        name: round(share, 4) for name, share in other.probabilities.items()
    }


def test_numbers_and_pairs(bases, tmp_path):
    numbers = trained(tmp_path / "a", bases / "distilbert", number_rows(120), evaluate={})
    scores = {one["metric"]: one["score"]["value"] for one in read_json(numbers / "report" / "report.json")["scores"]}
    assert set(scores) == {"squared error", "absolute error", "Pearson", "Spearman"}
    assert scores["Pearson"] > 0.5
    assert isinstance(find_classifier(numbers).predict(["we swim"])[0].label, float)
    pairs = trained(tmp_path / "b", bases / "bert", pair_rows(60), method={"type": "lora", "rank": 4}, perturb="fgm")
    assert read_json(pairs / "plan.json")["packing"]
    [one] = find_classifier(pairs).predict([("where is my dog", "a pet")])
    assert one.label in ("same", "other")


def test_a_run_goes_on_to_the_same_bits(bases, tmp_path):
    settings = {
        "model": {"base": str(bases / "bert"), "dropout": 0.1},
        "output": {"checkpoint_every": 2, "keep_last": 9},
    }
    whole, broken = (begin(tmp_path / name, bases / "bert", class_rows(40), **settings) for name in ("whole", "broken"))
    run(whole, until="trained")
    left = iter(range(2))
    with pytest.raises(Stopped):
        finetune({"folder": str(broken)}, silent, lambda: next(left, None) is None)
    run(broken, resume=True, until="trained")
    last = sorted((whole / "checkpoints").iterdir())[-1].name
    one, other = (load_file(folder / "checkpoints" / last / "trainable.safetensors") for folder in (whole, broken))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", ["freeze", "bitfit", "layernorm", "adalora", "loha", "lokr", "ia3", "oft", "vera"])
def test_every_method_trains_the_head(bases, tmp_path, method):
    settings = {"type": method, **({"last": 1} if method == "freeze" else {})}
    settings |= {"rank": 4} if method in ("loha", "lokr", "vera") else {}
    settings |= {"block": 8} if method == "oft" else {}
    settings |= (
        {"targets": ["key", "value", "output.dense"], "feedforward": ["output.dense"]} if method == "ia3" else {}
    )
    folder = begin(tmp_path / "it", bases / "bert", class_rows(40), method=settings,
                   optim={"learning_rate": 1e-3, "epochs": 2, "batch_size": 16})  # fmt: skip
    run(folder, until="exported")
    step = sorted((folder / "checkpoints").iterdir())[-1]
    assert any("classifier" in name for name in load_file(step / "trainable.safetensors"))
    assert find_classifier(folder).predict(["dog"])[0].label in ("dog", "pool", "wifi")


# The metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_scikit_learn():
    from scipy.stats import pearsonr, spearmanr
    from sklearn import metrics as theirs

    draw = np.random.default_rng(0)
    true, said = draw.integers(0, 5, 80), draw.integers(0, 6, 80)
    true_RC, said_RC = np.eye(7)[true], np.eye(7)[said]
    found = scored(class_counts(true_RC, said_RC, False))
    p, r, f, _ = theirs.precision_recall_fscore_support(true, said, average="macro", zero_division=0)
    assert math.isclose(found["accuracy"], 100 * theirs.accuracy_score(true, said))
    assert [found[name] for name in ("macro precision", "macro recall", "macro F1")] == pytest.approx(
        [100 * p, 100 * r, 100 * f]
    )
    true_RC, said_RC = draw.integers(0, 2, (80, 4)), draw.integers(0, 2, (80, 4))
    found = scored(class_counts(true_RC, said_RC, True))
    assert found["micro F1"] == pytest.approx(100 * theirs.f1_score(true_RC, said_RC, average="micro"))
    assert found["macro F1"] == pytest.approx(100 * theirs.f1_score(true_RC, said_RC, average="macro"))
    assert found["accuracy"] == pytest.approx(100 * theirs.accuracy_score(true_RC, said_RC))
    x, y = draw.normal(size=60), draw.normal(size=60).round(1)
    found = scored(number_counts(y, x))
    assert found["squared error"] == pytest.approx(theirs.mean_squared_error(y, x))
    assert found["absolute error"] == pytest.approx(theirs.mean_absolute_error(y, x))
    assert found["Pearson"] == pytest.approx(pearsonr(x, y).statistic)
    assert found["Spearman"] == pytest.approx(spearmanr(x, y).statistic)
    sure, right = draw.uniform(size=50), draw.integers(0, 2, 50)
    bins = [(sure * 15).astype(int) == place for place in range(15)]
    naive = sum(abs(sure[own].sum() - right[own].sum()) for own in bins) / 50
    assert metrics.CALIBRATION.of_sums(calibration_counts(sure, right).sum(0)) == pytest.approx(100 * naive)


def scored(counts):
    known = {metric.name: metric for metric in metrics.ALL_METRICS}
    return {name: known[name].of_sums(one.sum(0)) for name, one in counts.items()}


def test_baselines_say_what_is_frequent_and_what_words_tell():
    target = np.eye(3)[[0, 0, 1, 2, 0]]
    assert most_frequent(target, 2, "one").argmax(-1).tolist() == [0, 0]
    assert most_frequent(np.array([[1, 0], [1, 1], [0, 0]]), 1, "several").tolist() == [[1, 0]]
    assert most_frequent(np.array([1.0, 3.0]), 2, "number").tolist() == [2, 2]
    texts = ["a dog", "my dog", "the pool", "wifi now", "dog please"]
    assert linear_on_words(texts, target, ["dog", "pool"], "one").argmax(-1).tolist() == [0, 1]
    several = linear_on_words(texts, np.stack([target[:, 0], np.ones(5)], -1), ["dog"], "several")
    assert several.tolist() == [[1, 1]]
    assert linear_on_words(texts, np.arange(5.0), ["dog"], "number").shape == (1,)


def test_states_of_a_base_are_means_of_length_one(bases):
    model = load(bases / "bert", LoadSpec(task="classify", facts=FACTS)).model
    ids = [np.array(one, np.int32) for one in ([2, 5, 6, 3], [2, 9, 3], [2, 7, 8, 9, 10, 3])]
    with torch.no_grad():
        means = [model.bert(torch.tensor(one[None].astype(int))).last_hidden_state[0].mean(0) for one in ids]
    wanted = torch.stack([mean / mean.norm() for mean in means])
    found = row_states(model, [(one, len(one)) for one in ids])
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-5, atol=1e-6)
    target = np.eye(2)[[0, 1, 1, 0]]
    assert linear_on_states(target, target, np.eye(2), "one").argmax(-1).tolist() == [0, 1]


def test_rows_of_csv_files_by_any_names(bases, tmp_path):
    path = tmp_path / "mails.csv"
    path.write_text("Frage,Art\nwhere is my dog,dog\nthe pool,pool\n")
    rows = load_rows(str(path), columns={"text": "Frage", "label": "Art"}).rows
    assert [json.loads(row.json) for row in rows] == [
        {"text": "where is my dog", "label": "dog"}, {"text": "the pool", "label": "pool"},
    ]  # fmt: skip
