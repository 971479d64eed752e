"""What a classifier says of texts: `tunesmith.load("runs/mails").predict(["Where is my order?"])`.

Rows of about one length are read together: packed where that leaves every logit as it is, which is tried once, else
padded.

Axes: R rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tunesmith.core.errors import DataError
from tunesmith.data.kinds.labelled import PAIRS, Shape, border_of, texts_in
from tunesmith.data.prepare import Prepared
from tunesmith.infer.predict.predictor import TaskPredictor, stream
from tunesmith.model.attention import PACKED
from tunesmith.model.heads import class_logits, inputs_of, mean_states
from tunesmith.model.packed import UNFIT
from tunesmith.prompt.base import positions_in
from tunesmith.prompt.contract import Contract, Rendered

TOKENS_A_PASS = 4096  # of rows that are read together, padding included
THRESHOLD = 0.5  # probability from which a class is said, where none was chosen
SAME = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # what packing may change of a logit, relative to the largest
Read = tuple[np.ndarray, int]  # a row's ids, and where its second text begins: its length where there is none
Given = str | tuple[str, str] | Mapping[str, str]


@dataclass(frozen=True)
class Prediction:
    """What is said of a text.

    Attributes:
        label: its class; its classes, where it may have several; or its number.
        probabilities: of each class; none where the model says numbers.
    """

    label: str | tuple[str, ...] | float
    probabilities: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        if isinstance(self.label, float):
            return {"number": self.label}
        if isinstance(self.label, tuple):
            return {"labels": list(self.label), "probabilities": dict(self.probabilities)}
        return {"label": self.label, "probabilities": dict(self.probabilities)}


def row_logits(model: Any, rows: Sequence[Read], packed: bool = False) -> np.ndarray:
    """The logits of each row in fp32, (R, C), in the order that the rows have."""
    return _in_batches(model, rows, packed, class_logits)


def row_states(model: Any, rows: Sequence[Read]) -> np.ndarray:
    """The mean of the body's states over each row's tokens, of length 1, (R, D), in the order that the rows have."""
    return _in_batches(model, rows, False, lambda model, inputs, count: mean_states(model, inputs))


@torch.inference_mode()
def _in_batches(
    model: Any, rows: Sequence[Read], packed: bool, run: Callable[[Any, Mapping[str, Any], int], torch.Tensor]
) -> np.ndarray:
    """What a model gives for each row; rows of about one length go through it together."""
    order = sorted(range(len(rows)), key=lambda place: len(rows[place][0]))
    found: list[np.ndarray] = []
    for some in together([len(rows[place][0]) for place in order], packed):
        chosen = [rows[order[place]] for place in some]
        inputs = inputs_of([ids for ids, _ in chosen], [border for _, border in chosen], packed, str(model.device))
        found.append(run(model, inputs, len(chosen)).float().cpu().numpy())
    return np.concatenate(found)[np.argsort(order)]


def reads_of(rows: Iterable[Prepared]) -> list[Read]:
    """Prepared rows, as they are read."""
    return [(row.ids, border_of(row)) for row in rows]


def together(lengths: Sequence[int], packed: bool) -> Iterator[list[int]]:
    """Places of rows that are read in one pass, of rows that become longer and longer."""
    some: list[int] = []
    total = 0
    for place, length in enumerate(lengths):
        would = total + length if packed else (len(some) + 1) * length
        if some and would > TOKENS_A_PASS:
            yield some
            some, total = [], 0
        some.append(place)
        total += length
    if some:
        yield some


def alike(packed: np.ndarray, alone: np.ndarray, dtype: torch.dtype) -> bool:
    """Whether packing has left logits what they are, but for what a precision rounds."""
    return bool(np.abs(packed - alone).max() <= SAME[dtype] * max(1.0, float(np.abs(alone).max())))


def best_threshold(probability_RC: np.ndarray, true_RC: np.ndarray) -> float:
    """The probability from which a class is said that gives these rows the best micro F1; 0.5 of equals."""
    steps = sorted(np.arange(0.05, 0.96, 0.05).round(2).tolist(), key=lambda step: abs(step - THRESHOLD))

    def f1(step: float) -> float:
        said_RC = probability_RC >= step
        return 2 * float((said_RC * true_RC).sum()) / max(1.0, float(said_RC.sum() + true_RC.sum()))

    return max(steps, key=f1)


class Classifier:
    """A model that says of texts what class they have: a `Predictor`.

    Attributes:
        keys: names of columns with texts.
        model: of transformers, with its adapter.
        contract: how texts become tokens.
        threshold: probability from which a class is said, where a text may have several.
        names: of the classes, by their ids.
        shape: `one`, `several` or `number`.
        takes: tokens that the model takes; None if its configuration does not say.
    """

    keys = frozenset({"text", "sentence", *(key for pair in PAIRS for key in pair)})

    def __init__(self, model: Any, contract: Contract, card: Mapping[str, Any]) -> None:
        """Use `model`, in evaluation mode.

        Args:
            model: for the task `classify`.
            contract: of the same folder.
            card: of the same folder; under `chosen` stands what was chosen on validation rows.
        """
        self.model, self.contract = model.eval(), contract
        self.threshold = float(card.get("chosen", {}).get("threshold", THRESHOLD))
        config = model.config
        self.names = [config.id2label[place] for place in range(config.num_labels)]
        kinds: dict[str, Shape] = {"multi_label_classification": "several", "regression": "number"}
        self.shape: Shape = kinds.get(config.problem_type, "one")
        self.takes = positions_in(config.get_text_config().to_dict())
        self._packed: bool | None = None

    def predict(self, texts: Iterable[Given]) -> list[Prediction]:
        """What each text is.

        Args:
            texts: texts; pairs of texts, for a model that was trained on pairs.

        Raises:
            DataError: one is no text, or longer than the model takes.
        """
        return [prediction for _, prediction in stream(self, texts)]

    def answers(self, reads: Sequence[Read]) -> list[Prediction]:
        """What each of some texts is that were read."""
        return self.said_of(self.logits(reads)) if reads else []

    def given(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The text of a row, and the second one of a pair.

        Raises:
            RowFault: there is none.
        """
        text, second = texts_in(values)
        return {"text": text} if second is None else {"text": text, "text_pair": second}

    def logits(self, rows: Sequence[Read]) -> np.ndarray:
        """The logits of each row, (R, C)."""
        if self._packed is None:
            self._packed = self._can_pack(rows)
        return row_logits(self.model, rows, self._packed)

    def said_of(self, logits_RC: np.ndarray) -> list[Prediction]:
        """What logits mean."""
        if self.shape == "number":
            return [Prediction(float(one), {}) for one in logits_RC[:, 0]]
        logits = torch.from_numpy(logits_RC)
        if self.shape == "one":
            shares = logits.softmax(-1).tolist()
            return [
                Prediction(self.names[int(np.argmax(one))], dict(zip(self.names, one, strict=True))) for one in shares
            ]
        found: list[Prediction] = []
        for one in logits.sigmoid().tolist():
            said = tuple(name for name, share in zip(self.names, one, strict=True) if share >= self.threshold)
            found.append(Prediction(said, dict(zip(self.names, one, strict=True))))
        return found

    def read(self, given: Given) -> Read:
        """The token ids of a text, or of a pair.

        Raises:
            DataError: it is no text, or too long.
        """
        if isinstance(given, Mapping):
            given = (given["text"], given["text_pair"]) if given.get("text_pair") is not None else given["text"]
        texts = (given,) if isinstance(given, str) else tuple(given)
        if len(texts) not in (1, 2) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{str(given)[:60]!r}: give a text, or a pair of texts.")
        [rendered] = self.contract.render_many([self.contract.draft_read(*texts)])
        assert isinstance(rendered, Rendered)
        if self.takes is not None and len(rendered.ids) > self.takes:
            raise DataError(
                f"{texts[0][:60]!r}: {len(rendered.ids)} tokens, and the model takes {self.takes}. Shorten it."
            )
        border = rendered.spans[1][0] if len(rendered.spans) > 1 else len(rendered.ids)
        return np.frombuffer(rendered.ids, np.int32), border

    def _can_pack(self, rows: Sequence[Read]) -> bool:
        """Whether packed rows have the logits that they have alone; the model's attention is left set for that."""
        before, few = self.model.config._attn_implementation, rows[:4]
        alone = row_logits(self.model, few)
        try:
            self.model.set_attn_implementation(PACKED)
            if alike(row_logits(self.model, few, True), alone, self.model.dtype):
                return True
        except UNFIT:
            pass
        self.model.set_attn_implementation(before)
        return False


def outputs(model: Any, rows: Sequence[Prepared]) -> list[np.ndarray]:
    """The logits of each row, (1, C)."""
    return [logits_C[None] for logits_C in row_logits(model.eval(), reads_of(rows))]


PREDICTOR = TaskPredictor(Classifier, outputs)
