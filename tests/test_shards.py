"""Weights in parts compute what whole ones do: here with one process, which holds the one part that there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.distributed as distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, MixtralConfig

from conftest import NoSource, save_tiny
from tunesmith.model.layers import layers_of
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.methods.full import FullConfig
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.model.methods.table import METHODS
from tunesmith.train.batch import TokenBatch
from tunesmith.train.checkpoint import find_step, restore, save_checkpoint
from tunesmith.train.config import OptimConfig
from tunesmith.train.learner import Learner
from tunesmith.train.loss import BYTES_A_LOGIT
from tunesmith.train.objective import Models
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.optimizers import OPTIMIZERS
from tunesmith.train.planning.estimates import largest_micro_batch
from tunesmith.train.planning.memory import gathered_bytes, kept_bytes
from tunesmith.train.planning.planner import Wishes, bytes_to_come, make_plan
from tunesmith.train.state import TrainerState
from tunesmith.train.validate import validate
from tunesmith.train.weights.placed import Placed
from tunesmith.train.weights.ranks import Ranks
from tunesmith.train.weights.shards import like, whole

TOKENS = 24
SFT = make_sft()
PLAN = replace(make_plan("fp32", "off", 256, device="cpu"), chunked=True)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
         "vocab_size": 99, "intermediate_size": 48, "max_position_embeddings": 64}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "gemma": Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=16, tie_word_embeddings=True),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=99, n_positions=64, resid_pdrop=0, embd_pdrop=0,
                       attn_pdrop=0),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4),
}  # fmt: skip


@pytest.fixture(scope="module")
def meeting(tmp_path_factory):
    """A group of processes that has this one alone."""
    store = distributed.FileStore(str(tmp_path_factory.mktemp("meeting") / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request, tmp_path_factory):
    """A model of some architecture, its files in bf16."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    AutoModelForCausalLM.from_config(CONFIGS[request.param]).to(torch.bfloat16).save_pretrained(path)
    return path


def learner_for(folder, method, sharded, precision="fp32", **optim):
    config = LoraConfig() if method == "lora" else FullConfig()
    plan = replace(PLAN, sharding="full" if sharded else "none", precision=precision)
    loaded = load(folder, LoadSpec(precision=precision if method == "lora" else "fp32", shard=sharded))
    torch.manual_seed(0)
    placed = Placed(METHODS[method].apply(loaded.model, config), plan, Ranks(), loaded.sources)
    return Learner(placed, OptimConfig(**optim), 1e-2, 3)


def loss_of(learner):
    [term] = SFT.loss(Models(learner.model, PLAN), batch(), None).terms
    return term.total


def batch():
    ids = torch.arange(TOKENS)[None]
    return TokenBatch({"input_ids": ids, "use_cache": False}, torch.arange(TOKENS - 1), ids[0, 1:], (), TOKENS)


@pytest.mark.usefixtures("meeting")
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match")  # peft's, of fused experts
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_architecture_trains_in_parts_as_whole(folder, method, precision):
    """In both precisions: one part is the whole, and sums of one gradient have one order."""
    losses, weights = [], []
    for sharded in (False, True):
        learner = learner_for(folder, method, sharded, precision)
        learner.model.train()
        for _ in range(3):
            total = loss_of(learner)
            learner.backward(total / TOKENS)
            losses.append((total.item(), learner.step()))
        weights.append(learner.weights)
    assert all(isinstance(weight, DTensor) for weight in learner.model.parameters())
    assert losses[:3] == [pytest.approx(one, rel=1e-6) for one in losses[3:]]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name].to_local(), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("meeting")
@pytest.mark.parametrize("name", [name for name, kind in OPTIMIZERS.items() if kind.parted])
def test_an_optimizer_that_takes_parts_does_the_same_with_them(tmp_path, name):
    """And what it keeps of them goes through a checkpoint, with its average where it has one."""
    pytest.importorskip("schedulefree" if name == "schedule_free" else "torch")
    folder, found = save_tiny(tmp_path), []
    for sharded in (False, True):
        learner = learner_for(folder, "full", sharded, optimizer=name, layer_decay=0.8, weight_decay=0.1)
        learner.model.train()
        for step in range(3):
            learner.backward(loss_of(learner) / TOKENS)
            learner.step()
            if step == 1:
                save_checkpoint(learner, TrainerState(), NoSource(), tmp_path / str(sharded), 1)
                restore(learner, find_step(tmp_path / str(sharded), 2))
        with learner.with_average():
            found.append({key: whole(weight).detach().clone() for key, weight in learner.weights.items()})
    for key, weight in found[0].items():
        torch.testing.assert_close(weight, found[1][key], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("meeting")
def test_weights_that_were_set_are_those_that_compute(tmp_path):
    """A look leaves what is in no layer put together; a rollback and a moving average change the parts meanwhile."""
    learner = learner_for(save_tiny(tmp_path), "full", True, ema=0.5)

    def watch():
        return validate(SFT, Models(learner.model, PLAN), learner, [batch()])["loss"]

    def step():
        learner.backward(loss_of(learner) / TOKENS)
        learner.step()

    learner.model.train()
    step()
    save_checkpoint(learner, TrainerState(), NoSource(), tmp_path / "checkpoints", 1)
    watched, average = watch(), learner.average
    learner.average = None  # of the weights themselves
    own = watch()
    learner.average = average
    step()
    later = watch()
    restore(learner, find_step(tmp_path / "checkpoints", 1))
    assert watch() == watched
    learner.average = None
    assert watch() == own
    assert len({watched, own, later}) == 3


@pytest.mark.usefixtures("meeting")
@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_is_put_together_of_weights_is_not_counted_as_kept(tmp_path, method):
    """Layers were counted as activations once, and so checkpointing was switched on for nothing."""
    folder = save_tiny(tmp_path)
    kept = []
    for sharded in (False, True):
        learner = learner_for(folder, method, sharded)
        learner.model.train()
        kept.append(kept_bytes(learner.model, lambda: loss_of(learner)))  # noqa: B023
    assert kept[1] == pytest.approx(kept[0], rel=0.02)


def test_room_is_planned_for_the_parts_and_for_what_is_put_together(meeting, tmp_path):
    folder = save_tiny(tmp_path)
    whole, parts = learner_for(folder, "full", False), learner_for(folder, "full", True)
    count = sum(weight.numel() for weight in whole.weights.values())
    wishes = Wishes("off", "off", 4, 1)
    words, width = whole.model.get_output_embeddings().weight.shape
    of_the_loss = BYTES_A_LOGIT * words * PLAN.micro_tokens + 4 * words * width
    assert bytes_to_come(PLAN, whole.placed, wishes) == 12 * count + of_the_loss
    assert bytes_to_come(replace(PLAN, chunked=False), whole.placed, wishes) == 12 * count
    every = gathered_bytes(parts.model, layers_of(parts.model), 4)
    assert every == 8 * count  # two layers are all that there are: weights and gradients
    assert bytes_to_come(replace(PLAN, sharding="full"), parts.placed, wishes) == 12 * count + of_the_loss + every
    deep = save_tiny(tmp_path / "deep", num_hidden_layers=6)
    model = load(deep, LoadSpec()).model.requires_grad_(False)
    assert gathered_bytes(model, layers_of(model), 4) == 4 * count


@pytest.mark.parametrize(
    ("plan", "most"),
    [
        ({}, 9 + 8 + 7 + 6),
        ({"micro_tokens": 20}, 20),
        ({"micro_tokens": 5}, 9),
        ({"processes": 2}, (9 + 8 + 7 + 6) // 2 + 9),
        ({"processes": 4}, (9 + 8 + 7 + 6) // 4 + 9),
        ({"packing": False}, 4 * 9),
        ({"accumulation": 2}, 9 + 8),
        ({"accumulation": 2, "packing": False}, 2 * 9),
        ({"accumulation": 2, "processes": 2}, 9),
    ],
)
def test_the_largest_micro_batch_is_this_processs_share_of_a_step(plan, most):
    plan = replace(PLAN, **{"packing": True, "micro_tokens": 100, **plan})
    assert largest_micro_batch(plan, 4, [1, 9, 8, 2, 7, 6, 3]) == most


@pytest.mark.usefixtures("meeting")
def test_a_part_is_a_copy_of_its_own():
    mesh = init_device_mesh("cpu", (1,))
    pattern = distribute_tensor(torch.zeros(5, 2), mesh)
    tensor = torch.arange(10.0).view(5, 2)
    part, plain = like(tensor, pattern).to_local(), like(tensor, torch.zeros(()))
    assert torch.equal(part, tensor)
    assert torch.equal(plain, tensor)
    assert len({part.data_ptr(), plain.data_ptr(), tensor.data_ptr()}) == 3
