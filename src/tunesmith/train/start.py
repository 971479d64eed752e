"""The model as training started from it: the reference that a policy is held near.

Its trained weights are kept beside and put in the place of today's while they are asked for. So it is right for every
method, also one that changes the base or goes on from an earlier adapter; it takes as much memory as what is trained.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

from tunesmith.model.methods.method import trainable


class Start:
    """The trained weights of a model as they are now, in the precision that it computes with."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._kept = {name: weight.detach().clone() for name, weight in trainable(model).items()}

    @contextmanager
    def in_place(self) -> Generator[None]:
        """The model is what it was at the start, while the block lasts; nothing may be learned meanwhile."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for name, weight in trainable(self._model).items():
                weight.data, self._kept[name] = self._kept[name], weight.data
