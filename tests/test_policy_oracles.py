"""Losses of rewarded answers are TRL's, or those of a few naive lines where TRL has none; so are advantages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from preferences import PLAN, pair_rows, prepared_rows, with_plan
from test_dpo_oracles import NO_METRICS, same, trainer
from tunesmith.model.attention import PACKED
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.value_head import add_value_head
from tunesmith.train import loss as losses
from tunesmith.train.objective import Draw, Models, total_units
from tunesmith.train.objectives.advantages import (
    adapted,
    equal_groups,
    generalised_advantages,
    group_advantages,
    leave_one_out,
    whitened,
)
from tunesmith.train.objectives.policy import clips, make_policy
from tunesmith.train.objectives.ppo import learn, make_ppo
from tunesmith.train.policy_config import GrpoConfig, PpoConfig, RlooConfig, SamplingConfig
from tunesmith.train.rollouts import Collected
from tunesmith.train.sources.turn import Turn, answered, columns_of

ANY = [{"type": "regex", "pattern": "x"}]
PLANS = {"padded": PLAN, "packed": with_plan(packing=True), "chunked": with_plan(packing=True, chunked=True)}
MOST = 48
VARIANTS = {
    "grpo": GrpoConfig(rewards=ANY, beta=0.0),
    "held": GrpoConfig(rewards=ANY, beta=0.3),
    "dr_grpo": GrpoConfig(rewards=ANY, loss="dr_grpo", beta=0.1, sampling=SamplingConfig(max_new_tokens=MOST)),
    "dapo": GrpoConfig(rewards=ANY, loss="dapo", beta=0.0),
    "gspo": GrpoConfig(rewards=ANY, loss="gspo", beta=0.0, clip=0.02, clip_high=0.03),
    "warm": GrpoConfig(rewards=ANY, beta=0.1, sampling=SamplingConfig(temperature=0.7)),
    "rloo": RlooConfig(rewards=ANY, clip=0.4),
}


@pytest.fixture
def turn(write_rows, tiny):
    """Six answers with numbers of each token, some of them so far from the policy that clipping binds."""
    rows = prepared_rows(write_rows, tiny, pair_rows(6), "preference")
    answers = [answered(row, row.ids.tolist(), row.spans[-1][0]) for row in rows]
    answers = [answered(row, row.ids[: old.spans[-1][1]].tolist(), row.spans[0][0])
               for row, old in zip(answers, rows, strict=True)]  # fmt: skip
    model = load(tiny, LoadSpec()).model.eval()
    chance = np.random.default_rng(0)
    own = [token_logprobs(model, row).detach().numpy() for row in answers]
    noisy = {name: [(one + chance.normal(0, 0.3, len(one))).astype(np.float32) for one in own]
             for name in ("old", "reference")}  # fmt: skip
    advantages = [np.full(len(one), value, np.float32) for one, value in zip(own, chance.normal(size=6), strict=True)]
    return Turn(answers, list(range(6)), {**noisy, "advantage": advantages}, {"reward": chance.normal(size=6)})


def token_logprobs(model: Any, row: Any, temperature: float = 1.0) -> torch.Tensor:
    [(begin, end)] = row.spans
    ids = torch.tensor(row.ids.astype(np.int64))[None]
    logits = model(input_ids=ids).logits[0, begin - 1 : end - 1].float() / temperature
    return logits.log_softmax(-1).gather(1, ids[0, begin:end, None])[:, 0]


def ours(objective: Any, model: Any, turn: Turn, plan: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of all answers, in two micro-batches."""
    model.set_attn_implementation(PACKED if plan.packing else "sdpa")
    batches = [
        objective.collate([turn.rows[i] for i in places], plan, Draw(), columns_of(turn, places))
        for places in ([0, 1], [2, 3, 4, 5])
    ]
    scale = total_units(batch.units for batch in batches)
    model.zero_grad()
    total = 0.0
    for batch in batches:
        found = sum(term.total / scale[term.unit] for term in objective.loss(Models(model, plan), batch, None).terms)
        found.backward()
        total += found.item()
    model.set_attn_implementation("sdpa")
    return total, {name: weight.grad.clone() for name, weight in model.named_parameters()}


def padded(parts: list[np.ndarray], left: bool = False) -> torch.Tensor:
    longest = max(map(len, parts))
    rows = [np.pad(part, (longest - len(part), 0) if left else (0, longest - len(part))) for part in parts]
    return torch.from_numpy(np.stack(rows))


def as_trl(turn: Turn) -> dict[str, torch.Tensor]:
    begins = [row.spans[0][0] for row in turn.rows]
    prompts = [row.ids[:begin].astype(np.int64) for row, begin in zip(turn.rows, begins, strict=True)]
    answers = [row.ids[begin:].astype(np.int64) for row, begin in zip(turn.rows, begins, strict=True)]
    ones = [np.ones(len(answer), np.int64) for answer in answers]
    return {
        "prompt_ids": padded(prompts, left=True),
        "prompt_mask": padded([np.ones(len(one), np.int64) for one in prompts], left=True),
        "completion_ids": padded(answers), "completion_mask": padded(ones),
        "advantages": torch.tensor([float(one[0]) for one in turn.columns["advantage"]]).double(),
        "old_per_token_logps": padded(turn.columns["old"]), "ref_per_token_logps": padded(turn.columns["reference"]),
        "old_logps": torch.tensor([one.sum(dtype=np.float64) for one in turn.columns["old"]]),
        "num_items_in_batch": torch.tensor(sum(map(len, answers))),
    }  # fmt: skip


@pytest.mark.parametrize("way", PLANS)
@pytest.mark.parametrize("name", VARIANTS)
def test_losses_are_those_of_trl(tiny, turn, name, way, monkeypatch):
    from trl import GRPOTrainer, RLOOTrainer

    monkeypatch.setitem(losses.LOGITS_PER_PIECE, "cpu", 3 * 4096)
    config = VARIANTS[name]
    model = load(tiny, LoadSpec()).model.train()
    found = ours(make_policy(config), model, turn, PLANS[way])
    assert abs(found[0]) > 1e-3

    def own_logprobs(_, ids, mask, keep, **__):
        place = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=place).logits[:, -keep - 1 : -1].float()
        shares = (logits / config.sampling.temperature).log_softmax(-1)
        found = shares.gather(2, ids[:, -keep:, None])[..., 0].double()  # whose sums are rounded in fp32
        return found, torch.zeros_like(found), None

    kind = RLOOTrainer if config.type == "rloo" else GRPOTrainer
    low, high = (config.clip, config.clip) if config.type == "rloo" else clips(config)
    given = dict.fromkeys(("delta", "use_bias_correction_kl", "entropy_target"))
    made = trainer(
        kind, model, beta=config.beta, epsilon_low=low, epsilon_high=high, top_entropy_quantile=1.0,
        off_policy_mask_threshold=None, max_completion_length=MOST, use_vllm=False, _entropy_bonus_enabled=False,
        importance_sampling_level="sequence" if name == "gspo" else "token", current_gradient_accumulation_steps=1,
        loss_type={"dr_grpo": "dr_grpo", "dapo": "dapo"}.get(name, "grpo"), args=SimpleNamespace(
            steps_per_generation=1, gradient_checkpointing_kwargs=None, **given),
        accelerator=SimpleNamespace(**vars(NO_METRICS), num_processes=1, reduce=lambda one, reduction: one),
        _get_per_token_logps_and_entropies=own_logprobs,
    )  # fmt: skip
    model.zero_grad()
    theirs = made._compute_loss(model, as_trl(turn))
    theirs.backward()
    same(found, model, theirs)


@pytest.mark.parametrize("way", PLANS)
def test_ppo_is_the_naive_one(tiny, turn, way, monkeypatch):
    monkeypatch.setitem(losses.LOGITS_PER_PIECE, "cpu", 3 * 4096)
    config = PpoConfig(rewards=ANY, value={"weight": 0.3})
    model = load(tiny, LoadSpec()).model.train()
    add_value_head(model)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.value_head.weight, std=0.3)
    chance = np.random.default_rng(1)
    counts = [row.trained for row in turn.rows]
    turn.columns |= {name: [chance.normal(size=count).astype(np.float32) for count in counts]
                     for name in ("value", "return", "advantage")}  # fmt: skip
    found = ours(make_ppo(config), model, turn, PLANS[way])
    model.zero_grad()
    policy, value = 0.0, 0.0
    for i, row in enumerate(turn.rows):
        [(begin, end)] = row.spans
        old, A, before, back = (torch.tensor(turn.columns[name][i]) for name in ("old", "advantage", "value", "return"))
        states = model.base_model(input_ids=torch.tensor(row.ids.astype(np.int64))[None]).last_hidden_state[0]
        V = model.value_head(states[begin - 1 : end - 1])[:, 0]
        r = (token_logprobs(model, row) - old).exp()
        policy = policy + torch.max(-r * A, -r.clamp(0.8, 1.2) * A).sum()
        held = torch.minimum(torch.maximum(V, before - 0.2), before + 0.2)
        value = value + 0.5 * torch.max((V - back) ** 2, (held - back) ** 2).sum()
    theirs = (policy + 0.3 * value) / sum(counts)
    theirs.backward()
    same(found, model, theirs)


# Advantages ----------------------------------------------------------------------------------------------------------

REWARDS = np.array([[1.0, 2.0, 4.0], [0.5, np.nan, 1.5], [3.0, 3.0, 3.0], [np.nan, 7.0, np.nan]])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_of_groups(scale):
    found = group_advantages(REWARDS, scale)
    for line, rewards in zip(found, REWARDS, strict=True):
        known = [one for one in rewards if not np.isnan(one)]
        for got, reward in zip(line, rewards, strict=True):
            if np.isnan(reward) or len(known) < 2:
                assert np.isnan(got)
                continue
            divisor = {"group": np.std(known, ddof=1), "batch": np.nanstd(REWARDS, ddof=1), "none": 1 - 1e-4}[scale]
            assert got == pytest.approx((reward - np.mean(known)) / (divisor + 1e-4))


def test_advantages_over_the_others():
    found = leave_one_out(REWARDS, normalize=False)
    np.testing.assert_allclose(found[0], [1 - 3, 2 - 2.5, 4 - 1.5])
    np.testing.assert_allclose(found[1], [-1.0, np.nan, 1.0])
    np.testing.assert_allclose(found[2], 0.0)
    assert np.isnan(found[3]).all()
    whole = leave_one_out(REWARDS, normalize=True)
    assert np.nanmean(whole) == pytest.approx(0.0, abs=1e-9)
    assert np.nanstd(whole, ddof=1) == pytest.approx(1.0, abs=1e-3)


def test_equal_groups_are_counted():
    assert equal_groups(REWARDS) == pytest.approx(1 / 3)  # of those with rewards to compare
    assert equal_groups(np.zeros((0, 3))) == 0.0


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 1.0), (0.9, 0.0)])
def test_advantages_of_tokens_are_sums_of_surprises(gamma, lam):
    chance = np.random.default_rng(0)
    reward, value = chance.normal(size=7), chance.normal(size=7)
    after = np.append(value[1:], 0.0)
    surprise = reward + gamma * after - value
    naive = [sum((gamma * lam) ** k * surprise[t + k] for k in range(7 - t)) for t in range(7)]
    np.testing.assert_allclose(generalised_advantages(reward, value, gamma, lam), naive)


def test_ppo_learns_by_rewards_less_what_moved():
    """With values of 0, gamma and lambda of 1 an advantage is all that comes, and the return is the same."""
    config = PpoConfig(rewards=ANY, value={"lam": 1.0})
    old, start = np.array([-1.0, -2.0, -0.5], np.float32), np.array([-1.5, -1.0, -0.5], np.float32)
    rows = [SimpleNamespace(trained=3)] * 2
    zeros = np.zeros(3, np.float32)
    collected = Collected(
        rows, [0, 1], 1, np.array([2.0, np.nan]), {}, np.ones(2, bool),
        {"old": [old, old], "reference": [start, start], "value": [zeros, zeros], "drawn": [old, old]},
    )  # fmt: skip
    found = learn(collected, 0.1, config)
    each = -0.1 * (old - start) + np.array([0, 0, 2.0])
    np.testing.assert_allclose(found["return"][0], each[::-1].cumsum()[::-1], rtol=1e-6)
    np.testing.assert_allclose(found["advantage"][0], whitened([each[::-1].cumsum()[::-1]])[0], rtol=1e-6)
    assert np.isnan(found["advantage"][1]).all()
    np.testing.assert_allclose(collected.kl, [(old - start).sum()] * 2)


def test_whitened_and_adapted():
    parts = [np.array([1.0, 2.0]), np.array([5.0])]
    flat = np.concatenate(whitened(parts))
    assert flat.mean() == pytest.approx(0)
    assert flat.std(ddof=1) == pytest.approx(1)
    assert np.concatenate(whitened(parts, keep_mean=True)).mean() == pytest.approx(8 / 3)
    assert adapted(0.1, kl=12.0, target=6.0) == pytest.approx(0.1 * 1.02)  # no more than a fifth of its error
    assert adapted(0.1, kl=5.4, target=6.0) == pytest.approx(0.1 * 0.99)


@pytest.mark.parametrize(("given", "want"), [
    ({}, (0.2, 0.2)), ({"clip": 0.05}, (0.05, 0.05)), ({"clip": 0.3}, (0.3, 0.3)), ({"clip_high": 0.28}, (0.2, 0.28)),
    ({"loss": "dapo"}, (0.2, 0.28)), ({"loss": "dapo", "clip": 0.1}, (0.1, 0.28)), ({"loss": "gspo"}, (3e-4, 4e-4)),
])  # fmt: skip
def test_how_far_probabilities_may_move(given, want):
    assert clips(GrpoConfig(rewards=ANY, **given)) == want
