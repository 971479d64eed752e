"""What packing and the loss without logits change is noticed, in fp32 and bf16, whatever rounding does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as library

from tunesmith.data.kinds.row import Row
from tunesmith.data.kinds.text import Text
from tunesmith.data.prepare import Prepared
from tunesmith.data.quality.ledger import Source
from tunesmith.model.attention import PACKED
from tunesmith.model.exact import in_fp32
from tunesmith.train.batch import packed, padded
from tunesmith.train.objective import Models
from tunesmith.train.objectives.sft import make_sft
from tunesmith.train.planning.packing_check import looks_ahead, refuse_looking_ahead
from tunesmith.train.planning.packing_check import why_not_packed as why_objective_not_packed
from tunesmith.train.planning.plan import Plan
from tunesmith.train.planning.planner import decide_loss, decide_packing, stretch
from tunesmith.train.weights.placed import Placed
from tunesmith.train.weights.ranks import Ranks

WORDS = 512
SIZE = {"vocab_size": WORDS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 128}  # fmt: skip
FEW_KEYS = {**SIZE, "num_key_value_heads": 2}
OLD_NAMES = {"vocab_size": WORDS, "n_embd": 64, "n_layer": 2, "n_head": 4}
MODELS = {
    "llama": lambda: library.LlamaForCausalLM(library.LlamaConfig(**FEW_KEYS)),
    "gpt2": lambda: library.GPT2LMHeadModel(library.GPT2Config(**OLD_NAMES, n_positions=64)),
    "gpt-neox": lambda: library.GPTNeoXForCausalLM(library.GPTNeoXConfig(**SIZE)),
    "mixtral": lambda: library.MixtralForCausalLM(library.MixtralConfig(**FEW_KEYS, num_local_experts=4)),
    "mistral": lambda: library.MistralForCausalLM(library.MistralConfig(**FEW_KEYS, sliding_window=None)),
    "mistral-window": lambda: library.MistralForCausalLM(library.MistralConfig(**FEW_KEYS, sliding_window=8)),
    "gemma2": lambda: library.Gemma2ForCausalLM(library.Gemma2Config(**FEW_KEYS, head_dim=16)),
    "gemma3": lambda: library.Gemma3ForCausalLM(library.Gemma3TextConfig(**FEW_KEYS, head_dim=16)),
    "mpt": lambda: library.MptForCausalLM(
        library.MptConfig(vocab_size=WORDS, d_model=64, n_heads=4, n_layers=2, max_seq_len=64)
    ),
    "bloom": lambda: library.BloomForCausalLM(
        library.BloomConfig(vocab_size=WORDS, hidden_size=64, n_layer=2, n_head=4)
    ),
    "gpt-neo": lambda: library.GPTNeoForCausalLM(
        library.GPTNeoConfig(vocab_size=WORDS, hidden_size=64, num_layers=2, num_heads=4, max_position_embeddings=64,
                             attention_types=[[["global", "local"], 1]])
    ),
    "mamba": lambda: library.MambaForCausalLM(
        library.MambaConfig(vocab_size=WORDS, hidden_size=64, num_hidden_layers=2, state_size=4)
    ),
    "bert": lambda: library.BertLMHeadModel(library.BertConfig(**SIZE)),
    "deberta": lambda: library.DebertaV2ForMaskedLM(
        library.DebertaV2Config(**SIZE, type_vocab_size=0, relative_attention=True, pos_att_type=["p2c", "c2p"])
    ),
}  # fmt: skip
PLAN = Plan(
    device="cpu", precision="fp32", packing=True, micro_tokens=0, accumulation=None, processes=1, sharding="none",
    threads=1, reasons={}, versions={}, machine="test",
)  # fmt: skip
SFT = make_sft()
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def make(kind, dtype):
    torch.manual_seed(0)
    return MODELS[kind]().to(dtype).eval()


def row(length, seed):
    ids = np.random.default_rng(seed).integers(3, WORDS, length).astype(np.int32)
    return Prepared(ids, ((length // 3, length),), Source("rows", seed), Row(Text("text"), Source("rows", seed)))


ROWS = [row(length, seed) for seed, length in enumerate((9, 14, 17, 23))]


def why_not_packed(model, rows, micro_tokens=0):
    return why_objective_not_packed(SFT, Models(model, replace(PLAN, micro_tokens=micro_tokens)), rows)


def why_not_chunked(model, rows):
    return SFT.check.why_not_chunked(Models(model, replace(PLAN, packing=False)), rows)


class Rows(list):
    @property
    def lengths(self):
        return np.array([len(row.ids) for row in self])


@BOTH
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt-neox", "mixtral", "mistral", "bert"])
def test_a_sound_model_is_packed_in_any_precision(kind, dtype):
    model = make(kind, dtype).train()
    assert why_not_packed(model, ROWS, micro_tokens=200) is None
    assert model.config._attn_implementation == PACKED
    assert model.training


@BOTH
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("mpt", "read each other"),
        ("bloom", "read each other"),
        ("mamba", "read each other"),
        ("mistral-window", "sliding_window"),
        ("gemma2", "softcap"),
        ("gemma3", "sliding_window"),
        ("gpt-neo", "does not support it"),  # a pack is longer than it has positions
        ("deberta", "packing is off"),
    ],
)
def test_a_model_whose_rows_would_read_each_other_is_never_packed(kind, said, dtype):
    model = make(kind, dtype)
    before = model.config._attn_implementation
    assert said in why_not_packed(model, ROWS, micro_tokens=200)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("kind", ["mpt", "bloom"])
def test_the_smallest_leak_is_one(kind):
    model = make(kind, torch.bfloat16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "out_proj" in name or "dense.weight" in name:
                weight.mul_(0.05)  # attention gives next to nothing, and every loss agrees within rounding
    together, alone = (losses(model, make_batch(ROWS, "cpu")) for make_batch in (packed, padded))
    assert (together - alone).square().mean().sqrt() < 0.01
    assert "read each other" in why_not_packed(model, ROWS)


@torch.no_grad()
def losses(model, batch):
    logits = model(**batch.inputs).logits.flatten(0, 1)
    logits = logits if batch.picked_N is None else logits[batch.picked_N]
    return torch.nn.functional.cross_entropy(logits.float(), batch.target_N, reduction="none")


class Toy(torch.nn.Module):
    """A model made of one function of ids and positions."""

    def __init__(self, function):
        super().__init__()
        self.config = type("Config", (), {"_attn_implementation": "sdpa"})()
        self.device, self.dtype, self.function = torch.device("cpu"), torch.float32, function

    def set_attn_implementation(self, name):
        self.config._attn_implementation = name

    def forward(self, input_ids, logits_to_keep=None, **other):
        logits = self.function(input_ids)[..., None] * torch.linspace(-0.001, 0.001, WORDS)
        logits = logits if logits_to_keep is None else logits[:, logits_to_keep]
        return type("Output", (), {"logits": logits})()


def test_a_model_that_counts_positions_by_itself_is_noticed():
    """No row moves another, and yet each depends on where it stands."""
    counting = Toy(lambda ids: ids + 10.0 * torch.arange(ids.shape[1]))
    assert "packed rows give other losses" in why_not_packed(counting, ROWS)
    summing = Toy(lambda ids: ids.float().cumsum(1))
    assert "read each other" in why_not_packed(summing, ROWS)
    assert why_not_packed(Toy(lambda ids: ids.float()), ROWS) is None


@BOTH
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "mpt", "mamba"])
def test_a_causal_model_does_not_look_ahead(kind, dtype):
    assert not looks_ahead(make(kind, dtype), ROWS[3])


@BOTH
def test_a_model_that_looks_ahead_is_refused(dtype, tmp_path):
    with pytest.raises(ValueError, match="depends on the tokens that come after"):
        refuse_looking_ahead(tmp_path, make("bert", dtype), ROWS[3])


@BOTH
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "mamba"])
def test_the_chunked_loss_is_used_where_it_is_the_models_own(kind, dtype):
    assert why_not_chunked(make(kind, dtype), ROWS) is None


@BOTH
def test_a_cap_is_noticed_however_small_the_logits_are(dtype):
    model = make("gemma2", dtype)
    logits = model(input_ids=torch.tensor([ROWS[0].ids.tolist()])).logits
    assert logits.abs().max() < 0.1 * model.config.final_logit_softcapping
    assert "scaled, capped or masked" in why_not_chunked(model, ROWS)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "bloom"])
def test_a_pass_in_fp32_is_that_of_a_copy_in_fp32_and_leaves_no_trace(kind):
    model = make(kind, torch.bfloat16)
    ids = torch.tensor([ROWS[3].ids.tolist()])
    weights = {name: (weight, weight.clone()) for name, weight in model.named_parameters()}
    with in_fp32(model):
        got = model(input_ids=ids).logits
    assert got.dtype == torch.float32
    assert dict(model.named_parameters()).keys() == weights.keys()
    for name, weight in model.named_parameters():
        assert weight is weights[name][0]
        assert torch.equal(weight, weights[name][1])
    assert model(input_ids=ids).logits.dtype == torch.bfloat16
    torch.testing.assert_close(got, model.float()(input_ids=ids).logits, rtol=1e-3, atol=2e-4)


class Second(Ranks):
    def gather(self, value):
        return [self.first, value]


def test_what_one_process_finds_counts_for_all():
    plan = Plan(
        device="cpu", precision="fp32", packing=True, micro_tokens=300, accumulation=None, processes=2,
        sharding="none", threads=1, reasons={}, versions={}, machine="test",
    )  # fmt: skip
    model, heard, ranks = make("llama", torch.float32), [], Second(1, 2)
    before = model.config._attn_implementation
    object.__setattr__(ranks, "first", "packing is off: the first process says so.")
    placed = Placed(model, plan, ranks)
    decided = decide_packing(plan, placed, SFT, Rows(ROWS), heard.append)
    assert not decided.packing
    assert model.config._attn_implementation == before
    object.__setattr__(ranks, "first", "the first process cannot")
    decided = decide_loss(decided, placed, SFT, Rows(ROWS), heard.append)
    assert decided.chunked is False
    assert [event.sentence for event in heard] == [
        "packing is off: the first process says so.",
        "all logits are built for the loss, which takes memory: the first process cannot.",
    ]


def test_of_a_long_row_a_stretch_is_looked_at_that_is_trained_on():
    source = Source("rows.jsonl", 1)
    row = Prepared(np.arange(1000, dtype=np.int32), ((700, 705), (720, 990)), source, Row(Text("x"), source))
    found = stretch(row, 100)
    assert found.ids.tolist() == list(range(699, 799))
    assert found.spans == ((1, 6), (21, 100))
    assert stretch(replace(row, spans=((0, 5),)), 100).ids[0] == 0
    at_the_end = stretch(replace(row, spans=((990, 1000),)), 100)
    assert at_the_end.ids.tolist() == list(range(900, 1000))
    assert at_the_end.spans == ((90, 100),)
    assert stretch(row, 1000) is row
