"""Perturbed embeddings against naive references: one sequence at a time, by hand, with torch alone."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, GPT2Config, OPTConfig

from conftest import READS, many_rows
from test_train import PLAN
from tunesmith.core.errors import TrainingError
from tunesmith.data.load import load_rows
from tunesmith.data.prepare import prepare
from tunesmith.model.attention import PACKED
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.methods.full import FullConfig
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.model.methods.table import METHODS
from tunesmith.prompt.load import load_contract
from tunesmith.train.batch import packed, padded
from tunesmith.train.config import Fgm, FreeLb, Neftune, NoPerturb, Pgd
from tunesmith.train.loop import gradients_of
from tunesmith.train.objective import Models, perturb_nothing, total_units
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.perturb import _uniform, make_perturb, reading

CONFIGS = {
    "neftune": Neftune(alpha=7.0),
    "fgm": Fgm(epsilon=0.3),
    "fgm, linf": Fgm(epsilon=0.02, norm="linf"),
    "pgd": Pgd(epsilon=0.2, steps=3, step_size=0.15),
    "pgd, linf": Pgd(epsilon=0.02, steps=2, step_size=0.015, norm="linf"),
    "freelb": FreeLb(epsilon=0.2, steps=3, step_size=0.15),
    "freelb, linf": FreeLb(epsilon=0.02, steps=3, step_size=0.015, norm="linf"),
}


@pytest.fixture
def rows(write_rows, tiny):
    dataset = load_rows(str(write_rows(many_rows(5))))
    return list(prepare(dataset.rows, dataset.reading.ledgers, load_contract(tiny), 512, READS))


def ours(folder, rows, config, collate, cuts=1, step=4):
    """The gradients of a step, in as many micro-batches; the loss that is reported."""
    model = METHODS["full"].apply(load(folder, LoadSpec()).model, FullConfig()).train()
    plan = replace(PLAN, packing=collate is packed, chunked=True)
    if plan.packing:
        model.set_attn_implementation(PACKED)
    batches = [collate(rows[start::cuts], "cpu") for start in range(cuts)]
    learner = SimpleNamespace(backward=lambda loss: loss.backward(), step_number=step)
    perturb = make_perturb(config, model, 11, lambda: step)
    scale = total_units(batch.units for batch in batches)
    found = [gradients_of(batch, make_sft(), Models(model, plan), learner, None, scale, perturb) for batch in batches]
    return {name: weight.grad for name, weight in model.named_parameters()}, sum(one["loss"] for one in found)


def naive(folder, rows, config, step=4):
    """The same, as a paper's pseudocode has it: a row alone, its change by hand, no hook and no packing."""
    model = load(folder, LoadSpec()).model.train()
    units = sum(int(row.mask[1:].sum()) for row in rows)
    reported = 0.0
    for row in rows:
        ids, mask = torch.from_numpy(row.ids.astype("int64")), torch.from_numpy(row.mask)

        def loss(delta, ids=ids, mask=mask):
            x = model.get_input_embeddings()(ids[None]) + delta
            logits = model(inputs_embeds=x).logits[0, :-1]
            return cross_entropy(logits[mask[1:]], ids[1:][mask[1:]], reduction="sum") / units

        def unit(gradient, config=config):
            return gradient.sign() if config.norm == "linf" else gradient / gradient.norm()

        def inside(delta, config=config):
            if config.norm == "linf":
                return delta.clamp(-config.epsilon, config.epsilon)
            return delta * min(1.0, config.epsilon / delta.norm().item())

        size = len(ids) * model.config.hidden_size
        noise = _uniform(ids.numpy().tobytes(), len(ids), model.config.hidden_size, 11, step)[None]
        if isinstance(config, Neftune):
            total = loss(noise * config.alpha / math.sqrt(size))
            total.backward()
            reported += total.item()
            continue
        if isinstance(config, FreeLb):
            delta = noise * (config.epsilon if config.norm == "linf" else config.epsilon / math.sqrt(size))
            for turn in range(config.steps):
                delta = delta.detach().requires_grad_()
                total = loss(delta)
                (total / config.steps).backward()
                reported += total.item() if turn == 0 else 0.0
                delta = inside(delta.detach() + config.step_size * unit(delta.grad))
            continue
        delta = torch.zeros(1, len(ids), model.config.hidden_size)
        for _ in range(config.steps if isinstance(config, Pgd) else 1):
            delta.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(delta), delta)
            delta = inside(
                delta.detach() + (config.step_size if isinstance(config, Pgd) else config.epsilon) * unit(gradient)
            )
        clean = loss(torch.zeros_like(delta))
        (0.5 * clean + 0.5 * loss(delta)).backward()
        reported += clean.item()
    return {name: weight.grad for name, weight in model.named_parameters()}, reported


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_what_the_paper_writes_packed_padded_and_in_pieces(tiny, rows, name):
    config = CONFIGS[name]
    want, reported = naive(tiny, rows, config)
    plain, _ = ours(tiny, rows, NoPerturb(), packed)
    for collate, cuts in ((packed, 1), (padded, 1), (packed, 3)):
        found, loss = ours(tiny, rows, config, collate, cuts)
        assert loss == pytest.approx(reported, rel=1e-5)
        for key, gradient in want.items():
            torch.testing.assert_close(found[key], gradient, rtol=2e-3, atol=2e-6)
    assert any((plain[key] - want[key]).norm() > 1e-2 * want[key].norm() for key in want)


def test_noise_is_of_the_step_the_seed_and_the_words_alone(tiny, rows):
    one, _ = ours(tiny, rows, CONFIGS["neftune"], packed)
    again, _ = ours(tiny, rows[::-1], CONFIGS["neftune"], padded)
    other, _ = ours(tiny, rows, CONFIGS["neftune"], packed, step=5)
    name = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(one[name], again[name], rtol=1e-3, atol=1e-6)
    assert (one[name] - other[name]).norm() > 1e-3 * one[name].norm()


def test_nothing_is_perturbed_where_nothing_is_wanted_or_nothing_is_trained(tiny, rows):
    model = load(tiny, LoadSpec()).model
    assert make_perturb(NoPerturb(), model, 0, lambda: 0) is perturb_nothing
    plan = replace(PLAN, packing=False, chunked=False)
    batch, objective = padded(rows, "cpu"), make_sft()
    before = objective.loss(Models(model.train(), plan), batch, None).terms[0].total.item()
    perturb = make_perturb(Neftune(alpha=50.0), model, 0, lambda: 0)
    [(loss, share)] = list(perturb(objective, Models(model, plan), batch, None, batch.units))
    assert share == 1.0
    assert loss.terms[0].total.item() != before
    assert objective.loss(Models(model, plan), batch, None).terms[0].total.item() == before  # outside of the loop
    [(loss, _)] = list(perturb(objective, Models(model.eval(), plan), batch, None, batch.units))
    assert loss.terms[0].total.item() == before  # a look in between


def test_an_objective_that_reads_twice_gets_two_changes(tiny, rows):
    """As preferences do: each pass has its own, and its own gradient."""
    model = METHODS["lora"].apply(load(tiny, LoadSpec()).model, LoraConfig()).train()
    sft, plan = make_sft(), replace(PLAN, packing=False, chunked=False)

    def twice(models, batch, whole):
        first, second = (sft.loss(models, one, whole).terms[0] for one in batch)
        return replace(sft.loss(models, batch[0], whole), terms=[replace(first, total=first.total - 2 * second.total)])

    batch = [padded(rows[:2], "cpu"), padded(rows[2:], "cpu")]
    perturb = make_perturb(Fgm(epsilon=0.1), model, 0, lambda: 0)
    found = []
    for loss, share in perturb(replace(sft, loss=twice), Models(model, plan), batch, None, {"tokens": 1.0}):
        found.append(loss.terms[0].total.item())
        (loss.terms[0].total * share).backward()
    assert found[1] > found[0]  # along the gradient it got worse


def test_sequences_are_found_however_a_model_is_asked(rows):
    ids = packed(rows[:3], "cpu").inputs
    lengths = [len(row.ids) for row in rows[:3]]
    assert reading(ids).lengths_S.tolist()[:3] == lengths
    assert reading(padded(rows[:3], "cpu").inputs).lengths_S.tolist() == lengths


@pytest.mark.parametrize("config", [
    GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=2, n_positions=16),  # whose body is given its ids by place
    OPTConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, ffn_dim=8,
              max_position_embeddings=16, word_embed_proj_dim=8),  # whose body is passed by
])  # fmt: skip
def test_embeddings_are_found_however_a_model_is_built(config):
    model = AutoModelForCausalLM.from_config(config).train()
    perturb = make_perturb(Neftune(), model, 0, lambda: 0)
    objective = replace(make_sft(), loss=lambda models, batch, whole: models.policy(batch).logits.sum())
    batch = torch.arange(12)[None]
    before = model.eval()(batch).logits.sum().item()
    model.train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    [(total, _)] = list(perturb(objective, Models(model, PLAN), batch, None, {}))
    assert total.item() != pytest.approx(before, rel=1e-6)
    model.get_input_embeddings().forward = None
    deaf = replace(objective, loss=lambda models, batch, whole: torch.zeros(()))
    with pytest.raises(TrainingError, match=r"perturb\.type = neftune: .* cannot be perturbed"):
        list(perturb(deaf, Models(model, PLAN), batch, None, {}))
