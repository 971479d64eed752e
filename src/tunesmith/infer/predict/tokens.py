"""What models compute of each token: sequences of about one length together, packed where that changes nothing.

Axes: T tokens, C logits of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tunesmith.infer.predict.classes import Read, alike, together
from tunesmith.model.attention import PACKED
from tunesmith.model.heads import inputs_of, token_logits
from tunesmith.model.packed import UNFIT


@torch.inference_mode()
def logits_of(model: Any, reads: Sequence[Read], packed: bool = False) -> list[np.ndarray]:
    """The logits of each token of each sequence in fp32, (T, C), in the order that the sequences have."""
    order = sorted(range(len(reads)), key=lambda place: len(reads[place][0]))
    found: dict[int, np.ndarray] = {}
    for some in together([len(reads[place][0]) for place in order], packed):
        chosen = [reads[order[place]] for place in some]
        ids, borders = [one for one, _ in chosen], [border for _, border in chosen]
        inputs = inputs_of(ids, borders, packed, str(model.device))
        for place, logits_TC in zip(some, token_logits(model, inputs, list(map(len, ids))), strict=True):
            found[order[place]] = logits_TC.float().cpu().numpy()
    return [found[place] for place in range(len(reads))]


class TokenReader:
    """A model with a head over tokens, which finds out by itself whether sequences can be packed.

    Attributes:
        model: of transformers, with its adapter, in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self._packed: bool | None = None

    def logits(self, reads: Sequence[Read]) -> list[np.ndarray]:
        """The logits of each token of each sequence, (T, C)."""
        if not reads:
            return []
        if self._packed is None:
            self._packed = self._can_pack(reads)
        return logits_of(self.model, reads, self._packed)

    def _can_pack(self, reads: Sequence[Read]) -> bool:
        """Whether packed sequences have the logits that they have alone; attention is left set for that."""
        before, few = self.model.config._attn_implementation, reads[:4]
        alone = np.concatenate(logits_of(self.model, few))
        try:
            self.model.set_attn_implementation(PACKED)
            packed = np.concatenate(logits_of(self.model, few, True))
            if alike(packed, alone, self.model.dtype):
                return True
        except UNFIT:
            pass
        self.model.set_attn_implementation(before)
        return False
