"""Which kernel computes attention on a GPU: by what was measured, and torch's own where that is not to be had."""

from __future__ import annotations

import pytest
import torch
import torch.nn.attention as switch
from torch.nn.attention import _registry

from conftest import save_tiny
from tunesmith.core.errors import MissingError
from tunesmith.model import attention, kernels
from tunesmith.model.kernels import CUDNN, KERNELS, OWN, fastest, kernels_for, put_in_place, use_kernel
from tunesmith.model.load import LoadSpec, load
from tunesmith.train.planning.speed import rows_of_one_pass

FA3, FA4 = "tunesmith_packed_by_fa3", "tunesmith_packed_by_fa4"


class Handle:
    def __init__(self):
        self.removed = False

    def remove(self):
        self.removed = True


@pytest.fixture
def third(monkeypatch):
    """Torch's switch with a FlashAttention 3 that can be put in place; the fourth is registered and not there."""
    handles = []

    def put():
        handles.append(Handle())
        return handles[-1]

    def absent():
        raise ImportError("No module named 'flash_attn'")

    monkeypatch.setattr(_registry, "_FLASH_ATTENTION_IMPLS", {"FA3": put, "FA4": absent})
    monkeypatch.setattr(_registry, "_FLASH_ATTENTION_ACTIVE", None)
    return handles


def measure(found):
    """What stands in for a GPU: of each kernel how far off it is, and its milliseconds, or what it raises."""
    own = [torch.arange(1.0, 9.0), torch.arange(2.0, 10.0)]  # output, and a gradient

    def one(kernel):
        assert switch.current_flash_attention_impl() == (kernel.replaces or None)
        answer = found[kernel.said]
        if isinstance(answer, Exception):
            raise answer
        off, took = answer
        return [own[0], own[1] * (1 + off)], took

    return one


@pytest.mark.parametrize(
    ("found", "chosen", "said"),
    [
        ({"cuDNN's": (0, 0.87), "FlashAttention 3's": (0, 0.9)}, CUDNN, "FlashAttention 3's takes 0.90 ms"),
        ({"cuDNN's": (0, 0.87), "FlashAttention 3's": (0.001, 0.6)}, FA3, "cuDNN's takes 0.87 ms"),
        ({"cuDNN's": (0.1, 0.1), "FlashAttention 3's": (0, 2.0)}, OWN, "cuDNN's is 0.1 off"),
        ({"cuDNN's": (float("nan"), 0.1), "FlashAttention 3's": (0, 2.0)}, OWN, "cuDNN's is nan off"),
        ({"cuDNN's": RuntimeError("No valid plan\nat all"), "FlashAttention 3's": (0, 0.2)}, FA3, "(No valid plan)"),
        ({"cuDNN's": AssertionError(), "FlashAttention 3's": (0, 2.0)}, OWN, "(AssertionError)"),
    ],
)  # fmt: skip
def test_the_fastest_that_is_right_is_taken(third, found, chosen, said):
    names = [OWN, FA3, FA4, CUDNN]
    taken, sentence = fastest(names, measure({"torch's": (0, 1.32), **found}))
    assert taken == chosen
    assert said in sentence
    assert "FlashAttention 4's is not there (No module named 'flash_attn')" in sentence
    assert sentence.startswith("measured: torch's takes 1.32 ms, ")


def test_where_torchs_own_cannot_nothing_else_is_tried(third):
    taken, sentence = fastest([OWN, FA3, CUDNN], measure({"torch's": RuntimeError("head dimension")}))
    assert taken == OWN
    assert sentence == "measured: torch's does not take these shapes (head dimension)"


def test_torchs_own_comes_back_to_its_place(third, tmp_path):
    assert attention.PACKED == OWN  # which has registered all of them
    model = load(save_tiny(tmp_path), LoadSpec()).model
    use_kernel(model, FA3)
    assert switch.current_flash_attention_impl() == "FA3"
    assert model.config._attn_implementation == FA3
    use_kernel(model, FA3)
    assert len(third) == 1
    use_kernel(model, CUDNN)
    assert third[0].removed
    assert switch.current_flash_attention_impl() is None
    assert model.config._attn_implementation == CUDNN


def test_what_is_gone_is_told(third):
    with pytest.raises(MissingError, match=r"No module named 'flash_attn'\)\. Install what brings flash_attn"):
        put_in_place(KERNELS[FA4])


def test_only_what_is_there_and_made_for_the_card_is_measured(monkeypatch):
    there = {"flash_attn_interface", "flash_attn"}
    monkeypatch.setattr(kernels, "find_spec", lambda name: name if name in there else None)
    assert kernels_for(True, 9) == [OWN, FA3, FA4, CUDNN]
    assert kernels_for(False, 9) == [OWN, FA3, FA4]
    assert kernels_for(False, 10) == [OWN, FA4]
    assert kernels_for(False, 8) == [OWN]
    there.clear()
    assert kernels_for(True, 9) == [OWN, CUDNN]


def test_rows_of_one_pass_are_as_many_as_fit():
    lengths = torch.tensor([5, 3, 4, 9]).numpy()
    assert rows_of_one_pass(lengths, 12) == [5, 3, 4]
    assert rows_of_one_pass(lengths, 11) == [5, 3]
    assert rows_of_one_pass(lengths, 2) == [5]
