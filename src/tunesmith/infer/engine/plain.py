"""Decoding through the library's own forward pass and cache: slower, for whatever the slots cannot do.

Prompts that wait together are decoded together, padded on the left; rows leave as they end, and others join when all
have ended. Where a step of several fails, each begins again alone, from the tokens that it has.

Axes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch

from tunesmith.infer.engine.library import cache_argument
from tunesmith.infer.engine.request import Request
from tunesmith.infer.engine.sample import choose
from tunesmith.infer.engine.scheduler import Next


class PlainBatch:
    """Rows that began together."""

    def __init__(self, model: Any, most_rows: int, most_tokens: int) -> None:
        """Start with none.

        Args:
            model: any causal language model, with whatever adapter is active in it.
            most_rows: at once.
            most_tokens: of prompts, padding included, at once.
        """
        self.model = model
        self.rows: list[Request] = []
        self._most_rows, self._most_tokens = most_rows, most_tokens
        self._argument = cache_argument(model)
        self._gone: set[int] = set()
        self._again: deque[Request] = deque()  # to be answered alone, after something failed
        self._cache: Any = None
        self._mask_BT, self._position_B1 = torch.empty(0), torch.empty(0)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.rows and not self._again

    def admit(self, waiting: deque[Request]) -> None:
        """Take the next group from the left of `waiting`, if the one before has ended."""
        if self._again and not self.rows:
            self.rows.append(self._again.popleft())
            return
        longest = 0
        while self._cache is None and not self._again and waiting and len(self.rows) < self._most_rows:
            longest = max(longest, waiting[0].filled)
            if self.rows and longest * (len(self.rows) + 1) > self._most_tokens:
                break
            self.rows.append(waiting.popleft())

    def step(self) -> list[Next]:
        """One token of every row, the prompts first."""
        try:
            self._drop()
            logits_BV = self._begin() if self._cache is None else self._continue()
        except Exception as error:  # noqa: BLE001  whose fault it is shows when each is tried alone
            rows = [request for request in self.rows if id(request) not in self._gone]
            self._end_group()
            if len(rows) == 1:
                rows[0].end(error=error)
            else:
                self._again.extend(rows)
            return []
        return choose(self.rows, logits_BV)

    def _continue(self) -> torch.Tensor:
        token_B1 = torch.tensor([[request.last] for request in self.rows], device=self.model.device)
        self._mask_BT = torch.cat([self._mask_BT, self._mask_BT.new_ones(len(self.rows), 1)], dim=1)
        self._position_B1 = self._position_B1 + 1
        return self._forward(input_ids=token_B1, position_ids=self._position_B1)

    def _begin(self) -> torch.Tensor:
        device = self.model.device
        softly = [[0] * (request.filled - len(request.tokens)) + request.tokens for request in self.rows]
        ids_BT, mask_BT = pad(softly, left=True)
        ids_BT, self._mask_BT = ids_BT.to(device), mask_BT.to(device)
        position_BT = (self._mask_BT.long().cumsum(1) - 1).clamp(min=0)
        self._position_B1 = position_BT[:, -1:]
        if all(request.embeddings is None for request in self.rows):
            return self._forward(input_ids=ids_BT, position_ids=position_BT)
        embedded_BTC = self.model.get_input_embeddings()(ids_BT)
        for row, request in enumerate(self.rows):
            if request.embeddings is not None:
                begin = ids_BT.shape[1] - request.filled
                embedded_BTC[row, begin : begin + len(request.embeddings)] = request.embeddings.to(embedded_BTC)
        return self._forward(inputs_embeds=embedded_BTC, position_ids=position_BT)

    def _forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        output = self.model(
            **inputs, attention_mask=self._mask_BT, use_cache=True, logits_to_keep=1, **{self._argument: self._cache}
        )
        self._cache = getattr(output, self._argument)
        return output.logits[:, -1]

    def _drop(self) -> None:
        """Take rows that have left out of the cache."""
        if not self._gone:
            return
        keep = [row for row, request in enumerate(self.rows) if id(request) not in self._gone]
        if self._cache is not None:
            index = torch.tensor(keep, device=self.model.device)
            self._cache.batch_select_indices(index)
            self._mask_BT, self._position_B1 = self._mask_BT[index], self._position_B1[index]
        self.rows = [self.rows[row] for row in keep]
        self._gone.clear()

    def leave(self, request: Request) -> None:
        """Take it out before the next step."""
        self._gone.add(id(request))
        if len(self._gone) == len(self.rows):
            self._end_group()

    def clear(self) -> list[Request]:
        """Drop all rows and return them."""
        rows = [*self.rows, *self._again]
        self._end_group()
        self._again.clear()
        return rows

    def _end_group(self) -> None:
        self.rows, self._cache = [], None
        self._gone.clear()


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
