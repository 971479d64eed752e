"""Span corruption: what was taken out and what stayed are the text; as Raffel et al. do it."""

from __future__ import annotations

import random
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import tunesmith
from conftest import made_once
from masked_texts import begin_text
from tunesmith.core.errors import ConfigError, DataError, ModelError, Stopped
from tunesmith.core.events import silent
from tunesmith.core.files import read_json
from tunesmith.data.config import DataConfig
from tunesmith.data.split import load_splits
from tunesmith.infer.predict.spans import sentinels_of
from tunesmith.jobs.finetune import finetune
from tunesmith.model.load import LoadSpec, load
from tunesmith.prompt.load import load_contract
from tunesmith.train.config import PretrainConfig
from tunesmith.train.objective import Draw, Models
from tunesmith.train.objectives.span_corruption import corrupted, source_length, stretches, text_length
from tunesmith.train.objectives.spans import make_spans, taken_out
from tunesmith.train.planning.plan import Plan
from writers import digit_rows, save_base, save_tokenizer

SENTINELS = list(range(1099, 999, -1))  # descending, as T5 has them
END = 1


def put_together(source, target):
    """The text that source and target are of, found by reading both."""
    assert source[-1] == target[-1] == END
    pieces, last = {}, None
    for token in target[:-1]:
        if token in SENTINELS:
            assert last is None or token == last - 1
            last = token
            pieces[token] = []
        else:
            pieces[last].append(token)
    return [one for token in source[:-1] for one in (pieces[token] if token in SENTINELS else [token])]


def naive(ids, mask, sentinels, end):
    """Source and target of a mask of what is taken out, token by token, as the paper's figure shows it."""
    source, target, used = [], [], -1
    for place, (token, out) in enumerate(zip(ids, mask, strict=True)):
        if not out:
            source.append(token)
            continue
        if place == 0 or not mask[place - 1]:
            used += 1
            source.append(sentinels[used])
            target.append(sentinels[used])
        target.append(token)
    return [*source, end], [*target, end]


@given(st.integers(2, 600), st.integers(0, 10_000), st.floats(0.01, 0.9), st.floats(1, 8), st.integers(1, 100))
def test_nothing_is_lost_and_no_two_stretches_touch(length, seed, density, mean_length, most):
    ids = list(range(2, 2 + length))
    chance = random.Random(seed)
    source, target = corrupted(ids, SENTINELS[:most], END, chance, density, mean_length)
    assert put_together(source, target) == ids
    places = stretches(length, density, mean_length, most, random.Random(seed))
    assert all(len(kept) and len(taken) for kept, taken in places)
    mask = [any(place in taken for _, taken in places) for place in range(length)]
    assert (source, target) == naive(ids, mask, SENTINELS, END)
    noise = sum(mask)
    assert noise == min(max(round(length * density), 1), length - 1)
    assert sum(token in SENTINELS for token in source) == len(places) <= most


def test_it_takes_out_what_the_paper_does():
    chance = random.Random(0)
    shares, lengths = [], []
    for _ in range(200):
        places = stretches(512, 0.15, 3.0, 100, chance)
        shares.append(sum(len(taken) for _, taken in places) / 512)
        lengths += [len(taken) for _, taken in places]
    assert sum(shares) / len(shares) == pytest.approx(0.15, abs=0.002)
    assert sum(lengths) / len(lengths) == pytest.approx(3.0, abs=0.1)
    assert max(lengths) > 6
    assert min(lengths) == 1


def test_every_place_of_a_stretch_is_equally_likely():
    chance = random.Random(1)
    seen = {tuple(map(len, places)) for places in (stretches(4, 0.5, 1.0, 9, chance)[0] for _ in range(50))}
    assert seen == {(1, 1)}
    firsts = [len(stretches(6, 0.3, 1.0, 9, chance)[0][0]) for _ in range(3000)]
    assert [firsts.count(size) / 3000 for size in (1, 2, 3)] == pytest.approx([1 / 3] * 3, abs=0.05)


def test_the_same_chance_gives_the_same_text():
    ids = list(range(10, 60))
    one, other, third = (corrupted(ids, SENTINELS, END, random.Random(seed)) for seed in (3, 3, 4))
    assert one == other != third


def test_a_text_fills_the_longest_source():
    assert text_length(512) == 568  # the authors' compute_input_and_target_lengths gives the same
    for longest in (3, 8, 64, 512):
        length = text_length(longest)
        assert source_length(length, 0.15, 3.0) <= longest < source_length(length + 1, 0.15, 3.0)
        source, _ = corrupted(range(length), SENTINELS, END, random.Random(0))
        assert len(source) == source_length(length, 0.15, 3.0)


# On the road ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    def make(folder):
        for family in ("t5", "bart"):
            save_base(folder / family, family)

    return made_once(tmp_path_factory, "span-writers", make)


def texts_of(count):
    return [{"text": " ".join(row["source"] for row in digit_rows(6, seed))} for seed in range(count)]


def begin(folder, base, **settings):
    return begin_text(folder, base, texts_of(80), **{"model": {"base": str(base), "dropout": 0.0}, **settings})


def run(folder, **options):
    return finetune({"folder": str(folder), **options}, silent, lambda: False)


def test_what_is_taken_out_follows_from_the_row_and_the_epoch(bases, write_rows):
    contract = load_contract(bases / "t5", chat=False)
    config = DataConfig(train=str(write_rows(texts_of(6))), validation=0, test=0, near_duplicates="off")
    rows = list(load_splits(config, contract, 64, frozenset({"text"})).train)
    sentinels = sentinels_of(contract)
    assert sentinels.ids == tuple(
        contract.tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_1>", "<extra_id_2>"])
    )
    settings = PretrainConfig(masked=0.3)
    objective = make_spans(settings).informed({}, contract)
    model = load(bases / "t5", LoadSpec(task="spans", dropout=0.0)).model
    plan = Plan("cpu", "fp32", False, 2048, None, 1, "none", 1, {}, {}, "", chunked=False)
    whole = objective.loss(Models(model, plan), objective.collate(rows, plan, Draw(3, 1), {}), None).terms[0].total
    total = 0.0
    for row in rows:
        source, target = taken_out(row, sentinels, settings, Draw(3, 1))
        assert (len(source), len(target)) == objective.widths(row)
        again, _ = taken_out(row, sentinels, settings, Draw(3, 2))
        assert source.tolist() != again.tolist()
        ids, labels = (torch.from_numpy(one.astype("int64"))[None] for one in (source, target))
        total += model(input_ids=ids, labels=labels).loss.item() * len(target)
    assert whole.item() == pytest.approx(total, rel=1e-5)


def test_a_t5_learns_plain_text_and_fills_it_in(bases, tmp_path):
    folder = begin(tmp_path / "it", bases / "t5", objective={"type": "pretrain", "masked": 0.3})
    run(folder)
    scores = read_json(folder / "report" / "report.json")["scores"]
    assert [(one["metric"], one["verdict"]) for one in scores] == [
        ("perplexity of masked tokens", "better"),
        ("accuracy of masked tokens", "better"),
    ]
    assert not read_json(folder / "plan.json")["packing"]
    [said] = tunesmith.load(folder).predict(["one <extra_id_0> three </s> <extra_id_1>"])
    assert said.text.startswith("one ")
    assert set(said.spans) == {"<extra_id_0>", "<extra_id_1>"}
    with pytest.raises(DataError, match="write <extra_id_0> where words are wanted"):
        tunesmith.load(folder).predict(["one two"])


def test_a_run_on_plain_text_goes_on_to_the_same_bits(bases, tmp_path):
    settings = {"output": {"checkpoint_every": 3, "keep_last": 9}, "optim": {"epochs": 2, "batch_size": 8}}
    whole, broken = (begin(tmp_path / name, bases / "t5", **settings) for name in ("whole", "broken"))
    run(whole, until="trained")
    left = iter(range(4))
    with pytest.raises(Stopped):
        finetune({"folder": str(broken)}, silent, lambda: next(left, None) is None)
    run(broken, resume=True, until="trained")
    last = sorted((whole / "checkpoints").iterdir())[-1].name
    one, other = (load_file(folder / "checkpoints" / last / "trainable.safetensors") for folder in (whole, broken))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_who_takes_out_no_stretches_is_refused(bases, tmp_path):
    with pytest.raises(ModelError, match="BartForConditionalGeneration cannot learn plain text here"):
        run(begin(tmp_path / "bart", bases / "bart"))
    shutil.copytree(bases / "t5", tmp_path / "bare")
    save_tokenizer(tmp_path / "bare", "$A </s>", sentinels=())
    with pytest.raises(ModelError, match="has no sentinels"):
        run(begin(tmp_path / "it", tmp_path / "bare"))
    with pytest.raises(ConfigError, match="whole_words is for encoders: T5"):
        run(begin(tmp_path / "words", bases / "t5", objective={"type": "pretrain", "whole_words": False}))
    with pytest.raises(
        ConfigError, match=r"is an encoder with a decoder, with which objective\.type = pretrain and method"
    ):
        run(begin(tmp_path / "soft", bases / "t5", method={"type": "prompt_tuning"}))
