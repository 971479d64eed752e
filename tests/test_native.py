"""What decoding computes in C++ of our own: against double precision, row by row to the bit, and without it."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tunesmith.infer.engine import products
from tunesmith.infer.engine.attention import attend_one, can_attend_one
from tunesmith.infer.engine.linear import Product, _packed
from tunesmith.infer.engine.products import InOrder, can_multiply
from tunesmith.infer.generator import Options, answer_all
from tunesmith.infer.local import LocalEngine
from tunesmith.model import native

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's
needs_it = pytest.mark.skipif(native.library() is None, reason="no g++, or another processor")
ROUNDED = 4e-3  # of a number in bf16


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want).abs().max() / want.abs().max())


@needs_it
@pytest.mark.parametrize(("inputs", "outputs"), [(2, 1), (64, 16), (576, 960), (98, 77), (32, 49)])
def test_products_are_right_and_rows_do_not_depend_on_each_other(inputs, outputs):
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs, dtype=torch.bfloat16)
    packed = InOrder(weight)
    x = torch.randn(37, 2, inputs, dtype=torch.bfloat16)
    whole = packed.product(x)
    assert error(whole, x.double() @ weight.double().T) < ROUNDED
    for rows in range(1, 20):
        assert torch.equal(packed.product(x[:rows, :1].expand(rows, 1, inputs)), whole[:rows, :1])
    assert packed.product(x[:0]).shape == (0, 2, outputs)


@needs_it
def test_weights_are_multiplied_by_our_own_code_where_it_can():
    weight = torch.randn(24, 16, dtype=torch.bfloat16)
    assert can_multiply(weight)
    assert not can_multiply(weight.float())
    assert not can_multiply(weight[:, :15])
    product = Product([weight[:8], weight[8:]])
    x = torch.randn(3, 1, 16, dtype=torch.bfloat16)
    assert isinstance(_packed[product.memory.number], InOrder)
    assert error(product(x), x.double() @ weight.double().T) < ROUNDED
    product.memory.input = None
    product.pack([weight[:8] * 2, weight[8:] * 2])
    assert error(product(x), x.double() @ weight.double().T * 2) < ROUNDED


@needs_it
def test_a_product_takes_nothing_else():
    packed = InOrder(torch.randn(4, 8, dtype=torch.bfloat16))
    with pytest.raises(TypeError, match=r"in torch\.float32"):
        packed.product(torch.randn(2, 8))
    with pytest.raises(TypeError, match="of 6 inputs"):
        packed.product(torch.randn(2, 6, dtype=torch.bfloat16))


@needs_it
def test_weights_lie_elsewhere_where_there_is_no_room_in_large_pages(monkeypatch):
    weights = [torch.randn(40, 8, dtype=torch.bfloat16), torch.randn(100, 6, dtype=torch.bfloat16)]
    room = products.room_for(weights)
    assert room is not None
    packed = [InOrder(weight, room) for weight in weights]
    for weight, one in zip(weights, packed, strict=True):
        x = torch.randn(3, weight.shape[1], dtype=torch.bfloat16)
        assert error(one.product(x), x.double() @ weight.double().T) < ROUNDED
    assert products.room_for([*weights, weights[0].float()]) is None

    def refused(*arguments, **settings):
        raise OSError("cannot allocate memory")

    monkeypatch.setattr(products.mmap, "mmap", refused)
    assert products.room_for(weights) is None


CASES = [  # rows, groups, heads that share keys, positions, width, window
    (8, 3, 3, 96, 64, None), (1, 1, 1, 1, 32, None), (5, 2, 6, 77, 96, None), (3, 1, 2, 40, 128, 5),
    (2, 4, 1, 9, 32, 1),
]  # fmt: skip


@needs_it
@pytest.mark.parametrize(("rows", "groups", "shared", "positions", "width", "window"), CASES)
def test_attention_is_right_and_rows_do_not_depend_on_each_other(rows, groups, shared, positions, width, window):
    torch.manual_seed(0)
    keys, values = torch.randn(2, rows + 2, groups, positions + 5, width, dtype=torch.bfloat16)
    query = 2 * torch.randn(rows, groups, shared, width, dtype=torch.bfloat16)
    places = torch.randint(0, positions, (rows,))
    relative = (places[:, None] - torch.arange(positions))[:, None, None]
    key, value = keys[:rows, :, :positions], values[:rows, :, :positions]
    assert can_attend_one(query, key, value)
    got = attend_one(query, key, value, relative, window, width**-0.5)
    seen = relative >= 0 if window is None else (relative >= 0) & (relative < window)
    scores = (query.double() @ key.double().transpose(-1, -2)) * width**-0.5
    assert error(got, scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value.double()) < ROUNDED
    until, first = int(places[0]) + 1, slice(0, 1)
    near = relative[first, ..., :until]
    alone = attend_one(query[first], key[first, :, :until], value[first, :, :until], near, window, width**-0.5)
    assert torch.equal(alone, got[first])
    beyond = attend_one(query, key, value, relative + 99, None, width**-0.5)  # no position is read that is not there
    assert beyond.isfinite().all()
    same = attend_one(query, key, value, relative[first], window, width**-0.5)  # all rows at one place
    assert torch.equal(same[first], got[first])


@needs_it
def test_large_scores_and_far_ones_stay_finite():
    query, key = torch.full((1, 1, 1, 32), 40.0), torch.full((1, 1, 4, 32), 40.0)
    key[..., 1:, :] = -40.0
    value = torch.arange(4.0)[None, None, :, None].expand(1, 1, 4, 32)
    query, key, value = (one.to(torch.bfloat16).contiguous() for one in (query, key, value))
    got = attend_one(query, key, value, 3 - torch.arange(4)[None, None, None], None, 1.0)
    assert torch.equal(got, torch.zeros_like(got))  # the first position has all the weight


@needs_it
@pytest.mark.parametrize("place", [0, 2, 3])
def test_what_is_no_number_stays_none(place):
    query, key, value = torch.randn(3, 1, 1, 4, 32).to(torch.bfloat16)
    key[0, 0, place, 5] = torch.nan
    got = attend_one(query[:, :, :1].contiguous(), key, value, 3 - torch.arange(4)[None, None, None], None, 1.0)
    assert got.isnan().all()


@needs_it
def test_what_it_cannot_do_is_left_to_torch():
    states = torch.randn(1, 1, 4, 32, dtype=torch.bfloat16)
    assert not can_attend_one(states, states, states.float())
    assert not can_attend_one(states[..., :16], states[..., :16], states[..., :16])
    assert not can_attend_one(states, states, states[..., :16])


def small():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=32,
        intermediate_size=96, max_position_embeddings=128, initializer_range=0.2, pad_token_id=0, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(torch.bfloat16).eval()


PROMPTS = [[(7919 * row + 31 * place + 5) % 300 for place in range(length)] for row, length in enumerate((3, 20, 7))]


def answers(engine):
    return [one.choice.ids for one in answer_all(engine, [(prompt, Options(max_new_tokens=12)) for prompt in PROMPTS])]


def short_of_the_best(ids, prompt, exact):
    """How much lower, in double precision, the logits of greedily chosen words are than the largest, at most."""
    with torch.no_grad():
        logits = exact(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return float((logits.max(-1).values - logits[torch.arange(len(ids)), torch.tensor(ids)]).max())


def test_an_engine_answers_in_bf16_with_and_without_it(monkeypatch):
    exact = small().double()
    engine = LocalEngine(small(), None, compile_after=None)
    found = [answers(engine)]
    engine.compile()
    assert engine.reason == ""
    found.append(answers(engine))
    monkeypatch.setattr(native, "has_units", lambda: False)
    native.library.cache_clear()
    found.append(answers(LocalEngine(small(), None, compile_after=None)))
    monkeypatch.undo()
    native.library.cache_clear()
    worst = [max(map(short_of_the_best, ids, PROMPTS, [exact] * 3)) for ids in found]
    assert max(worst) < 0.1, worst


@pytest.mark.parametrize("trouble", ["a compiler that fails", "no compiler", "another processor", "clang"])
def test_without_it_there_is_no_error(monkeypatch, tmp_path, trouble):
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    broken = tmp_path / "broken.cpp"
    broken.write_text("this is no C++")
    match trouble:
        case "a compiler that fails":
            monkeypatch.setattr(native, "SOURCES", [broken])
        case "no compiler":
            monkeypatch.setenv("CXX", "/nowhere/g++")
        case "clang":
            clang = tmp_path / "clang++"
            clang.write_text("")
            clang.chmod(0o755)
            monkeypatch.setenv("CXX", str(clang))
        case _:
            monkeypatch.setattr(native, "has_units", lambda: False)
    native.library.cache_clear()
    try:
        assert native.library() is None
        assert not list(tmp_path.rglob("*.so"))
    finally:
        monkeypatch.undo()
        native.library.cache_clear()


@needs_it
def test_a_library_that_cannot_be_loaded_is_compiled_anew_and_one_that_can_needs_no_compiler(monkeypatch, tmp_path):
    small = tmp_path / "small.cpp"
    small.write_text("".join(f'extern "C" long {name}() {{ return 1; }}\n' for name in native.TAKES))
    monkeypatch.setattr(native, "SOURCES", [small])
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    native.library.cache_clear()
    try:
        with monkeypatch.context() as unloaded:  # a process loads a file of one name once
            unloaded.setattr(native, "_load", lambda path: native.ctypes.CDLL("/nowhere.so"))
            assert native.library() is None
        (made,) = tmp_path.rglob("*.so")
        made.write_bytes(b"")
        native.library.cache_clear()
        assert native.library() is not None
        assert made.stat().st_size > 0
        monkeypatch.setenv("CXX", "/nowhere/g++")
        native.library.cache_clear()
        found = native.library()
        assert found is not None
        with pytest.raises(MemoryError, match="no memory"):
            found.step(None, None, 1)
    finally:
        monkeypatch.undo()
        native.library.cache_clear()
