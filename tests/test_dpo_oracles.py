"""TRL's trainers as oracles: on the same model, reference and rows their losses and gradients are ours."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from preferences import PLAN, pair_rows, policy_and_reference, prepared_rows, verdict_rows, with_plan
from tunesmith.core.errors import ConfigError
from tunesmith.model.attention import PACKED
from tunesmith.train import loss as losses
from tunesmith.train.objective import Draw, Models, total_units
from tunesmith.train.objectives.dpo import make_dpo
from tunesmith.train.objectives.kto import make_unpaired, mismatched_pairs, next_others
from tunesmith.train.objectives.reward import make_reward
from tunesmith.train.preference_config import (
    BcoConfig,
    CpoConfig,
    DpoConfig,
    KtoConfig,
    OrpoConfig,
    RewardConfig,
    SimpoConfig,
)
from tunesmith.train.validate import validate
from tunesmith.train.weights.ranks import ALONE

CLOSE = 1e-5
NO_METRICS = SimpleNamespace(
    device="cpu", gather=lambda one: one, gather_for_metrics=lambda one: one, unwrap_model=lambda one: one
)
VARIANTS = {
    "sigmoid": (DpoConfig(beta=0.3), {}),
    "hinge": (DpoConfig(loss="hinge", beta=0.02), {"loss_types": ["hinge"]}),
    "ipo": (DpoConfig(loss="ipo", beta=0.2), {"loss_types": ["ipo"]}),
    "robust": (DpoConfig(loss="robust", label_smoothing=0.2), {"loss_types": ["robust"], "label_smoothing": 0.2}),
    "shorter": (DpoConfig(length_desensitised=0.4), {"ld_alpha": 0.4}),
    "shorter ipo": (DpoConfig(loss="ipo", length_desensitised=0.0), {"loss_types": ["ipo"], "ld_alpha": 0.0}),
    "sft mix": (DpoConfig(sft_weight=0.7), {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}),
}
PLANS = {"padded": PLAN, "packed": with_plan(packing=True), "chunked": with_plan(packing=True, chunked=True)}


@pytest.fixture
def pairs(write_rows, tiny):
    return prepared_rows(write_rows, tiny, pair_rows(6), "preference")


@pytest.fixture
def verdicts(write_rows, tiny):
    return prepared_rows(write_rows, tiny, verdict_rows(7), "verdict")


def ours(objective, policy, reference, rows, plan=PLAN):
    """Loss and gradients of the rows in two micro-batches."""
    rows = list(objective.beside(rows)) if objective.beside else list(rows)
    for model in (policy, reference):
        model.set_attn_implementation(PACKED if plan.packing else "sdpa")
    values = {}
    if objective.precompute is not None:
        with torch.no_grad():
            values = objective.precompute(Models(reference, plan), rows)
    parts = [slice(0, 2), slice(2, None)]
    micro = [
        objective.collate(rows[part], plan, Draw(), {name: one[part] for name, one in values.items()}) for part in parts
    ]
    models = Models(policy, plan)
    whole = objective.before(models, micro, ALONE)
    scale = total_units(batch.units for batch in micro)
    policy.zero_grad()
    total = 0.0
    for batch in micro:
        found = sum(term.total / scale[term.unit] for term in objective.loss(models, batch, whole).terms)
        found.backward()
        total += found.item()
    return total, {name: weight.grad.clone() for name, weight in policy.named_parameters()}


def same(found, policy, theirs, close=CLOSE):
    """Their loss, and the gradient of each weight: `theirs` has just gone backward."""
    total, gradients = found
    assert total == pytest.approx(theirs.item(), rel=close)
    for name, weight in policy.named_parameters():
        off = (gradients[name] - weight.grad).norm() / weight.grad.norm().clamp(min=1e-12)
        assert off < 10 * close, (name, off)  # of the smallest gradients more is rounding


def trainer(kind, policy, **attributes):
    """A trainer of TRL's with no more than its loss needs."""
    made = object.__new__(kind)
    metrics, options = {"train": defaultdict(list), "eval": defaultdict(list)}, {"gradient_checkpointing_kwargs": None}
    common = {"model": policy, "accelerator": NO_METRICS, "is_encoder_decoder": False, "aux_loss_enabled": False,
              "_metrics": metrics, "_total_train_tokens": 0, "_tp_size": 1, "pad_token_id": 0,
              "args": SimpleNamespace(**options)}  # fmt: skip
    made.__dict__.update({**common, **attributes})
    return made


def parts(one):
    """A sequence's prompt and answer, without what the template writes behind its end."""
    [(begin, end)] = one.spans
    return one.ids[:begin].tolist(), one.ids[begin:end].tolist()


def trl_pairs(rows):
    examples = []
    for row in rows:
        (prompt, chosen), (again, rejected) = map(parts, row.sequences)
        assert prompt == again
        examples.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    return examples


@pytest.mark.parametrize("way", PLANS)
@pytest.mark.parametrize("name", VARIANTS)
def test_losses_of_pairs_are_those_of_trl(tiny, pairs, name, way, monkeypatch):
    from trl import DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference
    from trl.trainer.utils import add_fused_lm_head

    monkeypatch.setitem(losses.LOGITS_PER_PIECE, "cpu", 3 * 4096)
    config, settings = VARIANTS[name]
    policy, reference = policy_and_reference(tiny)
    found = ours(make_dpo(config), policy, reference, pairs, PLANS[way])
    for model in (policy, reference):
        model.set_attn_implementation("sdpa")
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    usual = {"loss_types": ["sigmoid"], "label_smoothing": 0.0, "ld_alpha": None, "f_divergence_type": "reverse_kl"}
    usual |= {"use_weighting": False, "precompute_ref_logps": False, "ref_model": reference, "beta": config.beta}
    usual |= settings
    made = trainer(DPOTrainer, policy, **{"loss_weights": [1.0] * len(usual["loss_types"]), **usual})
    policy.zero_grad()
    theirs = made._compute_loss(policy, DataCollatorForPreference(pad_token_id=0)(trl_pairs(pairs)), False)
    theirs.backward()
    same(found, policy, theirs)


def labelled(rows):
    """A batch as CPO and ORPO have it."""
    batch = {}
    for side, place in (("chosen", 0), ("rejected", 1)):
        found = [row.sequences[place] for row in rows]
        longest = max(len(one.ids) for one in found)
        for key, fill, make in (
            ("input_ids", 0, lambda one: one.ids.tolist()),
            ("attention_mask", 0, lambda one: [1] * len(one.ids)),
            ("labels", -100, lambda one: [id if told else -100 for id, told in zip(one.ids, one.mask, strict=True)]),
        ):
            lists = [make(one) for one in found]
            batch[f"{side}_{key}"] = torch.tensor([one + [fill] * (longest - len(one)) for one in lists])
    return batch


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (SimpoConfig(), {"loss_type": "simpo", "simpo_gamma": 1.0, "cpo_alpha": 0.0}),
        (CpoConfig(label_smoothing=0.1), {"loss_type": "sigmoid", "label_smoothing": 0.1, "cpo_alpha": 1.0}),
        (CpoConfig(sft_weight=0.0, beta=0.02), {"loss_type": "sigmoid", "cpo_alpha": 0.0}),
    ],
)
def test_losses_without_a_reference_are_those_of_trl(tiny, pairs, config, settings):
    from trl.experimental.cpo import CPOTrainer

    policy, _ = policy_and_reference(tiny)
    found = ours(make_dpo(config), policy, policy, pairs)
    made = trainer(CPOTrainer, policy, **{"alpha": 0.0, "beta": config.beta, "label_smoothing": 0.0, **settings})
    policy.zero_grad()
    theirs, _ = made.get_batch_loss_metrics(policy, labelled(pairs))
    theirs.backward()
    same(found, policy, theirs)


def test_orpos_odds_are_those_of_trl_and_its_likelihood_that_of_the_answers(tiny, pairs):
    """TRL's likelihood is of the prompt too; the paper's is of the answer."""
    from trl.experimental.orpo import ORPOTrainer

    policy, _ = policy_and_reference(tiny)
    config = OrpoConfig(weight=0.6)
    found = ours(make_dpo(config), policy, policy, pairs)
    made, batch = trainer(ORPOTrainer, policy, beta=config.weight, padding_value=0), labelled(pairs)
    policy.zero_grad()
    chosen, rejected, *_ = made.concatenated_forward(policy, batch)
    odds = made.odds_ratio_loss(chosen, rejected)[0]
    nll = policy(input_ids=batch["chosen_input_ids"], attention_mask=batch["chosen_attention_mask"],
                 labels=batch["chosen_labels"]).loss  # fmt: skip
    theirs = nll - odds.mean()
    theirs.backward()
    same(found, policy, theirs)


@pytest.mark.parametrize("way", PLANS)
def test_ktos_loss_is_that_of_trl(tiny, verdicts, way):
    from trl import KTOTrainer
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference
    from trl.trainer.utils import add_fused_lm_head

    config = KtoConfig(desirable_weight=1.3, undesirable_weight=0.8)
    policy, reference = policy_and_reference(tiny)
    found = ours(make_unpaired(config), policy, reference, verdicts, PLANS[way])
    for model in (policy, reference):
        model.set_attn_implementation("sdpa")
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    examples = []
    for row in mismatched_pairs(verdicts):
        (prompt, answer), (again, other) = map(parts, row.sequences)
        assert prompt == again != other
        examples.append({"prompt_ids": prompt, "completion_ids": answer, "KL_completion_ids": other,
                         "label": row.row.content.good})  # fmt: skip
    made = trainer(KTOTrainer, policy, calculate_KL=True, precompute_ref_logps=False, ref_model=reference,
                   loss_type="kto", beta=config.beta, desirable_weight=1.3, undesirable_weight=0.8)  # fmt: skip
    policy.zero_grad()
    theirs = made._compute_loss(policy, DataCollatorForUnpairedPreference(pad_token_id=0)(examples), False)
    theirs.backward()
    assert made._metrics["eval"]["kl"][0] > 0
    same(found, policy, theirs)


def answer_logprobs(model, rows):
    """Of each sequence's answer, one at a time, in five lines."""
    found = []
    for one in rows:
        ids = torch.from_numpy(one.ids.astype("int64"))[None]
        all_TV = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        found.append((all_TV.gather(1, ids[0, 1:, None])[:, 0] * torch.from_numpy(one.mask[1:])).sum())
    return torch.stack(found)


def test_bcos_loss_is_that_of_a_classifier_whose_border_lies_half_way(tiny, verdicts):
    policy, reference = policy_and_reference(tiny)
    found = ours(make_unpaired(BcoConfig(beta=0.2)), policy, reference, verdicts)
    policy.zero_grad()
    reward = 0.2 * (answer_logprobs(policy, verdicts) - answer_logprobs(reference, verdicts).detach())
    good = torch.tensor([row.row.content.good for row in verdicts])
    shift = (reward[good].mean() + reward[~good].mean()).detach() / 2
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(reward - shift, good.float())
    theirs.backward()
    same(found, policy, theirs)


def test_bcos_border_lies_half_way_to_the_start_where_all_are_of_one_sort(tiny, verdicts):
    policy, reference = policy_and_reference(tiny)
    good = [row for row in verdicts if row.row.content.good]
    found = ours(make_unpaired(BcoConfig(beta=0.2)), policy, reference, good)
    policy.zero_grad()
    reward = 0.2 * (answer_logprobs(policy, good) - answer_logprobs(reference, good).detach())
    theirs = -torch.nn.functional.logsigmoid(reward - reward.mean().detach() / 2).mean()
    theirs.backward()
    same(found, policy, theirs)


@pytest.mark.parametrize("config", [BcoConfig(), KtoConfig()], ids=lambda one: one.type)
def test_a_validation_is_one_step_however_it_is_cut(tiny, verdicts, config):
    policy, reference = policy_and_reference(tiny)
    objective = make_unpaired(config)
    rows = list(objective.beside(verdicts)) if objective.beside else verdicts
    with torch.no_grad():
        values = objective.precompute(Models(reference, PLAN), rows)
    learner = SimpleNamespace(model=policy, ranks=ALONE, with_average=contextlib.nullcontext)

    def curves(size):
        parts = [slice(start, start + size) for start in range(0, len(rows), size)]
        batches = [
            objective.collate(rows[part], PLAN, Draw(), {name: one[part] for name, one in values.items()})
            for part in parts
        ]
        return validate(objective, Models(policy, PLAN), learner, batches)

    assert curves(1) == pytest.approx(curves(len(rows)), rel=1e-5)


def test_smoothed_dpo_is_the_mean_over_both_orders(tiny, pairs):
    policy, reference = policy_and_reference(tiny)
    found = ours(make_dpo(DpoConfig(label_smoothing=0.25)), policy, reference, pairs)
    policy.zero_grad()
    every = [one for row in pairs for one in row.sequences]
    ratio = answer_logprobs(policy, every) - answer_logprobs(reference, every).detach()
    scaled = 0.1 * (ratio[::2] - ratio[1::2])
    log_sigmoid = torch.nn.functional.logsigmoid
    theirs = -(0.75 * log_sigmoid(scaled) + 0.25 * log_sigmoid(-scaled)).mean()
    theirs.backward()
    same(found, policy, theirs)


@pytest.mark.parametrize("way", ["padded", "packed"])
@pytest.mark.parametrize(("center", "margins"), [(0.0, False), (0.05, True)])
def test_a_reward_models_loss_is_that_of_trl(tiny, write_rows, center, margins, way):
    from trl import RewardTrainer
    from trl.trainer.reward_trainer import DataCollatorForPreference

    rows = [{**row, **({"margin": 0.3 * i} if margins else {})} for i, row in enumerate(pair_rows(5))]
    pairs = prepared_rows(write_rows, tiny, rows, "preference")
    policy, _ = policy_and_reference(tiny, "reward")
    found = ours(make_reward(RewardConfig(center_rewards=center)), policy, policy, pairs, PLANS[way])
    policy.set_attn_implementation("sdpa")
    examples = []
    for i, row in enumerate(pairs):
        chosen, rejected = (one.ids.tolist() for one in row.sequences)
        more = {"margin": 0.3 * i} if margins else {}
        examples.append({"chosen_ids": chosen, "rejected_ids": rejected, **more})
    made = trainer(RewardTrainer, policy, args=SimpleNamespace(center_rewards_coefficient=center or None))
    inputs = DataCollatorForPreference(pad_token_id=0)(examples)
    margin = {"margin": inputs.pop("margin")} if margins else {}
    policy.zero_grad()
    forward, policy.forward = policy.forward, partial(call_without, policy.forward, "margin")
    theirs = made.compute_loss(policy, {**inputs, **margin})
    policy.forward = forward
    theirs.backward()
    same(found, policy, theirs)


def call_without(call, name, **arguments):
    """TRL gives the model all of a batch, which a Llama does not take."""
    return call(**{key: value for key, value in arguments.items() if key != name})


def test_each_prompt_is_mismatched_with_the_next_other_one():
    assert next_others([b"a", b"a", b"b", b"c", b"a"]) == [2, 2, 3, 4, 2]
    assert next_others([b"a", b"a"]) == [0, 1]
    assert next_others([b"a"]) == [0]
    assert next_others([b"a", b"b"]) == [1, 0]


def test_settings_that_mean_nothing_together_are_refused():
    from pydantic import ValidationError

    for values in ({"loss": "hinge", "label_smoothing": 0.1}, {"loss": "robust"}):
        with pytest.raises((ValidationError, ConfigError)):
            DpoConfig(**values)
