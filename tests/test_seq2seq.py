"""One text made of another: losses are the library's; a run is measured, exported, gone on with and merged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import made_once
from tunesmith.core.events import silent
from tunesmith.data.config import DataConfig
from tunesmith.data.split import load_splits
from tunesmith.jobs.finetune import finetune
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.seq2seq import pairs_of, score_targets, target_logits, write
from tunesmith.prompt.load import load_contract
from tunesmith.train.config import Seq2SeqConfig
from tunesmith.train.objective import Draw, Models
from tunesmith.train.objectives.seq2seq import make_seq2seq
from tunesmith.train.planning.plan import Plan
from writers import FAMILIES, begin, digit_rows, save_base

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
            loss = torch.nn.functional.cross_entropy(
                logits, torch.from_numpy(target.astype(np.int64)), reduction="sum"
            )
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


def test_training_lowers_the_loss(bases, tmp_path):
    folder = begin(tmp_path / "it", bases / "t5", digit_rows(60))
    run(folder, until="trained")
