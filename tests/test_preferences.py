"""Learning from what people prefer, on the whole road: prepared, planned, held to a reference, resumed, evaluated."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from preferences import PLAN, asked, pair_rows, policy_and_reference, prepared_rows, verdict_rows, with_plan
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import ConfigError, DataError, Stopped, TrainingError
from tunesmith.core.events import Warning as Said
from tunesmith.core.files import read_json, read_lines, write_text
from tunesmith.data.kinds.prepared import Tokens
from tunesmith.jobs.evaluate import evaluate_model
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.start import start_run
from tunesmith.model.load import LoadSpec, load
from tunesmith.train.checkpoint import all_checkpoints
from tunesmith.train.config import OptimConfig
from tunesmith.train.learner import Learner
from tunesmith.train.loop import LoopSettings, train
from tunesmith.train.objective import Models
from tunesmith.train.objectives.dpo import REFERENCE, make_dpo
from tunesmith.train.objectives.kto import distance, make_unpaired, mismatched_pairs
from tunesmith.train.planning.planner import Wishes, complete_plan
from tunesmith.train.precompute import precomputed
from tunesmith.train.preference_config import BcoConfig, DpoConfig, KtoConfig, OrpoConfig
from tunesmith.train.recipe import read_recipe
from tunesmith.train.sources.rows import RowSource
from tunesmith.train.state import TrainerState
from tunesmith.train.weights.placed import Placed
from tunesmith.train.weights.ranks import ALONE

LOG_2 = float(np.log(2))


@pytest.fixture
def pairs(write_rows, tiny):
    return prepared_rows(write_rows, tiny, pair_rows(12), "preference")


@pytest.fixture
def verdicts(write_rows, tiny):
    return prepared_rows(write_rows, tiny, verdict_rows(12), "verdict")


@pytest.fixture
def begin(tmp_path, write_rows, tiny):
    """Makes the folder of a run that is ready to be trained, and its recipe."""

    def make(rows, name="run", **sections):
        path = write_rows(rows, f"{name}.jsonl")
        values = {
            "model": {"base": str(tiny)},
            "objective": {"type": "dpo"},
            "data": {"train": str(path), "test": 0, "validation": 0, "near_duplicates": "off"},
            "optim": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 6, "warmup": 0},
            "evaluate": {"max_new_tokens": 4, "general_ability": "off"},
            "output": {"folder": str(tmp_path), "name": name, "checkpoint_every": 2},
            "precision": "fp32",
            "compile": "off",
        }
        for section, given in sections.items():
            values[section] = {**values[section], **given} if isinstance(values.get(section), dict) else given
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
        write_text(folder / "config.yaml", to_yaml(read_recipe(folder / "recipe.yaml")))
        return folder

    return make


def losses_of(folder):
    return [line["loss"] for line in read_lines(folder / "metrics.jsonl")]


def learned(folder):
    return load_file(all_checkpoints(folder / "checkpoints")[-1] / "trainable.safetensors")


# The loop and the plan -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [DpoConfig(sft_weight=0.3), OrpoConfig(), KtoConfig(), BcoConfig()])
def test_a_step_is_the_same_in_one_batch_and_in_many(tiny, pairs, verdicts, tmp_path, config):
    paired = config.type in ("dpo", "orpo")
    rows = pairs if paired else verdicts
    found = []
    for number, plan in enumerate((with_plan(accumulation=1), with_plan(accumulation=4))):
        policy, _ = policy_and_reference(tiny)
        objective, models = (make_dpo if paired else make_unpaired)(config), Models(policy, plan)
        (tmp_path / str(number)).mkdir()
        objective = precomputed(objective, models, rows, tmp_path / str(number), "base")
        learner = Learner(Placed(policy, plan), OptimConfig(clip=0, warmup=0), 1e-3, 4)
        heard = []
        source = RowSource(rows, objective, plan, 6, 4)
        train(objective, models, learner, source, LoopSettings(4, 99, 99), TrainerState(), [], lambda: None,
              heard.append)  # fmt: skip
        found.append([event.curves for event in heard if hasattr(event, "curves")])
    for one, other in zip(*found, strict=True):
        for curves in (one, other):
            curves.pop("rewards/accuracies")  # in the first step all rewards are 0, but for rounding
        assert one == pytest.approx(other, rel=2e-3, abs=2e-3)
    assert found[0][-1]["loss"] < found[0][0]["loss"]


def test_pairs_are_packed_and_their_logits_never_all_there(tiny, pairs):
    for make, config in ((make_dpo, DpoConfig()),):
        model = load(tiny, LoadSpec()).model
        plan = replace(PLAN, packing=True, chunked=None)
        whole = complete_plan(plan, Wishes("off", "auto", 6, 4), Placed(model, plan), make(config), pairs)
        assert (whole.packing, whole.chunked) == (True, True), whole.reasons


def test_a_mismatched_answer_is_another_rows_and_never_longer_than_a_row(verdicts):
    found = mismatched_pairs(verdicts)
    longest = max(len(row.ids) for row in verdicts)
    for place, row in enumerate(found):
        begin, other = verdicts[place].spans[0][0], verdicts[(place + 1) % len(verdicts)]
        [(first, end)] = row.others[0].spans
        assert np.array_equal(row.others[0].ids[:begin], row.ids[:begin])
        answer = other.ids[other.spans[0][0] :]
        assert np.array_equal(row.others[0].ids[begin:], answer[: longest - begin])
        assert (first, end <= len(row.others[0].ids) <= longest) == (begin, True)
    same = [replace(row, ids=verdicts[0].ids, spans=verdicts[0].spans) for row in verdicts[:3]]
    assert np.array_equal(mismatched_pairs(same)[0].others[0].ids, same[0].ids)  # nobody asks anything else


def test_an_answer_that_one_found_good_and_another_bad_keeps_both_verdicts(write_rows, tiny, tmp_path):
    both = [*verdict_rows(6), {**verdict_rows(6)[1], "label": False}]
    rows = prepared_rows(write_rows, tiny, both, "verdict")
    objective = make_unpaired(KtoConfig())
    bound = precomputed(objective, Models(policy_and_reference(tiny)[1], PLAN), rows, tmp_path, "base")
    arranged = bound.arrange(rows, None)
    assert [row.row.content.good for row in arranged] == [row["label"] for row in both]
    batch = bound.collate(arranged, PLAN, None, {})
    assert batch.good_R.tolist() == [row["label"] for row in both]
    assert batch.reference_R[1] == batch.reference_R[6]


def test_the_distance_from_the_reference_is_that_of_the_whole_step_and_never_below_zero(tiny, verdicts, tmp_path):
    policy, reference = policy_and_reference(tiny)
    objective = make_unpaired(KtoConfig())
    bound = precomputed(objective, Models(reference, PLAN), verdicts, tmp_path, "base")
    rows = bound.arrange(verdicts, None)
    models = Models(policy, PLAN)

    def moved(by, *parts):
        batches = [bound.collate(rows[part], PLAN, None, {}) for part in parts]
        far = [replace(batch, reference_mismatched_R=batch.reference_mismatched_R - by) for batch in batches]
        return distance(models, far, ALONE)

    halves = slice(0, 5), slice(5, None)
    assert moved(1e3, *halves) == pytest.approx(moved(1e3, slice(None)), rel=1e-6) == pytest.approx(1e3, rel=0.2)
    assert moved(-1e3, *halves) == 0


def test_tokens_beyond_the_shorter_answer_are_summed_apart(tiny, pairs):
    objective, [model, _] = make_dpo(DpoConfig()), policy_and_reference(tiny)
    with torch.no_grad():
        sums = objective.precompute(Models(model, PLAN), pairs)[REFERENCE]
        short = [
            replace(row, spans=((row.spans[0][0], row.spans[0][0] + shared),),
                    others=(Tokens(other.ids, ((other.spans[0][0], other.spans[0][0] + shared),)),))
            for row in pairs
            for [other] in [row.others]
            for shared in [min(one.trained for one in row.sequences)]
        ]  # fmt: skip
        alone = objective.precompute(Models(model, PLAN), short)[REFERENCE]
    torch.testing.assert_close(sums[:, ::2], alone[:, ::2], rtol=1e-6, atol=1e-4)
    assert not alone[:, 1::2].any()
    assert ((sums[:, 1::2] != 0).sum(1) <= 1).all()


def test_values_that_are_not_finite_are_refused_with_their_row(tiny, pairs, tmp_path):
    objective = replace(
        make_dpo(DpoConfig()), precompute=lambda models, rows: {REFERENCE: torch.full((len(rows), 4), torch.nan)}
    )
    with pytest.raises(TrainingError, match=r"before training \(reference\) is not finite, as of 12 of 12 rows"):
        precomputed(objective, Models(policy_and_reference(tiny)[0], PLAN), pairs, tmp_path, "base")


# The road ------------------------------------------------------------------------------------------------------------


def test_a_run_is_held_to_its_base_goes_on_to_the_same_bits_and_is_evaluated(begin):
    data = {"test": 0.3, "validation": 0.1}
    whole, broken = (begin(pair_rows(40), name, data=data) for name in ("whole", "broken"))
    result = finetune({"folder": str(whole)}, lambda event: None)
    first = read_lines(whole / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(LOG_2, rel=1e-4)
    assert read_json(whole / "plan.json")["chunked"]
    assert losses_of(whole)[-1] < first["loss"]
    left = iter(range(3))
    with pytest.raises(Stopped):
        finetune({"folder": str(broken), "until": "trained"}, lambda e: None, lambda: next(left, None) is None)
    [kept] = broken.glob("columns-*.safetensors")
    written = kept.stat().st_mtime_ns
    finetune({"folder": str(broken), "until": "trained", "resume": True}, lambda event: None)
    assert kept.stat().st_mtime_ns == written  # what was found of the base is read, not found again
    assert losses_of(broken) == losses_of(whole)
    assert all(torch.equal(tensor, learned(broken)[name]) for name, tensor in learned(whole).items())
    scores = {one["metric"]: one for one in result["scores"]}
    assert {"reward accuracy", "chosen likelier", "log probability margin", "BLEU"} <= scores.keys()
    assert scores["reward accuracy"]["other"]["value"] == 50
    assert scores["reward accuracy"]["score"]["value"] > 80
    assert scores["log probability margin"]["verdict"] == "better"
    report = read_json(whole / "report" / "report.json")
    assert report["samples"][0]["reference"].startswith(("From", "On", "Yes", "Dogs"))


def test_tunesmith_evaluate_reads_pairs(begin, write_rows):
    folder = begin(pair_rows(24))
    finetune({"folder": str(folder), "until": "exported"}, lambda event: None)
    rows = write_rows(pair_rows(60)[30:], "asked.jsonl")
    arguments = {"model": str(folder), "against": read_recipe(folder / "config.yaml").model.base, "data": str(rows),
                 "template": None, "format": None, "columns": {}, "bad_rows": "fail", "rows": 12, "max_new_tokens": 3,
                 "samples": 1, "html": None}  # fmt: skip
    found = evaluate_model(arguments, lambda event: None)["report"]
    scores = {one["metric"]: one for one in found["scores"]}
    assert scores["reward accuracy"]["score"]["rows"] == 12
    assert scores["chosen likelier"]["difference"] is not None


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_the_reference_is_the_base_though_a_method_takes_it_apart(begin, tiny, init):
    """A fresh PiSSA or OLoRA that is switched off is not the base; what is computed before the first step is."""
    folder = begin(pair_rows(12), method={"type": "lora", "init": init, "rank": 4})
    finetune({"folder": str(folder), "until": "trained"}, lambda event: None)
    assert losses_of(folder)[0] == pytest.approx(LOG_2, rel=1e-4)
    [kept] = folder.glob("columns-*.safetensors")
    rows = prepared_rows(lambda rows: folder.parent / "run.jsonl", tiny, pair_rows(12), "preference")
    with torch.no_grad():
        base = make_dpo(DpoConfig()).precompute(Models(load(tiny, LoadSpec()).model, PLAN), rows)[REFERENCE]
    found = load_file(kept)[REFERENCE]
    torch.testing.assert_close(found.sort(0).values, base.sort(0).values, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_soft_prompts_are_part_of_the_reference(begin, method):
    folder = begin(pair_rows(12), method={"type": method, "tokens": 4})
    finetune({"folder": str(folder), "until": "exported"}, lambda event: None)
    assert losses_of(folder)[0] == pytest.approx(LOG_2, rel=1e-4)
    assert losses_of(folder)[-1] != losses_of(folder)[0]


def test_single_answers_are_compared_where_they_were_found_good(begin):
    folder, heard = begin(verdict_rows(40), objective={"type": "kto"}, data={"test": 0.4}), []
    result = finetune({"folder": str(folder)}, heard.append)
    assert any("found good, of" in event.sentence for event in heard if isinstance(event, Said))
    assert "perplexity" in {one["metric"] for one in result["scores"]}
    curves = {name for line in read_lines(folder / "metrics.jsonl") for name in line}
    assert {"kl", "rewards/chosen", "rewards/rejected", "rewards/margins"} <= curves


def test_two_processes_give_the_losses_of_one(begin, monkeypatch):
    """KTO's distance, and what is computed beforehand, are of all rows, whoever computes them."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = []
    for count in (1, 2):
        folder = begin(verdict_rows(18), f"of-{count}", objective={"type": "kto"}, micro_tokens=200, processes=count)
        start_run(read_recipe(folder / "config.yaml"), lambda event: None, until="trained")
        made = max(folder.parent.glob(f"of-{count}*"), key=lambda path: path.stat().st_mtime)
        found.append(read_lines(made / "metrics.jsonl"))
    assert len(found[0]) == 6
    for one, two in zip(*found, strict=True):
        for name in ("loss", "kl", "rewards/margins"):
            assert one[name] == pytest.approx(two[name], rel=1e-3, abs=1e-4)


# What cannot teach ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "sections", "said"),
    [
        ([{**row, "rejected": row["chosen"]} for row in pair_rows(6)], {}, "chosen and rejected are equal"),
        ([{**row, "chosen": "Yes."} for row in pair_rows(6)], {}, "all 6 training rows prefer the same answer"),
        ([{**row, "rejected": "No."} for row in pair_rows(6)], {}, "all 6 training rows reject the same answer"),
        (
            [{**row, "chosen": "word " * 60 + str(i), "rejected": "word " * 60 + "x" * (i + 1)}
             for i, row in enumerate(pair_rows(6))],
            {"data": {"max_length": 60, "over_long": "truncate"}},
            "both answers are the same tokens after the cut",
        ),
        (
            [{**row, "prompt": "word " * 80 + row["prompt"]} for row in pair_rows(6)],
            {"data": {"max_length": 60, "over_long": "truncate"}},
            "no row has a trained token within 60 tokens",
        ),
        ([{"prompt": asked(i), "completion": f"Fine {i}.", "label": True} for i in range(6)],
         {"objective": {"type": "kto"}}, "all 6 training rows were found good"),
        ([{"prompt": asked(i), "completion": f"Bad {i}.", "label": False} for i in range(6)],
         {"objective": {"type": "bco"}}, "all 6 training rows were found bad"),
        (verdict_rows(6), {}, "holds verdict rows, which this objective cannot train on. It takes preferences"),
        (pair_rows(6), {"data": {"train_on": "all"}}, "data.train_on = all do not go together"),
        (pair_rows(6), {"perturb": {"type": "neftune"}}, "perturb.type = neftune do not go together"),
        (pair_rows(6), {"processes": 2, "sharding": "full"}, "sharding = full do not go together"),
        (pair_rows(6), {"evaluate": {"metric": "accuracy"}}, "it is one of loss, rewards/accuracies"),
    ],
)  # fmt: skip
def test_what_cannot_teach_is_refused(begin, rows, sections, said):
    folder = begin(rows, **sections)
    with pytest.raises((DataError, ConfigError)) as refused:
        finetune({"folder": str(folder)}, lambda event: None)
    errors = [str(refused.value)]
    if (folder / "ledger.json").exists():
        errors.append(json.dumps(read_json(folder / "ledger.json")))
    assert said in " ".join(errors)


def test_few_answers_of_one_sort_are_spoken_of(begin):
    rows, heard = [{**row, "label": i != 3} for i, row in enumerate(verdict_rows(12))], []
    folder = begin(rows, objective={"type": "kto"})
    finetune({"folder": str(folder), "until": "trained"}, heard.append)
    assert any("objective.undesirable_weight" in event.sentence for event in heard if isinstance(event, Said))
