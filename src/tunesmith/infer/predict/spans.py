"""What stands where a text has sentinels: `tunesmith.load("runs/it").predict(["The <extra_id_0> opens at seven."])`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.core.errors import DataError, ModelError
from tunesmith.data.formats.values import text_of
from tunesmith.data.prepare import Prepared
from tunesmith.infer.predict.predictor import TaskPredictor, stream
from tunesmith.model.seq2seq import pairs_of, target_logits, write
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.encode import encoded
from tunesmith.prompt.messages import Message

MARK = re.compile(r"(<extra_id_\d+>)")
LONGEST = 64  # tokens of an answer
POSITIONS = 8  # of a row, at which a model is compared before and after it is exported
KEYS = ("text", "content", "sentence")


@dataclass(frozen=True)
class Sentinels:
    """What stands for stretches that were taken out.

    Attributes:
        ids: in the order of their use: `<extra_id_0>`, `<extra_id_1>` and so on.
        end: the id that ends a source and a target.
    """

    ids: tuple[int, ...]
    end: int


def sentinels_of(contract: Contract) -> Sentinels:
    """The sentinels of a tokenizer.

    Raises:
        ModelError: it has none.
    """
    known = contract.tokenizer.get_vocab()
    ids: list[int] = []
    while (mark := f"<extra_id_{len(ids)}>") in known:
        ids.append(known[mark])
    if not ids:
        raise ModelError(
            "the base's tokenizer has no sentinels (<extra_id_0>, ...), so no stretch of a text can be taken out. "
            "Take a T5 whose tokenizer has them."
        )
    return Sentinels(tuple(ids), contract.stop_ids[0])


@dataclass(frozen=True)
class Spans:
    """What is said of a text with sentinels.

    Attributes:
        text: with what was said in the place of each.
        spans: what was said of each sentinel, by its name.
    """

    text: str
    spans: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"filled": self.text, "spans": dict(self.spans)}


@dataclass(frozen=True)
class Read:
    """A text with sentinels, as the model reads it."""

    text: str
    ids: np.ndarray


class SpanFiller:
    """A model that fills in stretches of text: a `Predictor`.

    Attributes:
        keys: names of columns with texts.
        model: of transformers, with its adapter.
        contract: how texts become tokens.
    """

    keys: frozenset[str] = frozenset(KEYS)

    def __init__(self, model: Any, contract: Contract, card: Mapping[str, Any]) -> None:
        """Use `model`, in evaluation mode.

        Args:
            model: for the task `spans`.
            contract: of the same folder.
            card: of the same folder.
        """
        self.model, self.contract = model.eval(), contract

    def given(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The text of a row.

        Raises:
            RowFault: there is none.
        """
        return {"text": text_of(values, next((key for key in KEYS if values.get(key) is not None), "text"))}

    def read(self, given: str | Mapping[str, str]) -> Read:
        """The token ids of a text, whose sentinels count and no other control token.

        Raises:
            DataError: it has no sentinel.
        """
        text = given["text"] if isinstance(given, Mapping) else given
        if not isinstance(text, str) or MARK.search(text) is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DataError(f"{str(text)[:60]!r}: write <extra_id_0> where words are wanted, then <extra_id_1>, ...")
        known, backend = self.contract.tokenizer.get_vocab(), self.contract.tokenizer.backend_tokenizer
        ids: list[int] = []
        for piece in filter(None, MARK.split(text)):
            if piece in known and MARK.fullmatch(piece):
                ids.append(known[piece])
                continue
            safe = self.contract.guard.hide((Message("user", piece),), ())
            ids += encoded(backend, safe.messages[0].content, safe.hidden)[0]
        return Read(text, np.array([*ids, self.contract.stop_ids[0]], np.int32))

    def predict(self, texts: Iterable[str | Mapping[str, str]]) -> list[Spans]:
        """What stands at the sentinels of each text.

        Raises:
            DataError: one has none.
        """
        return [found for _, found in stream(self, texts)]

    def answers(self, reads: Sequence[Read]) -> list[Spans]:
        """What stands at the sentinels of some texts that were read."""
        written = write(self.model, [one.ids for one in reads], self.contract.stop_ids, LONGEST)
        return [self._said(read, one.ids) for read, one in zip(reads, written, strict=True)]

    def _said(self, read: Read, ids: Sequence[int]) -> Spans:
        """What each sentinel was said to stand for; nothing where the model passed over it."""
        names = {id: f"<extra_id_{place}>" for place, id in enumerate(sentinels_of(self.contract).ids)}
        found: dict[str, list[int]] = {name: [] for name in MARK.findall(read.text)}
        current: list[int] = []  # what stands before the first sentinel is of none
        for id in ids:
            if id in names:
                current = found.get(names[id], [])
            else:
                current.append(id)
        spans = {name: self.contract.decode(own).strip() for name, own in found.items()}
        return Spans(MARK.sub(lambda hit: spans[hit.group()], read.text), spans)


def outputs(model: Any, rows: Sequence[Prepared]) -> list[np.ndarray]:
    """The logits at some positions of each row, read and to be written again, (P, V)."""
    found: list[np.ndarray] = []
    for row in rows:
        logits_TV = target_logits(model.eval(), pairs_of([row.ids], [row.ids[:POSITIONS]], str(model.device)))
        found.append(logits_TV.detach().float().cpu().numpy())
    return found


PREDICTOR = TaskPredictor(SpanFiller, outputs)
