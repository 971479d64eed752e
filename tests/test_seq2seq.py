"""One text made of another: losses are the library's; a run is measured, exported, gone on with and merged."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import AutoPeftModelForSeq2SeqLM
from safetensors.torch import load_file
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    MBartConfig,
    MBartForConditionalGeneration,
)
from typer.testing import CliRunner

import tunesmith
from conftest import made_once
from tunesmith.cli.main import app
from tunesmith.core.config import parse_overrides
from tunesmith.core.errors import ConfigError, DataError, ModelError, Stopped
from tunesmith.core.events import silent
from tunesmith.core.files import read_json, read_lines
from tunesmith.data.config import DataConfig
from tunesmith.data.load import load_rows
from tunesmith.data.pack import PASS, padded_batches
from tunesmith.data.split import load_splits
from tunesmith.jobs.evaluate import evaluate_model
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.merge import merge
from tunesmith.model.export import find_model
from tunesmith.model.inspect import inspect_model
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.seq2seq import pairs_of, score_targets, target_logits, write
from tunesmith.prompt.load import load_contract
from tunesmith.train.config import Seq2SeqConfig
from tunesmith.train.objective import Draw, Models
from tunesmith.train.objectives.seq2seq import make_seq2seq
from tunesmith.train.planning.plan import Plan
from writers import FAMILIES, begin, digit_rows, save_base, save_tokenizer

PLAN = Plan("cpu", "fp32", False, 2048, None, 1, "none", 1, {}, {}, "", chunked=False)
READS = frozenset({"source-target"})


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    def make(folder):
        for family in FAMILIES:
            save_base(folder / family, family)

    return made_once(tmp_path_factory, "writers", make)


def run(folder, **options):
    return finetune({"folder": str(folder), **options}, silent, lambda: False)


def splits_of(rows, base, write_rows, **fields):
    fields = {"validation": 0, "test": 0, "near_duplicates": "off", **fields}
    config = DataConfig(train=str(write_rows(rows)), **fields)
    return load_splits(config, load_contract(base, chat=False), 64, READS)


def as_the_library_reads(tokenizer, rows):
    found = tokenizer(
        [row["source"] for row in rows], text_target=[row["target"] for row in rows], padding=True, return_tensors="pt"
    )
    labels = found["labels"].masked_fill(found["labels"] == tokenizer.pad_token_id, -100)
    return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"], "labels": labels}


# The loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_and_gradients_are_those_of_transformers(bases, write_rows, family, smoothing):
    rows = digit_rows(6)
    splits = splits_of(rows, bases / family, write_rows)
    model = load(bases / family, LoadSpec(task="seq2seq", dropout=0.0)).model.train()
    objective = make_seq2seq(Seq2SeqConfig(label_smoothing=smoothing))
    given = as_the_library_reads(load_contract(bases / family, chat=False).tokenizer, rows)
    theirs = model(**given)
    want = torch.nn.functional.cross_entropy(
        theirs.logits.flatten(0, 1), given["labels"].flatten(), label_smoothing=smoothing
    )
    if not smoothing:
        torch.testing.assert_close(want, theirs.loss, rtol=1e-5, atol=1e-5)
    want.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    assert any("relative_attention_bias" in name for name in gradients) == family.startswith("t5")
    reason = objective.check.why_not_chunked(Models(model, PLAN), list(splits.train))
    assert (reason is None) == (family != "marian")
    for chunked in (False, True) if reason is None else (False,):
        model.zero_grad()
        models = Models(model, Plan(**{**PLAN.to_json(), "chunked": chunked}))
        batch = objective.collate(list(splits.train), PLAN, Draw(), {})
        found = objective.loss(models, batch, None)
        assert found.terms[0].unit == "tokens"
        total = found.terms[0].total / batch.units["tokens"]
        torch.testing.assert_close(total, want, rtol=1e-5, atol=1e-5)
        total.backward()
        for name, weight in model.named_parameters():
            if name in gradients:
                torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-3, atol=1e-6, msg=name)
    assert batch.tokens == sum(len(row.ids) + len(row.others[0].ids) for row in splits.train)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_what_the_tokenizer_makes_of_a_source_and_a_target(bases, family):
    contract = load_contract(bases / family, chat=False, prefix="say : ")
    tokenizer = contract.tokenizer
    source, target = contract.render_many([contract.draft_source("one two"), contract.draft_target("1 2")])
    assert source.ids.tolist() == tokenizer("say : one two")["input_ids"]
    assert source.spans == ()
    assert target.ids.tolist() == tokenizer(text_target="1 2")["input_ids"]
    assert target.spans == ((0, len(target.ids)),)
    [spelt] = contract.render_many([contract.draft_source("one </s> two")])
    assert spelt.ids.tolist().count(tokenizer.eos_token_id) == 1
    assert contract.id != load_contract(bases / family, chat=False).id


# What it writes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_together_are_scored_and_written_as_alone(bases, family):
    contract = load_contract(bases / family, chat=False)
    model = load(bases / family, LoadSpec(task="seq2seq")).model
    rows = digit_rows(9, seed=3)
    drafts = [[contract.draft_source(row["source"]), contract.draft_target(row["target"])] for row in rows]
    ids = [[np.frombuffer(one.ids, np.int32) for one in contract.render_many(pair)] for pair in drafts]
    together = score_targets(model, ids)
    for (source, target), score in zip(ids, together, strict=True):
        with torch.no_grad():
            logits = target_logits(model, pairs_of([source], [target], "cpu"))
            loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(target.astype(np.int64)), reduction="sum")
        assert score.tokens == len(target)
        assert score.loss == pytest.approx(float(loss), rel=1e-4)
    sources = [source for source, _ in ids]
    written = write(model, sources, contract.stop_ids, 10)
    assert written == [write(model, [source], contract.stop_ids, 10)[0] for source in sources]
    library = model.generate(
        torch.from_numpy(sources[0].astype(np.int64))[None], max_new_tokens=10, do_sample=False, num_beams=1
    )[0, 1:].tolist()
    stops = [place for place, one in enumerate(library) if one in contract.stop_ids]
    assert written[0].ids == (library[: stops[0]] if stops else library)


# The road ------------------------------------------------------------------------------------------------------------


def trained(folder, base, rows, **settings):
    run(begin(folder, base, rows, **settings))
    return folder


def generated(model, tokenizer, text, config):
    ids = model.generate(**tokenizer(text, return_tensors="pt"), generation_config=config, max_new_tokens=12)
    return tokenizer.decode(ids[0], skip_special_tokens=True).strip()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_is_measured_and_what_it_exports_is_the_librarys(bases, tmp_path, family, method):
    settings = {"type": "lora", "rank": 8} if method == "lora" else {"type": "full"}
    rate = 3e-3 if method == "full" or family == "marian" else 2e-2
    optim = {"learning_rate": rate, "epochs": 2, "batch_size": 16}
    folder = trained(tmp_path / "it", bases / family, digit_rows(160), method=settings, optim=optim)
    steps = [step["loss"] for step in read_lines(folder / "metrics.jsonl") if step["kind"] == "step"]
    assert sum(steps[-4:]) < (0.97 if family == "marian" else 0.9) * sum(steps[:4])
    plan = read_json(folder / "plan.json")
    assert not plan["packing"]
    assert 0 <= plan["padding"] < 0.4  # rows of few tokens: a further pass would cost more
    assert plan["chunked"] == (family != "marian")
    report = read_json(folder / "report" / "report.json")
    names = [one["metric"] for one in report["scores"]]
    assert {"perplexity", "token accuracy", "BLEU", "chrF", "ROUGE-L", "exact match", "ends by itself"} <= set(names)
    assert report["against"] == str(bases / family)
    assert report["scores"][0]["verdict"] == "better"
    [copied] = report["beside"].values()
    assert {one["metric"] for one in copied["scores"] if one["other"]} < set(names)
    assert report["samples"][0]["messages"][0]["role"] == "source"
    theirs = (AutoPeftModelForSeq2SeqLM if method == "lora" else AutoModelForSeq2SeqLM).from_pretrained(
        folder / "model", dtype=torch.float32
    )
    config = GenerationConfig.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    writer = tunesmith.load(folder)
    for row in digit_rows(4, seed=9):
        [said] = writer.predict([row["source"]])
        assert said.text == generated(theirs.eval(), tokenizer, row["source"], config)
    if method == "lora":
        layers = {name.split(".lora_A")[0] for name, _ in theirs.named_parameters() if "lora_A" in name}
        assert not any("lm_head" in name for name in layers)
        assert len(layers) == {"t5": 32, "t5-gated": 36}.get(family, 32)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_run_goes_on_to_the_same_bits(bases, tmp_path, family):
    settings = {
        "model": {"base": str(bases / family), "dropout": 0.1},
        "output": {"checkpoint_every": 2, "keep_last": 9},
    }
    whole, broken = (begin(tmp_path / name, bases / family, digit_rows(60), **settings) for name in ("whole", "broken"))
    run(whole, until="trained")
    left = iter(range(3))
    with pytest.raises(Stopped):
        finetune({"folder": str(broken)}, silent, lambda: next(left, None) is None)
    run(broken, resume=True, until="trained")
    last = sorted((whole / "checkpoints").iterdir())[-1].name
    one, other = (load_file(folder / "checkpoints" / last / "trainable.safetensors") for folder in (whole, broken))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_adapter_is_merged_gone_on_with_and_compared(bases, tmp_path):
    rows = digit_rows(80)
    folder = trained(
        tmp_path / "one", bases / "t5-gated", rows, method={"type": "lora", "rank": 8},
        objective={"type": "seq2seq", "prefix": "say : "},
    )  # fmt: skip
    found = merge(
        {"run": str(folder), "output": str(tmp_path / "merged"), "data": None, "replace": False, "prompts": 4,
         "limit": 1e-3, "max_new_tokens": 8}, silent
    )  # fmt: skip
    assert found["verification"]["largest_logit_difference"]["value"] < 1e-4
    merged = tunesmith.load(tmp_path / "merged")
    one = tunesmith.load(folder)
    assert merged.contract.prefix == one.contract.prefix == "say : "
    assert merged.predict(["one two"]) == one.predict(["one two"])
    further = trained(
        tmp_path / "two", bases / "t5-gated", rows,
        method={"type": "lora", "rank": 8, "continue_from": str(folder)},
        objective={"type": "seq2seq", "prefix": "say : "},
    )  # fmt: skip
    losses = [read_lines(path / "metrics.jsonl") for path in (folder, further)]
    assert losses[1][0]["loss"] < 0.9 * losses[0][0]["loss"]
    asked = {"model": str(folder), "against": str(further), "data": str(folder / "rows.jsonl"), "format": None,
             "columns": {}, "rows": 30, "bad_rows": "fail", "template": None, "general": None, "samples": 1,
             "max_new_tokens": 12}  # fmt: skip
    report = evaluate_model(asked, silent)["report"]
    assert report["rows"] == 30
    assert report["scores"][0]["other"]["value"] < report["scores"][0]["score"]["value"]
    alone = evaluate_model({**asked, "against": None, "baseline": "all"}, silent)["report"]
    assert alone["against"] == str(bases / "t5-gated")
    assert "the source, copied" in alone["beside"]


@pytest.mark.parametrize("method", ["freeze", "bitfit", "layernorm", "adalora", "loha", "lokr", "ia3", "oft", "vera"])
def test_every_method_learns(bases, tmp_path, method):
    settings = {"type": method, **({"last": 1} if method == "freeze" else {})}
    settings |= {"rank": 4} if method in ("loha", "lokr", "vera") else {}
    settings |= {"block": 8} if method == "oft" else {}
    base = bases / ("bart" if method == "bitfit" else "t5")
    folder = begin(tmp_path / "it", base, digit_rows(60), method=settings,
                   optim={"learning_rate": 3e-2, "epochs": 3, "batch_size": 16})  # fmt: skip
    run(folder, until="exported")
    steps = [step["loss"] for step in read_lines(folder / "metrics.jsonl") if step["kind"] == "step"]
    assert steps[-1] < steps[0]
    if method == "freeze":
        step = sorted((folder / "checkpoints").iterdir())[-1]
        assert all("decoder.block.1" in name for name in load_file(step / "trainable.safetensors"))


# Predict -------------------------------------------------------------------------------------------------------------


def test_a_file_of_sources_is_gone_through(bases, tmp_path):
    folder = trained(tmp_path / "it", bases / "bart", digit_rows(60))
    path = tmp_path / "more.csv"
    path.write_text('Frage,Nr\none two,1\n,2\n"three </s> four",3\n"' + "one " * 40 + '",4\n')
    out = tmp_path / "out.jsonl"
    result = CliRunner().invoke(app, ["predict", str(folder), str(path), "--column", "source=Frage", "--out", str(out)])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["row"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["source"] == "one two"
    assert isinstance(lines[0]["text"], str)
    assert "error" in lines[1]
    assert lines[2]["source"] == "three </s> four"
    assert "42 tokens, and the model takes 32" in lines[3]["error"]
    with pytest.raises(ConfigError, match=r"does not chat\. Use `tunesmith predict"):
        CliRunner().invoke(app, ["chat", str(folder), "--once", "Hi?"], catch_exceptions=False)
    with pytest.raises(DataError, match="give a text"):
        tunesmith.load(folder).predict([3])


# Rows ----------------------------------------------------------------------------------------------------------------


def read_as(path, reads=READS, **options):
    rows = load_rows(str(path), reads, **options)
    return rows.format, [(row.content.source, row.content.target) for row in rows.rows], rows.ledger


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"source": "a", "target": "b"}, "source-target"),
        ({"text": "a", "summary": "b"}, "summary"),
        ({"document": "a", "summary": "b", "id": 3}, "summary"),
        ({"article": "a", "highlights": "b"}, "summary"),
        ({"input": "a", "output": "b"}, "input-output"),
        ({"prompt": "a", "completion": "b"}, "input-output"),
        ({"question": "a", "answer": "b"}, "input-output"),
        ({"instruction": "a", "output": "b"}, "instruction-output"),
        ({"translation": {"de": "a", "en": "b"}}, "translation"),
    ],
)
def test_sources_and_targets_by_many_names(write_rows, row, format):
    path = write_rows([row])
    assert read_as(path)[:2] == (format, [("a", "b")])
    if format in ("input-output", "instruction-output"):
        assert load_rows(str(path)).rows[0].content.kind == "chat"
        assert read_as(path, frozenset(), format=format)[1] == [("a", "b")]


def test_translations_go_one_way(bases, write_rows):
    there = [{"translation": {"de": "eins", "en": "one"}}, {"translation": {"de": "zwei", "en": "two"}}]
    _, rows, ledger = read_as(write_rows(there))
    assert rows == [("eins", "one"), ("zwei", "two")]
    assert "from 'de' into 'en'" in ledger.remarks[0]
    assert "data.columns={source: translation.en, target: translation.de}" in ledger.remarks[0]
    back = {"source": "translation.en", "target": "translation.de"}
    name, rows, ledger = read_as(write_rows(there), columns=back)
    assert (name, rows) == ("source-target", [("one", "eins"), ("two", "zwei")])
    assert not ledger.remarks
    with pytest.raises(DataError, match=r"names 'translation.fr', which no row has.*translation.de, translation.en"):
        read_as(write_rows(there), columns={**back, "target": "translation.fr"})
    mixed = [*there, {"translation": {"en": "three", "de": "drei"}}]
    splits = splits_of(mixed, bases / "t5", write_rows)
    contract = load_contract(bases / "t5", chat=False)
    with pytest.raises(DataError, match=r"go in 2 directions \(de to en: 2 rows, en to de: 1 row\)"):
        splits.kind.refuse(splits.train, splits.train.dataset.facts, contract)
    three = [*there, {"translation": {"de": "drei", "en": "three", "fr": "trois"}}]
    _, rows, ledger = read_as(write_rows(three))
    assert len(rows) == 2
    assert "'translation' has 3 texts" in str(next(iter(ledger.dropped())))


def test_rows_that_cannot_teach_are_refused(bases, write_rows, tmp_path):
    for row, told in (
        ({"source": "one", "target": " "}, "'target' is empty"),
        ({"source": "one"}, "no 'target', which source-target rows have"),
    ):
        with pytest.raises(DataError, match=told):
            splits_of([*digit_rows(3), row], bases / "t5", write_rows)
    with pytest.raises(DataError, match=r"1 of 4 rows are longer than 64 tokens"):
        splits_of([*digit_rows(3), {"source": "one " * 80, "target": "1"}], bases / "t5", write_rows)
    with pytest.raises(DataError, match="no known format has the keys 'quelle'"):
        splits_of([{"quelle": "one"}], bases / "t5", write_rows)
    same = splits_of([{"source": one["source"], "target": "1"} for one in digit_rows(3)], bases / "t5", write_rows)
    contract = load_contract(bases / "t5", chat=False)
    with pytest.raises(DataError, match="all 3 training rows have the same answer"):
        same.kind.refuse(same.train, {}, contract)
    shutil.copytree(bases / "t5", tmp_path / "endless")
    save_tokenizer(tmp_path / "endless", "$A")
    endless = splits_of(digit_rows(3), tmp_path / "endless", write_rows)
    with pytest.raises(DataError, match="tokenizer does not end a target with </s>"):
        endless.kind.refuse(endless.train, {}, load_contract(tmp_path / "endless", chat=False))
    copies = splits_of([{"source": one["source"], "target": one["source"]} for one in digit_rows(3)], bases / "t5",
                       write_rows)  # fmt: skip
    assert copies.kind.doubts(copies.train, {}) == ["3 of 3 targets are their source: the model would learn to copy."]


def test_a_source_that_is_cut_ends_as_its_tokenizer_ends_it(bases, write_rows):
    rows = [*digit_rows(3), {"source": "one " * 80, "target": "1"}, {"source": "two", "target": "2 " * 80}]
    splits = splits_of(rows, bases / "t5", write_rows, over_long="truncate")
    long_source, long_target = list(splits.train)[3:]
    assert len(long_source.ids) == len(long_target.others[0].ids) == 64
    assert long_source.ids[-1] == 1
    assert long_target.others[0].ids[-1] != 1
    assert long_source.cut


# What is refused -----------------------------------------------------------------------------------------------------


def test_models_of_other_kinds_are_refused(bases, tiny, tmp_path):
    with pytest.raises(ModelError, match=r"an encoder with a decoder.*or set objective\.type=seq2seq"):
        load(bases / "t5", LoadSpec())
    with pytest.raises(ModelError, match=r"objective\.type=seq2seq.*is no encoder with a decoder.*objective\.type=sft"):
        load(tiny, LoadSpec(task="seq2seq"))
    small = {"vocab_size": 9, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8,
             "decoder_ffn_dim": 8, "encoder_attention_heads": 1, "decoder_attention_heads": 1}  # fmt: skip
    MBartForConditionalGeneration(MBartConfig(**small)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="told by tokens of their own from which language"):
        load(tmp_path, LoadSpec(task="seq2seq"))


@pytest.mark.parametrize(
    "settings",
    [
        {"method": {"type": "prompt_tuning"}},
        {"method": {"type": "prefix_tuning"}},
        {"model": {"quantize": "nf4"}, "method": {"type": "lora"}},
        {"model": {"add_tokens": ["x"]}},
        {"perturb": "neftune"},
        {"evaluate": {"metric": "accuracy"}},
        {"evaluate": {"baseline": "tfidf"}},
        {"evaluate": {"general_ability": ["general-texts"]}},
    ],
)
def test_settings_that_do_not_go_together_are_refused(bases, tmp_path, settings):
    with pytest.raises(ConfigError):
        run(begin(tmp_path / "it", bases / "t5", digit_rows(20), **settings))


# Padding -------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=30), st.integers(20, 2000)
)  # fmt: skip
def test_padded_batches_hold_every_row_once_within_capacity(widths, capacity):
    groups = padded_batches(widths, capacity)
    assert sorted(place for group in groups for place in group) == list(range(len(widths)))

    def size(group):
        return len(group) * sum(map(max, zip(*(widths[place] for place in group), strict=True)))

    assert all(size(group) <= capacity or len(group) == 1 for group in groups)
    whole = list(range(len(widths)))
    if size(whole) <= capacity:
        assert sum(map(size, groups)) + PASS * len(groups) <= size(whole) + PASS


def test_rows_of_two_lengths_are_parted():
    widths = [(100, 100), (5, 5)] * 20
    groups = padded_batches(widths, 2048)
    assert all(len({widths[place] for place in group}) == 1 for group in groups)
    assert len(padded_batches([(5, 5), (6, 6)] * 20, 2048)) == 1


def test_a_prefix_may_be_written_on_the_command_line():
    assert parse_overrides(["objective.prefix=summarize: "]) == {"objective.prefix": "summarize: "}
    assert parse_overrides(["data.columns={source: a}"]) == {"data.columns": {"source": "a"}}


def test_a_model_is_evaluated_on_files_by_other_names_than_its_own(bases, tmp_path):
    rows = [{"Frage": row["source"], "Antwort": row["target"]} for row in digit_rows(60)]
    data = {"train": str(tmp_path / "it" / "rows.jsonl"), "test": 0, "validation": 0, "near_duplicates": "off",
            "columns": {"source": "Frage", "target": "Antwort"}}  # fmt: skip
    folder = trained(tmp_path / "it", bases / "t5", rows, data=data)
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"input": r["source"], "output": r["target"]}) + "\n" for r in digit_rows(5)))
    asked = {"model": str(folder), "against": None, "format": None, "columns": {}, "rows": None, "bad_rows": "fail",
             "template": None, "general": None, "samples": 1, "max_new_tokens": 12}  # fmt: skip
    for path, count in ((folder / "rows.jsonl", 60), (other, 5)):
        assert evaluate_model({**asked, "data": str(path)}, silent)["report"]["rows"] == count
    with pytest.raises(ConfigError, match="of this task there is none but what always stands beside it"):
        evaluate_model({**asked, "data": str(other), "baseline": "tfidf"}, silent)
    parts = {part.name: part for part in inspect_model(find_model(str(folder)))}
    assert parts["shared.weight"].trained


# Classes -------------------------------------------------------------------------------------------------------------


def labelled_rows(count, pair=False):
    found = []
    for row in digit_rows(count, most=4):
        second = {"text_pair": "one two"} if pair else {}
        found.append(
            {"text": row["source"], **second, "label": "odd" if int(row["target"].split()[-1]) % 2 else "even"}
        )
    return found


def begin_classes(folder, base, rows, **settings):
    return begin(
        folder, base, rows, **{"objective": {"type": "classify"}, "evaluate": {"metric": "accuracy"}, **settings}
    )


@pytest.mark.parametrize(("family", "pair"), [("t5", False), ("t5-gated", True), ("bart", False)])
def test_an_encoder_with_a_decoder_says_classes(bases, tmp_path, family, pair):
    rows = labelled_rows(60, pair)
    folder = begin_classes(
        tmp_path / "it", bases / family, rows, method={"type": "lora", "rank": 4} if pair else {"type": "full"}
    )
    run(folder)
    assert not read_json(folder / "plan.json")["packing"]
    classifier = tunesmith.load(folder)
    if not pair:
        theirs = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    texts = [(row["text"], row["text_pair"]) if pair else row["text"] for row in rows[:7]]
    together = classifier.logits([classifier.read(text) for text in texts])
    for text, logits in zip(texts, together, strict=True):
        np.testing.assert_allclose(classifier.logits([classifier.read(text)])[0], logits, rtol=1e-4, atol=1e-5)
        if not pair:
            with torch.no_grad():
                alone = theirs(**tokenizer(text, return_tensors="pt")).logits[0]
            np.testing.assert_allclose(alone.numpy(), logits, rtol=1e-4, atol=1e-5)
    assert classifier.predict(texts[:1])[0].label in ("odd", "even")


def test_rows_whose_ends_differ_are_refused(bases, tmp_path):
    mixed = [*labelled_rows(20), *labelled_rows(20, pair=True)[10:]]
    with pytest.raises(DataError, match=r"all rows must have as many"):
        run(begin_classes(tmp_path / "mixed", bases / "t5", mixed))
    shutil.copytree(bases / "t5", tmp_path / "endless")
    save_tokenizer(tmp_path / "endless", "$A")
    with pytest.raises(DataError, match=r"the row has 0 of the tokens that end texts"):
        run(begin_classes(tmp_path / "it", tmp_path / "endless", labelled_rows(20)))
