"""Learning from rewards of a model's own answers: drawn, scored, learned from, resumed, evaluated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import yaml
from peft import LoHaConfig, OFTConfig, get_peft_model
from safetensors.torch import load_file

from conftest import many_rows
from preferences import PLAN, with_plan
from tunesmith.core.config import to_yaml
from tunesmith.core.errors import ConfigError, Stopped, TrainingError
from tunesmith.core.events import Warning as Said
from tunesmith.core.files import read_json, read_lines, write_text
from tunesmith.data.load import load_rows
from tunesmith.data.prepare import prepare
from tunesmith.jobs.finetune import finetune
from tunesmith.jobs.own_rewards import refuse_dropout
from tunesmith.jobs.start import start_run
from tunesmith.jobs.trained import changed_model
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.soft import soft_tokens
from tunesmith.prompt.load import load_contract
from tunesmith.score.rewards.reward import Scored
from tunesmith.train.checkpoint import all_checkpoints
from tunesmith.train.config import OptimConfig
from tunesmith.train.learner import Learner
from tunesmith.train.loop import LoopSettings, train
from tunesmith.train.objective import Models
from tunesmith.train.objectives.policy import make_policy
from tunesmith.train.planning.compiled import as_they_are, compile_layers
from tunesmith.train.policy_config import GrpoConfig, SamplingConfig
from tunesmith.train.recipe import read_recipe
from tunesmith.train.sampling import Sampler
from tunesmith.train.sources.rollouts import QUOTED, RolloutSource
from tunesmith.train.start import Start
from tunesmith.train.state import TrainerState
from tunesmith.train.weights.placed import Placed

SHORT = [{"type": "length", "most": 3, "unit": "words"}]
MOST = 8


@dataclass(frozen=True)
class Worth:
    """Rewards as a test has them: of each answer's text and place."""

    of: object

    def score(self, samples):
        found = [self.of(place, sample) for place, sample in enumerate(samples)]
        return [Scored(value, {}, "" if value is not None else "nobody knows") for value in found]


def prompts(write_rows, tiny, count=8):
    read = load_rows(str(write_rows(many_rows(count))))
    return list(prepare(read.rows, read.reading.ledgers, load_contract(tiny), 512, frozenset({"chat"})))


def source_of(tiny, rows, worth, heard=None, plan=PLAN, batch_size=4, rate=1e-3, **config):
    """A source of answers, and the learner of their policy."""
    config = {"rewards": SHORT, "samples": 3, "sampling": SamplingConfig(max_new_tokens=MOST), **config}
    objective = make_policy(GrpoConfig(**config))
    model = load(tiny, LoadSpec()).model
    learner = Learner(Placed(model, plan), OptimConfig(clip=0, warmup=0), rate, 24)
    contract = load_contract(tiny)
    sampler = Sampler(model, contract, objective.rollouts.config.sampling, Worth(worth), None, False)
    report = (lambda event: None) if heard is None else heard.append
    source = RolloutSource(rows, objective, Models(model, plan), Start(model), sampler, batch_size, 8, 0, report=report)
    return source, learner, objective


def steps_of(source, learner, objective, count, heard):
    settings = LoopSettings(count, 99, 99)
    train(objective, source.models, learner, source, settings, TrainerState(), [], lambda: None, heard.append)
    return [event.curves for event in heard if hasattr(event, "curves")]


@pytest.fixture
def begin(tmp_path, write_rows, tiny):
    """Makes the folder of a run that is ready to be trained."""

    def make(name="run", rows=None, **sections):
        path = write_rows(rows or many_rows(16), f"{name}.jsonl")
        values = {
            "model": {"base": str(tiny)},
            "objective": {"type": "grpo", "rewards": SHORT, "samples": 3, "sampling": {"max_new_tokens": MOST}},
            "data": {"train": str(path), "test": 0, "validation": 0, "near_duplicates": "off"},
            "optim": {"learning_rate": 1e-3, "steps": 6, "batch_size": 4, "warmup": 0},
            "evaluate": {"max_new_tokens": 4, "general_ability": "off"},
            "output": {"folder": str(tmp_path), "name": name, "checkpoint_every": 1, "keep_last": 9},
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


def learned(folder):
    return load_file(all_checkpoints(folder / "checkpoints")[-1] / "trainable.safetensors")


# Turns ---------------------------------------------------------------------------------------------------------------


def test_answers_are_drawn_by_the_weights_of_this_step(tiny, write_rows):
    rows = prompts(write_rows, tiny)
    source, learner, _ = source_of(tiny, rows, lambda place, sample: float(place))
    asked = [(place, rows[place], 7 + place) for place in range(4)]
    first, again = source._draw(asked, 2), source._draw(asked, 2)
    assert [one.ids for one in first] == [one.ids for one in again]  # no chance but the seed's
    with torch.no_grad():
        for weight in learner.model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    changed = source._draw(asked, 2)
    assert [one.ids for one in first] != [one.ids for one in changed]
    fresh, _, _ = source_of(tiny, rows, lambda place, sample: 0.0)
    fresh.sampler.model.load_state_dict(learner.model.state_dict())
    assert [one.ids for one in fresh._draw(asked, 2)] == [one.ids for one in changed]


def test_an_answer_depends_on_no_other_prompt(tiny, write_rows):
    rows = prompts(write_rows, tiny)
    source, _, _ = source_of(tiny, rows, lambda place, sample: 0.0)
    asked = [(place, rows[place], 100 * place) for place in range(8)]
    whole = source._draw(asked, 3)
    alone = [one for each in asked for one in source._draw([each], 3)]
    assert [one.ids for one in whole] == [one.ids for one in alone]


@pytest.mark.parametrize(("passes", "way"), [(1, {"packing": True, "chunked": True}), (2, {})])
def test_what_is_worth_more_becomes_likelier(tiny, write_rows, passes, way):
    """Answers of a model that knows nothing, by how often they have a letter."""
    rows, plan = prompts(write_rows, tiny), with_plan(**way)
    source, learner, objective = source_of(
        tiny, rows, lambda place, sample: sample.answer.count("e") / 10, plan=plan, passes=passes, beta=0.0,
        max_kl=None, batch_size=8, samples=8, rate=2e-2,
    )  # fmt: skip
    curves = steps_of(source, learner, objective, 10 * passes, [])
    assert curves[-1]["reward"] > 1.2 * curves[0]["reward"]


def test_a_step_is_the_same_in_one_batch_and_in_many(tiny, write_rows):
    rows, found = prompts(write_rows, tiny), []
    for accumulation in (1, 4):
        plan = with_plan(accumulation=accumulation)
        source, learner, objective = source_of(tiny, rows, lambda place, sample: len(sample.answer) / 40, plan=plan)
        found.append(steps_of(source, learner, objective, 3, []))
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=2e-3, abs=2e-3)


def test_what_cannot_be_scored_is_left_out_and_counted(tiny, write_rows):
    rows, heard = prompts(write_rows, tiny), []
    source, _, objective = source_of(
        tiny, rows, lambda place, sample: None if place % 3 == 1 else float(place % 2), heard
    )
    [micro] = [next(iter(source.steps()))]
    assert sum(batch.units["samples"] for batch in micro) == 8  # of 12
    said = [event.sentence for event in heard if isinstance(event, Said)]
    assert any("4 of 12 answers are left out" in one and "nobody knows" in one for one in said)
    found = objective.curves(sums_of(objective, source.models, micro), units_of(micro))
    assert found["left out"] == pytest.approx(1 / 3)
    assert found["reward"] == pytest.approx(np.mean([place % 2 for place in range(12) if place % 3 != 1]))


def sums_of(objective, models, micro):
    sums = {"loss": np.zeros(())}
    for batch in micro:
        for name, value in objective.loss(models, batch, None).counts.items():
            sums[name] = sums.get(name, np.zeros(())) + np.asarray(value.detach().numpy(), np.float64)
    return sums


def units_of(micro):
    return {unit: sum(batch.units[unit] for batch in micro) for unit in ("samples", "tokens")}


def test_a_step_without_any_score_is_left_out_and_says_so(tiny, write_rows):
    rows, heard = prompts(write_rows, tiny), []
    source, learner, objective = source_of(tiny, rows, lambda place, sample: None, heard)
    before = {name: weight.detach().clone() for name, weight in learner.model.named_parameters()}
    steps_of(source, learner, objective, 2, heard)
    said = [event.sentence for event in heard if isinstance(event, Said)]
    assert sum("is left out: it has no samples and no tokens" in one for one in said) == 2
    assert learner.step_number == 2
    assert all(torch.equal(before[name], weight) for name, weight in learner.model.named_parameters())


def test_equal_rewards_are_told(tiny, write_rows):
    heard = []
    source, _, _ = source_of(tiny, prompts(write_rows, tiny), lambda place, sample: 1.0, heard)
    next(iter(source.steps()))
    [said] = [event.sentence for event in heard if isinstance(event, Said)]
    assert "of 100% of the prompts all answers are worth the same" in said


def test_a_policy_that_runs_away_is_stopped(tiny, write_rows):
    source, learner, _ = source_of(tiny, prompts(write_rows, tiny), lambda place, sample: float(place % 2), max_kl=0.01)
    with torch.no_grad():
        for weight in learner.model.parameters():
            weight.mul_(1.3)
    with pytest.raises(TrainingError, match=r"step 1: answers have moved .* objective.max_kl = 0.01"):
        next(iter(source.steps()))


@pytest.mark.parametrize(
    "method", [{"type": "full"}, {"type": "lora"}, {"type": "lora", "init": "pissa"}, {"type": "lora", "init": "olora"}]
)
def test_the_reference_is_the_start_whatever_the_method(tiny, tmp_path, method):
    recipe = {"model": {"base": str(tiny)}, "method": method, "data": {"train": "hotel"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    model = changed_model(load(tiny, LoadSpec()).model, read_recipe(tmp_path / "recipe.yaml")).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before, start = model(input_ids=ids).logits, Start(model)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.05)
        after = model(input_ids=ids).logits
        with start.in_place():
            assert torch.equal(model(input_ids=ids).logits, before)
        assert torch.equal(model(input_ids=ids).logits, after)
    assert not torch.equal(after, before)


@pytest.mark.parametrize(
    ("method", "quantize", "compiled"),
    [
        ({"type": "full"}, "none", False), ({"type": "lora"}, "none", False), ({"type": "lora"}, "int8", False),
        ({"type": "lora"}, "nf4", False), ({"type": "prompt_tuning", "tokens": 3}, "none", False),
        pytest.param({"type": "lora"}, "none", True, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_what_is_drawn_is_as_likely_as_the_model_says(tiny, tmp_path, write_rows, method, quantize, compiled):
    """After its weights have changed, whatever stands between the engine and the model."""
    recipe = {"model": {"base": str(tiny), "quantize": quantize}, "method": method, "data": {"train": "hotel"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    model = changed_model(load(tiny, LoadSpec(quantize=quantize)).model, read_recipe(tmp_path / "recipe.yaml"))
    if compiled:
        compile_layers(model)
    sampling = SamplingConfig(max_new_tokens=MOST)
    sampler = Sampler(model, load_contract(tiny), sampling, Worth(lambda place, sample: 0.0), None, compiled)
    asked = [(place, row, place) for place, row in enumerate(prompts(write_rows, tiny, 3))]
    sampler.draw(asked, 2)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    soft = soft_tokens(model)
    for one in sampler.draw(asked, 2):
        ids = torch.tensor([[*soft, *one.ids]])
        with torch.no_grad(), as_they_are():
            shares = model.eval()(input_ids=ids).logits[0].float().log_softmax(-1)
        begin = len(soft) + one.begin
        said = shares[begin - 1 : -1].gather(1, ids[0, begin:, None])[:, 0]
        np.testing.assert_allclose(one.drawn, said, atol=2e-4)
    assert bool(sampler.reason) == (quantize != "none")


def test_a_validation_without_any_score_is_none(tiny, write_rows):
    rows, heard = prompts(write_rows, tiny), []
    source, learner, objective = source_of(tiny, rows, lambda place, sample: None)
    state = TrainerState(best=-3.0, best_step=0)
    settings = LoopSettings(1, 1, 99, metric="reward")
    watched = source.watched(rows[:4])
    train(objective, source.models, learner, source, settings, state, watched, lambda: None, heard.append)
    assert state.best == -3.0
    assert any("the validation says nothing of reward" in event.sentence for event in heard if isinstance(event, Said))


# The road ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grpo", "rloo", "ppo"])
def test_a_run_goes_on_to_the_same_bits_in_the_midst_of_a_turn(begin, kind):
    objective = {"type": kind, "passes": 2, "parts": 2}
    if kind == "ppo":
        objective |= {"samples": 1, "target_kl": 1.0}
    whole, broken = (begin(name, objective=objective) for name in ("whole", "broken"))
    finetune({"folder": str(whole), "until": "trained"}, lambda event: None)
    for taken in (1, 2, 1):  # steps, after which it stands within a turn, within the same one, between two
        left = iter(range(taken - 1, -1, -1))
        with pytest.raises(Stopped):
            finetune({"folder": str(broken), "resume": True, "until": "trained"}, lambda event: None,
                     lambda left=left: next(left) == 0)  # fmt: skip
    finetune({"folder": str(broken), "resume": True, "until": "trained"}, lambda event: None)
    one, other = learned(whole), learned(broken)
    assert all(torch.equal(one[name], other[name]) for name in one)
    metrics = [[{**line, "time": 0, "seconds": 0, "tokens_per_second": 0, "memory_bytes": 0}
                for line in read_lines(folder / "metrics.jsonl")] for folder in (whole, broken)]  # fmt: skip
    assert metrics[0] == metrics[1]


def test_a_run_from_recipe_to_report(begin, in_process):
    folder = begin("ppo", objective={"type": "ppo", "samples": 2, "passes": 2, "sampling": {"max_new_tokens": MOST}},
                   data={"test": 0.25, "validation": 0.25}, evaluate={"every": 2, "general_ability": "off"},
                   method={"type": "lora"})  # fmt: skip
    heard = []
    start_run(read_recipe(folder / "recipe.yaml"), heard.append)
    ran = next(path for path in folder.parent.iterdir() if path.name.startswith("ppo-"))
    report = read_json(ran / "report" / "report.json")
    assert report["scores"][0]["metric"] == "reward"
    assert 0 <= report["scores"][0]["score"]["value"] <= 1
    assert "final reward" in (ran / "report" / "report.html").read_text()
    validations = [event for event in heard if type(event).__name__ == "Validation"]
    assert validations
    assert all(0 <= event.curves["reward"] <= 1 for event in validations)
    names = load_file(ran / "model" / "adapter_model.safetensors")
    assert not any("value_head" in name for name in names)
    saved = learned(ran)
    assert any("value_head" in name for name in saved)


def test_prompts_without_answers_are_enough(begin, in_process):
    rows = [{"messages": [{"role": "user", "content": f"What is {i} and one?"}], "sum": str(i + 1)} for i in range(30)]
    objective = {"rewards": [{"type": "number", "reference": "{{item.sum}}"}, *SHORT]}
    folder = begin("sums", rows, objective=objective, data={"test": 0.4, "validation": 0})
    start_run(read_recipe(folder / "recipe.yaml"), lambda event: None)
    ran = next(path for path in folder.parent.iterdir() if path.name.startswith("sums-"))
    names = [score["metric"] for score in read_json(ran / "report" / "report.json")["scores"]]
    assert names == ["reward", "ends by itself", "answer length"]
    lines = read_lines(ran / "metrics.jsonl")
    assert {"rewards/number", "rewards/length"} <= set(lines[-1])


def test_dropout_is_refused(tiny):
    model = load(tiny, LoadSpec()).model
    refuse_dropout(model)
    model.model.layers[0].extra = torch.nn.Dropout(0.1)
    with pytest.raises(ConfigError, match=r"model.dropout=0, and method.dropout=0 or method.rank_dropout=0"):
        refuse_dropout(model)


@pytest.mark.parametrize("config", [
    LoHaConfig(r=2, rank_dropout=0.1, target_modules=["q_proj"]),
    OFTConfig(r=0, oft_block_size=4, module_dropout=0.1, target_modules=["q_proj"]),
], ids=lambda one: type(one).__name__)  # fmt: skip
def test_dropout_that_is_no_layer_of_torch_is_refused_too(tiny, config):
    changed = get_peft_model(load(tiny, LoadSpec()).model, config)
    with pytest.raises(ConfigError, match="dropout makes that noise"):
        refuse_dropout(changed)


def test_reasons_that_differ_in_what_they_quote_are_one_kind():
    said = [f"judge: the judge answers {text!r}, and not" for text in ("I'd say 3", 'the "best" one', "no")]
    assert len({QUOTED.sub("...", one) for one in said}) == 1
    assert QUOTED.sub("...", "number: no number is there") != QUOTED.sub("...", said[0])


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"objective": {"rewards": [{"type": "string", "reference": "{{item.nowhere}}"}]}}, "nowhere"),
        ({"perturb": {"type": "fgm"}}, "perturb.type = fgm do not go together"),
        ({"data": {"replay": "ember-general"}}, "data.replay and objective.type = grpo"),
        ({"evaluate": {"metric": "loss"}}, "evaluate.metric = loss: with objective.type = grpo it is one of reward"),
    ],
)
def test_what_does_not_fit_is_refused(begin, sections, sentence):
    folder = begin("unfit", **sections)
    with pytest.raises(ConfigError, match=sentence):
        finetune({"folder": str(folder)}, lambda event: None)
