"""Tests of what only a GPU runs: each is marked `gpu`, and skipped where there is none.

With GPU_TESTS_ON=cpu their bodies run on the CPU, which shows that they are right and nothing of a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
DEVICE = os.environ.get("GPU_TESTS_ON", "cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    absent = pytest.mark.skip(reason="no NVIDIA GPU")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if DEVICE == "cuda" and not torch.cuda.is_available():
                item.add_marker(absent)


@pytest.fixture
def device() -> str:
    return DEVICE


@pytest.fixture
def card(device: str) -> str:
    """Of tests that a CPU cannot stand in for."""
    if device == "cpu":
        pytest.skip("of a GPU alone")
    return device
