"""What stands where a text has a mask: `tunesmith.load("runs/it").predict(["Paris is the [MASK] of France."])`.

Axes: N masks, V vocabulary, P positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tunesmith.core.errors import DataError, ModelError
from tunesmith.data.formats.values import text_of
from tunesmith.data.prepare import Prepared
from tunesmith.infer.predict.predictor import TaskPredictor, stream
from tunesmith.model.masked import masked_logits
from tunesmith.model.packed import padded_inputs
from tunesmith.prompt.base import positions_in
from tunesmith.prompt.contract import Contract

BEST = 5  # tokens told of each mask
TOKENS_A_PASS = 4096  # of rows that are read together, padding included
POSITIONS = 8  # of a row, at which a model is compared before and after it is exported
KEYS = ("text", "content", "sentence")


@dataclass(frozen=True)
class Read:
    """A text with masks, as the model reads it."""

    text: str
    ids: np.ndarray


@dataclass(frozen=True)
class Filling:
    """What is said of a text with masks.

    Attributes:
        text: with the best token in the place of each mask.
        masks: of each mask, in order, its best tokens, as text, and their probabilities, the best first. Two tokens may
            be one text but for a space before it.
    """

    text: str
    masks: list[list[tuple[str, float]]]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        best = [[{"token": token, "probability": share} for token, share in one] for one in self.masks]
        return {"filled": self.text, "masks": best}


class Filler:
    """A model that fills in words: a `Predictor`.

    Attributes:
        keys: names of columns with texts.
        model: of transformers, with its adapter.
        contract: how texts become tokens.
        takes: tokens that the model takes; None if its configuration does not say.
    """

    keys: frozenset[str] = frozenset(KEYS)

    def __init__(self, model: Any, contract: Contract, card: Mapping[str, Any]) -> None:
        """Use `model`, in evaluation mode.

        Args:
            model: for the task `masked`.
            contract: of the same folder.
            card: of the same folder.
        """
        self.model, self.contract = model.eval(), contract
        self.takes = positions_in(model.config.get_text_config().to_dict())

    @property
    def mask(self) -> str:
        """What stands in a text where a word is wanted.

        Raises:
            ModelError: the tokenizer has nothing for it.
        """
        if self.contract.tokenizer.mask_token is None:
            raise ModelError("the model's tokenizer has no mask token, so no text can say where a word is wanted.")
        return self.contract.tokenizer.mask_token

    def given(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The text of a row.

        Raises:
            RowFault: there is none.
        """
        return {"text": text_of(values, next((key for key in KEYS if values.get(key) is not None), "text"))}

    def read(self, given: str | Mapping[str, str]) -> Read:
        """The token ids of a text.

        Raises:
            DataError: it has no mask, or is too long.
        """
        text = given["text"] if isinstance(given, Mapping) else given
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]  of a caller who does not check
            raise DataError(f"{str(text)[:60]!r}: give a text.")
        ids = np.array(self.contract.with_masks(text))
        if self.contract.tokenizer.mask_token_id not in ids:
            raise DataError(f"{text[:60]!r}: no {self.mask} stands in it. Write {self.mask} where a word is wanted.")
        if self.takes is not None and len(ids) > self.takes:
            raise DataError(f"{text[:60]!r}: {len(ids)} tokens, and the model takes {self.takes}. Shorten it.")
        return Read(text, ids)

    def predict(self, texts: Iterable[str | Mapping[str, str]]) -> list[Filling]:
        """What stands at the masks of each text.

        Args:
            texts: each with the tokenizer's mask at least once.

        Raises:
            DataError: one has no mask, or is longer than the model takes.
        """
        return [filling for _, filling in stream(self, texts)]

    def answers(self, reads: Sequence[Read]) -> list[Filling]:
        """What stands at the masks of some texts that were read."""
        mask = self.contract.tokenizer.mask_token_id
        places = [np.flatnonzero(one.ids == mask) for one in reads]
        logits = logits_at(self.model, [one.ids for one in reads], places)
        return [self._said(one, found_NV) for one, found_NV in zip(reads, logits, strict=True)]

    def _said(self, read: Read, logits_NV: torch.Tensor) -> Filling:
        """The best tokens of each mask of a text."""
        tokenizer, masks, text = self.contract.tokenizer, list[list[tuple[str, float]]](), read.text
        top = logits_NV.softmax(-1)[:, : len(tokenizer)].topk(BEST)  # embeddings may have rows for no token
        for shares, ids in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            masks.append([(tokenizer.decode([id]), share) for share, id in zip(shares, ids, strict=True)])
            text = text.replace(self.mask, masks[-1][0][0].strip(), 1)
        return Filling(text, masks)


@torch.inference_mode()
def logits_at(model: Any, rows: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """The logits of each row at its places, (N, V) in fp32 on the CPU, in the order that the rows have."""
    found: list[torch.Tensor] = [torch.zeros(0)] * len(rows)
    for some in batches([len(one) for one in rows]):
        longest = max(len(rows[row]) for row in some)
        picked_N = torch.from_numpy(np.concatenate([start * longest + places[row] for start, row in enumerate(some)]))
        inputs = padded_inputs([rows[row] for row in some], str(model.device))
        logits_NV = masked_logits(model, inputs, picked_N.to(model.device)).float().cpu()
        for row, own_NV in zip(some, logits_NV.split([len(places[row]) for row in some]), strict=True):
            found[row] = own_NV
    return found


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of rows of about one length that are read in one pass."""
    some: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if some and (len(some) + 1) * lengths[place] > TOKENS_A_PASS:
            yield some
            some = []
        some.append(place)
    if some:
        yield some


def outputs(model: Any, rows: Sequence[Prepared]) -> list[np.ndarray]:
    """The logits at some positions of each row, (P, V)."""
    places = [np.unique(np.linspace(0, len(row.ids) - 1, POSITIONS).astype(np.int64)) for row in rows]
    return [logits_PV.numpy() for logits_PV in logits_at(model.eval(), [row.ids for row in rows], places)]


PREDICTOR = TaskPredictor(Filler, outputs)
