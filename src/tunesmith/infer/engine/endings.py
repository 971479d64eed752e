"""How likely several endings of one prompt are: the prompt is read once, and all endings behind it, each alone.

One sequence holds the prompt and every ending; positions and mask make each ending follow the prompt and nothing else.
Whether a model computes that as it computes rows (`LocalEngine.score`) is tried once; if not, rows are scored.

Axes: T tokens of the sequence, K positions of which logits are kept, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunesmith.infer.generator import RowScore
from tunesmith.infer.local import LocalEngine
from tunesmith.model.soft import soft_tokens

SAME = {torch.float32: 1e-3}  # largest difference of a token's log probability, in nats
SAME_ROUNDED = 0.2  # the same, where numbers have few digits
TRIED = 4  # endings by which it is tried
UNFIT = (NotImplementedError, ValueError, TypeError, RuntimeError, AttributeError, IndexError, KeyError)


class Endings:
    """Scores endings with an engine's model.

    Attributes:
        shared: whether endings share one pass; None before it was tried.
    """

    def __init__(self, engine: LocalEngine) -> None:
        """Score with the engine's model as it is."""
        self._engine = engine
        self.shared: bool | None = False if soft_tokens(engine.model) else None

    def score(self, prompt: Sequence[int], endings: Sequence[Sequence[int]]) -> list[RowScore]:
        """The score of each ending, in order.

        Args:
            prompt: ids, at least one.
            endings: ids, at least one of each.
        """
        if self.shared is None:
            self.shared = self._fits(prompt, endings[:TRIED])
        if not self.shared:
            return self._engine.score([row_of(prompt, ending) for ending in endings])
        found: list[RowScore] = []
        for some in in_parts(len(prompt), [len(ending) for ending in endings], self._engine.batch_tokens):
            found += score_together(self._engine.model, prompt, [endings[place] for place in some])
        return found

    def _fits(self, prompt: Sequence[int], endings: Sequence[Sequence[int]]) -> bool:
        try:
            together = score_together(self._engine.model, prompt, endings)
        except UNFIT:
            return False
        alone = self._engine.score([row_of(prompt, ending) for ending in endings])
        most = SAME.get(self._engine.model.dtype, SAME_ROUNDED)
        return all(
            abs(a - b) <= most
            for one, other in zip(together, alone, strict=True)
            for a, b in zip(one.logprobs, other.logprobs, strict=True)
        )


def row_of(prompt: Sequence[int], ending: Sequence[int]) -> tuple[list[int], list[bool]]:
    """A prompt with one ending, which is marked."""
    return [*prompt, *ending], [False] * len(prompt) + [True] * len(ending)


def in_parts(prompt: int, lengths: Sequence[int], most: int) -> list[list[int]]:
    """Places of endings that are scored together, at most so many tokens with the prompt, and one at least."""
    parts: list[list[int]] = []
    total = 0
    for place, length in enumerate(lengths):
        if not parts or total + length > most:
            parts.append([])
            total = prompt
        parts[-1].append(place)
        total += length
    return parts


@torch.inference_mode()
def score_together(model: Any, prompt: Sequence[int], endings: Sequence[Sequence[int]]) -> list[RowScore]:
    """The score of each ending, through one forward pass of the library's own."""
    ids, positions, owners = list(prompt), list(range(len(prompt))), [0] * len(prompt)
    for number, ending in enumerate(endings, 1):
        inside = ending[:-1]  # the last token is only predicted
        ids += inside
        positions += range(len(prompt), len(prompt) + len(inside))
        owners += [number] * len(inside)
    owner_T = torch.tensor(owners)
    seen_TT = ((owner_T[:, None] == owner_T[None]) | (owner_T[None] == 0)).tril()
    bias_TT = torch.zeros(seen_TT.shape, dtype=model.dtype).masked_fill_(~seen_TT, torch.finfo(model.dtype).min)
    start = len(prompt) - 1
    logits_KV = model(
        input_ids=torch.tensor([ids]).to(model.device),
        attention_mask=bias_TT[None, None].to(model.device),
        position_ids=torch.tensor([positions]).to(model.device),
        use_cache=False,
        logits_to_keep=torch.arange(start, len(ids), device=model.device),
    ).logits[0]
    found: list[RowScore] = []
    at = 1
    for ending in endings:
        places = [0, *range(at, at + len(ending) - 1)]
        at += len(ending) - 1
        logprob_NV = logits_KV[places].float().log_softmax(-1)
        target_N = torch.tensor(list(ending), device=logprob_NV.device)
        chosen_N = logprob_NV.gather(-1, target_N[:, None])[:, 0]
        found.append(RowScore(chosen_N.tolist(), int((logprob_NV.argmax(-1) == target_N).sum())))
    return found
