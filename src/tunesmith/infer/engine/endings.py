"""How likely several endings of one prompt are: the prompt is read once, and all endings behind it, each alone.

One sequence holds the prompt and every ending; positions and mask make each ending follow the prompt and nothing else.
Whether a model computes that as it computes rows (`LocalEngine.score`) is tried once; if not, rows are scored.

Axes: T tokens of the sequence, K positions of which logits are kept, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from tunesmith.infer.engine.library import cache_argument
from tunesmith.infer.generator import RowScore
from tunesmith.infer.local import LocalEngine
from tunesmith.model.packed import UNFIT
from tunesmith.model.soft import soft_tokens

SAME = {torch.float32: 1e-3}  # largest difference of a token's log probability, in nats
SAME_ROUNDED = 0.2  # the same, where numbers have few digits
TRIED = 4  # endings by which it is tried


class Endings:
    """Scores endings with an engine's model.

    What two prompts after each other have in common at their beginning, such as an instruction and worked examples, is
    read once.

    Attributes:
        shared: whether endings share one pass; None before it was tried.
    """

    def __init__(self, engine: LocalEngine) -> None:
        """Score with the engine's model as it is; its weights must stay."""
        self._engine = engine
        self._cache: Any = None
        self._read: list[int] = []  # the prompt whose keys and values are there
        self.shared: bool | None = None if can_share(engine.model) else False

    def score(self, prompt: Sequence[int], endings: Sequence[Sequence[int]]) -> list[RowScore]:
        """The score of each ending, in order.

        Args:
            prompt: ids, at least one.
            endings: ids, at least one of each.
        """
        if self.shared is None:  # the second time, most of the prompt is known from the first
            self.shared = all(self._fits(prompt, endings[:TRIED]) for _ in range(2))
        if not self.shared:
            return self._engine.score([row_of(prompt, ending) for ending in endings])
        found: list[RowScore] = []
        for some in in_parts(len(prompt), [len(ending) for ending in endings], self._engine.batch_tokens):
            found += self._together(prompt, [endings[place] for place in some])
        return found

    def _fits(self, prompt: Sequence[int], endings: Sequence[Sequence[int]]) -> bool:
        try:
            together = self._together(prompt, endings)
        except UNFIT:
            return False
        alone = self._engine.score([row_of(prompt, ending) for ending in endings])
        most = SAME.get(self._engine.model.dtype, SAME_ROUNDED)
        return all(
            abs(a - b) <= most
            for one, other in zip(together, alone, strict=True)
            for a, b in zip(one.logprobs, other.logprobs, strict=True)
        )

    def _together(self, prompt: Sequence[int], endings: Sequence[Sequence[int]]) -> list[RowScore]:
        """The scores, with what is known of the prompt; the prompt is known then."""
        known = min(common(prompt, self._read), len(prompt) - 1)  # its last token predicts
        cache, self._cache, self._read = self._cache, None, []
        if known == 0 or cache is None:
            cache, known = DynamicCache(), 0
        keep_first(cache, known)
        scores = score_together(self._engine.model, prompt, endings, cache, known)
        keep_first(cache, len(prompt))
        self._cache, self._read = cache, list(prompt)
        return scores


def can_share(model: Any) -> bool:
    """Whether all layers attend to all that came before, and no soft prompt stands in front."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    whole = all(kind == "full_attention" for kind in kinds) if kinds else not getattr(config, "sliding_window", None)
    return whole and not soft_tokens(model)


def keep_first(cache: Any, count: int) -> None:
    """Leave only the first keys and values of a cache."""
    if (more := cache.get_seq_length() - count) > 0:
        cache.crop(-more)  # a negative number is one to take away, in all versions


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids are the same at the beginning."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
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
def score_together(
    model: Any, prompt: Sequence[int], endings: Sequence[Sequence[int]], cache: Any, known: int
) -> list[RowScore]:  # fmt: skip
    """The score of each ending, through one forward pass of the library's own.

    Args:
        model: a causal language model, in evaluation mode.
        prompt: ids.
        endings: ids of each.
        cache: keys and values of the prompt's first tokens; those of all that is read are added.
        known: how many these are, fewer than the prompt has.
    """
    ids, positions, owners = list(prompt), list(range(len(prompt))), [0] * len(prompt)
    for number, ending in enumerate(endings, 1):
        inside = ending[:-1]  # the last token is only predicted
        ids += inside
        positions += range(len(prompt), len(prompt) + len(inside))
        owners += [number] * len(inside)
    owner_T = torch.tensor(owners)
    seen_TT = ((owner_T[:, None] == owner_T[None]) | (owner_T[None] == 0)).tril()[known:]
    bias_TT = torch.zeros(seen_TT.shape, dtype=model.dtype).masked_fill_(~seen_TT, torch.finfo(model.dtype).min)
    logits_KV = model(
        input_ids=torch.tensor([ids[known:]]).to(model.device),
        attention_mask=bias_TT[None, None].to(model.device),
        position_ids=torch.tensor([positions[known:]]).to(model.device),
        use_cache=True,
        logits_to_keep=torch.arange(len(prompt) - 1 - known, len(ids) - known, device=model.device),
        **{cache_argument(model): cache},
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
