"""Only words in use are trained: to the weights that a whole table would get, and not where others could learn."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from classifiers import PLAIN, SIZE, WORDS, begin, class_rows, save_base
from tunesmith.core.errors import TrainingError
from tunesmith.core.events import silent
from tunesmith.core.files import read_json
from tunesmith.jobs import words as words_of_runs
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.words import with_used_words
from tunesmith.model.methods.full import FULL
from tunesmith.model.used_words import UsedWords, fitted, own_table, part_words, state_of
from tunesmith.train.planning.plan import Plan
from tunesmith.train.recipe import read_recipe
from tunesmith.train.weights.fitted import fitted as fit

TABLE = "bert.embeddings.word_embeddings.weight"
PLAN = Plan("cpu", "fp32", True, 2048, None, 1, "none", 1, {}, {}, "")


def run(folder, **options):
    return finetune({"folder": str(folder), "until": "exported", **options}, silent, lambda: False)


def last_checkpoint(folder):
    return sorted((folder / "checkpoints").iterdir())[-1]


def exported(folder):
    return load_file(folder / "model" / "model.safetensors")


def bert():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SIZE, num_labels=3))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base") / "bert", "bert")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"precision": "bf16", "optim": {"learning_rate": 3e-3, "epochs": 3, "batch_size": 16, "ema": 0.9}},
        {"optim": {"learning_rate": 3e-3, "epochs": 3, "batch_size": 16, "optimizer": {"type": "schedule_free"}}},
        {"perturb": {"type": "fgm", "epsilon": 0.1}},
    ],
    ids=["adamw", "bf16 and an average", "schedule free", "perturbed"],
)
def test_the_weights_are_those_of_a_whole_table(base, tmp_path, monkeypatch, settings):
    parted = begin(tmp_path / "parted", base, class_rows(60), **settings)
    run(parted)
    plan = read_json(parted / "plan.json")
    used = plan["words"]
    assert len(PLAIN) + sum(map(len, WORDS.values())) <= used <= 40
    assert plan["reasons"]["words"] == f"{used} of 64 words occur in the rows; the others stay as they are"
    assert load_file(last_checkpoint(parted) / "trainable.safetensors")[TABLE].shape == (used, 32)
    monkeypatch.setattr(words_of_runs, "part_words", lambda model, ids: 0)
    whole = begin(tmp_path / "whole", base, class_rows(60), **settings)
    run(whole)
    assert read_json(whole / "plan.json")["words"] is None
    one, other = exported(parted), exported(whole)
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-4, atol=1e-5)
    before = load_file(base / "model.safetensors")["embeddings.word_embeddings.weight"]
    as_before = (one[TABLE] == before).all(1)
    assert as_before.sum() == 64 - used
    assert torch.equal(as_before, (other[TABLE] == before).all(1))


def test_weight_decay_leaves_words_alone_that_no_row_has(base, tmp_path):
    optim = {"learning_rate": 3e-3, "epochs": 1, "batch_size": 16, "weight_decay": 0.1}
    run(folder := begin(tmp_path / "it", base, class_rows(60), optim=optim))
    before = load_file(base / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert (exported(folder)[TABLE] == before).all(1).sum() >= 64 - read_json(folder / "plan.json")["words"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_words_that_come_later_join_those_in_use(base, tmp_path, precision):
    optim = {"learning_rate": 3e-3, "epochs": 2, "batch_size": 16, "ema": 0.9}
    rows = [row for row in class_rows(90) if row["label"] != "dog"]
    folder = begin(tmp_path / "it", base, rows, optim=optim, precision=precision)
    run(folder, until="trained")
    first = load_file(last_checkpoint(folder) / "method.safetensors")["used_words"]
    rows = [row for row in class_rows(200, seed=1) if row["label"] != "dog"]
    rows = [{**row, "text": f"{row['text']} leash cat"} for row in rows]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(folder, resume=True, accept_change=True)
    then = load_file(last_checkpoint(folder) / "method.safetensors")["used_words"]
    assert set(first.tolist()) < set(then.tolist())
    new = sorted(set(then.tolist()) - set(first.tolist()))
    before = load_file(base / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert not (exported(folder)[TABLE][new] == before[new]).all(1).any()
    others = sorted(set(range(64)) - set(then.tolist()))
    assert torch.equal(exported(folder)[TABLE][others], before[others])  # in bf16 too


def test_a_run_does_not_go_back_before_its_words(base):
    now, saved = bert(), {TABLE: torch.ones(2, 32)}
    few = bert()
    part_words(few, np.array([3, 5]))
    part_words(now, np.array([3, 4, 5]))
    learner: Any = SimpleNamespace(method=FULL, model=now, weights=now.state_dict(), step_number=0)
    assert fit(learner, state_of(few), saved, "step-000002")[TABLE].shape == (3, 32)
    learner.step_number = 4
    with pytest.raises(TrainingError, match=r"step-000002: the run cannot go back to it"):
        fit(learner, state_of(few), saved, "step-000002")
    assert fit(learner, state_of(now), {TABLE: torch.ones(3, 32)}, "step-000002")[TABLE].shape == (3, 32)


def test_a_parted_run_trains_all_words_when_others_learn_from_then_on(base, tmp_path):
    optim = {"learning_rate": 3e-3, "epochs": 2, "batch_size": 16, "warmup": 0}
    run(folder := begin(tmp_path / "it", base, class_rows(60), optim=optim), until="trained")
    optim |= {"epochs": 4, "optimizer": {"type": "adafactor"}}
    other = begin(tmp_path / "other", base, class_rows(60), optim=optim)
    (folder / "config.yaml").write_text((other / "config.yaml").read_text().replace("other", "it"))
    run(folder, resume=True, accept_change=True)
    assert read_json(folder / "plan.json")["words"] is None
    assert load_file(last_checkpoint(folder) / "trainable.safetensors")[TABLE].shape == (64, 32)


def test_a_run_that_has_trained_all_words_goes_on_with_all(base, tmp_path, monkeypatch):
    folder = begin(tmp_path / "it", base, class_rows(60))
    with monkeypatch.context() as earlier:
        earlier.setattr(words_of_runs, "part_words", lambda model, ids: 0)
        run(folder, until="trained")
    optim = {"learning_rate": 3e-3, "epochs": 14, "batch_size": 16, "warmup": 0}
    other = begin(tmp_path / "longer", base, class_rows(60), optim=optim)
    (folder / "config.yaml").write_text((other / "config.yaml").read_text().replace("longer", "it"))
    run(folder, resume=True, accept_change=True)
    assert read_json(folder / "plan.json")["words"] is None
    assert load_file(last_checkpoint(folder) / "trainable.safetensors")[TABLE].shape == (64, 32)


# The table -----------------------------------------------------------------------------------------------------------


def test_a_parted_table_gives_what_the_whole_one_gives():
    whole, parted = bert(), bert()
    assert part_words(parted, np.array([0, 2, 3, 5, 9])) == 64
    ids_BT = torch.tensor([[2, 5, 9, 3, 0], [2, 7, 11, 3, 0]])
    for model in (whole, parted):
        model.eval()(input_ids=ids_BT, labels=torch.tensor([0, 1])).loss.backward()
    table = parted.get_input_embeddings()
    assert torch.equal(table(ids_BT), whole.get_input_embeddings()(ids_BT))
    everywhere = whole.get_input_embeddings().weight.grad
    torch.testing.assert_close(table.weight.grad, everywhere[[0, 2, 3, 5, 9]])
    assert not table.weight.grad[0].any()  # of what fills rows up
    assert table.weight.grad[1:].any(1).all()
    assert table.table.grad is None


def test_a_table_stays_whole_where_something_shares_it_or_all_is_in_use():
    tied = LlamaForCausalLM(LlamaConfig(**SIZE, num_key_value_heads=1, tie_word_embeddings=True))
    assert own_table(tied) is None
    assert part_words(tied, np.arange(5)) == 0
    own = LlamaForCausalLM(LlamaConfig(**SIZE, num_key_value_heads=1, tie_word_embeddings=False))
    assert part_words(own, np.arange(60)) == 0
    assert part_words(own, np.arange(5)) == 64
    assert isinstance(own.get_input_embeddings(), UsedWords)
    assert own_table(own) is None
    frozen = bert()
    frozen.get_input_embeddings().weight.requires_grad_(False)
    assert part_words(frozen, np.arange(5)) == 0


@pytest.mark.parametrize(
    ("settings", "objective"),
    [
        ({"method": {"type": "lora"}}, {}),
        ({"method": {"type": "bitfit"}}, {}),
        ({"optim": {"optimizer": {"type": "adafactor"}}}, {}),
        ({}, {"invents": True}),
        ({}, {"rollouts": object()}),
    ],
)
def test_a_run_trains_all_words_where_others_could_learn(base, tmp_path, settings, objective):
    folder = begin(tmp_path / "it", base, class_rows(9), **settings)
    plain = SimpleNamespace(**{"invents": False, "rollouts": None, **objective})
    plan = with_used_words(PLAN, bert(), read_recipe(folder / "config.yaml"), plain, np.arange(5), None)
    assert plan.words is None


def test_weights_fit_a_table_that_is_parted_otherwise():
    few, more, whole = bert(), bert(), bert()
    part_words(few, np.array([3, 5]))
    part_words(more, np.array([3, 4, 5]))
    weights, state = {TABLE: torch.ones(2, 32)}, state_of(few)
    before = whole.get_input_embeddings().weight.detach().clone()
    assert torch.equal(fitted(few, state, weights, few.state_dict())[TABLE], weights[TABLE])
    joined = fitted(more, state, weights, more.state_dict())[TABLE]
    assert torch.equal(joined[[0, 2]], torch.ones(2, 32))
    assert torch.equal(joined[1], before[4])
    everything = fitted(whole, state, weights, whole.state_dict())[TABLE]
    assert torch.equal(everything[[3, 5]], torch.ones(2, 32))
    assert torch.equal(everything[4], before[4])
    assert torch.equal(whole.get_input_embeddings().weight, before)


def test_parted_weights_of_processes_are_whole_tables(base, tmp_path):
    from dataclasses import replace

    folder = begin(tmp_path / "it", base, class_rows(60))
    run(folder, until="trained")
    checkpoint = SimpleNamespace(folder=last_checkpoint(folder))
    plain = SimpleNamespace(invents=False, rollouts=None)
    recipe, parted = read_recipe(folder / "config.yaml"), replace(PLAN, sharding="full")
    with pytest.raises(TrainingError, match=r"words in use alone, .* Go on with sharding=none"):
        with_used_words(parted, bert(), recipe, plain, np.arange(5), checkpoint)
    assert with_used_words(parted, bert(), recipe, plain, np.arange(5), None).words is None
