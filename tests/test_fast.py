"""The fast path computes what the slow one does: attention, loss, masters, compiled layers."""

from __future__ import annotations

import functools
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import READS, many_rows
from tunesmith.data.load import load_rows
from tunesmith.data.prepare import prepare
from tunesmith.model import attention_cpu, native, tiles
from tunesmith.model.attention import PACKED, attend, packed_attention, row_by_row
from tunesmith.model.layers import layers_of
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.methods.full import FullConfig
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.model.methods.table import METHODS
from tunesmith.model.new_tokens import MoreOutputs
from tunesmith.model.packed import LEAST, WHOLE, filling_of
from tunesmith.prompt.load import load_contract
from tunesmith.train import loss as losses
from tunesmith.train.batch import TokenBatch, packed
from tunesmith.train.config import OptimConfig, SftConfig
from tunesmith.train.learner import Learner
from tunesmith.train.logprobs import spread, weigh
from tunesmith.train.loss import at_targets, grade, linear_cross_entropy, why_loss_differs
from tunesmith.train.objective import Draw, Models
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.planning.compiled import as_they_are, why_layers_differ, why_not_compiled
from tunesmith.train.planning.estimates import why_checkpointing, why_compiling_does_not_pay
from tunesmith.train.planning.memory import checkpoint_activations, kept_bytes
from tunesmith.train.planning.plan import Plan
from tunesmith.train.planning.planner import (
    Wishes,
    decide_layers,
    decide_loss,
    decide_packing,
    one_backward,
    trial_batch,
)
from tunesmith.train.sources.rows import RowSource
from tunesmith.train.weights.placed import Placed
from tunesmith.train.weights.ranks import Ranks

PLAN = Plan(
    device="cpu", precision="fp32", packing=True, micro_tokens=300, accumulation=None, processes=1, sharding="none",
    threads=2, reasons={}, versions={}, machine="test", chunked=True,
)  # fmt: skip


@pytest.fixture
def rows(write_rows, tiny):
    dataset = load_rows(str(write_rows(many_rows(24))))
    return Rows(prepare(dataset.rows, dataset.reading.ledgers, load_contract(tiny), 512, READS))


SFT = make_sft()
ON, AUTO, OFF = (Wishes(wanted, "auto", 8, 4) for wanted in ("on", "auto", "off"))


class Rows(list):
    @property
    def lengths(self):
        return np.array([len(row.ids) for row in self])


def heads(tokens, dtype, query=4, key=2, width=16):
    """Random queries, keys and values, in the memory order that models give them."""
    torch.manual_seed(0)
    return [torch.randn(1, tokens, n, width).transpose(1, 2).to(dtype).requires_grad_() for n in (query, key, key)]


needs_native = pytest.mark.skipif(native.library() is None, reason="no g++, or another processor")


@pytest.mark.parametrize(
    ("dtype", "close", "longest"),
    [
        (torch.float32, 2e-6, 0),
        (torch.bfloat16, 1.5e-2, 0),
        pytest.param(torch.bfloat16, 8e-3, 2048, marks=needs_native),
        pytest.param(torch.bfloat16, 1.5e-2, 100, marks=needs_native),  # the last row as torch computes it
    ],
)
@pytest.mark.parametrize(("key_heads", "causal"), [(1, True), (2, True), (4, True), (2, False), (4, False)])
def test_attention_and_its_gradients_are_those_of_double_precision(
    dtype, close, longest, key_heads, causal, monkeypatch
):
    if not longest:
        monkeypatch.setattr(attention_cpu, "can_attend", lambda *heads: False)
    monkeypatch.setattr(attention_cpu, "LONGEST", longest)
    monkeypatch.setattr(attention_cpu, "rows_of", attention_cpu.rows_of.__wrapped__)
    offsets = torch.tensor([0, 1, 4, 40, 640], dtype=torch.int32)  # the last row takes three blocks
    given = heads(640, dtype, key=key_heads)
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    layer = torch.nn.Identity()
    found, _ = packed_attention(layer, *given, None, cu_seq_lens_q=offsets, scaling=0.21, is_causal=causal)
    want = row_by_row(*exact, offsets, 0.0, 0.21, causal)
    direction = torch.randn_like(want)
    by = torch.autograd.grad(found, given, direction.to(dtype))
    wanted = torch.autograd.grad(want, exact, direction)
    for one, other in zip((found, *by), (want, *wanted), strict=True):
        assert (one - other).abs().max() < close * other.abs().max()


@pytest.fixture
def with_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_native
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("query", "key", "width", "threads"), [(3, 1, 64, 1), (2, 2, 16, 2), (4, 1, 96, 4), (2, 1, 80, 64)]
)
def test_rows_of_all_lengths_are_right_forth_and_back(causal, query, key, width, threads, with_threads):
    with_threads(threads)
    lengths = [1, 2, 3, 5, 6, 7, 15, 16, 17, 31, 33, 64, 95, 96, 97, 128, 193, 300]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    given = heads(sum(lengths), torch.bfloat16, query, key, width)
    given = [given[0], *(one.detach().contiguous().requires_grad_() for one in given[1:])]  # by heads in memory
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    found, want = attend(*given, offsets, 0.3, causal)[0], row_by_row(*exact, offsets, 0.0, 0.3, causal)
    direction = torch.randn_like(want)
    by = torch.autograd.grad(found, given, direction.bfloat16())
    wanted = torch.autograd.grad(want, exact, direction.bfloat16().double())
    have, right = [found, *(one.transpose(1, 2) for one in by)], [want, *(one.transpose(1, 2) for one in wanted)]
    for row in (slice(begin, end) for begin, end in itertools.pairwise(offsets.tolist())):
        for one, other in zip(have, right, strict=True):
            assert (one[:, row] - other[:, row]).abs().max() < 8e-3 * max(other[:, row].abs().max(), 0.1)


@needs_native
@pytest.mark.parametrize(("query", "key", "causal"), [(4, 4, False), (4, 2, True)])
def test_dropout_leaves_out_the_same_probabilities_forth_and_back(query, key, causal, with_threads):
    lengths, share = [16, 3, 11, 1, 14], 0.3
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    given = heads(sum(lengths), torch.bfloat16, query, key, 16)

    def found(tensors, seed):
        torch.manual_seed(seed)
        layer = torch.nn.Identity()
        return packed_attention(layer, *tensors, None, share, 0.3, cu_seq_lens_q=offsets, is_causal=causal)[0]

    def at(tensors):
        """Keys that all weigh alike, and values that say which were read: what is left of each, by the same seed."""
        places = torch.cat([torch.arange(length) for length in lengths])
        values = torch.eye(16, dtype=torch.bfloat16)[places].expand(1, key, -1, 16)
        return [torch.zeros_like(tensors[0]), torch.zeros_like(tensors[1]), values]

    left = found(at(given), 1)[0] > 0  # (T, H, places)
    output = found(given, 1)
    direction = torch.randn_like(output)
    by = torch.autograd.grad(output, given, direction)
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    wanted = []
    for begin, end in itertools.pairwise(offsets.tolist()):
        q, k, v = (one[0, :, begin:end] for one in exact)
        k, v = (one.repeat_interleave(query // key, dim=0) for one in (k, v))
        scores = (q @ k.transpose(1, 2) * 0.3).masked_fill(
            torch.ones(end - begin, end - begin).triu(1).bool() & causal, -torch.inf
        )
        keep = left[begin:end, :, : end - begin].transpose(0, 1)
        wanted.append((scores.softmax(-1) * keep / (1 - share) @ v).transpose(0, 1))
    want = torch.cat(wanted)[None]
    wanted = torch.autograd.grad(want, exact, direction.double())
    for one, other in zip((output, *by), (want, *wanted), strict=True):
        assert (one - other).abs().max() < 1e-2 * other.abs().max()
    with_threads(1)
    assert torch.equal(found(given, 1), output)
    assert not torch.equal(found(given, 2), output)


@needs_native
def test_dropout_falls_on_all_places_alike():
    rows, length, share, kept = 30, 16, 0.1, []
    values = torch.eye(length, dtype=torch.bfloat16).repeat(rows, 1).expand(1, 4, -1, length)
    nothing = torch.zeros(1, 4, rows * length, length, dtype=torch.bfloat16)
    torch.manual_seed(0)
    for _ in range(20):
        found = attention_cpu.dropping(
            nothing, nothing, values, torch.arange(0, rows * length + 1, length), 1.0, False, share
        )
        assert found is not None
        kept.append((found[0] > 0).view(rows, length, 4, length))
    kept = torch.stack(kept).double()
    assert abs(kept.mean() - 0.9) < 0.002  # four deviations of 614,400 draws are 0.0015
    for axis in range(5):  # by call, row, query, head and key
        others = [other for other in range(5) if other != axis]
        deviation = (share * (1 - share) / (kept.numel() / kept.shape[axis])) ** 0.5
        assert ((kept.mean(others) - 0.9).abs() < 5 * deviation).all()
    near = (kept[..., 1:] * kept[..., :-1]).mean()  # neighbours say nothing of each other
    assert abs(near - 0.81) < 0.003


def test_where_rows_are_too_long_torch_drops_them(monkeypatch):
    monkeypatch.setattr(attention_cpu, "LONGEST", 4)
    monkeypatch.setattr(attention_cpu, "rows_of", attention_cpu.rows_of.__wrapped__)
    given, offsets = heads(9, torch.bfloat16), torch.tensor([0, 4, 9])
    torch.manual_seed(0)
    found, _ = packed_attention(torch.nn.Identity(), *given, None, 0.5, cu_seq_lens_q=offsets)
    torch.manual_seed(0)
    assert torch.equal(found, row_by_row(*given, offsets, 0.5, given[0].shape[-1] ** -0.5))


@needs_native
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_of_a_pack_is_what_it_is_alone_and_spoils_no_other(threads, with_threads):
    """The long row is computed first, and leaves its numbers where those of the other go."""

    def computed(given, ends):
        given = [one.detach().requires_grad_() for one in given]
        output = attend(*given, torch.tensor(ends), 0.2, True)[0]
        direction = torch.ones((), dtype=torch.bfloat16).expand(output.shape)  # whose numbers do not lie anywhere
        by = torch.autograd.grad(output, given, direction)
        return [output, *(one.transpose(1, 2) for one in by)]

    given = [one.detach() for one in heads(61, torch.bfloat16)]
    with_threads(threads)
    alone = computed([one[:, :, 40:] for one in given], [0, 21])
    for one in given:
        one[:, :, 37] = torch.nan
    spoilt = computed(given, [0, 40, 61])
    for whole, part in zip(spoilt, alone, strict=True):
        assert whole[:, 37:40].isnan().all()
        assert torch.equal(whole[:, 40:], part)


@needs_native
@pytest.mark.parametrize("ends", [[0, 20, 10, 61], [1, 61], [0, 62], [0, 60]])
def test_rows_that_are_none_are_refused(ends):
    with pytest.raises(ValueError, match="rows"):
        attend(*heads(61, torch.bfloat16), torch.tensor(ends), 0.2, True)


@pytest.mark.parametrize(("key_heads", "causal"), [(4, True), (2, False)])
def test_short_rows_in_tiles_are_as_alone(key_heads, causal):
    lengths = [
        1,
        63,
        2,
        64,
        70,
        17,
        129,
        30,
        17,
        96,
        1,
        1,
        64,
        5,
        9,
        100,
    ]
    ends = (0, *np.cumsum(lengths).tolist())
    short, alone = tiles.short_of(ends, causal, torch.float64, heads=2**19 // 64**2 // 4)
    assert alone == (slice(217, 346), slice(569, 669))  # too long, and the only one of its size
    assert [one.tokens_NM.shape for one in short.tiles] == [(4, 64), (4, 64), (2, 96)]
    assert short.runs == (slice(0, 217), slice(346, 569))
    given = [tensor.detach().double().requires_grad_() for tensor in heads(ends[-1], torch.float64, key=key_heads)]
    want = row_by_row(*given, torch.tensor(ends), 0.0, 0.21, causal)
    direction = torch.randn_like(want)
    for row in alone:
        direction[:, row] = 0
    wanted = torch.autograd.grad(want, given, direction)
    found = want.new_zeros(want.shape)
    by = [tensor.new_zeros(tensor.transpose(1, 2).shape).transpose(1, 2) for tensor in given]
    with torch.no_grad():
        tiles.forward(*given, 0.21, short, found[0])
        tiles.backward(direction, *given, 0.21, short, *by)
    for run in short.runs:
        torch.testing.assert_close(found[:, run], want[:, run], rtol=0, atol=1e-12)
    for row in alone:
        assert not found[:, row].any()
    for one, other in zip(by, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_a_sound_operator(dtype):
    offsets = torch.tensor([0, 5, 24], dtype=torch.int32)
    for causal in (True, False):
        torch.library.opcheck(attend, (*heads(24, dtype), offsets, 0.25, causal))


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for one in torch.utils._pytree.tree_leaves(out):
            if isinstance(one, torch.Tensor):
                self.numel = max(self.numel, one.numel())
        return out


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("trained", [False, True, "new rows"])
def test_the_chunked_loss_is_cross_entropy_and_never_holds_all_logits(trained, smoothing, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setitem(losses.LOGITS_PER_PIECE, "cpu", 2000)
    hidden = torch.randn(70, 16, requires_grad=True)
    head = torch.nn.Linear(16, 500, bias=False).requires_grad_(trained is True)
    if trained == "new rows":
        head = MoreOutputs(head, 400, torch.nn.Parameter(torch.randn(3, 16)))
    weight = head.rows if trained == "new rows" else head.weight
    target = torch.randint(500, (70,))
    with Largest() as seen:
        total, correct = linear_cross_entropy(hidden, head, target, smoothing=smoothing)
        total.mul(0.3).backward()
    assert seen.numel <= max(4 * 2000 if trained is True else 2000, 500 * 16)
    by_hidden, by_weight = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    logits = head(hidden)
    want = cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing)
    want.mul(0.3).backward()
    torch.testing.assert_close(total, want)
    torch.testing.assert_close(by_hidden, hidden.grad)
    assert correct == (logits.argmax(-1) == target).sum()
    if trained:
        torch.testing.assert_close(by_weight, weight.grad)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, head, target, smoothing=smoothing)[0], want.detach())


def test_labels_are_smoothed_while_a_model_is_trained_and_never_when_it_is_watched(tiny):
    model, ids = load(tiny, LoadSpec()).model, torch.arange(12)[None]
    batch = TokenBatch({"input_ids": ids, "use_cache": False}, torch.arange(11), ids[0, 1:], (), 12)
    plain, smooth = make_sft(), make_sft(SftConfig(label_smoothing=0.3))
    for chunked in (True, False):
        models = Models(model, replace(PLAN, chunked=chunked))
        found = [
            objective.loss(models, batch, None).terms[0].total.item()
            for training in (True, False)
            for objective in (plain, smooth)
            if model.train(training)
        ]
        logits = model(ids).logits[0, :-1]
        want = cross_entropy(logits, ids[0, 1:], reduction="sum", label_smoothing=0.3).item()
        assert found == pytest.approx([found[0], want, found[0], found[0]], rel=1e-5)
        assert want != pytest.approx(found[0], rel=1e-3)


def test_losses_that_are_very_large_stay_finite_and_exact():
    logits = torch.tensor([[400.0, -400.0, 0.0], [0.0, 0.0, 0.0]])
    total, correct, at_target = grade(logits, at_targets(logits, torch.tensor([1, 2])))
    assert total.item() == pytest.approx(800 + torch.tensor(3.0).log().item())
    assert correct == 1  # the second row's words tie, and all are right
    torch.testing.assert_close(logits[0], torch.tensor([1.0, 0.0, 0.0]))  # the softmax, in their place
    torch.testing.assert_close(at_target, torch.tensor([[-1.0], [-2 / 3]]))


@pytest.mark.parametrize("packing", [True, False])
def test_the_check_lets_the_chunked_loss_through_where_it_is_the_models_own(tiny, rows, packing):
    plan, why_not_chunked = replace(PLAN, packing=packing), SFT.check.why_not_chunked
    model = load(tiny, LoadSpec()).model
    if packing:
        model.set_attn_implementation(PACKED)
    assert why_not_chunked(Models(METHODS["lora"].apply(model, LoraConfig()), plan), rows) is None
    head = LoraConfig(targets=["lm_head"])
    changed = METHODS["lora"].apply(load(tiny, LoadSpec()).model, head)
    assert "more than a matrix product" in why_not_chunked(Models(changed, replace(PLAN, packing=False)), rows)


def test_packed_rows_are_filled_up_and_the_filling_teaches_nothing(rows):
    batch = packed(rows[:3], "cpu")
    length = batch.inputs["input_ids"].shape[1]
    assert (length % LEAST, length - batch.tokens < LEAST) == (0, True)
    wholes = [(1, 1), (2, 2), (9, 16), (300, 304), (700, 704), (1001, 1008), (1025, 1056), (3000, 3008), (4097, 4224)]
    assert [n + filling_of(n) for n, _ in wholes] == [whole for _, whole in wholes]
    assert max(filling_of(n) for n in range(1, 9000)) == WHOLE - 1
    assert batch.inputs["cu_seq_lens_q"][-1] == batch.inputs["position_ids"].shape[1] == length
    assert batch.inputs["logits_to_keep"].max() < batch.tokens


def learner_for(tiny, method, plan, optim=None, rate=1e-3):
    torch.manual_seed(0)
    frozen = method == "lora" and plan.precision == "bf16"
    model = load(tiny, LoadSpec(precision="bf16" if frozen else "fp32")).model
    model.set_attn_implementation(PACKED)
    model = METHODS[method].apply(model, LoraConfig() if method == "lora" else FullConfig()).train()
    return Learner(Placed(model, plan), optim or OptimConfig(clip=0), rate, 200)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_masters_remember_what_bf16_would_forget(tiny, rows, method):
    plan = replace(PLAN, precision="bf16")
    learner = learner_for(tiny, method, plan, rate=1e-5)
    source = RowSource(rows, SFT, plan, 8)
    before = {name: weight.detach().clone() for name, weight in learner.weights.items()}
    assert {weight.dtype for weight in before.values()} == {torch.float32}
    for micro in itertools.islice(source.steps(), 20):
        for batch in micro:
            one_backward(plan, learner.placed, SFT, batch)
        assert all(weight.grad is None for weight in learner.model.parameters())
        learner.step()
    inside = dict(learner.model.named_parameters())
    moved = forgotten = total = 0
    for name, master in learner.weights.items():
        assert inside[name].dtype == torch.bfloat16
        assert torch.equal(inside[name], master.to(torch.bfloat16))
        if before[name].abs().sum() > 0 and "embed" not in name and "lm_head" not in name:  # B of LoRA starts at zero
            moved += (master != before[name]).sum().item()
            forgotten += (inside[name] == before[name].to(torch.bfloat16)).sum().item()
            total += master.numel()
    assert moved > 0.99 * total
    assert forgotten > 0.5 * total


def test_masters_sum_gradients_in_fp32(tiny, rows):
    plan = replace(PLAN, precision="bf16")
    learner = learner_for(tiny, "full", plan)
    one, other = (SFT.collate(rows[i : i + 2], plan, Draw(), {}) for i in (0, 2))
    gradients = []
    for batches in ([one], [other], [one, other]):
        for batch in batches:
            one_backward(plan, learner.placed, SFT, batch)
        gradients.append({name: weight.grad for name, weight in learner.weights.items()})
        for weight in learner.weights.values():
            weight.grad = None
    for name, both in gradients[2].items():
        assert torch.equal(both, gradients[0][name] + gradients[1][name])


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def test_compiled_layers_share_one_graph_and_give_the_same_losses(tiny, rows, method, precision):
    plan = replace(PLAN, precision=precision)
    results = {}
    for compiled in (False, True):
        torch.compiler.reset()
        learner = learner_for(tiny, method, replace(plan, compiled=compiled))
        source = RowSource(rows, SFT, replace(plan, compiled=compiled), 8)
        if compiled:
            heard = []  # whatever is on by default and turned itself off here would be heard
            learner.model.set_attn_implementation("sdpa")
            whole = decide_packing(replace(plan, compiled=None, chunked=None), learner.placed, SFT, rows, heard.append)
            whole = decide_loss(whole, learner.placed, SFT, rows, heard.append)
            source.plan = decide_layers(whole, ON, learner.placed, SFT, rows, heard.append)
            decided = source.plan.packing, source.plan.chunked, source.plan.compiled
            assert (decided, heard) == ((True, True, True), [])
        found = []
        with torch.compiler.set_stance("fail_on_recompile" if compiled else "default"):
            for micro in itertools.islice(source.steps(), 5):
                found += [one_backward(source.plan, learner.placed, SFT, batch) for batch in micro]
                learner.step()
        results[compiled] = found
    assert results[True] == pytest.approx(results[False], rel=2e-5 if precision == "fp32" else 1e-2)
    assert len(results[True]) > 5


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_layers_computed_again_give_the_same_bits_and_keep_less(tiny, rows, compiled):
    plan = replace(PLAN, compiled=compiled)
    results, kept = [], []
    for again in (False, True):
        learner = learner_for(tiny, "lora", plan)
        if again:
            checkpoint_activations(learner.model)
        micro = next(RowSource(rows, SFT, plan, 8).steps())
        backward = functools.partial(one_backward, plan, learner.placed, SFT, micro[0])
        if compiled:
            assert why_not_compiled(learner.model, learner.weights, backward) is None
        kept.append(kept_bytes(learner.model, functools.partial(SFT.loss, Models(learner.model, plan), micro[0], None)))
        backward()
        results.append({name: weight.grad for name, weight in learner.weights.items()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert kept[1] < 0.7 * kept[0]


def test_checkpointing_is_chosen_where_a_micro_batch_does_not_fit():
    assert why_checkpointing(kept=5 << 30, state=2 << 30, free=10 << 30) is None
    assert "keeps about 7.0 GB, and the optimizer and the loss take 2.0, of 10.0 GB" in why_checkpointing(
        7 << 30, 2 << 30, 10 << 30
    )


def test_what_the_backward_pass_keeps_grows_with_its_tokens_alone(tiny, rows):
    """Frozen weights, of which backward passes keep views, are no part of it."""
    learner = learner_for(tiny, "lora", PLAN)
    kept, tokens = [], []
    for count in (2, 8):
        micro = SFT.collate(rows[:count], PLAN, Draw(), {})
        kept.append(kept_bytes(learner.model, functools.partial(SFT.loss, Models(learner.model, PLAN), micro, None)))
        tokens.append(micro.inputs["input_ids"].numel())
    assert kept[1] / kept[0] == pytest.approx(tokens[1] / tokens[0], rel=0.15)


def test_processes_decide_as_the_first_one_does(tiny, rows):
    """They measure each for themselves; one that went another way would wait for the others for ever."""

    class Second(Ranks):
        def gather(self, value):
            return ["the first process says no", value]

    placed = learner_for(tiny, "lora", PLAN).placed
    placed.ranks = Second(1, 2)
    whole = decide_layers(PLAN, replace(AUTO, steps=10**9), placed, SFT, rows)
    assert whole.compiled is False
    assert "the first process says no" in whole.reasons["compiled"]
    assert trial_batch(PLAN, SFT, rows).tokens == sum(sorted(rows.lengths)[:4])


def test_layers_are_the_list_that_a_model_repeats(tiny):
    from transformers import GPT2Config, GPT2LMHeadModel

    assert len(layers_of(METHODS["lora"].apply(load(tiny, LoadSpec()).model, LoraConfig()))) == 2
    assert len(layers_of(GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=3, n_head=2)))) == 3


def test_what_cannot_be_compiled_runs_as_it_is(tiny, rows):
    learner = learner_for(tiny, "lora", PLAN)
    layers = layers_of(learner.model)
    forward = layers[0].forward

    def asks(*args, **kwargs):
        sys.stdout.write("" if args[0].sum().item() else " ")  # the compiler would have to break the graph here
        return forward(*args, **kwargs)

    layers[0].forward = asks
    heard = []
    whole = decide_layers(PLAN, ON, learner.placed, SFT, rows, heard.append)
    assert whole.compiled is False
    assert "layers are not compiled, which is slower" in heard[0].sentence
    with as_they_are():
        assert one_backward(whole, learner.placed, SFT, SFT.collate(rows[:2], whole, Draw(), {})) > 0


def test_layers_of_padded_rows_are_not_compiled_and_one_line_says_so(tiny, rows):
    placed, plan = learner_for(tiny, "lora", PLAN).placed, replace(PLAN, packing=False)
    heard = []
    assert decide_layers(plan, ON, placed, SFT, rows, heard.append).compiled is False
    assert [event.sentence for event in heard] == [
        "layers are not compiled, which is slower: rows are not packed, and only layers that read packed rows are "
        "compiled."
    ]
    for wishes in (AUTO, OFF):  # a short run would not be compiled anyway: nothing is missed
        decide_layers(plan, wishes, placed, SFT, rows, heard.append)
    assert len(heard) == 1
    decide_layers(plan, replace(AUTO, steps=10**9), placed, SFT, rows, heard.append)
    assert len(heard) == 2


class Scaled(torch.nn.Module):
    """A layer that computes something else when it is compiled."""

    def __init__(self, forward: float, backward: float, dtype: torch.dtype):
        super().__init__()
        self.linear, self.factors = torch.nn.Linear(64, 64, dtype=dtype), (forward, backward)

    def forward(self, hidden_states):
        found = self.linear(hidden_states)
        if torch.compiler.is_compiling():
            forward, backward = self.factors
            found = found * backward + (found * (forward - backward)).detach()
        return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("forward", "backward", "said"),
    [(1.0, 1.0, None), (1.05, 1.0, "the output of compiled layer 1"), (1.0, 0.95, "the gradient of compiled layer 1")],
)
def test_a_compiled_layer_that_computes_something_else_is_told_from_rounding(dtype, forward, backward, said):
    torch.manual_seed(0)
    layer = Scaled(forward, backward, dtype)
    layer.compile(backend="eager")
    found = why_layers_differ([layer], [((torch.randn(1, 40, 64).to(dtype),), {})])
    assert found is None if said is None else said in found


@pytest.mark.parametrize(("backward", "said"), [(1.0, None), (0.9, "the gradient of compiled layer 1")])
def test_what_a_compiled_layer_gives_back_to_states_beside_is_looked_at_too(backward, said):
    class Beside(torch.nn.Module):
        def forward(self, hidden_states, beside):
            other = beside[0]
            if torch.compiler.is_compiling():
                other = other * backward + (other * (1 - backward)).detach()
            return hidden_states + other[:, beside[1]]

    layer, before = Beside(), torch.randn(1, 9, 8, requires_grad=True)
    layer.compile(backend="eager")
    call = (torch.randn(1, 3, 8),), {"beside": (before * 2, torch.tensor([0, 4, 7]))}
    found = why_layers_differ([layer], [call])
    assert found is None if said is None else said in found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_compiled_loss_that_is_another_is_noticed(dtype, monkeypatch):
    monkeypatch.setattr(losses, "COMPILED", {grade: grade, spread: spread, weigh: weigh})
    assert why_loss_differs(dtype, "cpu") is None

    def another(logits_NV, at_target_N1):
        loss, right, gradient_N1 = grade(logits_NV, at_target_N1)
        return loss, right, 1.05 * gradient_N1

    def early(share_NV, gradient_N1):
        share_NV.mul_(1.05)
        return weigh(share_NV, gradient_N1)

    for plain, other in ((grade, another), (weigh, early)):
        monkeypatch.setattr(losses, "COMPILED", {plain: other})
        assert "the compiled loss is" in why_loss_differs(dtype, "cpu")


def test_short_runs_are_not_worth_it():
    assert "about 20 s of training" in why_compiling_does_not_pay(20.0)
    assert why_compiling_does_not_pay(3600.0) is None


@pytest.mark.slow
def test_without_a_compiler_everything_works_and_one_line_says_so(tiny, write_rows, tmp_path):
    rows = write_rows(many_rows(12))
    environment = {**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cold")}
    recipe = {
        "model": {"base": str(tiny)}, "data": {"train": str(rows), "test": 0, "validation": 0}, "compile": "on",
        "optim": {"steps": 2}, "output": {"folder": str(tmp_path)},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(recipe))
    done = subprocess.run(
        [sys.executable, "-c", "from tunesmith.cli.main import run; run()", "train", str(tmp_path / "run.yaml")],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert said.count("layers are not compiled, which is slower") == 1, said
    assert "Traceback" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_training_keeps_what_it_frees():
    script = """
import resource, sys, torch
from tunesmith.model.device import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
faults = [0]
for _ in range(8):  # the heap takes its shape in the first few
    for part in [torch.ones(2**24) for _ in range(4)]:  # 64 MB each, more than glibc keeps by itself
        del part
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[8] - faults[7])
"""
    found = {how: int(subprocess.check_output([sys.executable, "-c", script, how])) for how in ("kept", "as it is")}
    assert found["kept"] < 100 < found["as it is"]
