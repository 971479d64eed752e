"""What a model makes of texts: `tunesmith.load("runs/translate").predict(["Guten Morgen."])`.

Sources of about one length are read together, padded, and answered greedily.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.core.errors import DataError
from tunesmith.data.formats.values import text_of
from tunesmith.data.kinds.pair import DIRECTIONS, SOURCES, sides
from tunesmith.data.prepare import Prepared
from tunesmith.data.quality.ledger import RowFault
from tunesmith.infer.predict.predictor import TaskPredictor, stream
from tunesmith.model.seq2seq import pairs_of, score_targets, target_logits, write
from tunesmith.prompt.base import positions_in
from tunesmith.prompt.contract import Contract, Rendered

LONGEST = 128  # tokens of an answer, where the card's recipe says nothing


@dataclass(frozen=True)
class Target:
    """What became of a source.

    Attributes:
        text: what the model wrote.
        ended: whether it ended by itself; else it was broken off at the longest length.
    """

    text: str
    ended: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values: `text`, and `ended` where it was broken off."""
        return {"text": self.text, **({} if self.ended else {"ended": False})}


class Writer:
    """A model that makes a text of a text: a `Predictor`.

    Attributes:
        keys: names of columns with sources.
        model: of transformers, with its adapter.
        contract: how texts become tokens, and what stands before each source.
        longest: most tokens of an answer: `evaluate.max_new_tokens` of its recipe.
        direction: from which language into which it was trained to go; empty where the rows did not say.
        takes: tokens of a source that the model takes; None if its configuration does not say.
    """

    keys = frozenset({*SOURCES, "translation"})

    def __init__(self, model: Any, contract: Contract, card: Mapping[str, Any]) -> None:
        """Use `model`, in evaluation mode.

        Args:
            model: for the task `seq2seq`.
            contract: of the same folder.
            card: of the same folder.
        """
        self.model, self.contract = model.eval(), contract
        self.longest = int(card.get("recipe", {}).get("evaluate", {}).get("max_new_tokens", LONGEST))
        self.direction = next(iter(card.get("facts", {}).get(DIRECTIONS, {})), "")
        self.takes = positions_in(model.config.get_text_config().to_dict())

    def predict(self, texts: Iterable[str | Mapping[str, str]]) -> list[Target]:
        """What becomes of each text.

        Raises:
            DataError: one is no text, or longer than the model takes.
        """
        return [target for _, target in stream(self, texts)]

    def answers(self, reads: Sequence[np.ndarray]) -> list[Target]:
        """What becomes of each of some sources that were read."""
        written = write(self.model, reads, self.contract.stop_ids, self.longest)
        return [Target(self.contract.decode(one.ids).strip(), one.ended) for one in written]

    def given(self, values: Mapping[str, Any]) -> dict[str, str]:
        """The source of a row.

        Raises:
            RowFault: there is none.
        """
        if isinstance(both := values.get("translation"), Mapping):
            language = sides(self.direction)[0] if self.direction else next(iter(both), "")
            return {"source": text_of(both, language)}
        key = next((key for key in SOURCES if values.get(key) is not None), None)
        if key is None:
            raise RowFault("not_text", "no source.", "Give one under 'source'.", ("source",))
        return {"source": text_of(values, key)}

    def read(self, given: str | Mapping[str, str]) -> np.ndarray:
        """The token ids of a source.

        Raises:
            DataError: it is no text, or too long.
        """
        text = given["source"] if isinstance(given, Mapping) and "source" in given else given
        if not isinstance(text, str):
            raise DataError(f"{str(given)[:60]!r}: give a text.")
        [rendered] = self.contract.render_many([self.contract.draft_source(text)])
        assert isinstance(rendered, Rendered)
        if self.takes is not None and len(rendered.ids) > self.takes:
            raise DataError(f"{text[:60]!r}: {len(rendered.ids)} tokens, and the model takes {self.takes}. Shorten it.")
        return np.frombuffer(rendered.ids, np.int32)


def ids_of(row: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a row's source and of its target."""
    return row.ids, row.others[0].ids


def outputs(model: Any, rows: Sequence[Prepared]) -> list[np.ndarray]:
    """The logits at each row's target tokens, (T, V)."""
    found: list[np.ndarray] = []
    for source, target in map(ids_of, rows):
        pairs = pairs_of([source], [target], str(model.device))
        found.append(target_logits(model.eval(), pairs).detach().float().cpu().numpy())
    return found


def losses(model: Any, rows: Sequence[Prepared]) -> list[float]:
    """The summed loss of each row's target."""
    return [score.loss for score in score_targets(model.eval(), [ids_of(row) for row in rows])]


PREDICTOR = TaskPredictor(Writer, outputs, losses)
