"""Generate and score with a model in this process.

Prompts of near-equal length are decoded together: padded on the left, with a key-value cache, rows
leaving the batch as they end. Axes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tunesmith.core.errors import ModelError
from tunesmith.infer.engine import Completion, RowScore, Sampling

LOGITS = 2**28  # most logits built at once: 1 GiB in fp32


class LocalEngine:
    """An `Engine` over a transformers model, which it does not change."""

    def __init__(self, model: Any, stop_ids: Sequence[int], batch_size: int = 32, batch_tokens: int = 8192) -> None:
        """Use `model` (in evaluation mode) with these stop ids.

        Args:
            model: a causal language model.
            stop_ids: ids that end an answer.
            batch_size: most rows decoded together.
            batch_tokens: most tokens of prompts or rows, padding included, taken together; fewer where the
                vocabulary is large, since every scored position has a logit for each word.
        """
        config = model.config.get_text_config()
        self.model = model
        self.stop_ids = frozenset(stop_ids)
        self.batch_size = batch_size
        self.batch_tokens = min(batch_tokens, LOGITS // config.vocab_size)
        self.positions: int | None = getattr(config, "max_position_embeddings", None)

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        """One completion for each prompt, in order."""
        answers: dict[int, Completion] = {}
        for chosen in self._batches([len(prompt) for prompt in prompts], self.batch_size):
            rows: list[list[int]] = [[] for _ in chosen]
            ended: set[int] = set()
            for row, token in self._decode([prompts[i] for i in chosen], sampling):
                if token in self.stop_ids:
                    ended.add(row)
                else:
                    rows[row].append(token)
            for row, index in enumerate(chosen):
                answers[index] = Completion(rows[row], row in ended)
        return [answers[i] for i in range(len(prompts))]

    def stream(self, prompt: list[int], sampling: Sampling) -> Iterator[int]:
        """The tokens of one completion as they come."""
        for _, token in self._decode([prompt], sampling):
            if token not in self.stop_ids:
                yield token

    @torch.inference_mode()
    def _decode(self, prompts: list[list[int]], sampling: Sampling) -> Iterator[tuple[int, int]]:
        """Yield (row, token) as rows are decoded together; a row's last token may be a stop id.

        Raises:
            ModelError: a prompt fills all positions that the model has.
        """
        longest = max(map(len, prompts))
        room = sampling.max_new_tokens if self.positions is None else self.positions - longest
        if room <= 0:
            raise ModelError(
                f"the conversation has {longest} tokens and the model takes at most {self.positions}. Shorten it."
            )
        steps = min(room, sampling.max_new_tokens)
        device = self.model.device
        ids_BT, mask_BT = pad(prompts, left=True)
        ids_BT, mask_BT = ids_BT.to(device), mask_BT.to(device)
        position_BT = (mask_BT.long().cumsum(1) - 1).clamp(min=0)
        generator = torch.Generator(device).manual_seed(sampling.seed)
        alive = list(range(len(prompts)))
        cache: Any = None
        for step in range(steps):
            output = self.model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=position_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            token_B = choose(output.logits[:, -1].float(), sampling, generator)
            tokens = token_B.tolist()
            yield from zip(alive, tokens, strict=True)
            keep = [i for i, token in enumerate(tokens) if token not in self.stop_ids]
            if not keep or step == steps - 1:
                return
            if len(keep) < len(alive):
                index = torch.tensor(keep, device=device)
                cache.batch_select_indices(index)
                token_B, mask_BT, position_BT = token_B[index], mask_BT[index], position_BT[index]
                alive = [alive[i] for i in keep]
            ids_BT = token_B[:, None]
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(alive), 1)], dim=1)
            position_BT = position_BT[:, -1:] + 1

    @torch.inference_mode()
    def score(self, rows: Sequence[tuple[list[int], list[bool]]]) -> list[RowScore]:
        """Loss and hits over the marked tokens of each row, through the library's own forward pass."""
        scores: dict[int, RowScore] = {}
        for chosen in self._batches([len(ids) for ids, _ in rows], len(rows)):
            ids_BT, seen_BT = pad([rows[i][0] for i in chosen], left=False)
            ids_BT, seen_BT = ids_BT.to(self.model.device), seen_BT.to(self.model.device)
            until = max(ids_BT.shape[1] - 1, 1)  # the last token is only predicted, and may have no position of its own
            seen = {"input_ids": ids_BT[:, :until], "attention_mask": seen_BT[:, :until]}
            logits_BTV = self.model(**seen, use_cache=False).logits
            for row, index in enumerate(chosen):
                mask = torch.tensor(rows[index][1][1:], device=ids_BT.device)
                logits_NV = logits_BTV[row, : len(mask)][mask].float()
                target_N = ids_BT[row, 1 : len(mask) + 1][mask]
                loss = torch.nn.functional.cross_entropy(logits_NV, target_N, reduction="sum")
                correct = (logits_NV.argmax(-1) == target_N).sum()
                scores[index] = RowScore(loss.item(), len(target_N), int(correct))
        return [scores[i] for i in range(len(rows))]

    def _batches(self, lengths: list[int], most: int) -> Iterator[list[int]]:
        """Indices of near-equal lengths, as many together as `most` and `batch_tokens` allow."""
        batch: list[int] = []
        for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
            if batch and (len(batch) == most or lengths[index] * (len(batch) + 1) > self.batch_tokens):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch


def pad(rows: Sequence[Sequence[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids as one (B, T) tensor, and the (B, T) mask of what is not padding."""
    longest = max(map(len, rows))
    ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    mask_BT = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids_BT[i, place] = torch.tensor(row, dtype=torch.long)
        mask_BT[i, place] = True
    return ids_BT, mask_BT


def choose(logits_BV: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> torch.Tensor:
    """The next token of each row (B): greedy at temperature 0, else nucleus sampling (Holtzman et al., 2020)."""
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    probability_BV, token_BV = (logits_BV / sampling.temperature).softmax(-1).sort(-1, descending=True)
    before_BV = probability_BV.cumsum(-1) - probability_BV
    probability_BV = probability_BV.masked_fill(before_BV >= sampling.top_p, 0.0)
    probability_BV[:, 0].clamp_(min=1e-9)  # top_p = 0 still leaves the likeliest
    drawn_B1 = torch.multinomial(probability_BV, 1, generator=generator)
    return token_BV.gather(-1, drawn_B1)[:, 0]
